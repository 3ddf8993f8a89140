// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// ends are ways in which a service ends.
var ends = []struct {
	name   string
	end    func(w *fakeWorld)
	result result
}{
	{"exit 0", func(w *fakeWorld) { w.exits(w.service.mainPID, 0) }, resultSuccess},
	{"exit 3", func(w *fakeWorld) { w.exits(w.service.mainPID, 3) }, resultExitCode},
	{"SIGTERM", func(w *fakeWorld) { w.killed(w.service.mainPID, syscall.SIGTERM) }, resultSuccess},
	{"SIGHUP", func(w *fakeWorld) { w.killed(w.service.mainPID, syscall.SIGHUP) }, resultSuccess},
	{"SIGPIPE", func(w *fakeWorld) { w.killed(w.service.mainPID, syscall.SIGPIPE) }, resultSuccess},
	{"SIGKILL", func(w *fakeWorld) { w.killed(w.service.mainPID, syscall.SIGKILL) }, resultSignal},
	{"core dump", func(w *fakeWorld) { w.dies(w.service.mainPID, syscall.WaitStatus(int(syscall.SIGSEGV)|0x80)) }, resultCoreDump},
	{"watchdog", func(w *fakeWorld) { w.sends(w.service.mainPID, "WATCHDOG=trigger"); w.obey() }, resultWatchdog},
}

// TestRestart is the table of systemd.service(5) for Restart=.
func TestRestart(t *testing.T) {
	for policy, restarted := range map[string][]string{
		"no":          nil,
		"always":      {"exit 0", "exit 3", "SIGTERM", "SIGHUP", "SIGPIPE", "SIGKILL", "core dump", "watchdog"},
		"on-success":  {"exit 0", "SIGTERM", "SIGHUP", "SIGPIPE"},
		"on-failure":  {"exit 3", "SIGKILL", "core dump", "watchdog"},
		"on-abnormal": {"SIGKILL", "core dump", "watchdog"},
		"on-abort":    {"SIGKILL", "core dump"},
		"on-watchdog": {"watchdog"},
	} {
		for _, end := range ends {
			t.Run(policy+" "+end.name, func(t *testing.T) {
				eachVersion(t, 245, newest, func(t *testing.T, version int) {
					w := newFake(t, version, "NotifyAccess=main", "Restart="+policy)
					w.start()
					end.end(w)
					w.wantResult(end.result)
					want := serviceAutoRestart
					if !slices.Contains(restarted, end.name) {
						if want = serviceFailed; end.result == resultSuccess {
							want = serviceDead
						}
					}
					w.wantState(want)
				})
			})
		}
	}
}

// TestExitStatusSets is SuccessExitStatus=, RestartPreventExitStatus= and
// RestartForceExitStatus=.
func TestExitStatusSets(t *testing.T) {
	for _, test := range []struct {
		lines  []string
		result result
		state  state
	}{
		{[]string{"SuccessExitStatus=3"}, resultSuccess, serviceDead},
		{[]string{"SuccessExitStatus=3", "Restart=on-success"}, resultSuccess, serviceAutoRestart},
		{[]string{"RestartPreventExitStatus=3", "Restart=always"}, resultExitCode, serviceFailed},
		{[]string{"RestartPreventExitStatus=4", "Restart=always"}, resultExitCode, serviceAutoRestart},
		{[]string{"RestartForceExitStatus=3"}, resultExitCode, serviceAutoRestart},
	} {
		w := newFake(t, newest, test.lines...)
		w.exits(w.start(), 3)
		w.wantResult(test.result)
		w.wantState(test.state)
	}
	w := newFake(t, newest, "RestartPreventExitStatus=SIGKILL", "Restart=always")
	w.killed(w.start(), syscall.SIGKILL)
	w.wantState(serviceFailed)
}

