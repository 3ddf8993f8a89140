// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/notify/notifytest"
	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

func mainPID(pid int) notifytest.Field { return notifytest.Field(fmt.Sprintf("MAINPID=%d", pid)) }

// TestMainPIDStates is the rule that MAINPID= is heard in some states only,
// and in which, by version.
func TestMainPIDStates(t *testing.T) {
	since := map[state]int{
		serviceStart: always, serviceStartPost: always, serviceRunning: always, serviceReload: always,
		serviceReloadSignal: 253, serviceReloadNotify: 253, serviceReloadPost: 259, serviceStop: 256, serviceStopSigterm: 256,
	}
	for st, rules := range stateTable {
		eachVersion(t, rules.since, newest, func(t *testing.T, version int) {
			w := newFake(t, version, "Type=notify", "NotifyAccess=all")
			w.start()
			child := w.born(w.service.mainPID, "child")
			w.service.state = st
			w.sends(child, mainPID(child))
			from, ever := since[st]
			if got, want := w.service.mainPID == child, ever && version >= from; got != want {
				t.Errorf("MAINPID= in %s: accepted %t, want %t", st, got, want)
			}
		})
	}
}

// TestMainPIDValidation is which processes can become main.
func TestMainPIDValidation(t *testing.T) {
	for _, test := range []struct {
		name string
		uid  uint32
		pid  func(w *fakeWorld) int
		why  string // of a refusal
	}{
		{"of the unit", 1000, func(w *fakeWorld) int { return w.born(w.service.mainPID, "child") }, ""},
		{"manager", 0, func(*fakeWorld) int { return fakeManager }, "is the manager"},
		{"init", 0, func(*fakeWorld) int { return 1 }, "is the manager"},
		{"control process", 0, func(w *fakeWorld) int { return w.service.controlPID }, "is the control process"},
		{"dead", 0, func(*fakeWorld) int { return 4711 }, "does not exist or is a zombie"},
		{"zero", 0, func(*fakeWorld) int { return 0 }, "Failed to parse MAINPID=0"},
		{"foreign", 1000, foreigner, "does not belong to service"},
		{"foreign, by root", 0, foreigner, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newFake(t, newest, "Type=notify", "ExecReload=/bin/true")
			main := w.start()
			w.request(wire.Reload)
			pid := test.pid(w)
			verdict := w.service.message(notification{pid: main, uid: test.uid, fields: []notifytest.Field{mainPID(pid)}})
			if !verdict.accepted || !strings.Contains(verdict.reason, test.why) || (test.why == "") != (verdict.reason == "") {
				t.Errorf("verdict = %+v, want the reason %q", verdict, test.why)
			}
			want := pid
			if test.why != "" {
				want = main
			}
			if w.service.mainPID != want {
				t.Errorf("main PID = %d, want %d", w.service.mainPID, want)
			}
		})
	}
}

func foreigner(w *fakeWorld) int {
	pid := w.born(1, "foreigner")
	w.table[pid].foreign = true
	return pid
}

// TestMainPIDFD is MAINPIDFD=1 and MAINPIDFDID=, which there are from 257 on.
func TestMainPIDFD(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify")
		main := w.start()
		first, second, third := w.born(main, "first"), w.born(main, "second"), w.born(main, "third")
		verdict := w.sends(main, mainPID(first), "MAINPIDFDID=5")
		if got, want := w.service.mainPID == first, version < 257; got != want {
			t.Fatalf("MAINPIDFDID= of another process: accepted %t, want %t (%s)", got, want, verdict.reason)
		}
		main = w.service.mainPID
		w.sends(main, mainPID(second), notifytest.Field(fmt.Sprintf("MAINPIDFDID=%d", second+1000)))
		if w.service.mainPID != second {
			t.Fatalf("main PID = %d, want %d", w.service.mainPID, second)
		}
		// It wins over MAINPID=.
		w.service.message(notification{pid: second, fields: []notifytest.Field{"MAINPIDFD=1", mainPID(main)}, files: 1, mainPID: third})
		want := third
		if version < 257 {
			want = main
		}
		if w.service.mainPID != want {
			t.Fatalf("main PID = %d, want %d", w.service.mainPID, want)
		}
		if version >= 257 {
			verdict := w.service.message(notification{pid: third, fields: []notifytest.Field{"MAINPIDFD=1"}})
			if !strings.Contains(verdict.reason, "with no fd") {
				t.Errorf("verdict = %+v", verdict)
			}
		}
	})
}

// handover is the way a new process becomes main while the old one lives.
func handover(w *fakeWorld, cloneParent bool) (old, young int) {
	old = w.service.mainPID
	parent := old
	if cloneParent {
		parent = fakeManager
	}
	young = w.born(parent, "young")
	w.sends(old, mainPID(young), "READY=1")
	if w.service.mainPID != young {
		w.t.Fatalf("main PID = %d, want %d", w.service.mainPID, young)
	}
	return old, young
}

