// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// TestPhases is the life of a service with every command, one after another.
func TestPhases(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		lines := []string{
			"Type=notify", "ExecCondition=/bin/c", "ExecStartPre=/bin/a", "ExecStartPre=/bin/b",
			"ExecStartPost=/bin/post", "ExecReload=/bin/reload", "ExecStop=/bin/stop", "ExecStopPost=/bin/stop-post",
		}
		if version >= 259 {
			lines = append(lines, "ExecReloadPost=/bin/reload-post")
		}
		if version < 243 {
			lines = slices.Delete(lines, 1, 2)
		}
		w := newFake(t, version, lines...)
		var states []string
		step := func() {
			p := w.service.properties()
			states = append(states, p.ActiveState+"/"+p.SubState)
			if w.service.controlPID != 0 {
				w.exits(w.service.controlPID, 0)
			}
		}
		start := w.request(wire.Start)
		for w.service.state != serviceStart {
			step()
		}
		step()
		w.sends(w.service.mainPID, "READY=1")
		step()
		w.wantEnd(start, wire.Done)
		reload := w.request(wire.Reload)
		for w.service.state != serviceRunning {
			step()
		}
		w.wantEnd(reload, wire.Done)
		stop := w.request(wire.Stop)
		step()
		w.exits(w.service.mainPID, 0)
		step()
		w.wantEnd(stop, wire.Done)
		step()
		want := strings.Fields(`activating/condition activating/start-pre activating/start-pre activating/start
			activating/start-post reloading/reload reloading/reload-post deactivating/stop deactivating/stop-post inactive/dead`)
		want = slices.DeleteFunc(want, func(s string) bool {
			return s == "activating/condition" && version < 243 || s == "reloading/reload-post" && version < 259
		})
		if !slices.Equal(states, want) {
			t.Errorf("states = %q\nwant     %q", states, want)
		}
	})
}

// TestStartFails is the failure of each step of a start.
func TestStartFails(t *testing.T) {
	for _, test := range []struct {
		option string
		status int
		result result
		state  state
		job    jobResult
		ran    []string
	}{
		{"ExecCondition", 0, resultSuccess, serviceRunning, wire.Done, []string{"ExecCondition", "ExecStart"}},
		{"ExecCondition", 1, resultExecCondition, serviceDead, wire.Done, []string{"ExecCondition", "ExecStopPost"}},
		{"ExecCondition", 255, resultExitCode, serviceFailed, wire.Failed, []string{"ExecCondition", "ExecStopPost"}},
		{"ExecStartPre", 1, resultExitCode, serviceFailed, wire.Failed, []string{"ExecStartPre", "ExecStopPost"}},
		{"ExecStartPost", 1, resultExitCode, serviceFailed, wire.Failed, []string{"ExecStart", "ExecStartPost", "SIGTERM start", "ExecStopPost"}},
	} {
		t.Run(test.option, func(t *testing.T) {
			eachVersion(t, 248, newest, func(t *testing.T, version int) {
				w := newFake(t, version, test.option+"=/bin/step", "ExecStopPost=/bin/post", "Restart=no")
				id := w.request(wire.Start)
				w.exits(w.service.controlPID, test.status)
				if w.service.state == serviceStopSigterm {
					w.exits(w.service.mainPID, 0)
				}
				if w.service.state == serviceStopPost {
					w.exits(w.service.controlPID, 0)
				}
				w.wantOrders(test.ran...)
				w.wantState(test.state)
				w.wantResult(test.result)
				w.wantEnd(id, test.job)
			})
		})
	}
}

// TestSkippedIsAResult: up to 247 the job of a start that ExecCondition= skips is
// "skipped", and Restart=always starts it again up to 250.
func TestSkippedIsAResult(t *testing.T) {
	eachVersion(t, 245, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "ExecCondition=/bin/false", "Restart=always")
		id := w.request(wire.Start)
		w.exits(w.service.controlPID, 1)
		want := wire.Done
		if version <= 247 {
			want = wire.Skipped
		}
		w.wantEnd(id, want)
		if version <= 250 {
			w.wantState(serviceAutoRestart)
		} else {
			w.wantState(serviceDead)
		}
	})
}

