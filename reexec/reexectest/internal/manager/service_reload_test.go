// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// TestDaemonReloadKeeps is that most of a service comes through.
func TestDaemonReloadKeeps(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify", "Restart=always", "RestartSec=1s")
		main := w.start()
		w.exits(main, 1)
		w.pass(time.Second)
		main = w.service.mainPID
		w.sends(main, "READY=1", "STATUS=up")
		before := w.service.properties()
		w.service.reloaded(w.load(version, "Type=notify"))
		after := w.service.properties()
		if before != after {
			t.Errorf("before %+v\nafter  %+v", before, after)
		}
		// The new file is in force.
		w.exits(main, 1)
		w.wantState(serviceFailed)
	})
}

// TestDaemonReloadForgetsErrno up to 256.
func TestDaemonReloadForgetsErrno(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify")
		w.sends(w.start(), "ERRNO=7")
		w.service.reloaded(w.service.unit)
		if got, want := w.service.statusErrno == 7, version >= 257; got != want {
			t.Errorf("StatusErrno = %d", w.service.statusErrno)
		}
	})
}

// TestDaemonReloadForgetsReloading: up to 257 what the service said last is
// forgotten, so that the end of ExecReload= is the end of the reload.
func TestDaemonReloadForgetsReloading(t *testing.T) {
	eachVersion(t, 239, 257, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify", "ExecReload=/bin/reload")
		main := w.start()
		id := w.request(wire.Reload)
		w.sends(main, "RELOADING=1")
		w.service.reloaded(w.service.unit)
		w.exits(w.service.controlPID, 0)
		w.wantState(serviceRunning)
		w.wantEnd(id, wire.Done)
	})
}

// TestDaemonReloadCountsFromTheStateChange: what extended a timeout is forgotten.
func TestDaemonReloadCountsFromTheStateChange(t *testing.T) {
	w := newFake(t, newest, "Type=notify", "TimeoutStartSec=10s")
	w.request(wire.Start)
	w.sends(w.service.mainPID, "EXTEND_TIMEOUT_USEC=60000000")
	w.pass(5 * time.Second)
	w.service.reloaded(w.service.unit)
	w.pass(4 * time.Second)
	w.wantState(serviceStart)
	w.pass(time.Second)
	w.wantResult(resultTimeout)
}

// TestDaemonReloadInEveryState changes nothing of what goes on.
func TestDaemonReloadInEveryState(t *testing.T) {
	for _, test := range []struct {
		name string
		to   func(w *fakeWorld)
		want state
	}{
		{"dead", func(*fakeWorld) {}, serviceDead},
		{"start-pre", func(w *fakeWorld) { w.request(wire.Start) }, serviceStartPre},
		{"start", func(w *fakeWorld) { w.request(wire.Start); w.exits(w.service.controlPID, 0) }, serviceStart},
		{"running", up, serviceRunning},
		{"reload", func(w *fakeWorld) { up(w); w.request(wire.Reload) }, serviceReload},
		{"stop-sigterm", func(w *fakeWorld) { up(w); w.request(wire.Stop) }, serviceStopSigterm},
		{"auto-restart", func(w *fakeWorld) { up(w); w.exits(w.service.mainPID, 1) }, serviceAutoRestart},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachVersion(t, 239, newest, func(t *testing.T, version int) {
				w := newFake(t, version, "Type=notify", "ExecStartPre=/bin/pre", "ExecReload=/bin/reload",
					"Restart=on-failure", "RestartSec=3s", "TimeoutStartSec=9s", "TimeoutStopSec=9s")
				test.to(w)
				w.wantState(test.want)
				timer, armed := w.timers[stateTimer]
				w.take()
				w.service.reloaded(w.service.unit)
				w.flush()
				w.wantState(test.want)
				w.wantOrders()
				if again, still := w.timers[stateTimer]; timer != again || armed != still {
					t.Errorf("timer %v (%t) became %v (%t)", timer, armed, again, still)
				}
			})
		})
	}
}

func up(w *fakeWorld) {
	w.request(wire.Start)
	w.exits(w.service.controlPID, 0)
	w.sends(w.service.mainPID, "READY=1")
}

// TestDaemonReloadAndCommands: the command that runs is found again in the new file,
// and what comes after it goes on from there; if it is gone, nothing follows.
func TestDaemonReloadAndCommands(t *testing.T) {
	for _, test := range []struct {
		name  string
		lines []string
		want  []string // commands after it
	}{
		{"same", []string{"ExecReload=/bin/a", "ExecReload=/bin/b"}, []string{"ExecReload"}},
		{"moved", []string{"ExecReload=/bin/b", "ExecReload=/bin/x", "ExecReload=/bin/a"}, nil},
		{"gone", []string{"ExecReload=/bin/x", "ExecReload=/bin/b"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newFake(t, newest, "ExecReload=/bin/a", "ExecReload=/bin/b")
			w.start()
			id := w.request(wire.Reload)
			w.service.reloaded(w.load(newest, test.lines...))
			w.take()
			w.exits(w.service.controlPID, 0)
			w.wantOrders(test.want...)
			if test.want == nil {
				w.wantEnd(id, wire.Done)
			}
		})
	}
}

// TestDaemonReloadAndDeadAlien: a main process that is gone unseen is taken for a
// child up to 254, and waited for in vain.
func TestDaemonReloadAndDeadAlien(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify")
		w.start()
		_, young := handover(w, false)
		w.killed(young, 9)
		w.service.reloaded(w.service.unit)
		if w.service.mainPID != young || w.service.mainAlien != (version >= 255) {
			t.Errorf("main PID = %d, alien = %t", w.service.mainPID, w.service.mainAlien)
		}
	})
}

// TestDaemonReloadAndStartLimit: up to 254 it is forgotten.
func TestDaemonReloadAndStartLimit(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "StartLimitIntervalSec=10s", "StartLimitBurst=1")
		w.start()
		stopped(w)
		w.service.reloaded(w.service.unit)
		want := wire.Failed
		if version < 255 {
			want = wire.Done
		}
		w.wantEnd(w.request(wire.Start), want)
	})
}