// TestIgnoredFailure is the prefix "-".
func TestIgnoredFailure(t *testing.T) {
	w := newFake(t, newest, "ExecStart=-/usr/bin/app", "ExecStartPre=-/bin/false", "ExecReload=-/bin/false", "ExecStopPost=-/bin/false")
	w.request(wire.Start)
	w.exits(w.service.controlPID, 1)
	w.wantState(serviceRunning)
	id := w.request(wire.Reload)
	w.exits(w.service.controlPID, 1)
	w.wantEnd(id, wire.Done)
	w.exits(w.service.mainPID, 1)
	w.exits(w.service.controlPID, 1)
	w.wantState(serviceDead)
	w.wantResult(resultSuccess)
}

// TestAutoRestart is what a restart changes, and what it leaves.
func TestAutoRestart(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Restart=always", "RestartSec=2s")
		main := w.start()
		first := w.service.invocationID
		w.stored = 3
		w.exits(main, 7)
		w.wantState(serviceAutoRestart)
		if p := w.service.properties(); p.Result != "exit-code" || p.ExecMainStatus != 7 || p.ExecMainCode != cldExited || p.MainPID != 0 || p.NRestarts != 0 {
			t.Errorf("while it waits: %+v", p)
		}
		w.pass(2*time.Second - time.Nanosecond)
		w.wantState(serviceAutoRestart)
		w.pass(time.Nanosecond)
		w.wantState(serviceRunning)
		p := w.service.properties()
		if p.Result != "success" || p.NRestarts != 1 || p.InvocationID == first || len(p.InvocationID) != 32 || p.ExecMainCode != 0 {
			t.Errorf("after it: %+v", p)
		}
		if w.stored != 3 {
			t.Error("the fd store is lost")
		}
	})
}

// TestNRestarts is when the counter goes back to 0.
func TestNRestarts(t *testing.T) {
	crashed := func(t *testing.T, version int) *fakeWorld {
		w := newFake(t, version, "Restart=on-failure", "RestartSec=1s", "StartLimitIntervalSec=0")
		w.start()
		for range 3 {
			w.exits(w.service.mainPID, 1)
			w.pass(time.Second)
		}
		if w.service.restarts != 3 {
			t.Fatalf("NRestarts = %d", w.service.restarts)
		}
		return w
	}
	for _, test := range []struct {
		name string
		do   func(w *fakeWorld)
		want int
	}{
		{"restart", func(w *fakeWorld) { w.request(wire.Restart); w.obey() }, 0},
		{"stop", func(w *fakeWorld) { w.request(wire.Stop); w.obey() }, 3},
		{"stop, start", func(w *fakeWorld) { w.request(wire.Stop); w.obey(); w.request(wire.Start) }, 0},
		{"exit 0", func(w *fakeWorld) { w.exits(w.service.mainPID, 0) }, 3},
		{"exit 0, start", func(w *fakeWorld) { w.exits(w.service.mainPID, 0); w.request(wire.Start) }, 0},
		{"reset-failed", func(w *fakeWorld) { w.service.resetFailed() }, 0},
		{"daemon-reload", func(w *fakeWorld) { w.service.reloaded(w.service.unit) }, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachVersion(t, 239, newest, func(t *testing.T, version int) {
				w := crashed(t, version)
				test.do(w)
				if w.service.restarts != test.want {
					t.Errorf("NRestarts = %d, want %d", w.service.restarts, test.want)
				}
			})
		})
	}
}

// TestRestartSteps is the way from RestartSec= to RestartMaxDelaySec=.
func TestRestartSteps(t *testing.T) {
	w := newFake(t, newest, "Restart=always", "RestartSec=1s", "RestartSteps=3", "RestartMaxDelaySec=64s", "StartLimitIntervalSec=0")
	w.start()
	for _, want := range []time.Duration{1, 4, 16, 64, 64} {
		w.exits(w.service.mainPID, 1)
		// systemd rounds down, too.
		if got := w.timers[stateTimer] - w.clock; got.Round(time.Millisecond) != want*time.Second {
			t.Fatalf("delay = %v, want %ds", got, want)
		}
		w.pass(want * time.Second)
		w.wantState(serviceRunning)
	}
}