// TestAlienMainIsKilledWithoutGrace is the rule that a main process that was
// no child of the manager when it became main is not waited for.
func TestAlienMainIsKilledWithoutGrace(t *testing.T) {
	for _, test := range []struct {
		name, mode string
		oldLives   bool
		want       []string // orders of the stop
		state      state    // after it
	}{
		{"old gone", "control-group", false, []string{"SIGTERM young", "SIGKILL young"}, serviceFinalSigkill},
		{"old gone", "mixed", false, []string{"SIGTERM young", "SIGKILL young"}, serviceFinalSigkill},
		{"old gone", "process", false, []string{"SIGTERM young", "SIGKILL young"}, serviceDead},
		{"old drains", "control-group", true, []string{"SIGTERM young", "SIGTERM start"}, serviceStopSigterm},
		{"old drains", "mixed", true, []string{"SIGTERM young", "SIGKILL young", "SIGKILL start"}, serviceStopSigkill},
		{"old drains", "process", true, []string{"SIGTERM young", "SIGKILL young"}, serviceDead},
	} {
		t.Run(test.name+" "+test.mode, func(t *testing.T) {
			eachVersion(t, 239, newest, func(t *testing.T, version int) {
				w := newFake(t, version, "Type=notify", "KillMode="+test.mode)
				w.start()
				old, young := handover(w, false)
				if !test.oldLives {
					w.exits(old, 0)
					if w.table[young].parent != fakeManager {
						t.Fatal("the young process did not come to the manager")
					}
				}
				w.take()
				w.request(wire.Stop)
				got := w.take()
				if !slices.Equal(got[:len(test.want)], test.want) {
					t.Errorf("orders = %q, want %q first", got, test.want)
				}
				if test.oldLives && w.service.state != test.state && test.mode != "process" {
					t.Errorf("state = %s, want %s", w.service.state, test.state)
				}
			})
		})
	}
}

// TestChildMainIsStoppedWithGrace is the same with a main process that is the
// manager's child from the start, as CLONE_PARENT makes it.
func TestChildMainIsStoppedWithGrace(t *testing.T) {
	for _, mode := range []string{"control-group", "mixed", "process"} {
		eachVersion(t, 239, newest, func(t *testing.T, version int) {
			w := newFake(t, version, "Type=notify", "KillMode="+mode)
			w.start()
			old, young := handover(w, true)
			w.exits(old, 0)
			w.take()
			id := w.request(wire.Stop)
			w.wantOrders("SIGTERM young")
			w.wantState(serviceStopSigterm)
			w.exits(young, 0)
			w.wantState(serviceDead)
			w.wantResult(resultSuccess)
			w.wantEnd(id, wire.Done)
		})
	}
}

// TestDaemonReloadLooksAtMainAgain is the rule that daemon-reload finds out
// anew whose child the main process is.
func TestDaemonReloadLooksAtMainAgain(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify")
		w.start()
		old, _ := handover(w, false)
		w.exits(old, 0)
		w.service.reloaded(w.service.unit)
		w.take()
		w.request(wire.Stop)
		w.wantOrders("SIGTERM young")
		w.wantState(serviceStopSigterm)
	})
}

// TestDeathOfAlienMainIsNotSeen: the unit goes on, and when the old process
// ends it is dead with success; Restart= does nothing.
func TestDeathOfAlienMainIsNotSeen(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify", "Restart=on-failure")
		w.start()
		old, young := handover(w, false)
		w.killed(young, syscall.SIGKILL)
		w.wantState(serviceRunning)
		if w.service.mainPID != young {
			t.Errorf("main PID = %d, want the dead %d", w.service.mainPID, young)
		}
		w.exits(old, 0)
		w.wantState(serviceDead)
		w.wantResult(resultSuccess)
	})
}

// TestDeathOfChildMainIsSeen: with CLONE_PARENT the death is noticed at once,
// and what is left is told to stop before the restart.
func TestDeathOfChildMainIsSeen(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify", "Restart=on-failure", "RestartSec=1s")
		w.start()
		old, young := handover(w, true)
		w.killed(young, syscall.SIGKILL)
		w.wantState(serviceStopSigterm)
		w.wantOrders("SIGTERM start")
		w.exits(old, 0)
		w.wantState(serviceAutoRestart)
		w.wantResult(resultSignal)
		w.pass(time.Second)
		w.wantState(serviceStart)
		if w.service.restarts != 1 {
			t.Errorf("NRestarts = %d, want 1", w.service.restarts)
		}
	})
}

