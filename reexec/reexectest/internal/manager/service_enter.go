// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"fmt"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// spawn starts a command and sets the state timer for it.
func (s *service) spawn(c *commands, timeout time.Duration) (int, error) {
	s.arm(stateTimer, timeout)
	order := spawnOrder{
		command:     c.command(),
		kind:        c.kind,
		environment: s.environment(c.kind),
		descriptors: c.kind == execStart,
	}
	if limit := s.watchdogLimit(); c.kind == execStart && limit > 0 && limit != unit.Infinity {
		order.watchdog = limit
	}
	pid, err := s.world.spawn(order)
	if err != nil {
		s.world.log(logWarning, "Failed to spawn %s task: %v", c.kind, err)
	}
	return pid, err
}

// spawnControl starts the command at which s.control stands.
func (s *service) spawnControl(timeout time.Duration) bool {
	pid, err := s.spawn(s.control, timeout)
	s.controlPID = pid
	return err == nil
}

// runControl starts the first of an option's commands, if it has any.
func (s *service) runControl(kind commandKind, timeout time.Duration) (has, ok bool) {
	s.controlPID = 0
	if s.control = s.commandsOf(kind); s.control == nil {
		return false, true
	}
	return true, s.spawnControl(timeout)
}

// environment is what depends on the machine's state.
func (s *service) environment(kind commandKind) []string {
	var env []string
	if s.mainPID != 0 {
		env = append(env, fmt.Sprintf("MAINPID=%d", s.mainPID))
		if s.mainID != 0 && s.since(258) {
			env = append(env, fmt.Sprintf("MAINPIDFDID=%d", s.mainID))
		}
	}
	if kind == execStop || kind == execStopPost {
		env = append(env, "SERVICE_RESULT="+string(s.result))
		if s.lastMain.pid != 0 && s.lastMain.ended {
			code, status := exitWords(s.lastMain.status)
			env = append(env, "EXIT_CODE="+code, "EXIT_STATUS="+status)
		}
	}
	if s.debugInvocation {
		env = append(env, "DEBUG_INVOCATION=1")
	}
	return append(env, "INVOCATION_ID="+s.invocationID)
}

// fail sets the result, unless there is a failure already.
func (s *service) fail(f result) {
	if s.result == resultSuccess {
		s.result = f
	}
}

// begin starts the service from rest.
func (s *service) begin() {
	s.acquireInvocationID()
	s.mainKnown, s.mainAlien = false, false
	s.forbidRestart = false
	if s.since(257) && s.state != serviceAutoRestartQueued || s.flushRestarts {
		s.restarts = 0
	}
	s.flushRestarts = false
	s.result, s.reloadResult = resultSuccess, resultSuccess
	s.statusText, s.statusErrno = "", 0
	s.notifyAccess = ""
	s.notifyState = notifyUnknown
	if s.since(258) {
		s.reloadBegin = unit.Infinity
	}
	s.watchdogOriginal = s.unit.Watchdog
	s.watchdogOverride = nil
	s.lastMain = lastProcess{}
	s.enterCondition()
}

func (s *service) enterCondition() {
	if s.commandsOf(execCondition) != nil && s.minds() {
		s.enterDead(resultResources, true)
		return
	}
	switch has, ok := s.runControl(execCondition, s.unit.TimeoutStart); {
	case !ok:
		s.enterDead(resultResources, true)
	case has:
		s.setState(serviceCondition)
	default:
		s.enterStartPre()
	}
}

func (s *service) enterStartPre() {
	if s.commandsOf(execStartPre) != nil && s.minds() {
		s.enterDead(resultResources, true)
		return
	}
	switch has, ok := s.runControl(execStartPre, s.unit.TimeoutStart); {
	case !ok:
		s.enterDead(resultResources, true)
	case has:
		s.setState(serviceStartPre)
	default:
		s.enterStart()
	}
}

// minds reports whether processes of an earlier run forbid a start.
func (s *service) minds() bool {
	left := s.world.processes()
	for _, pid := range left {
		s.world.log(logWarning, "Found left-over process %d in control group while starting unit. Ignoring.", pid)
	}
	if len(left) == 0 || s.unit.SendSIGKILL || s.until(241) || s.unit.KillMode != "mixed" && s.unit.KillMode != "control-group" {
		return false
	}
	s.world.log(logError, "Will not start SendSIGKILL=no service of type KillMode=control-group or mixed while processes exist")
	return true
}

