// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/notify/notifytest"
	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// monotonic is MONOTONIC_USEC= of now.
func monotonic(w *fakeWorld) notifytest.Field {
	return notifytest.Field(fmt.Sprintf("MONOTONIC_USEC=%d", w.clock/time.Microsecond))
}

// TestNotifyAccess is who may speak.
func TestNotifyAccess(t *testing.T) {
	for access, want := range map[string][3]bool{ // main, control, other
		"none": {false, false, false},
		"main": {true, false, false},
		"exec": {true, true, false},
		"all":  {true, true, true},
	} {
		eachVersion(t, 239, newest, func(t *testing.T, version int) {
			w := newFake(t, version, "Type=simple", "NotifyAccess="+access, "ExecReload=/bin/true")
			main := w.start()
			w.request(wire.Reload)
			other := w.born(main, "other")
			for i, pid := range []int{main, w.service.controlPID, other} {
				verdict := w.sends(pid, notifytest.Field(fmt.Sprintf("STATUS=%d", pid)))
				if verdict.accepted != want[i] || (w.service.statusText == fmt.Sprint(pid)) != want[i] {
					t.Errorf("NotifyAccess=%s, sender %d: %+v, want %t", access, i, verdict, want[i])
				}
			}
		})
	}
}

// TestNotifyAccessOverride is NOTIFYACCESS=, from 254 on, until the service ends.
func TestNotifyAccessOverride(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify")
		main := w.start()
		w.sends(main, "NOTIFYACCESS=all")
		child := w.born(main, "child")
		if got, want := w.sends(child, "STATUS=x").accepted, version >= 254; got != want {
			t.Fatalf("accepted = %t, want %t", got, want)
		}
		w.request(wire.Stop)
		w.exits(child, 0)
		w.exits(main, 0)
		w.wantState(serviceDead)
		if got := w.service.properties().NotifyAccess; got != "main" {
			t.Errorf("NotifyAccess = %s after the end", got)
		}
	})
}

// TestPrecedence is what wins when a message says more than one thing: up to
// 252 the last, from 253 on STOPPING= over READY= over RELOADING=.
func TestPrecedence(t *testing.T) {
	for _, test := range []struct {
		fields  string
		old, is state // up to 252, and from 253 on
	}{
		{"RELOADING=1 READY=1", serviceRunning, serviceRunning},
		{"READY=1 RELOADING=1", serviceReload, serviceRunning},
		{"STOPPING=1 READY=1", serviceRunning, serviceStopSigterm},
		{"READY=1 STOPPING=1", serviceStopSigterm, serviceStopSigterm},
		{"STOPPING=1 RELOADING=1", serviceReload, serviceStopSigterm},
	} {
		eachVersion(t, 239, newest, func(t *testing.T, version int) {
			w := newFake(t, version, "Type=notify")
			main := w.start()
			var fields []notifytest.Field
			for field := range strings.FieldsSeq(test.fields) {
				fields = append(fields, notifytest.Field(field))
			}
			w.sends(main, fields...)
			if version >= 253 {
				w.wantState(test.is)
			} else {
				w.wantState(test.old)
			}
		})
	}
}

// TestMainPIDAndReadyAreOneStep: MAINPID= comes first, so that a message with
// both moves the main process and ends the start or the reload.
func TestMainPIDAndReadyAreOneStep(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify")
		id := w.request(wire.Start)
		old := w.service.mainPID
		young := w.born(fakeManager, "young")
		w.sends(old, "READY=1", mainPID(young))
		w.wantEnd(id, wire.Done)
		if w.service.mainPID != young {
			t.Fatalf("main PID = %d, want %d", w.service.mainPID, young)
		}
	})
}