// TestOldMainTakesOverAgain: after the new main process died, the old one says
// MAINPID= of itself, which NotifyAccess=all allows and main does not.
func TestOldMainTakesOverAgain(t *testing.T) {
	for _, access := range []string{"all", "main"} {
		eachVersion(t, 239, newest, func(t *testing.T, version int) {
			w := newFake(t, version, "Type=notify", "NotifyAccess="+access)
			w.start()
			old, young := handover(w, false)
			w.killed(young, syscall.SIGKILL)
			verdict := w.sends(old, mainPID(old))
			if verdict.accepted != (access == "all") {
				t.Fatalf("verdict = %+v", verdict)
			}
			if access == "main" {
				if !strings.Contains(verdict.reason, "only permitted for main PID") {
					t.Errorf("reason = %q", verdict.reason)
				}
				return
			}
			w.take()
			w.request(wire.Stop)
			w.wantOrders("SIGTERM start")
			w.wantState(serviceStopSigterm)
		})
	}
}

// TestPIDFileAdoptsWhenMainDies: PIDFile= is read when the main process ends,
// and then the new one is a child of the manager.
func TestPIDFileAdoptsWhenMainDies(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify", "PIDFile=/run/app.pid", "Restart=on-failure")
		old := w.start()
		young := w.born(old, "young")
		w.pidFile = fmt.Sprint(young)
		w.killed(old, syscall.SIGKILL)
		w.wantState(serviceRunning)
		if w.service.mainPID != young || w.service.mainAlien || w.service.restarts != 0 {
			t.Fatalf("main = %d, alien = %t, NRestarts = %d", w.service.mainPID, w.service.mainAlien, w.service.restarts)
		}
		w.request(wire.Stop)
		w.wantOrders("SIGTERM young")
		w.exits(young, 0)
		w.wantState(serviceDead)
		if w.pidFile != "" {
			t.Error("PIDFile= is still there")
		}
	})
}

// TestPIDFileInReload: after RELOADING=1 the new main process is adopted too,
// but up to 252 the unit stays in reload until TimeoutStartSec=.
func TestPIDFileInReload(t *testing.T) {
	eachVersion(t, 239, 252, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify", "PIDFile=/run/app.pid", "TimeoutStartSec=9s")
		old := w.start()
		young := w.born(old, "young")
		w.sends(old, "RELOADING=1")
		w.pidFile = fmt.Sprint(young)
		w.killed(old, syscall.SIGKILL)
		w.wantState(serviceReload)
		if w.service.mainPID != young {
			t.Fatalf("main = %d, want %d", w.service.mainPID, young)
		}
	})
}

// TestPIDFileAfterExecReload: the file is read when ExecReload= ends; a process
// whose parent lives is an alien then.
func TestPIDFileAfterExecReload(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify", "PIDFile=/run/app.pid", "ExecReload=/bin/reload")
		old := w.start()
		id := w.request(wire.Reload)
		young := w.born(old, "young")
		w.pidFile = fmt.Sprint(young)
		w.exits(w.service.controlPID, 0)
		w.wantEnd(id, wire.Done)
		w.wantState(serviceRunning)
		if w.service.mainPID != young || !w.service.mainAlien {
			t.Fatalf("main = %d, alien = %t", w.service.mainPID, w.service.mainAlien)
		}
	})
}

// TestForkingGuessesMain: without PIDFile= the only child that is left is main;
// of two, none is.
func TestForkingGuessesMain(t *testing.T) {
	for children, guessed := range []bool{false, true, false} {
		w := newFake(t, newest, "Type=forking", "RemainAfterExit=yes")
		id := w.request(wire.Start)
		parent := w.service.controlPID
		last := 0
		for range children {
			last = w.born(parent, "daemon")
		}
		w.exits(parent, 0)
		w.wantEnd(id, wire.Done)
		if got := w.service.mainPID != 0; got != guessed || guessed && w.service.mainPID != last {
			t.Errorf("%d children: main = %d", children, w.service.mainPID)
		}
	}
}

// TestForkingWaitsForPIDFile: the start goes on when the file is there.
func TestForkingWaitsForPIDFile(t *testing.T) {
	w := newFake(t, newest, "Type=forking", "PIDFile=/run/app.pid")
	id := w.request(wire.Start)
	parent := w.service.controlPID
	daemon := w.born(parent, "daemon")
	w.exits(parent, 0)
	w.wantState(serviceStart)
	if !w.watches {
		t.Fatal("PIDFile= is not watched")
	}
	w.service.pidFileChanged()
	w.wantState(serviceStart)
	w.pidFile = fmt.Sprint(daemon)
	w.service.pidFileChanged()
	w.flush()
	w.wantState(serviceRunning)
	w.wantEnd(id, wire.Done)
	if w.watches || w.service.mainPID != daemon {
		t.Errorf("watched = %t, main = %d", w.watches, w.service.mainPID)
	}
}

// TestForkingWithoutPIDFileTimesOut: nobody is left to write it.
func TestForkingWithoutPIDFileTimesOut(t *testing.T) {
	w := newFake(t, newest, "Type=forking", "PIDFile=/run/app.pid")
	id := w.request(wire.Start)
	w.exits(w.service.controlPID, 0)
	w.wantResult(resultProtocol)
	w.wantState(serviceFailed)
	w.wantEnd(id, wire.Failed)
}