// TestCommandEnvironment is what the commands know of the service.
func TestCommandEnvironment(t *testing.T) {
	w := newFake(t, newest, "ExecStartPost=/bin/post", "ExecReload=/bin/reload", "ExecStop=/bin/stop", "ExecStopPost=/bin/stop-post")
	w.request(wire.Start)
	w.exits(w.service.controlPID, 0)
	w.request(wire.Reload)
	w.exits(w.service.controlPID, 0)
	w.request(wire.Stop)
	w.exits(w.service.controlPID, 0)
	w.killed(w.service.mainPID, syscall.SIGTERM)
	id := "INVOCATION_ID=" + w.service.invocationID
	for i, want := range [][]string{
		{id},
		{"MAINPID=100", "MAINPIDFDID=1100", id},
		{"MAINPID=100", "MAINPIDFDID=1100", id},
		{"MAINPID=100", "MAINPIDFDID=1100", "SERVICE_RESULT=success", id},
		{"SERVICE_RESULT=success", "EXIT_CODE=killed", "EXIT_STATUS=TERM", id},
	} {
		order := w.spawned[i]
		if !slices.Equal(order.environment, want) {
			t.Errorf("%s: %q, want %q", order.kind, order.environment, want)
		}
		if order.descriptors != (order.kind == execStart) {
			t.Errorf("%s: descriptors %t", order.kind, order.descriptors)
		}
	}
}

// TestExitEnvironment is $EXIT_CODE and $EXIT_STATUS of other ends.
func TestExitEnvironment(t *testing.T) {
	for want, end := range map[string]func(w *fakeWorld, main int){
		"SERVICE_RESULT=exit-code EXIT_CODE=exited EXIT_STATUS=3": func(w *fakeWorld, main int) { w.exits(main, 3) },
		"SERVICE_RESULT=signal EXIT_CODE=killed EXIT_STATUS=KILL": func(w *fakeWorld, main int) { w.killed(main, syscall.SIGKILL) },
		"SERVICE_RESULT=core-dump EXIT_CODE=dumped EXIT_STATUS=ABRT": func(w *fakeWorld, main int) {
			w.dies(main, syscall.WaitStatus(int(syscall.SIGABRT)|0x80))
		},
		"SERVICE_RESULT=signal EXIT_CODE=killed EXIT_STATUS=RTMIN+3": func(w *fakeWorld, main int) { w.killed(main, syscall.Signal(37)) },
	} {
		w := newFake(t, newest, "ExecStopPost=/bin/stop-post")
		end(w, w.start())
		env := w.spawned[1].environment
		if got := strings.Join(env[:len(env)-1], " "); got != want {
			t.Errorf("environment = %q, want %q", got, want)
		}
	}
}

// TestOneshot runs its commands one after another, and is active only with RemainAfterExit=.
func TestOneshot(t *testing.T) {
	for _, remain := range []string{"no", "yes"} {
		w := newFake(t, newest, "Type=oneshot", "ExecStart=/bin/a", "ExecStart=-/bin/b", "ExecStart=/bin/c", "RemainAfterExit="+remain)
		id := w.request(wire.Start)
		for _, status := range []int{0, 1, 0} {
			w.wantState(serviceStart)
			w.exits(w.service.mainPID, status)
		}
		w.wantOrders("ExecStart", "ExecStart", "ExecStart")
		w.wantEnd(id, wire.Done)
		if remain == "yes" {
			w.wantState(serviceExited)
			w.wantEnd(w.request(wire.Stop), wire.Done)
		}
		w.wantState(serviceDead)
	}
	w := newFake(t, newest, "Type=oneshot", "ExecStart=/bin/a", "ExecStart=/bin/b")
	id := w.request(wire.Start)
	w.exits(w.service.mainPID, 1)
	w.wantEnd(id, wire.Failed)
	w.wantOrders("ExecStart")
}

