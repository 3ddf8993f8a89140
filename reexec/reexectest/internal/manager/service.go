// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"fmt"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// A service is the state machine of one service, after that of the systemd
// version that it was told. It acts on its world alone, has no clock and no
// goroutine of its own, and what it does depends on nothing but the events.
//
// Version 239 is that of RHEL 8, with what it took over from later ones. Of 258 to
// 261 it does what their NEWS say, and else what 262 does.
//
// The files of this machine: state.go has the table of states, service_enter.go
// how it enters them, service_exit.go what the end of a process does,
// service_notify.go what a message does, service_main.go who is the main process,
// service_kill.go signals, service_result.go results and restarts, service_timer.go
// the timers, service_reload.go daemon-reload, and job.go jobs.
type service struct {
	world   world
	unit    *unit.Service
	version int

	state        state
	result       result
	reloadResult result
	cleanResult  result

	mainPID   int // 0 for none
	mainKnown bool
	// mainAlien is set for a main process that was not the manager's child when
	// it became main. It stays set when the manager becomes its parent later.
	mainAlien  bool
	mainID     uint64 // of the main process's pidfd; 0 if it has none
	controlPID int
	// main and control are the lists of commands that the two processes are
	// from; nil if that is unknown, or a daemon forked.
	main, control *commands
	// lastMain is the last main process and its end.
	lastMain lastProcess
	// execPID is the process whose execve(2) Type=exec waits for.
	execPID int
	// awaitsPIDFile is set while the start waits for PIDFile=.
	awaitsPIDFile bool

	notifyState     notifyState
	notifyAccess    string // of NOTIFYACCESS=; empty for the unit's
	statusText      string
	statusErrno     int
	reloadBegin     time.Duration // when the reload began that RELOADING=1 has to follow; unit.Infinity for none
	forbidRestart   bool          // it is stopped on request
	willRestart     bool          // up to 253: on its way from dead to auto-restart
	flushRestarts   bool          // up to 256: the next start sets restarts to 0
	restarts        int           // NRestarts
	restartJitter   time.Duration // the part of RestartRandomizedDelaySec= that fell to this restart
	debugInvocation bool
	invocationID    string

	timers           map[timer]time.Duration // when those that are armed elapse
	watchdogFed      time.Duration           // when the service last said that it lives
	watchdogOriginal time.Duration           // WatchdogSec= at the start
	watchdogOverride *time.Duration          // of WATCHDOG_USEC=

	stateChanged, activeEntered, inactiveEntered time.Duration

	job       *job
	limit     rateLimit
	limitHit  bool
	releasing bool // look soon whether what belongs to a run can be released
}

var _ machine = (*service)(nil)

// commands is a list of commands of which one runs.
type commands struct {
	kind commandKind
	list []unit.Command
	at   int
}

func (c *commands) command() unit.Command { return c.list[c.at] }
func (c *commands) hasNext() bool         { return c != nil && c.at+1 < len(c.list) }

// lastProcess is what is known of a process after its end.
type lastProcess struct {
	pid    int
	ended  bool
	status syscall.WaitStatus
}

// newService returns a service that was never started.
func newService(w world, u *unit.Service, version int) *service {
	return &service{
		world:            w,
		unit:             u,
		version:          version,
		state:            serviceDead,
		result:           resultSuccess,
		reloadResult:     resultSuccess,
		cleanResult:      resultSuccess,
		reloadBegin:      unit.Infinity,
		watchdogOriginal: unit.Infinity,
		timers:           make(map[timer]time.Duration),
	}
}

// limitsEarly reports whether a start counts as soon as it is tried, even if it
// has to wait.
func (s *service) limitsEarly() bool { return s.since(250) || s.until(239) }

// since reports whether the version is that or a later one.
func (s *service) since(version int) bool { return s.version >= version }

// until reports whether the version is that or an earlier one.
func (s *service) until(version int) bool { return s.version <= version }

// commandsOf returns the commands of an option, or nil if there are none.
func (s *service) commandsOf(kind commandKind) *commands {
	list := map[commandKind][]unit.Command{
		execCondition:  s.unit.ExecCondition,
		execStartPre:   s.unit.ExecStartPre,
		execStart:      s.unit.ExecStart,
		execStartPost:  s.unit.ExecStartPost,
		execReload:     s.unit.ExecReload,
		execReloadPost: s.unit.ExecReloadPost,
		execStop:       s.unit.ExecStop,
		execStopPost:   s.unit.ExecStopPost,
	}[kind]
	if len(list) == 0 {
		return nil
	}
	return &commands{kind: kind, list: list}
}