// TestStoppingIsSIGTERMToOneself: STOPPING=1 puts the unit into stop-sigterm, with
// TimeoutStopSec= and without a signal.
func TestStoppingIsSIGTERMToOneself(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify", "TimeoutStopSec=5s", "Restart=on-failure")
		main := w.start()
		w.sends(main, "STOPPING=1")
		w.wantState(serviceStopSigterm)
		w.wantOrders()
		w.pass(4 * time.Second)
		w.wantState(serviceStopSigterm)
		w.pass(time.Second)
		w.wantState(serviceStopSigkill)
		w.wantResult(resultTimeout)
		w.obey()
		w.wantState(serviceAutoRestart)
	})
}

// TestStoppingIsFinal: from 259 on nothing is heard after STOPPING=1.
func TestStoppingIsFinal(t *testing.T) {
	eachVersion(t, 253, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify-reload", "ExecReload=/bin/reload")
		main := w.start()
		w.request(wire.Reload)
		w.sends(main, "STOPPING=1")
		w.wantState(w.service.state) // ExecReload= goes on
		for _, field := range []notifytest.Field{"READY=1", "RELOADING=1"} {
			verdict := w.sends(main, field)
			if got, want := strings.Contains(verdict.reason, "must stop after STOPPING=1"), version >= 259; got != want {
				t.Errorf("%s: reason %q", field, verdict.reason)
			}
		}
	})
}

// TestStoppingInReload: from 253 on STOPPING=1 ends a reload, up to 252 it waits
// for the end of it.
func TestStoppingInReload(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify")
		main := w.start()
		w.sends(main, "RELOADING=1")
		w.sends(main, "STOPPING=1")
		if version >= 253 {
			w.wantState(serviceStopSigterm)
		} else {
			w.wantState(serviceReload)
		}
	})
}

// TestSpontaneousReload is RELOADING=1 and READY=1 of Type=notify.
func TestSpontaneousReload(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify")
		main := w.start()
		w.sends(main, "RELOADING=1")
		want := "reload-notify"
		if version < 253 {
			want = "reload"
		}
		if p := w.service.properties(); p.SubState != want || p.ActiveState != "reloading" || p.Job != "" {
			t.Fatalf("properties = %+v, want SubState %s", p, want)
		}
		w.sends(main, "READY=1")
		w.wantState(serviceRunning)
		if w.timers[stateTimer] != 0 {
			t.Error("the timer of the reload goes on")
		}
	})
}

// TestReloadWithoutReady: RELOADING=1 that is never followed by READY=1 up to 258
// begins anew each time that TimeoutStartSec= is over, from 259 on it fails.
func TestReloadWithoutReady(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify", "TimeoutStartSec=4s")
		main := w.start()
		w.sends(main, "RELOADING=1")
		for range 3 {
			w.pass(4 * time.Second)
			if version < 259 {
				if a := w.service.state.active(); a != unitReloading {
					t.Fatalf("ActiveState = %s", a)
				}
			} else {
				w.wantState(serviceRunning)
			}
			if w.service.reloadResult != resultTimeout {
				t.Fatalf("ReloadResult = %s", w.service.reloadResult)
			}
		}
		if w.service.mainPID != main {
			t.Error("a reload that times out touched the main process")
		}
	})
}

