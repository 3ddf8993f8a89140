// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// TestJobErrors is which requests are refused.
func TestJobErrors(t *testing.T) {
	for _, test := range []struct {
		lines []string
		verb  wire.Verb
		want  string
	}{
		{nil, wire.Reload, wire.ErrJobTypeNotApplicable},
		{[]string{"ExecReload=/bin/true"}, wire.Reload, ""},
		{nil, wire.ReloadOrRestart, ""},
		{[]string{"RefuseManualStart=yes"}, wire.Start, wire.ErrOnlyByDependency},
		{[]string{"RefuseManualStart=yes"}, wire.Restart, wire.ErrOnlyByDependency},
		{[]string{"RefuseManualStart=yes"}, wire.Stop, ""},
		{[]string{"RefuseManualStop=yes"}, wire.Stop, wire.ErrOnlyByDependency},
		{[]string{"RefuseManualStop=yes"}, wire.TryRestart, wire.ErrOnlyByDependency},
	} {
		w := newFake(t, newest, test.lines...)
		err := w.service.request(1, test.verb)
		if got := errName(err); got != test.want {
			t.Errorf("%s of %q: %v, want %q", test.verb, test.lines, err, test.want)
		}
	}
}

func errName(err *wire.Error) string {
	if err == nil {
		return ""
	}
	return err.Name
}

// TestJobsThatFindNothingToDo end at once.
func TestJobsThatFindNothingToDo(t *testing.T) {
	for _, test := range []struct {
		runs bool
		verb wire.Verb
		want jobResult
	}{
		{true, wire.Start, wire.Done},
		{false, wire.Stop, wire.Done},
		{false, wire.TryRestart, wire.Done},
		{false, wire.Reload, wire.Invalid},
	} {
		eachVersion(t, 239, newest, func(t *testing.T, version int) {
			w := newFake(t, version, "ExecReload=/bin/true")
			if test.runs {
				w.start()
			}
			was := w.service.state
			w.wantEnd(w.request(test.verb), test.want)
			w.wantOrders()
			w.wantState(was)
		})
	}
}

// TestReloadOrRestart is what it becomes.
func TestReloadOrRestart(t *testing.T) {
	for _, test := range []struct {
		reload, runs bool
		want         []string
	}{
		{true, true, []string{"ExecReload"}},
		{true, false, []string{"ExecStart"}},
		{false, true, []string{"SIGTERM start"}},
		{false, false, []string{"ExecStart"}},
	} {
		w := newFake(t, newest)
		if test.reload {
			w = newFake(t, newest, "ExecReload=/bin/true")
		}
		if test.runs {
			w.start()
		}
		w.request(wire.ReloadOrRestart)
		w.wantOrders(test.want...)
	}
}

// TestReloadResults: a failing ExecReload= fails the job, and nothing else.
func TestReloadResults(t *testing.T) {
	for _, test := range []struct {
		name    string
		ends    func(w *fakeWorld)
		want    jobResult
		result  result
		substep int // more commands that run
	}{
		{"success", func(w *fakeWorld) { w.exits(w.service.controlPID, 0); w.exits(w.service.controlPID, 0) }, wire.Done, resultSuccess, 0},
		{"failure", func(w *fakeWorld) { w.exits(w.service.controlPID, 7) }, wire.Failed, resultExitCode, 0},
		{"second fails", func(w *fakeWorld) { w.exits(w.service.controlPID, 0); w.exits(w.service.controlPID, 7) }, wire.Failed, resultExitCode, 0},
		{"killed", func(w *fakeWorld) { w.killed(w.service.controlPID, syscall.SIGTERM) }, wire.Failed, resultSignal, 0},
		{"times out", func(w *fakeWorld) { w.pass(5 * time.Second) }, wire.Failed, resultTimeout, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachVersion(t, 242, newest, func(t *testing.T, version int) {
				w := newFake(t, version, "ExecReload=/bin/one", "ExecReload=/bin/two", "TimeoutStartSec=5s")
				main := w.start()
				id := w.request(wire.Reload)
				w.wantState(serviceReload)
				test.ends(w)
				w.wantEnd(id, test.want)
				w.wantState(serviceRunning)
				w.wantResult(resultSuccess)
				if w.service.reloadResult != test.result || w.service.mainPID != main {
					t.Errorf("ReloadResult = %s, main = %d", w.service.reloadResult, w.service.mainPID)
				}
			})
		})
	}
}

