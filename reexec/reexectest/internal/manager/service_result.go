// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"math"
	"strconv"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
)

// Codes of si_code in a siginfo_t for SIGCHLD.
const (
	cldExited = 1
	cldKilled = 2
	cldDumped = 3
)

// exitCode returns how a process ended, as ExecMainCode and ExecMainStatus have it.
func exitCode(status syscall.WaitStatus) (code, value int) {
	switch {
	case status.Exited():
		return cldExited, status.ExitStatus()
	case status.CoreDump():
		return cldDumped, int(status.Signal())
	}
	return cldKilled, int(status.Signal())
}

// exitWords is the same in the words of $EXIT_CODE and $EXIT_STATUS.
func exitWords(status syscall.WaitStatus) (code, value string) {
	switch n, v := exitCode(status); n {
	case cldExited:
		return "exited", strconv.Itoa(v)
	case cldDumped:
		return "dumped", signalName(status.Signal())
	default:
		return "killed", signalName(status.Signal())
	}
}

// resultOf judges the end of a process. A daemon may die of the signals that
// are commonly used to end one; a command may not.
func (s *service) resultOf(status syscall.WaitStatus, daemon bool) result {
	if status.Exited() {
		if status.ExitStatus() == 0 || s.unit.SuccessExit.Has(status) {
			return resultSuccess
		}
		return resultExitCode
	}
	if status.CoreDump() {
		return resultCoreDump
	}
	if s.unit.SuccessExit.Has(status) {
		return resultSuccess
	}
	if daemon {
		switch status.Signal() {
		case syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE:
			return resultSuccess
		}
	}
	return resultSignal
}

// logExit tells of the end of a process, in systemd's words.
func (s *service) logExit(which string, status syscall.WaitStatus, fine bool) {
	level := logWarning
	switch {
	case fine:
		level = logDebug
	case status.Exited():
		level = logNotice
	}
	code, word := exitWords(status)
	_, value := exitCode(status)
	if status.Exited() {
		word = exitStatusName(value)
	}
	suffix := ""
	if fine && s.since(251) {
		suffix = " (success)"
	}
	s.world.log(level, "%s exited, code=%s, status=%d/%s%s", which, code, value, word, suffix)
}

// exitStatusName is the name that systemd gives to an exit status.
func exitStatusName(status int) string {
	switch status {
	case 0:
		return "SUCCESS"
	case 1:
		return "FAILURE"
	case 2:
		return "INVALIDARGUMENT"
	case 3:
		return "NOTIMPLEMENTED"
	case 4:
		return "NOPERMISSION"
	case 5:
		return "NOTINSTALLED"
	case 6:
		return "NOTCONFIGURED"
	case 7:
		return "NOTRUNNING"
	}
	if name, ok := exitStepNames[status]; ok {
		return name
	}
	return "n/a"
}

// shallRestart is Restart= and what goes before it.
func (s *service) shallRestart() bool {
	switch {
	case s.forbidRestart:
		return false
	case s.result == resultExecCondition && s.since(251):
		return false
	case s.lastMain.ended && s.unit.RestartPrevent.Has(s.lastMain.status):
		return false
	case s.lastMain.ended && s.unit.RestartForce.Has(s.lastMain.status):
		return s.until(255) || s.unit.Type != "oneshot" || s.result != resultSuccess
	}
	switch s.unit.Restart {
	case "always":
		return true
	case "on-success":
		return s.result == resultSuccess
	case "on-failure":
		return s.result != resultSuccess && s.result != resultExecCondition
	case "on-abnormal":
		return s.result != resultSuccess && s.result != resultExitCode && s.result != resultExecCondition
	case "on-watchdog":
		return s.result == resultWatchdog
	case "on-abort":
		return s.result == resultSignal || s.result == resultCoreDump
	}
	return false
}

// restartDelay is how long the next restart waits: with RestartSteps= a
// geometric row from RestartSec= to RestartMaxDelaySec=.
func (s *service) restartDelay() time.Duration {
	delay, most, steps := s.unit.RestartSec, s.unit.RestartMaxDelay, s.unit.RestartSteps
	next := s.restarts
	if s.state != serviceAutoRestartQueued {
		next++
	}
	switch {
	case s.until(253) || next <= 1 || steps == 0 || delay == 0 || most == unit.Infinity || delay >= most:
		// RestartSec= alone.
	case next > steps:
		delay = most
	default:
		factor := math.Pow(float64(most)/float64(delay), float64(next-1)/float64(steps))
		delay = time.Duration(float64(delay)*factor) / time.Microsecond * time.Microsecond
	}
	if s.since(262) {
		delay = plus(delay, s.restartJitter)
	}
	return delay
}

// upTo returns a random duration below d.
func (s *service) upTo(d time.Duration) time.Duration {
	if d <= 0 || d == unit.Infinity {
		return 0
	}
	return time.Duration(s.world.random() % uint64(d))
}

// A rateLimit allows so many events in a window of time that begins with the first.
type rateLimit struct {
	begin time.Duration
	count int
}

// take reports whether one more event is allowed at a time.
func (r *rateLimit) take(now, interval time.Duration, burst int) bool {
	if interval <= 0 || burst <= 0 {
		return true
	}
	if r.count == 0 || now-r.begin > interval {
		*r = rateLimit{begin: now, count: 1}
		return true
	}
	r.count++
	return r.count <= burst
}

// takeStart is the start limit. If it is hit, the service fails.
func (s *service) takeStart() bool {
	if s.limit.take(s.world.now(), s.unit.StartLimitInterval, s.unit.StartLimitBurst) {
		s.limitHit = false
		return true
	}
	s.world.log(logWarning, "Start request repeated too quickly.")
	s.limitHit = true
	s.enterDead(resultStartLimitHit, false)
	return false
}