// TestNotifyReload is the protocol of Type=notify-reload.
func TestNotifyReload(t *testing.T) {
	for _, test := range []struct {
		name     string
		answer   func(w *fakeWorld, main int)
		complete bool
	}{
		{"RELOADING, READY", func(w *fakeWorld, main int) {
			w.sends(main, "RELOADING=1", monotonic(w))
			w.wantState(serviceReloadNotify)
			w.sends(main, "READY=1")
		}, true},
		{"both in one message", func(w *fakeWorld, main int) {
			w.sends(main, "RELOADING=1", monotonic(w), "READY=1")
		}, true},
		{"without the time", func(w *fakeWorld, main int) {
			w.sends(main, "RELOADING=1")
			w.wantState(serviceReloadSignal)
			w.sends(main, "READY=1")
		}, false},
		{"begun before the signal", func(w *fakeWorld, main int) {
			w.sends(main, "RELOADING=1", "MONOTONIC_USEC=1")
			w.sends(main, "READY=1")
		}, false},
		{"no time at all", func(w *fakeWorld, main int) {
			w.sends(main, "RELOADING=1", "MONOTONIC_USEC=soon")
			w.sends(main, "READY=1")
		}, false},
		{"with MAINPID", func(w *fakeWorld, main int) {
			w.sends(main, "RELOADING=1", monotonic(w))
			w.sends(main, mainPID(w.born(fakeManager, "young")), "READY=1")
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachVersion(t, 253, newest, func(t *testing.T, version int) {
				w := newFake(t, version, "Type=notify-reload", "ReloadSignal=SIGUSR2", "TimeoutStartSec=4s")
				main := w.start()
				id := w.request(wire.Reload)
				w.wantState(serviceReloadSignal)
				w.wantOrders("SIGUSR2 start")
				test.answer(w, main)
				if test.complete {
					w.wantState(serviceRunning)
					w.wantEnd(id, wire.Done)
					return
				}
				w.wantState(serviceReloadSignal)
				w.wantEnd(id, "")
				w.pass(4 * time.Second)
				if version >= 259 {
					w.wantEnd(id, wire.Failed)
					w.wantState(serviceRunning)
				} else if w.service.reloadResult != resultTimeout {
					t.Errorf("ReloadResult = %s", w.service.reloadResult)
				}
			})
		})
	}
}

// TestNotifyReloadTimerIsArmedOnce: RELOADING=1 does not begin TimeoutStartSec= anew.
func TestNotifyReloadTimerIsArmedOnce(t *testing.T) {
	eachVersion(t, 253, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify-reload", "TimeoutStartSec=4s")
		main := w.start()
		w.request(wire.Reload)
		w.pass(3 * time.Second)
		w.sends(main, "RELOADING=1", monotonic(w))
		w.wantState(serviceReloadNotify)
		w.pass(time.Second)
		if w.service.reloadResult != resultTimeout {
			t.Errorf("ReloadResult = %s, state %s", w.service.reloadResult, w.service.state)
		}
	})
}

// TestNotifyReloadOrder: with ExecReload= the signal comes first up to 258, and
// last from 259 on, and not at all if the service has begun to reload already.
func TestNotifyReloadOrder(t *testing.T) {
	eachVersion(t, 253, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify-reload", "ExecReload=/bin/reload")
		main := w.start()
		id := w.request(wire.Reload)
		if version < 259 {
			w.wantOrders("SIGHUP start", "ExecReload")
		} else {
			w.wantOrders("ExecReload")
		}
		w.exits(w.service.controlPID, 0)
		if version < 259 {
			w.wantState(serviceRunning)
			w.wantEnd(id, wire.Done)
			return
		}
		w.wantOrders("SIGHUP start")
		w.wantState(serviceReloadSignal)
		w.sends(main, "RELOADING=1", monotonic(w), "READY=1")
		w.wantEnd(id, wire.Done)

		id = w.request(wire.Reload)
		w.sends(main, "RELOADING=1", monotonic(w))
		w.exits(w.service.controlPID, 0)
		w.wantOrders("ExecReload")
		w.wantState(serviceReloadNotify)
		w.sends(main, "READY=1")
		w.wantEnd(id, wire.Done)
	})
}

// TestReloadSignalHandler: from 262 on a service of Type=notify-reload must do
// something about the signal when it says READY=1.
func TestReloadSignalHandler(t *testing.T) {
	eachVersion(t, 253, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify-reload")
		id := w.request(wire.Start)
		main := w.service.mainPID
		w.table[main].deaf = true
		w.sends(main, "READY=1")
		if version < 262 {
			w.wantState(serviceRunning)
			return
		}
		w.wantState(serviceStopSigterm)
		w.wantResult(resultProtocol)
		w.exits(main, 0)
		w.wantEnd(id, wire.Failed)
	})
}