// TestRemainAfterExit: a service whose process has ended well stays active, and can reload.
func TestRemainAfterExit(t *testing.T) {
	w := newFake(t, newest, "RemainAfterExit=yes", "ExecReload=/bin/reload")
	w.exits(w.start(), 0)
	w.wantState(serviceExited)
	id := w.request(wire.Reload)
	w.exits(w.service.controlPID, 0)
	w.wantEnd(id, wire.Done)
	w.wantState(serviceExited)
}

// TestTypeExec is started when the program is executed.
func TestTypeExec(t *testing.T) {
	w := newFake(t, newest, "Type=exec")
	id := w.request(wire.Start)
	w.wantState(serviceStart)
	w.service.execed(w.service.mainPID)
	w.flush()
	w.wantEnd(id, wire.Done)
	w.wantState(serviceRunning)

	w = newFake(t, newest, "Type=exec")
	id = w.request(wire.Start)
	w.exits(w.service.mainPID, 203)
	w.wantEnd(id, wire.Failed)
	w.wantResult(resultExitCode)
}

// TestTypeSimple is started at once, whatever becomes of it.
func TestTypeSimple(t *testing.T) {
	w := newFake(t, newest, "Type=simple")
	w.wantEnd(w.request(wire.Start), wire.Done)
	w.exits(w.service.mainPID, 203)
	w.wantState(serviceFailed)
}

// TestExitTypeCgroup: the service lasts as long as one process, but its result
// is that of the main process, and the next reload stops it then.
func TestExitTypeCgroup(t *testing.T) {
	eachVersion(t, 250, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "ExitType=cgroup", "ExecReload=/bin/true")
		main := w.start()
		child := w.born(main, "child")
		w.exits(main, 3)
		w.wantState(serviceRunning)
		w.wantResult(resultExitCode)
		w.request(wire.Reload)
		w.take()
		w.exits(w.service.controlPID, 0)
		w.wantOrders("SIGTERM child")
		w.wantState(serviceStopSigterm)
		w.exits(child, 0)
		w.wantState(serviceFailed)

		w = newFake(t, version, "ExitType=cgroup")
		main = w.start()
		child = w.born(main, "child")
		w.exits(main, 0)
		w.exits(child, 1)
		w.wantState(serviceDead)
		w.wantResult(resultSuccess)
	})
}

// TestRuntimeMax is RuntimeMaxSec=, counted from the start.
func TestRuntimeMax(t *testing.T) {
	w := newFake(t, newest, "RuntimeMaxSec=10s", "ExecReload=/bin/true", "ExecStop=/bin/stop")
	w.start()
	w.pass(6 * time.Second)
	w.request(wire.Reload)
	w.exits(w.service.controlPID, 0)
	w.take()
	w.pass(4 * time.Second)
	w.wantState(serviceStop)
	w.wantResult(resultTimeout)
	w.wantOrders("ExecStop")
}

// TestSpawnFails: what the manager itself cannot do is the result "resources".
func TestSpawnFails(t *testing.T) {
	w := newFake(t, newest, "ExecReload=/bin/reload")
	w.spawnErr = errFake
	w.wantEnd(w.request(wire.Start), wire.Failed)
	w.wantState(serviceFailed)
	w.wantResult(resultResources)

	w.spawnErr = nil
	w.start()
	w.spawnErr = errFake
	w.wantEnd(w.request(wire.Reload), wire.Failed)
	w.wantState(serviceRunning)
	if w.service.reloadResult != resultResources {
		t.Errorf("ReloadResult = %s", w.service.reloadResult)
	}
}

// TestReloadSignalToDeadMain: an alien main process that died unseen is found
// out by the reload, which stops the unit.
func TestReloadSignalToDeadMain(t *testing.T) {
	eachVersion(t, 253, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "Type=notify-reload")
		w.start()
		old, young := handover(w, false)
		w.killed(young, syscall.SIGKILL)
		id := w.request(wire.Reload)
		w.wantState(serviceStopSigterm)
		w.exits(old, 0)
		if version < 258 {
			w.wantEnd(id, wire.Done) // as every reload job of a service that ends well
		} else {
			w.wantEnd(id, wire.Failed)
		}
	})
}
