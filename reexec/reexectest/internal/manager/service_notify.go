// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
)

// notifyState is what the service last said of itself.
type notifyState int

const (
	notifyUnknown notifyState = iota
	notifyReady
	notifyReloading
	notifyReloadReady // from 259: READY=1 after RELOADING=1
	notifyStopping
)

// notifyAccessNow is NotifyAccess=, or what NOTIFYACCESS= made of it.
func (s *service) notifyAccessNow() string {
	if s.notifyAccess != "" {
		return s.notifyAccess
	}
	return s.unit.NotifyAccess
}

// message judges a message and does what it says, but for the fd store.
func (s *service) message(m notification) notifyVerdict {
	if reason := s.refuses(m.pid); reason != "" {
		level := logWarning
		if s.since(256) && s.notifyAccessNow() != "none" {
			level = logDebug
		}
		s.world.log(level, "Got notification message from PID %d, but reception %s", m.pid, reason)
		return notifyVerdict{reason: "reception " + reason}
	}
	defer s.settle()
	var refused []string
	refuse := func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		s.world.log(logWarning, "%s", text)
		refused = append(refused, text)
	}
	// The main process first: MAINPID= with READY=1 is one step.
	s.newMain(m, refuse)
	if s.until(252) {
		s.lastOfStates(m)
	} else {
		s.strongestOfStates(m, refuse)
	}
	s.notedStatus(m, refuse)
	s.notedTimes(m, refuse)
	if s.since(258) && m.has("RESTART_RESET=1") && s.state.is(serviceRunning, serviceStop) {
		s.world.log(logNotice, "Got RESTART_RESET=1, resetting restart counter from %d.", s.restarts)
		s.restarts = 0
	}
	return notifyVerdict{accepted: true, reason: strings.Join(refused, "; ")}
}

// refuses says why a sender may not speak, in systemd's words; "" if it may.
func (s *service) refuses(pid int) string {
	isMain := s.mainPID != 0 && pid == s.mainPID
	isControl := s.controlPID != 0 && pid == s.controlPID
	access := s.notifyAccessNow()
	switch {
	case access == "all", isMain && access != "none", isControl && access == "exec":
		return ""
	case access == "none":
		return "is disabled"
	case access == "main" && s.mainPID == 0:
		return "only permitted for main PID which is currently not known"
	case access == "main" || s.mainPID != 0 && s.controlPID == 0:
		return fmt.Sprintf("only permitted for main PID %d", s.mainPID)
	case s.mainPID != 0:
		return fmt.Sprintf("only permitted for main PID %d and control PID %d", s.mainPID, s.controlPID)
	case s.controlPID != 0:
		return fmt.Sprintf("only permitted for control PID %d", s.controlPID)
	}
	return "only permitted for main PID and control PID which are currently not known"
}

// newMain is MAINPID=, MAINPIDFDID= and MAINPIDFD=1.
func (s *service) newMain(m notification, refuse func(string, ...any)) {
	pid, given := s.newMainPID(m, refuse)
	if !given || !s.state.acceptsMainPID(s.version) || s.mainKnown && pid == s.mainPID {
		return
	}
	belongs, why := s.suitableMain(pid)
	switch {
	case why != "":
		refuse("%s", why)
	case !belongs && m.uid != 0:
		refuse("New main PID %d does not belong to service, refusing.", pid)
	default:
		s.setMain(pid)
	}
}

func (s *service) newMainPID(m notification, refuse func(string, ...any)) (pid int, given bool) {
	if s.since(257) && m.has("MAINPIDFD=1") {
		switch {
		case m.files == 0:
			refuse("Got MAINPIDFD=1 with no fd, ignoring.")
			return 0, false
		case m.files > 1:
			refuse("Got MAINPIDFD=1 with more than one fd, ignoring.")
			return 0, false
		case m.mainPID == 0:
			refuse("Failed to create reference to received new main pidfd")
			return 0, false
		}
		return m.mainPID, true
	}
	text, given := m.value("MAINPID")
	if !given {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 32)
	pid = int(n)
	if err != nil || pid <= 0 {
		refuse("Failed to parse MAINPID=%s field in notification message, ignoring", text)
		return 0, false
	}
	text, given = m.value("MAINPIDFDID")
	if !given || s.until(256) {
		return pid, true
	}
	want, err := parseUint64(text)
	if err != nil {
		refuse("Failed to parse MAINPIDFDID= in notification message, refusing: %s", text)
		return 0, false
	}
	if id, ok := s.world.pidfdID(pid); ok && id != want {
		refuse("PIDFD ID of process %d (%d) mismatches with received MAINPIDFDID=%d, not changing main PID.", pid, id, want)
		return 0, false
	}
	return pid, true
}

// lastOfStates is how READY=, RELOADING= and STOPPING= are read up to 252: the
// last one wins.
func (s *service) lastOfStates(m notification) {
	for _, field := range slices.Backward(m.fields) {
		switch field {
		case "READY=1":
			s.notifyState = notifyReady
			if s.unit.Type == "notify" && s.state == serviceStart {
				s.enterStartPost()
			}
			if s.state == serviceReload && s.controlPID == 0 {
				s.enterRunning(resultSuccess)
			}
			return
		case "RELOADING=1":
			s.notifyState = notifyReloading
			if s.state == serviceRunning {
				s.enterReloadByNotify()
			}
			return
		case "STOPPING=1":
			s.notifyState = notifyStopping
			if s.state == serviceRunning {
				s.enterStopByNotify()
			}
			return
		}
	}
}

