// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"slices"
	"time"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
)

// reloaded is daemon-reload: the service is written down and read back with its
// new unit file, and not all comes back as it was.
func (s *service) reloaded(u *unit.Service) {
	defer s.settle()
	s.unit = u
	s.main = s.main.in(s.commandsOf)
	s.control = s.control.in(s.commandsOf)
	s.lookAtMainAgain()
	s.ignorePIDFile()
	if s.until(257) {
		s.notifyState = notifyUnknown
	}
	if s.until(256) {
		s.statusErrno = 0
	}
	s.limitHit = false
	if s.until(254) {
		s.limit = rateLimit{}
	}
	if s.state.rules().timed {
		s.armAt(stateTimer, s.deadline())
	}
	if s.state.rules().watched {
		s.startWatchdog()
	}
	if s.job != nil && (s.job.queued || !s.job.running) {
		s.queueJob()
	}
	s.tellSockets()
	if s.state.active().down() {
		s.releasing = true
	}
}

// in finds the command that runs among those of the new unit file. If it is
// gone, nothing comes after it.
func (c *commands) in(of func(commandKind) *commands) *commands {
	if c == nil {
		return nil
	}
	now := of(c.kind)
	if now == nil {
		return nil
	}
	same := func(a unit.Command) bool {
		b := c.command()
		return a.Path == b.Path && slices.Equal(a.Args, b.Args)
	}
	now.at = c.at
	if now.at >= len(now.list) || !same(now.command()) {
		now.at = slices.IndexFunc(now.list, same)
	}
	if now.at < 0 {
		return nil
	}
	return now
}

// lookAtMainAgain finds out anew whose child the main process is. Of one that
// does not exist any more that cannot be told, and up to 254 it is not taken for an alien then.
func (s *service) lookAtMainAgain() {
	if s.mainPID != 0 {
		s.mainAlien = !s.world.isChild(s.mainPID) && (s.since(255) || s.world.alive(s.mainPID))
	}
}

// deadline is when the state timer elapses for a service that is read back:
// counted from the last change of state, whatever extended it since.
func (s *service) deadline() time.Duration {
	switch s.state {
	case serviceCondition, serviceStartPre, serviceStart, serviceStartPost,
		serviceReload, serviceReloadSignal, serviceReloadNotify, serviceReloadPost:
		return plus(s.stateChanged, s.unit.TimeoutStart)
	case serviceRunning:
		return s.runtimeEnd()
	case serviceStopWatchdog, serviceFinalWatchdog:
		return plus(s.stateChanged, s.unit.TimeoutAbort)
	case serviceAutoRestart:
		return plus(s.inactiveEntered, s.restartDelay())
	}
	return plus(s.stateChanged, s.unit.TimeoutStop)
}