// TestStartLimit: a crash loop ends in failed, and the sockets with it, until reset-failed.
func TestStartLimit(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Restart=always", "RestartSec=100ms", "StartLimitIntervalSec=10s", "StartLimitBurst=5")
		w.start()
		for range 4 {
			w.exits(w.service.mainPID, 1)
			w.wantState(serviceAutoRestart)
			w.pass(100 * time.Millisecond)
			w.wantState(serviceRunning)
		}
		w.exits(w.service.mainPID, 1)
		w.pass(100 * time.Millisecond)
		w.wantState(serviceFailed)
		want := resultExitCode
		if version >= 258 {
			want = resultStartLimitHit
		}
		w.wantResult(want)
		if w.sockets != "failed" {
			t.Errorf("sockets are %s", w.sockets)
		}
		w.wantEnd(w.request(wire.Start), wire.Failed)
		w.wantResult(want)
		w.service.resetFailed()
		w.wantEnd(w.request(wire.Start), wire.Done)
		w.wantState(serviceRunning)
	})
}

// TestStartLimitByHand: starts on request count, too, and the window ends.
func TestStartLimitByHand(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "StartLimitIntervalSec=10s", "StartLimitBurst=2")
		for _, want := range []jobResult{wire.Done, wire.Done, wire.Failed} {
			w.wantEnd(w.request(wire.Start), want)
			if w.service.state == serviceRunning {
				w.request(wire.Stop)
				w.obey()
			}
		}
		w.wantResult(resultStartLimitHit)
		w.pass(11 * time.Second)
		w.wantEnd(w.request(wire.Start), wire.Done)
	})
}

// TestStartLimitCountsWaiting: from 250 to 257 a start that waits for the end of
// a stop counts each time that it is tried.
func TestStartLimitCountsWaiting(t *testing.T) {
	eachVersion(t, 245, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "StartLimitIntervalSec=10s", "StartLimitBurst=2")
		main := w.start()
		w.request(wire.Stop)
		id := w.request(wire.Start)
		w.exits(main, 0)
		want := wire.Done
		if version >= 250 && version <= 257 {
			want = wire.Failed
		}
		w.wantEnd(id, want)
	})
}

// TestRestartModeDirect: no state is in between, so a start job lasts over
// restarts. Up to 256 that job was in the way of the restart itself.
func TestRestartModeDirect(t *testing.T) {
	eachVersion(t, 254, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify", "Restart=on-failure", "RestartSec=1s", "RestartMode=direct")
		id := w.request(wire.Start)
		w.exits(w.service.mainPID, 1)
		w.wantState(serviceAutoRestart)
		w.wantEnd(id, "")
		w.pass(time.Second)
		if version < 257 {
			w.wantState(serviceAutoRestartQueued)
			return
		}
		w.wantState(serviceStart)
		w.sends(w.service.mainPID, "READY=1")
		w.wantEnd(id, wire.Done)
	})
}

// TestRestartFailsStartJob: without it the job ends with the first failure.
func TestRestartFailsStartJob(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify", "Restart=on-failure", "RestartSec=1s")
		id := w.request(wire.Start)
		w.exits(w.service.mainPID, 1)
		w.wantEnd(id, wire.Failed)
		w.wantState(serviceAutoRestart)
	})
}