// TestExecReloadAndReloading: RELOADING=1 while ExecReload= runs keeps the job up to 258,
// and is forgotten from 259 on.
func TestExecReloadAndReloading(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify", "ExecReload=/bin/reload")
		main := w.start()
		id := w.request(wire.Reload)
		w.sends(main, "RELOADING=1")
		w.exits(w.service.controlPID, 0)
		if version >= 259 {
			w.wantState(serviceRunning)
			w.wantEnd(id, wire.Done)
			return
		}
		if a := w.service.state.active(); a != unitReloading {
			t.Fatalf("ActiveState = %s", a)
		}
		w.wantEnd(id, "")
		w.sends(main, "READY=1")
		w.wantState(serviceRunning)
		w.wantEnd(id, wire.Done)
	})
}

// TestReadyWhileExecReloadRuns ends nothing.
func TestReadyWhileExecReloadRuns(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify", "ExecReload=/bin/reload")
		main := w.start()
		id := w.request(wire.Reload)
		w.sends(main, "RELOADING=1")
		w.sends(main, "READY=1")
		w.wantState(serviceReload)
		w.wantEnd(id, "")
		w.exits(w.service.controlPID, 0)
		w.wantEnd(id, wire.Done)
	})
}

// TestExtendTimeout: EXTEND_TIMEOUT_USEC= moves what elapses sooner, in every
// state, and the watchdog, too.
func TestExtendTimeout(t *testing.T) {
	w := newFake(t, newest, "Type=notify", "TimeoutStartSec=4s", "TimeoutStopSec=4s", "WatchdogSec=3s")
	id := w.request(wire.Start)
	main := w.service.mainPID
	w.sends(main, "EXTEND_TIMEOUT_USEC=1000000") // sooner than it is
	w.pass(3 * time.Second)
	w.sends(main, "EXTEND_TIMEOUT_USEC=4000000")
	w.pass(3 * time.Second)
	w.wantEnd(id, "")
	w.sends(main, "READY=1")
	w.wantState(serviceRunning)
	w.sends(main, "EXTEND_TIMEOUT_USEC=10000000")
	w.pass(9 * time.Second)
	w.wantState(serviceRunning)
	w.pass(time.Second)
	w.wantResult(resultWatchdog)
}

// TestWatchdog is WatchdogSec=: SIGABRT, and TimeoutAbortSec= until SIGKILL.
func TestWatchdog(t *testing.T) {
	eachVersion(t, 245, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify", "WatchdogSec=3s", "Restart=on-watchdog", "TimeoutAbortSec=7s")
		main := w.start()
		if got := w.spawned[0].watchdog; got != 3*time.Second {
			t.Errorf("WATCHDOG_USEC = %v", got)
		}
		for range 5 {
			w.pass(2 * time.Second)
			w.sends(main, "WATCHDOG=1")
		}
		w.wantState(serviceRunning)
		w.pass(3 * time.Second)
		w.wantState(serviceStopWatchdog)
		w.wantOrders("SIGABRT start")
		w.pass(7 * time.Second)
		if version <= 245 {
			w.wantState(serviceStopSigterm)
			w.wantOrders("SIGTERM start")
			return
		}
		w.wantState(serviceStopSigkill)
		w.wantResult(resultWatchdog)
		w.obey()
		w.wantState(serviceAutoRestart)
	})
}

// TestWatchdogTrigger is WATCHDOG=trigger, from 243 on and without WatchdogSec=.
func TestWatchdogTrigger(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify")
		w.sends(w.start(), "WATCHDOG=trigger")
		if version < 243 {
			w.wantState(serviceRunning)
			return
		}
		w.wantState(serviceStopWatchdog)
		w.wantResult(resultWatchdog)
	})
}

