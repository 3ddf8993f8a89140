// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// TestKillMode is a stop of a service with a second process, which outlives
// the main process.
func TestKillMode(t *testing.T) {
	for _, test := range []struct {
		mode      string
		stop      []string // orders of the stop
		afterMain []string // and of the end of the main process
		state     state    // then
	}{
		{"control-group", []string{"SIGTERM start", "SIGTERM child"}, []string{"SIGTERM child"}, serviceFinalSigterm},
		{"mixed", []string{"SIGTERM start"}, []string{"SIGKILL child"}, serviceFinalSigkill},
		{"process", []string{"SIGTERM start"}, nil, serviceDead},
	} {
		t.Run(test.mode, func(t *testing.T) {
			eachVersion(t, 239, newest, func(t *testing.T, version int) {
				w := newFake(t, version, "KillMode="+test.mode)
				main := w.start()
				child := w.born(main, "child")
				id := w.request(wire.Stop)
				w.wantOrders(test.stop...)
				w.wantState(serviceStopSigterm)
				w.exits(main, 0)
				w.wantOrders(test.afterMain...)
				w.wantState(test.state)
				if test.state != serviceDead {
					w.exits(child, 0)
				}
				w.wantState(serviceDead)
				w.wantResult(resultSuccess)
				w.wantEnd(id, wire.Done)
			})
		})
	}
}

// TestKillModeNone sends nothing, and waits for nothing.
func TestKillModeNone(t *testing.T) {
	w := newFake(t, newest, "KillMode=none")
	w.start()
	w.wantEnd(w.request(wire.Stop), wire.Done)
	w.wantOrders()
	w.wantState(serviceDead)
}

// TestMixedKillsWhatDrains: the old process is killed as soon as the new main
// process ends, however it ends.
func TestMixedKillsWhatDrains(t *testing.T) {
	w := newFake(t, newest, "Type=notify", "KillMode=mixed")
	w.start()
	_, young := handover(w, true)
	w.killed(young, syscall.SIGSEGV)
	w.wantOrders("SIGKILL start")
	w.wantState(serviceStopSigkill)
}

// TestSecondSIGTERM: what drains gets another one when the main process has
// ended, and TimeoutStopSec= begins anew.
func TestSecondSIGTERM(t *testing.T) {
	w := newFake(t, newest, "TimeoutStopSec=5s")
	main := w.start()
	child := w.born(main, "child")
	w.request(wire.Stop)
	w.pass(4 * time.Second)
	w.take()
	w.exits(main, 0)
	w.wantOrders("SIGTERM child")
	w.pass(4 * time.Second)
	w.wantState(serviceFinalSigterm)
	w.exits(child, 0)
	w.wantState(serviceDead)
	w.wantResult(resultSuccess)
}

// TestStopTimesOut: SIGKILL after TimeoutStopSec=, twice, and the result is a timeout.
func TestStopTimesOut(t *testing.T) {
	eachVersion(t, 239, newest, func(t *testing.T, version int) {
		w := newFake(t, version, "TimeoutStopSec=5s", "Restart=always")
		main := w.start()
		child := w.born(main, "child")
		id := w.request(wire.Stop)
		w.pass(5 * time.Second)
		w.wantState(serviceStopSigkill)
		w.wantOrders("SIGTERM start", "SIGTERM child", "SIGKILL start", "SIGKILL child")
		w.killed(main, syscall.SIGKILL)
		w.wantState(serviceFinalSigterm)
		w.pass(5 * time.Second)
		w.wantState(serviceFinalSigkill)
		w.killed(child, syscall.SIGKILL)
		w.wantState(serviceFailed) // a stop on request is not restarted
		w.wantResult(resultTimeout)
		w.wantEnd(id, wire.Done)
	})
}

// TestUnkillable: systemd gives up in the end.
func TestUnkillable(t *testing.T) {
	w := newFake(t, newest, "TimeoutStopSec=5s")
	w.start()
	id := w.request(wire.Stop)
	w.pass(20 * time.Second)
	w.wantState(serviceFailed)
	w.wantEnd(id, wire.Done)
}