// TestFDStorePreserve is FileDescriptorStorePreserve=, and that until 253 there is none.
func TestFDStorePreserve(t *testing.T) {
	for _, test := range []struct {
		preserve string
		ends     func(w *fakeWorld)
		state    state
		stored   int
	}{
		{"restart", stopped, serviceDead, 0},
		{"restart", failed, serviceFailed, 0},
		{"restart", restarted, serviceRunning, 2},
		{"no", stopped, serviceDead, 0},
		{"no", restarted, serviceRunning, 0},
		{"yes", stopped, serviceDeadResourcesPinned, 2},
		{"yes", failed, serviceFailed, 2},
		{"yes", restarted, serviceRunning, 2},
		{"on-success", stopped, serviceDeadResourcesPinned, 2},
		{"on-success", failed, serviceFailed, 0},
	} {
		t.Run(fmt.Sprint(test.preserve, test.state), func(t *testing.T) {
			eachVersion(t, 239, newest, func(t *testing.T, version int) {
				lines := []string{"FileDescriptorStoreMax=5", "FileDescriptorStorePreserve=" + test.preserve}
				switch {
				case version < 254 && test.preserve == "restart":
					lines = lines[:1]
				case version < 254, version < 261 && test.preserve == "on-success":
					return
				}
				w := newFake(t, version, lines...)
				w.start()
				w.stored = 2
				test.ends(w)
				w.wantState(test.state)
				if w.stored != test.stored {
					t.Errorf("%d descriptors are stored, want %d", w.stored, test.stored)
				}
				if p := w.service.properties(); test.state == serviceDeadResourcesPinned && p.ActiveState != "inactive" {
					t.Errorf("ActiveState = %s", p.ActiveState)
				}
			})
		})
	}
}

func stopped(w *fakeWorld)   { w.request(wire.Stop); w.obey() }
func failed(w *fakeWorld)    { w.exits(w.service.mainPID, 1) }
func restarted(w *fakeWorld) { w.request(wire.Restart); w.obey() }

// TestPinnedIsLetGo by a clean, and from 258 on by the end of what is stored.
func TestPinnedIsLetGo(t *testing.T) {
	eachVersion(t, 254, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "FileDescriptorStoreMax=5", "FileDescriptorStorePreserve=yes")
		w.start()
		w.stored = 2
		stopped(w)
		w.wantState(serviceDeadResourcesPinned)
		w.service.cleaned()
		w.wantState(serviceDeadResourcesPinned)
		w.stored = 0
		w.service.storeEmptied()
		if got, want := w.service.state == serviceDead, version >= 258; got != want {
			t.Errorf("state = %s", w.service.state)
		}
		w.service.cleaned()
		w.wantState(serviceDead)
	})
}

// TestRuntimeDirectoryPreserve is when RuntimeDirectory= goes.
func TestRuntimeDirectoryPreserve(t *testing.T) {
	for preserve, want := range map[string][2]int{"no": {1, 2}, "restart": {0, 1}, "yes": {0, 0}} {
		eachVersion(t, 239, newest, func(t *testing.T, version int) {
			w := newFake(t, version, "RuntimeDirectory=app", "RuntimeDirectoryPreserve="+preserve, "Restart=on-failure", "RestartSec=0")
			w.start()
			w.exits(w.service.mainPID, 1)
			w.pass(0)
			w.wantState(serviceRunning)
			if w.removed != want[0] {
				t.Errorf("RuntimeDirectoryPreserve=%s: removed %d times by a restart, want %d", preserve, w.removed, want[0])
			}
			stopped(w)
			if w.removed != want[1] {
				t.Errorf("RuntimeDirectoryPreserve=%s: removed %d times after the stop, want %d", preserve, w.removed, want[1])
			}
		})
	}
}

// TestSocketsAreFreed when the service waits for its restart, so that a
// connection does not wait for nothing.
func TestSocketsAreFreed(t *testing.T) {
	w := newFake(t, newest, "Restart=always", "RestartSec=1s")
	w.start()
	if w.sockets != "taken" {
		t.Errorf("sockets are %s", w.sockets)
	}
	w.exits(w.service.mainPID, 1)
	if w.sockets != "freed" {
		t.Errorf("sockets are %s", w.sockets)
	}
}

// TestSocketsWaitForJob: a restart does not free them in between.
func TestSocketsWaitForJob(t *testing.T) {
	w := newFake(t, newest)
	w.start()
	id := w.request(wire.Restart)
	w.dies(w.service.mainPID, 0)
	w.wantEnd(id, wire.Done)
	if w.sockets != "taken" {
		t.Errorf("sockets are %s", w.sockets)
	}
}