// TestReloadDuringReload waits, and then runs: the first may have read what it
// reloads before it changed. Both end together.
func TestReloadDuringReload(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "ExecReload=/bin/reload")
		w.start()
		first := w.request(wire.Reload)
		second := w.request(wire.Reload)
		w.wantOrders("ExecReload")
		w.exits(w.service.controlPID, 0)
		w.wantOrders("ExecReload")
		w.wantEnd(first, "")
		w.exits(w.service.controlPID, 1)
		w.wantEnd(first, wire.Failed)
		w.wantEnd(second, wire.Failed)
		w.wantOrders()
	})
}

// TestReloadWaitsForSpontaneousReload: there is no job for that one, and the
// requested one comes after it.
func TestReloadWaitsForSpontaneousReload(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify", "ExecReload=/bin/reload")
		main := w.start()
		w.sends(main, "RELOADING=1")
		id := w.request(wire.Reload)
		w.wantOrders()
		w.sends(main, "READY=1")
		w.wantOrders("ExecReload")
		w.exits(w.service.controlPID, 0)
		w.wantEnd(id, wire.Done)
	})
}

// TestConflictsCancel: a stop cancels a reload and a start, a start a stop.
func TestConflictsCancel(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify", "ExecReload=/bin/reload", "StartLimitIntervalSec=0")
		start := w.request(wire.Start)
		stop := w.request(wire.Stop)
		w.wantEnd(start, wire.Canceled)
		w.obey()
		w.wantEnd(stop, wire.Done)
		w.wantState(serviceDead)

		w.start()
		reload := w.request(wire.Reload)
		stop = w.request(wire.Stop)
		w.wantEnd(reload, wire.Canceled)
		w.wantState(serviceStopSigterm)
		again := w.request(wire.Start)
		w.wantEnd(stop, wire.Canceled)
		w.wantEnd(again, "")
		w.obey()
		w.wantState(serviceStart)
		w.sends(w.service.mainPID, "READY=1")
		w.wantEnd(again, wire.Done)
	})
}

// TestRestartSwallows: a restart takes in what was asked for before.
func TestRestartSwallows(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify", "ExecReload=/bin/reload")
		w.start()
		reload := w.request(wire.Reload)
		restart := w.request(wire.Restart)
		second := w.request(wire.Restart)
		w.wantEnd(reload, "")
		w.obey()
		w.wantState(serviceStart)
		w.sends(w.service.mainPID, "READY=1")
		for _, id := range []int{reload, restart, second} {
			w.wantEnd(id, wire.Done)
		}
	})
}

// TestRestartIsOneJob: it is done when the service is up again; RestartKillSignal= is
// its own.
func TestRestartIsOneJob(t *testing.T) {
	eachVersion(t, 245, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "RestartKillSignal=SIGUSR1", "ExecStop=/bin/stop")
		main := w.start()
		id := w.request(wire.Restart)
		w.wantOrders("ExecStop")
		w.exits(w.service.controlPID, 0)
		w.wantOrders("SIGUSR1 start")
		w.exits(main, 0)
		w.wantEnd(id, wire.Done)
		w.wantState(serviceRunning)
		if w.service.mainPID == main {
			t.Error("it was not started again")
		}
	})
}

// TestTryRestartOfActivating is a restart from 252 on, and nothing before.
func TestTryRestartOfActivating(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify")
		w.request(wire.Start)
		w.take()
		id := w.request(wire.TryRestart)
		if version < 252 {
			w.wantEnd(id, wire.Done)
			w.wantOrders()
			return
		}
		w.wantEnd(id, "")
		w.wantOrders("SIGTERM start")
	})
}

// TestCrashInReload: the main process dies while it reloads. Up to 248 that is
// seen only at the end of TimeoutStartSec=.
func TestCrashInReload(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify", "TimeoutStartSec=4s", "Restart=on-failure", "RestartSec=1s")
		main := w.start()
		w.sends(main, "RELOADING=1")
		w.killed(main, syscall.SIGKILL)
		if version < 249 {
			w.wantState(serviceReload)
			w.pass(4 * time.Second)
		}
		w.wantState(serviceAutoRestart)
		w.wantResult(resultSignal)
	})
}