func (s *service) enterStart() {
	s.controlPID, s.mainPID = 0, 0
	s.control, s.main = nil, nil
	if s.minds() {
		s.enterSignal(serviceStopSigterm, resultResources)
		return
	}
	c := s.commandsOf(execStart)
	if c == nil {
		if s.unit.Type != "oneshot" {
			s.world.log(logError, "There's no 'start' task anymore we could start.")
			s.enterSignal(serviceStopSigterm, resultResources)
			return
		}
		// Others shall see that it was started, although nothing runs.
		s.setState(serviceStart)
		s.enterStartPost()
		return
	}
	timeout := s.unit.TimeoutStart
	if s.unit.Type == "simple" {
		timeout = unit.Infinity
	}
	if s.unit.Type == "forking" {
		s.control = c
	} else {
		s.main = c
	}
	pid, err := s.spawn(c, timeout)
	if err != nil {
		s.enterSignal(serviceStopSigterm, resultResources)
		return
	}
	switch s.unit.Type {
	case "simple":
		s.setMain(pid)
		s.enterStartPost()
	case "forking":
		s.controlPID = pid
		s.setState(serviceStart)
	default:
		s.setMain(pid)
		s.setState(serviceStart)
		if s.unit.Type == "exec" {
			s.execPID = pid
		}
	}
}

func (s *service) enterStartPost() {
	s.feedWatchdog()
	switch has, ok := s.runControl(execStartPost, s.unit.TimeoutStart); {
	case !ok:
		s.enterStop(resultResources)
	case has:
		s.setState(serviceStartPost)
	default:
		s.enterRunning(resultSuccess)
	}
}

// enterRunning makes the service running if it is well, and otherwise finds
// out what it is.
func (s *service) enterRunning(f result) {
	s.fail(f)
	s.controlPID = 0
	switch {
	case s.result != resultSuccess:
		s.enterSignal(serviceStopSigterm, f)
	case !s.good():
		if s.unit.RemainAfterExit {
			s.setState(serviceExited)
		} else {
			s.enterStop(resultSuccess)
		}
	case s.notifyState == notifyReloading:
		s.enterReloadByNotify()
	case s.notifyState == notifyStopping:
		s.enterStopByNotify()
	default:
		s.setState(serviceRunning)
		s.armAt(stateTimer, s.runtimeEnd())
	}
}

// runControlNext starts the command after the one that has ended.
func (s *service) runControlNext() {
	s.control.at++
	s.controlPID = 0
	timeout := s.unit.TimeoutStop
	switch s.state {
	case serviceCondition, serviceStartPre, serviceStart, serviceStartPost, serviceRunning, serviceReload, serviceReloadPost:
		timeout = s.unit.TimeoutStart
	}
	if s.spawnControl(timeout) {
		return
	}
	switch s.state {
	case serviceCondition, serviceStartPre, serviceStartPost, serviceStop:
		s.enterSignal(serviceStopSigterm, resultResources)
	case serviceStopPost:
		s.enterDead(resultResources, true)
	case serviceReload, serviceReloadPost:
		s.finishReload(resultResources)
	default:
		s.enterStop(resultResources)
	}
}

// runMainNext starts the next command of Type=oneshot.
func (s *service) runMainNext() {
	s.main.at++
	s.mainPID = 0
	pid, err := s.spawn(s.main, s.unit.TimeoutStart)
	if err != nil {
		s.enterStop(resultResources)
		return
	}
	s.setMain(pid)
}

// startReload begins what a reload job asks for.
func (s *service) startReload() {
	s.reloadResult = resultSuccess
	switch {
	case s.until(252):
		s.enterReload()
	case s.until(258):
		s.enterReloadSignalFirst()
	default:
		s.enterReload()
	}
}

