// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"time"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
)

// plus adds durations of which one may have no end.
func plus(a, b time.Duration) time.Duration {
	if a > unit.Infinity-b {
		return unit.Infinity
	}
	return a + b
}

// arm sets a timer, or calls it off if the duration has no end.
func (s *service) arm(t timer, after time.Duration) {
	s.armAt(t, plus(s.world.now(), after))
}

// armAt is arm with a time of the world's clock.
func (s *service) armAt(t timer, at time.Duration) {
	if at == unit.Infinity {
		s.disarm(t)
		return
	}
	s.timers[t] = at
	s.world.setTimer(t, max(0, at-s.world.now()))
}

func (s *service) disarm(t timer) {
	if _, armed := s.timers[t]; armed {
		delete(s.timers, t)
		s.world.stopTimer(t)
	}
}

// extend is EXTEND_TIMEOUT_USEC=: no timer that is armed elapses before that.
func (s *service) extend(by time.Duration) {
	if by == 0 || by == unit.Infinity {
		return
	}
	at := plus(s.world.now(), by)
	for _, t := range []timer{stateTimer, watchdogTimer} {
		if current, armed := s.timers[t]; armed && current < at {
			s.armAt(t, at)
		}
	}
}

// watchdogLimit is WatchdogSec=, or what the service set for itself.
func (s *service) watchdogLimit() time.Duration {
	if s.watchdogOverride != nil {
		return *s.watchdogOverride
	}
	return s.watchdogOriginal
}

// feedWatchdog notes that the service lives.
func (s *service) feedWatchdog() {
	s.watchdogFed = s.world.now()
	s.startWatchdog()
}

func (s *service) startWatchdog() {
	limit := s.watchdogLimit()
	if limit == 0 || limit == unit.Infinity {
		s.disarm(watchdogTimer)
		s.watchdogFed = 0
		return
	}
	s.armAt(watchdogTimer, plus(s.watchdogFed, limit))
}

// runtimeEnd is when RuntimeMaxSec= is over.
func (s *service) runtimeEnd() time.Duration {
	return plus(plus(s.activeEntered, s.unit.RuntimeMax), s.upTo(s.unit.RuntimeRandomizedExtra))
}

// elapsed is the end of a timer.
func (s *service) elapsed(t timer) {
	if _, armed := s.timers[t]; !armed {
		return // it was called off when it was on its way
	}
	defer s.settle()
	delete(s.timers, t)
	if t == watchdogTimer {
		s.world.log(logError, "Watchdog timeout (limit %v)!", s.watchdogLimit())
		s.enterSignal(serviceStopWatchdog, resultWatchdog)
		return
	}
	s.stateTimerElapsed()
}

func (s *service) stateTimerElapsed() {
	name := s.state.subState(s.version)
	kill := s.unit.SendSIGKILL
	abort := s.unit.TimeoutStopFailureMode == "abort"
	switch s.state {
	case serviceCondition, serviceStartPre, serviceStart, serviceStartPost:
		s.timedOut(name+" operation timed out", s.unit.TimeoutStartFailureMode, serviceStopSigterm, serviceStopWatchdog, serviceStopSigkill)
	case serviceRunning:
		s.world.log(logWarning, "Service reached runtime time limit. Stopping.")
		s.enterStop(resultTimeout)
	case serviceReload, serviceReloadSignal, serviceReloadNotify, serviceReloadPost:
		s.world.log(logWarning, "Reload operation timed out. Killing reload process.")
		s.killControl()
		s.finishReload(resultTimeout)
	case serviceStop:
		s.timedOut("Stopping timed out", s.unit.TimeoutStopFailureMode, serviceStopSigterm, serviceStopWatchdog, serviceStopSigkill)
	case serviceStopWatchdog:
		if s.until(245) {
			s.world.log(logWarning, "State '%s' timed out. Terminating.", name)
			s.enterSignal(serviceStopSigterm, resultTimeout)
			return
		}
		s.escalate(name, kill, serviceStopSigkill)
	case serviceStopSigterm:
		if abort {
			s.world.log(logWarning, "State '%s' timed out. Aborting.", name)
			s.enterSignal(serviceStopWatchdog, resultTimeout)
			return
		}
		s.escalate(name, kill, serviceStopSigkill)
	case serviceStopSigkill:
		// What cannot be killed cannot be waited for.
		s.world.log(logWarning, "Processes still around after SIGKILL. Ignoring.")
		s.enterStopPost(resultTimeout)
	case serviceStopPost:
		s.timedOut("State 'stop-post' timed out", s.unit.TimeoutStopFailureMode, serviceFinalSigterm, serviceFinalWatchdog, serviceFinalSigkill)
	case serviceFinalWatchdog:
		s.escalate(name, kill, serviceFinalSigkill)
	case serviceFinalSigterm:
		if abort {
			s.world.log(logWarning, "State '%s' timed out. Aborting.", name)
			s.enterSignal(serviceFinalWatchdog, resultTimeout)
			return
		}
		s.escalate(name, kill, serviceFinalSigkill)
	case serviceFinalSigkill:
		s.world.log(logWarning, "Processes still around after final SIGKILL. Entering failed mode.")
		s.enterDead(resultTimeout, true)
	case serviceAutoRestart:
		s.enterRestart(false)
	}
}

// timedOut does what TimeoutStartFailureMode= or TimeoutStopFailureMode= says.
func (s *service) timedOut(what, mode string, terminate, abort, kill state) {
	switch {
	case mode == "abort":
		s.world.log(logWarning, "%s. Aborting.", what)
		s.enterSignal(abort, resultTimeout)
	case mode == "kill" && s.unit.SendSIGKILL:
		s.world.log(logWarning, "%s. Killing.", what)
		s.enterSignal(kill, resultTimeout)
	case mode == "kill":
		s.world.log(logWarning, "%s. Skipping SIGKILL.", what)
		s.giveUp(kill)
	default:
		s.world.log(logWarning, "%s. Terminating.", what)
		s.enterSignal(terminate, resultTimeout)
	}
}

// escalate goes from a signal that did not help to SIGKILL, if that may be sent.
func (s *service) escalate(name string, may bool, kill state) {
	if may {
		s.world.log(logWarning, "State '%s' timed out. Killing.", name)
		s.enterSignal(kill, resultTimeout)
		return
	}
	s.world.log(logWarning, "State '%s' timed out. Skipping SIGKILL.", name)
	s.giveUp(kill)
}

// giveUp goes on as if SIGKILL had been sent in vain.
func (s *service) giveUp(kill state) {
	if kill == serviceStopSigkill {
		s.enterStopPost(resultTimeout)
	} else {
		s.enterDead(resultTimeout, false)
	}
}