// strongestOfStates is how they are read from 253 on: STOPPING= wins over
// READY=, and READY= over RELOADING=.
func (s *service) strongestOfStates(m notification, refuse func(string, ...any)) {
	// What reloads after the signal says when it began: it must have been after it.
	afterSignal := false
	if text, given := m.value("MONOTONIC_USEC"); given {
		usec, err := parseUint64(text)
		if err != nil {
			refuse("Failed to parse MONOTONIC_USEC= field in notification message, ignoring: %s", text)
		}
		afterSignal = err == nil && s.state == serviceReloadSignal &&
			s.reloadBegin != unit.Infinity && usec >= uint64(s.reloadBegin/time.Microsecond)
	}
	switch {
	case m.has("STOPPING=1"):
		s.notifyState = notifyStopping
		if s.state.is(serviceRunning, serviceReloadSignal, serviceReloadNotify) {
			s.enterStopByNotify()
		}
	case m.has("READY=1"):
		if s.since(259) && s.notifyState == notifyStopping {
			refuse("Service must stop after STOPPING=1 notification, refusing attempted transition to READY.")
			return
		}
		s.ready(afterSignal && m.has("RELOADING=1"))
	case m.has("RELOADING=1"):
		if s.since(259) && s.notifyState == notifyStopping {
			refuse("Service must stop after STOPPING=1 notification, refusing attempted transition to RELOADING.")
			return
		}
		s.notifyState = notifyReloading
		switch {
		case afterSignal:
			// The timer of the signal goes on.
			s.setState(serviceReloadNotify)
		case s.state == serviceRunning:
			s.enterReloadByNotify()
		}
	}
}

// ready is READY=1. reloaded says that the message has all of a reload.
func (s *service) ready(reloaded bool) {
	notifies := s.unit.Type == "notify" || s.unit.Type == "notify-reload"
	if s.since(262) && s.unit.Type == "notify-reload" && s.state == serviceStart && !s.handlesReload(", refusing service startup") {
		s.enterSignal(serviceStopSigterm, resultProtocol)
		return
	}
	if s.since(259) && s.notifyState == notifyReloading {
		s.notifyState = notifyReloadReady
	} else {
		s.notifyState = notifyReady
	}
	switch {
	case reloaded, s.state == serviceReloadNotify:
		if s.since(259) {
			s.enterReloadPost()
		} else {
			s.enterRunning(resultSuccess)
		}
	case notifies && s.state == serviceStart:
		s.enterStartPost()
	}
}

// notedStatus is STATUS=, ERRNO= and NOTIFYACCESS=.
func (s *service) notedStatus(m notification, refuse func(string, ...any)) {
	if text, given := m.value("STATUS"); given {
		const longest = 16 << 10
		switch {
		case len(text) > longest:
			refuse("Status message overly long (%d > %d), ignoring.", len(text), longest)
			text = ""
		case !utf8.ValidString(text):
			refuse("Status message in notification message is not UTF-8 clean, ignoring.")
			text = ""
		}
		s.statusText = text
	}
	if access, given := m.value("NOTIFYACCESS"); given && s.since(254) {
		switch access {
		case "none", "main", "exec", "all":
		default:
			refuse("Failed to parse NOTIFYACCESS= field value '%s' in notification message, ignoring", access)
			access = ""
		}
		s.notifyAccess = access
	}
	if text, given := m.value("ERRNO"); given {
		if errno, ok := parseErrno(text); ok {
			s.statusErrno = errno
		} else {
			refuse("Failed to parse ERRNO= field value '%s' in notification message", text)
		}
	}
}

// notedTimes is EXTEND_TIMEOUT_USEC=, WATCHDOG= and WATCHDOG_USEC=.
func (s *service) notedTimes(m notification, refuse func(string, ...any)) {
	if text, given := m.value("EXTEND_TIMEOUT_USEC"); given {
		if d, err := parseMicroseconds(text); err == nil {
			s.extend(d)
		} else {
			refuse("Failed to parse EXTEND_TIMEOUT_USEC=%s", text)
		}
	}
	switch text, given := m.value("WATCHDOG"); {
	case !given:
	case text == "1":
		s.feedWatchdog()
	case text == "trigger" && s.since(243):
		status := s.statusText
		if status == "" {
			status = "<unset>"
		}
		s.world.log(logError, "Watchdog request (last status: %s)!", status)
		s.enterSignal(serviceStopWatchdog, resultWatchdog)
	default:
		refuse("Passed WATCHDOG= field is invalid, ignoring.")
	}
	if text, given := m.value("WATCHDOG_USEC"); given {
		if d, err := parseMicroseconds(text); err == nil {
			s.watchdogOverride = &d
			s.feedWatchdog()
		} else {
			refuse("Failed to parse WATCHDOG_USEC=%s", text)
		}
	}
}

// parseUint64 reads a number as systemd does: decimal, or with the prefix of
// another base, and perhaps after white space.
func parseUint64(text string) (uint64, error) {
	text = strings.TrimLeft(text, " \t\n\r")
	if strings.Contains(text, "_") {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseUint(strings.TrimPrefix(text, "+"), 0, 64)
}

func parseMicroseconds(text string) (time.Duration, error) {
	usec, err := parseUint64(text)
	if err != nil {
		return 0, err
	}
	if usec > uint64(unit.Infinity/time.Microsecond) {
		return unit.Infinity, nil
	}
	return time.Duration(usec) * time.Microsecond, nil
}

// parseErrno reads the number or the name of an error.
func parseErrno(text string) (int, bool) {
	const highest = 4095
	for errno := 1; errno < 256; errno++ {
		if name := unix.ErrnoName(syscall.Errno(errno)); name != "" && name == text {
			return errno, true
		}
	}
	n, err := strconv.ParseInt(text, 0, 32)
	if err != nil || n < 0 || n > highest {
		return 0, false
	}
	return int(n), true
}