// TestWatchdogOverride is WATCHDOG_USEC=, until the next start.
func TestWatchdogOverride(t *testing.T) {
	w := newFake(t, newest, "Type=notify", "WatchdogSec=3s", "Restart=always", "RestartSec=0")
	main := w.start()
	w.sends(main, "WATCHDOG_USEC=9000000")
	w.pass(8 * time.Second)
	w.wantState(serviceRunning)
	w.sends(main, "WATCHDOG_USEC=0")
	w.pass(time.Hour)
	w.wantState(serviceRunning)
	w.exits(main, 0)
	w.pass(0)
	w.wantState(serviceStart)
	if got := w.spawned[1].watchdog; got != 3*time.Second {
		t.Errorf("WATCHDOG_USEC of the next start = %v", got)
	}
}

// TestStatus is STATUS= and ERRNO=, which a start clears.
func TestStatus(t *testing.T) {
	w := newFake(t, newest, "Type=notify")
	main := w.start()
	for _, test := range []struct {
		field  notifytest.Field
		text   string
		errno  int
		reason string
	}{
		{"STATUS=at work", "at work", 0, ""},
		{"ERRNO=2", "at work", 2, ""},
		{"ERRNO=EPERM", "at work", 1, ""},
		{"ERRNO=0", "at work", 0, ""},
		{"ERRNO=5", "at work", 5, ""},
		{"ERRNO=-1", "at work", 5, "Failed to parse ERRNO="},
		{"ERRNO=4096", "at work", 5, "Failed to parse ERRNO="},
		{"STATUS=\xff", "", 5, "not UTF-8 clean"},
		{"STATUS=x", "x", 5, ""},
		{"STATUS=", "", 5, ""},
		{"STATUS=y", "y", 5, ""},
	} {
		verdict := w.sends(main, test.field)
		p := w.service.properties()
		if p.StatusText != test.text || p.StatusErrno != test.errno || !strings.Contains(verdict.reason, test.reason) {
			t.Errorf("%s: StatusText %q, StatusErrno %d, reason %q", test.field, p.StatusText, p.StatusErrno, verdict.reason)
		}
	}
	w.exits(main, 0)
	w.wantState(serviceDead)
	if w.service.statusText != "y" {
		t.Error("the status is gone with the service")
	}
	w.request(wire.Start)
	if p := w.service.properties(); p.StatusText != "" || p.StatusErrno != 0 {
		t.Errorf("after a start: %+v", p)
	}
}

// TestRestartReset is RESTART_RESET=1, from 258 on.
func TestRestartReset(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify", "Restart=always", "RestartSec=1s")
		main := w.start()
		w.exits(main, 1)
		w.pass(time.Second)
		w.sends(w.service.mainPID, "READY=1")
		w.wantState(serviceRunning)
		w.sends(w.service.mainPID, "RESTART_RESET=1")
		if got, want := w.service.restarts == 0, version >= 258; got != want {
			t.Errorf("NRestarts = %d", w.service.restarts)
		}
	})
}

// TestReadyComesFromNobody: a service of Type=notify that ends before READY=1 fails.
func TestReadyComesFromNobody(t *testing.T) {
	for _, test := range []struct {
		name   string
		ends   func(w *fakeWorld)
		result result
	}{
		{"exits with 0", func(w *fakeWorld) { w.exits(w.service.mainPID, 0) }, resultProtocol},
		{"exits with 1", func(w *fakeWorld) { w.exits(w.service.mainPID, 1) }, resultExitCode},
		{"says nothing", func(w *fakeWorld) { w.pass(90 * time.Second); w.obey() }, resultTimeout},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachVersion(t, 239, newest, func(t *testing.T, version int) {
				w := newFake(t, version, "Type=notify", "TimeoutStartSec=90s")
				id := w.request(wire.Start)
				test.ends(w)
				w.wantState(serviceFailed)
				w.wantResult(test.result)
				w.wantEnd(id, wire.Failed)
			})
		})
	}
}