// enterReload runs ExecReload=; what comes after it depends on the version.
func (s *service) enterReload() {
	if s.since(259) {
		if s.notifyState == notifyReloading || s.notifyState == notifyReloadReady {
			s.notifyState = notifyUnknown
		}
		s.reloadBegin = s.world.now()
	}
	switch has, ok := s.runControl(execReload, s.unit.TimeoutStart); {
	case !ok:
		s.finishReload(resultResources)
	case has:
		s.setState(serviceReload)
	case s.since(259):
		s.enterReloadSignal()
	default:
		s.enterRunning(resultSuccess)
	}
}

// enterReloadSignalFirst is the reload of 253 to 258: the signal is sent before
// ExecReload= runs, and both are waited for.
func (s *service) enterReloadSignalFirst() {
	begin := s.world.now()
	signaled := false
	if s.unit.Type == "notify-reload" && s.mainPID != 0 {
		if !s.sendReloadSignal() {
			s.finishReload(resultResources)
			return
		}
		signaled = true
	}
	switch has, ok := s.runControl(execReload, s.unit.TimeoutStart); {
	case !ok:
		s.finishReload(resultResources)
		return
	case has:
		s.setState(serviceReload)
	case signaled:
		s.arm(stateTimer, s.unit.TimeoutStart)
		s.setState(serviceReloadSignal)
	default:
		s.enterRunning(resultSuccess)
		return
	}
	s.reloadBegin = begin
}

// enterReloadSignal is what comes after ExecReload= from 259 on: the signal,
// unless the service has begun already.
func (s *service) enterReloadSignal() {
	if s.unit.Type != "notify-reload" || s.mainPID == 0 {
		s.enterReloadPost()
		return
	}
	if s.state == serviceReload {
		switch s.notifyState {
		case notifyReloading:
			s.setState(serviceReloadNotify)
			return
		case notifyReloadReady:
			s.enterReloadPost()
			return
		}
	}
	s.arm(stateTimer, s.unit.TimeoutStart)
	if s.since(262) {
		s.handlesReload(", sending reload signal anyway")
	}
	if !s.sendReloadSignal() {
		s.finishReload(resultResources)
		return
	}
	s.setState(serviceReloadSignal)
}

func (s *service) sendReloadSignal() bool {
	err := s.signal(s.mainPID, s.unit.ReloadSignal)
	if err != nil {
		s.world.log(logWarning, "Failed to send reload signal: %v", err)
	}
	return err == nil
}

// handlesReload reports whether the main process does something about the
// reload signal, other than to die of it.
func (s *service) handlesReload(otherwise string) bool {
	sig := s.unit.ReloadSignal
	if s.mainPID == 0 || sig == syscall.SIGKILL || sig == syscall.SIGSTOP || !s.world.alive(s.mainPID) || s.world.handles(s.mainPID, sig) {
		return true
	}
	s.world.log(logWarning, "Main process %d lacks handler for reload signal %s%s.", s.mainPID, signalName(sig), otherwise)
	return false
}

// enterReloadByNotify follows a service that reloads of its own accord.
func (s *service) enterReloadByNotify() {
	s.arm(stateTimer, s.unit.TimeoutStart)
	if s.until(252) {
		s.setState(serviceReload)
	} else {
		s.setState(serviceReloadNotify)
	}
}

func (s *service) enterReloadPost() {
	switch has, ok := s.runControl(execReloadPost, s.unit.TimeoutStart); {
	case !ok:
		s.finishReload(resultResources)
	case has:
		s.setState(serviceReloadPost)
	default:
		s.finishReload(resultSuccess)
	}
}

func (s *service) finishReload(f result) {
	s.reloadResult = f
	if s.since(259) {
		s.reloadBegin = unit.Infinity
		if s.notifyState == notifyReloading {
			s.notifyState = notifyUnknown
		}
	}
	s.enterRunning(resultSuccess)
}

func (s *service) enterStop(f result) {
	s.fail(f)
	switch has, ok := s.runControl(execStop, s.unit.TimeoutStop); {
	case !ok:
		s.enterSignal(serviceStopSigterm, resultResources)
	case has:
		s.setState(serviceStop)
	default:
		s.enterSignal(serviceStopSigterm, resultSuccess)
	}
}

// enterStopByNotify follows a service that stops of its own accord: it is as if
// it had got its SIGTERM.
func (s *service) enterStopByNotify() {
	s.arm(stateTimer, s.unit.TimeoutStop)
	s.setState(serviceStopSigterm)
}

