// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"errors"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// signal sends a signal and, unless that is without effect, has the process go
// on if it is stopped.
func (s *service) signal(pid int, sig syscall.Signal) error {
	err := s.world.signal(pid, sig)
	if err == nil && sig != syscall.SIGKILL && sig != syscall.SIGCONT {
		_ = s.world.signal(pid, syscall.SIGCONT)
	}
	return err
}

// kill sends the signal of a state to the processes that KillMode= names. It
// reports whether there is one whose end is worth waiting for: a main process
// that is not the manager's child is none.
func (s *service) kill(to state) bool {
	mode := s.unit.KillMode
	if mode == "none" {
		return false
	}
	var sig syscall.Signal
	terminate, last := false, false
	switch to {
	case serviceStopSigterm, serviceFinalSigterm:
		sig, terminate = s.unit.KillSignal, true
		if to == serviceStopSigterm && s.job.is(wire.Restart) && s.since(244) {
			sig, terminate = s.unit.RestartKillSignal, false
		}
	case serviceStopWatchdog, serviceFinalWatchdog:
		sig = s.unit.WatchdogSignal
	default:
		sig, last = s.unit.FinalKillSignal, true
	}
	hangup := s.unit.SendSIGHUP && terminate && sig != syscall.SIGHUP

	wait := s.killOne(s.mainPID, "main", sig, hangup) && !s.mainAlien
	wait = s.killOne(s.controlPID, "control", sig, hangup) || wait
	if mode == "control-group" || mode == "mixed" && last {
		if s.world.signalAll(sig, s.mainPID, s.controlPID) > 0 {
			wait = true
			if hangup {
				s.world.signalAll(syscall.SIGHUP, s.mainPID, s.controlPID)
			}
		}
	}
	return wait
}

// killOne reports whether the end of the process can be expected: that it is
// gone already is no reason against it.
func (s *service) killOne(pid int, which string, sig syscall.Signal, hangup bool) bool {
	if pid == 0 {
		return false
	}
	switch err := s.signal(pid, sig); {
	case errors.Is(err, syscall.ESRCH):
		return true
	case err != nil:
		s.world.log(logWarning, "Failed to kill %s process %d, ignoring: %v", which, pid, err)
		return false
	}
	if sig == syscall.SIGKILL || sig == s.unit.WatchdogSignal && sig == syscall.SIGABRT {
		s.world.log(logNotice, "Killing process %d with signal %s.", pid, fullSignalName(sig))
	}
	if hangup {
		_ = s.world.signal(pid, syscall.SIGHUP)
	}
	return true
}

// enterSignal kills what there is to kill, and skips the state if there is
// nothing to wait for.
func (s *service) enterSignal(to state, f result) {
	s.fail(f)
	if s.kill(to) {
		timeout := s.unit.TimeoutStop
		if to.is(serviceStopWatchdog, serviceFinalWatchdog) && s.since(242) {
			timeout = s.unit.TimeoutAbort
		}
		s.arm(stateTimer, timeout)
		s.setState(to)
		return
	}
	switch to {
	case serviceStopWatchdog, serviceStopSigterm:
		if s.unit.SendSIGKILL {
			s.enterSignal(serviceStopSigkill, resultSuccess)
			return
		}
		s.enterStopPost(resultSuccess)
	case serviceStopSigkill:
		s.enterStopPost(resultSuccess)
	case serviceFinalWatchdog, serviceFinalSigterm:
		if s.unit.SendSIGKILL {
			s.enterSignal(serviceFinalSigkill, resultSuccess)
			return
		}
		s.enterDead(resultSuccess, true)
	default:
		s.enterDead(resultSuccess, true)
	}
}

// killControl ends the control process of a reload that takes too long.
func (s *service) killControl() {
	if s.controlPID != 0 {
		_ = s.signal(s.controlPID, syscall.SIGKILL)
	}
}

// fullSignalName is "SIGTERM" or "SIGRTMIN+3"; signalName is the same without "SIG".
func fullSignalName(sig syscall.Signal) string { return "SIG" + signalName(sig) }

func signalName(sig syscall.Signal) string {
	const firstRealtime = 34 // of the C library, which keeps two for itself
	if sig >= firstRealtime {
		if sig == firstRealtime {
			return "RTMIN"
		}
		return "RTMIN+" + strconv.Itoa(int(sig)-firstRealtime)
	}
	if name := unix.SignalName(sig); name != "" {
		return strings.TrimPrefix(name, "SIG")
	}
	return strconv.Itoa(int(sig))
}