// setState makes every change of state: it ends what the new state does not
// have, and tells jobs and sockets.
func (s *service) setState(to state) {
	rules := to.rules()
	was := s.state
	s.state = to
	s.ignorePIDFile()
	if !rules.timed {
		s.disarm(stateTimer)
	}
	if !rules.main {
		s.mainPID, s.main = 0, nil
	}
	if !rules.control {
		s.controlPID, s.control = 0, nil
	}
	if to != serviceStart {
		s.execPID = 0
	}
	if !rules.watched {
		s.disarm(watchdogTimer)
		s.watchdogFed = 0
	}
	if was != to {
		s.world.log(logDebug, "Changed %s -> %s", was.subState(s.version), to.subState(s.version))
	}
	s.world.changed()
	s.stateEntered(was.active(), to.active())
}

// stateEntered is called at every change of state, also of one to itself.
func (s *service) stateEntered(from, to activeState) {
	now := s.world.now()
	s.stateChanged = now
	if !from.down() && to.down() {
		s.inactiveEntered = now
	}
	if !from.up() && to.up() {
		s.activeEntered = now
	}
	s.jobSees(to)
	s.tellSockets()
	if to.down() {
		s.releasing = true
	}
}

// tellSockets tells the socket units what the service's state means to them.
func (s *service) tellSockets() {
	switch {
	case s.limitHit:
		s.world.socketsFailed()
	case s.job != nil:
		// What comes of it is not known yet.
	case s.state.rules().free:
		s.world.socketsFreed()
	case s.state == serviceRunning:
		s.world.socketsTaken()
	}
}

// settle does what systemd does between two events.
func (s *service) settle() {
	if s.releasing {
		s.releasing = false
		s.release()
	}
	s.world.changed()
}

// release gives up what was kept for a restart that does not come.
func (s *service) release() {
	if s.job != nil || !s.state.active().down() || s.aboutToRestart() {
		return
	}
	if s.since(254) && s.unit.RuntimeDirectoryPreserve == "restart" {
		s.world.removeRuntimeDirectories()
	}
	if s.keepsStore() {
		return
	}
	s.world.store().release()
	if s.state == serviceDeadResourcesPinned {
		s.setState(serviceDead)
	}
}

// keepsStore reports whether the fd store outlives the service.
func (s *service) keepsStore() bool {
	switch s.unit.FileDescriptorStorePreserve {
	case "yes":
		return s.since(254)
	case "on-success":
		return s.since(261) && s.state != serviceFailed
	}
	return false
}

// aboutToRestart reports whether the service is down only on its way up.
func (s *service) aboutToRestart() bool {
	return s.willRestart || s.job.is(wire.Start) ||
		s.state.is(serviceDeadBeforeAutoRestart, serviceFailedBeforeAutoRestart, serviceAutoRestart, serviceAutoRestartQueued)
}

// acquireInvocationID gives this start its own ID.
func (s *service) acquireInvocationID() {
	s.invocationID = fmt.Sprintf("%016x%016x", s.world.random(), s.world.random())
}

// properties are those of the D-Bus API.
func (s *service) properties() wire.Properties {
	p := wire.Properties{
		ActiveState:  string(s.state.active()),
		SubState:     s.state.subState(s.version),
		Result:       string(s.result),
		ReloadResult: string(s.reloadResult),
		CleanResult:  string(s.cleanResult),
		StatusText:   s.statusText,
		StatusErrno:  s.statusErrno,
		MainPID:      s.mainPID,
		ControlPID:   s.controlPID,
		ExecMainPID:  s.lastMain.pid,
		NRestarts:    s.restarts,
		NotifyAccess: s.notifyAccessNow(),
		InvocationID: s.invocationID,
	}
	if s.lastMain.ended {
		p.ExecMainCode, p.ExecMainStatus = exitCode(s.lastMain.status)
	}
	if s.until(241) {
		p.ReloadResult = ""
	}
	if s.until(243) {
		p.CleanResult = ""
	}
	if s.job != nil {
		p.Job = s.job.verb
	}
	return p
}

// Levels of syslog(3).
const (
	logError   = 3
	logWarning = 4
	logNotice  = 5
	logInfo    = 6
	logDebug   = 7
)

// resetFailed is systemctl reset-failed.
func (s *service) resetFailed() {
	defer s.settle()
	if s.state == serviceFailed {
		s.setState(s.deadState())
	}
	s.result = resultSuccess
	s.reloadResult = resultSuccess
	s.cleanResult = resultSuccess
	s.restarts = 0
	if s.until(257) {
		s.debugInvocation = false
	}
	s.limit = rateLimit{}
	s.limitHit = false
}

// storeEmptied lets a service go that was only kept for what it had stored.
func (s *service) storeEmptied() {
	defer s.settle()
	if s.since(258) && s.state == serviceDeadResourcesPinned {
		s.setState(serviceDead)
	}
}

// cleaned is the end of systemctl clean.
func (s *service) cleaned() {
	defer s.settle()
	s.cleanResult = resultSuccess
	if s.state == serviceDeadResourcesPinned && s.world.store().len() == 0 {
		s.setState(serviceDead)
	}
}