func (s *service) enterStopPost(f result) {
	s.fail(f)
	switch has, ok := s.runControl(execStopPost, s.unit.TimeoutStop); {
	case !ok:
		s.enterSignal(serviceFinalSigterm, resultResources)
	case has:
		s.setState(serviceStopPost)
	default:
		s.enterSignal(serviceFinalSigterm, resultSuccess)
	}
}

// enterDead ends a run, for good or until the restart.
func (s *service) enterDead(f result, mayRestart bool) {
	if s.job.is(wire.Stop) {
		mayRestart = false
	}
	s.fail(f)
	if f == resultStartLimitHit && s.since(258) {
		s.result = f
	}
	end, between := serviceFailed, serviceFailedBeforeAutoRestart
	switch s.result {
	case resultSuccess:
		end, between = s.deadState(), serviceDeadBeforeAutoRestart
		if s.since(248) {
			s.world.log(logInfo, "Deactivated successfully.")
		} else {
			s.world.log(logInfo, "Succeeded.")
		}
	case resultExecCondition:
		end, between = s.deadState(), serviceDeadBeforeAutoRestart
		s.world.log(logInfo, "Skipped due to '%s'.", s.result)
	default:
		s.world.log(logWarning, "Failed with result '%s'.", s.result)
	}
	restart := mayRestart && s.shallRestart()
	if s.until(253) {
		s.willRestart = restart
		s.setState(end)
		s.willRestart = false
	} else if restart && s.unit.RestartMode != "direct" {
		s.setState(between)
	}
	if restart {
		s.restartJitter = s.upTo(s.unit.RestartRandomizedDelay)
		s.arm(stateTimer, s.restartDelay())
		if s.unit.RestartMode == "debug" && s.since(257) {
			s.debugInvocation = true
		}
		s.setState(serviceAutoRestart)
	} else {
		if s.since(254) {
			s.setState(end)
		}
		s.flushRestarts = s.until(256)
		s.debugInvocation = false
	}
	s.forbidRestart = false
	if s.since(254) {
		s.notifyAccess = ""
	}
	if s.since(259) {
		s.notifyState = notifyUnknown
	}
	switch s.unit.RuntimeDirectoryPreserve {
	case "no":
		s.world.removeRuntimeDirectories()
	case "restart":
		if s.until(253) && !s.aboutToRestart() {
			s.world.removeRuntimeDirectories()
		}
	}
	if s.since(254) && s.unit.FileDescriptorStorePreserve == "no" ||
		s.unit.FileDescriptorStorePreserve == "on-success" && s.state == serviceFailed {
		s.world.store().release()
	}
	if s.unit.PIDFile != "" {
		s.world.removePIDFile()
	}
}

// deadState is where a service rests that did not fail.
func (s *service) deadState() state {
	preserve := s.unit.FileDescriptorStorePreserve
	if s.since(254) && (preserve == "yes" || preserve == "on-success") && s.world.store().len() > 0 {
		return serviceDeadResourcesPinned
	}
	return serviceDead
}

// enterRestart has the service started again: when RestartSec= is over, or at
// once because a start job asks for it.
func (s *service) enterRestart(atOnce bool) {
	if !atOnce && s.job.is(wire.Stop) {
		if s.until(248) {
			s.world.log(logInfo, "Stop job pending for unit, delaying automatic restart.")
			s.arm(stateTimer, s.unit.RestartSec)
		} else {
			s.world.log(logInfo, "Stop job pending for unit, skipping automatic restart.")
		}
		return
	}
	if err := s.world.socketsWanted(); err != nil {
		s.world.log(logWarning, "Failed to schedule restart job: %v", err)
		s.enterDead(resultResources, false)
		return
	}
	if s.until(253) {
		// The stop of this job ends auto-restart.
		s.install(wire.Restart, nil, true)
	} else {
		s.install(wire.Start, nil, s.until(256))
	}
	s.restarts++
	s.flushRestarts = false
	how := ""
	if atOnce {
		how = " immediately on client request"
	}
	s.world.log(logInfo, "Scheduled restart job%s, restart counter is at %d.", how, s.restarts)
	if s.since(254) {
		s.notifyAccess = ""
		s.setState(serviceAutoRestartQueued)
	}
}