// TestSendSIGKILLNo waits no longer than TimeoutStopSec=, and kills nobody. The
// next start is refused while processes are left.
func TestSendSIGKILLNo(t *testing.T) {
	w := newFake(t, newest, "TimeoutStopSec=5s", "SendSIGKILL=no")
	main := w.start()
	w.request(wire.Stop)
	w.pass(10 * time.Second)
	w.wantOrders("SIGTERM start", "SIGTERM start")
	w.wantState(serviceFailed)
	id := w.request(wire.Start)
	w.wantResult(resultResources)
	w.wantOrders("SIGTERM start")
	w.exits(main, 0)
	w.wantEnd(id, wire.Failed)
}

// TestSendSIGHUP goes with KillSignal= alone.
func TestSendSIGHUP(t *testing.T) {
	w := newFake(t, newest, "SendSIGHUP=yes", "TimeoutStopSec=5s", "KillSignal=SIGINT")
	w.born(w.start(), "child")
	w.request(wire.Stop)
	w.wantOrders("SIGINT start", "SIGHUP start", "SIGINT child", "SIGHUP child")
	w.pass(5 * time.Second)
	w.wantOrders("SIGKILL start", "SIGKILL child")
}

// TestFinalKillSignal is what is sent in place of SIGKILL.
func TestFinalKillSignal(t *testing.T) {
	w := newFake(t, newest, "FinalKillSignal=SIGQUIT", "TimeoutStopSec=5s")
	w.start()
	w.request(wire.Stop)
	w.pass(5 * time.Second)
	w.wantOrders("SIGTERM start", "SIGQUIT start")
}

// TestStopFailureMode is TimeoutStopFailureMode= for each phase of a stop.
func TestStopFailureMode(t *testing.T) {
	for _, test := range []struct {
		mode string
		want []state // as one timeout follows another
	}{
		{"terminate", []state{serviceStop, serviceStopSigterm, serviceStopSigkill, serviceStopPost, serviceFinalSigterm, serviceFinalSigkill, serviceFailed}},
		{"abort", []state{serviceStop, serviceStopWatchdog, serviceStopSigkill, serviceStopPost, serviceFinalWatchdog, serviceFinalSigkill, serviceFailed}},
		{"kill", []state{serviceStop, serviceStopSigkill, serviceStopPost, serviceFinalSigkill, serviceFailed}},
	} {
		t.Run(test.mode, func(t *testing.T) {
			w := newFake(t, newest, "TimeoutStopSec=5s", "TimeoutStopFailureMode="+test.mode, "ExecStop=/bin/stop", "ExecStopPost=/bin/post")
			w.start()
			w.request(wire.Stop)
			for _, want := range test.want {
				w.wantState(want)
				w.pass(5 * time.Second)
			}
			w.wantResult(resultTimeout)
		})
	}
}

// TestStartFailureMode is TimeoutStartFailureMode=.
func TestStartFailureMode(t *testing.T) {
	for mode, want := range map[string]state{"terminate": serviceStopSigterm, "abort": serviceStopWatchdog, "kill": serviceStopSigkill} {
		w := newFake(t, newest, "Type=notify", "TimeoutStartSec=5s", "TimeoutStartFailureMode="+mode)
		w.request(wire.Start)
		w.pass(5 * time.Second)
		w.wantState(want)
		w.wantResult(resultTimeout)
	}
}

// TestStopWithoutExecStopAfterCrash: ExecStop= is not run for a service that failed,
// but for one that ended by itself.
func TestStopWithoutExecStopAfterCrash(t *testing.T) {
	for status, want := range map[int][]string{0: {"ExecStop", "ExecStopPost"}, 1: {"ExecStopPost"}} {
		w := newFake(t, newest, "ExecStop=/bin/stop", "ExecStopPost=/bin/post")
		w.exits(w.start(), status)
		for w.service.controlPID != 0 {
			w.exits(w.service.controlPID, 0)
		}
		w.wantOrders(want...)
	}
}