// TestCrashEndsReloadJob: what the job of a reload becomes when the service
// dies in it.
func TestCrashEndsReloadJob(t *testing.T) {
	eachVersion(t, 253, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify-reload")
		main := w.start()
		id := w.request(wire.Reload)
		w.killed(main, syscall.SIGKILL)
		want := wire.Failed
		if version >= 258 {
			want = wire.Canceled
		}
		w.wantEnd(id, want)
		w.wantState(serviceFailed)
	})
}

// TestCrashWhileExecReloadRuns waits for the end of it.
func TestCrashWhileExecReloadRuns(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "ExecReload=/bin/reload")
		main := w.start()
		id := w.request(wire.Reload)
		w.killed(main, syscall.SIGKILL)
		w.wantState(serviceReload)
		w.wantEnd(id, "")
		w.exits(w.service.controlPID, 0)
		w.wantState(serviceFailed)
		if w.ended[id] == "" {
			t.Error("the job goes on")
		}
	})
}

// TestStartDuringStop waits for the end of the stop.
func TestStartDuringStop(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "StartLimitIntervalSec=0")
		main := w.start()
		w.request(wire.Stop)
		id := w.request(wire.Start)
		w.wantState(serviceStopSigterm)
		w.wantEnd(id, "")
		w.exits(main, 0)
		w.wantState(serviceRunning)
		w.wantEnd(id, wire.Done)
	})
}

// TestStartHurriesAutoRestart: from 257 on a start ends the wait for RestartSec=, and
// before it waits with it.
func TestStartHurriesAutoRestart(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Restart=always", "RestartSec=9s")
		w.exits(w.start(), 0)
		w.wantState(serviceAutoRestart)
		id := w.request(wire.Start)
		if version < 257 {
			w.wantState(serviceAutoRestart)
			w.wantEnd(id, "")
			w.pass(9 * time.Second)
		}
		w.wantEnd(id, wire.Done)
		w.wantState(serviceRunning)
		if w.service.restarts != 1 {
			t.Errorf("NRestarts = %d", w.service.restarts)
		}
	})
}

// TestStopEndsAutoRestart at once.
func TestStopEndsAutoRestart(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Restart=always", "RestartSec=9s")
		w.exits(w.start(), 1)
		id := w.request(wire.Stop)
		w.wantEnd(id, wire.Done)
		w.wantState(serviceDead)
		w.pass(time.Hour)
		w.wantState(serviceDead)
		w.wantResult(resultExitCode)
	})
}

// TestStopOfFailed does nothing.
func TestStopOfFailed(t *testing.T) {
	w := newFake(t, newest)
	w.exits(w.start(), 1)
	w.wantState(serviceFailed)
	w.wantEnd(w.request(wire.Stop), wire.Done)
	w.wantState(serviceFailed)
	w.service.resetFailed()
	w.wantState(serviceDead)
	w.wantResult(resultSuccess)
}

// TestTriggered: a connection starts the service once.
func TestTriggered(t *testing.T) {
	w := newFake(t, newest, "Type=notify")
	w.service.triggered()
	w.flush()
	w.wantState(serviceStart)
	w.service.triggered()
	w.flush()
	w.wantOrders("ExecStart")
	w.sends(w.service.mainPID, "READY=1")
	if w.sockets != "taken" {
		t.Errorf("sockets are %s", w.sockets)
	}
	w.service.triggered()
	w.flush()
	w.wantOrders()
	w.request(wire.Stop)
	w.obey()
	w.wantState(serviceDead)
	if w.sockets != "freed" {
		t.Errorf("sockets are %s", w.sockets)
	}
}

// TestTriggeredWhileItStops starts the service when it has stopped.
func TestTriggeredWhileItStops(t *testing.T) {
	w := newFake(t, newest)
	main := w.start()
	w.exits(main, 0)
	w.wantState(serviceDead)
	w.service.triggered()
	w.flush()
	w.wantState(serviceRunning)
}

// TestDependency: sockets that cannot be started fail the start.
func TestDependency(t *testing.T) {
	w := newFake(t, newest)
	w.needed = errFake
	w.wantEnd(w.request(wire.Start), wire.Dependency)
	w.wantState(serviceDead)
}
