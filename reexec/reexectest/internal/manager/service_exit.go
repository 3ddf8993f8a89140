// SPDX-License-Identifier: Apache-2.0

package manager

import "syscall"

// exited is SIGCHLD for one process.
func (s *service) exited(pid int, status syscall.WaitStatus) {
	switch pid {
	case 0:
	case s.mainPID:
		defer s.settle()
		s.mainExited(pid, status)
	case s.controlPID:
		defer s.settle()
		s.controlExited(status)
	}
}

// execed is the execve(2) that Type=exec waits for.
func (s *service) execed(pid int) {
	if pid != 0 && pid == s.execPID && s.unit.Type == "exec" && s.state == serviceStart {
		defer s.settle()
		s.execPID = 0
		s.enterStartPost()
	}
}

func (s *service) mainExited(pid int, status syscall.WaitStatus) {
	s.execPID = 0
	f := s.resultOf(status, s.unit.Type != "oneshot")
	// A daemon may have a new main process, and have written that down in time.
	if changed, _ := s.loadPIDFile(logDebug); changed {
		return
	}
	s.mainPID = 0
	s.lastMain = lastProcess{pid: pid, ended: true, status: status}
	switch {
	case s.main != nil:
		if s.main.command().IgnoreFailure {
			f = resultSuccess
		}
	case len(s.unit.ExecStart) > 0 && s.unit.ExecStart[0].IgnoreFailure:
		f = resultSuccess
	}
	s.logExit("Main process", status, f == resultSuccess)
	s.fail(f)
	if s.main.hasNext() && s.unit.Type == "oneshot" && f == resultSuccess {
		s.runMainNext()
		return
	}
	s.main = nil
	if s.unit.ExitType == "cgroup" && s.populated() {
		// The others are the service. They may still have to become ready.
		if s.state == serviceStart && s.unit.Type != "notify" && s.unit.Type != "notify-reload" {
			s.enterStartPost()
		}
		return
	}
	s.mainLost(f)
}

// mainLost goes on after the end of the main process, with its result.
func (s *service) mainLost(f result) {
	switch s.state {
	case serviceStartPost, serviceReload, serviceReloadSignal, serviceReloadNotify, serviceReloadPost:
		// Up to 248 this waits for an end that may never come.
		if s.controlPID == 0 && s.since(249) {
			s.enterStop(f)
		}
	case serviceStop:
		// ExecStop= is waited for.
	case serviceStart:
		switch s.unit.Type {
		case "oneshot":
			if f == resultSuccess {
				s.enterStartPost()
			} else {
				s.enterSignal(serviceStopSigterm, f)
			}
		case "notify", "notify-reload":
			if f != resultSuccess {
				s.enterSignal(serviceStopSigterm, f)
			} else if !s.unit.RemainAfterExit || s.notifyAccessNow() == "main" {
				// Nobody is left who could say READY=1.
				s.enterSignal(serviceStopSigterm, resultProtocol)
			}
		default:
			s.enterRunning(f)
		}
	case serviceRunning:
		s.enterRunning(f)
	case serviceStopWatchdog, serviceStopSigterm, serviceStopSigkill:
		if s.controlPID == 0 {
			s.enterStopPost(f)
		}
	case serviceStopPost:
		if s.controlPID == 0 {
			s.enterSignal(serviceFinalSigterm, f)
		}
	case serviceFinalWatchdog, serviceFinalSigterm, serviceFinalSigkill:
		if s.controlPID == 0 {
			s.enterDead(f, true)
		}
	}
}

func (s *service) controlExited(status syscall.WaitStatus) {
	s.controlPID = 0
	// Up to 241 every command of a daemon may die as a daemon may.
	daemon := s.unit.Type != "oneshot" && (s.control != nil && s.control.kind == execStart || s.until(241))
	f := s.resultOf(status, daemon)
	if s.control != nil && s.control.command().IgnoreFailure {
		f = resultSuccess
	}
	which := "Control process"
	fine := f == resultSuccess
	if s.state == serviceCondition {
		if f == resultExitCode && status.ExitStatus() < 255 {
			f, fine = resultExecCondition, true
		}
		which = "Condition check process"
	}
	s.logExit(which, status, fine)
	if !s.state.is(serviceReload, serviceReloadPost) {
		s.fail(f)
	}
	if s.control.hasNext() && f == resultSuccess {
		s.runControlNext()
		return
	}
	s.control = nil
	s.controlDone(f)
}

// controlDone goes on after the last command of an option, with its result.
func (s *service) controlDone(f result) {
	switch s.state {
	case serviceCondition:
		s.proceed(f, s.enterStartPre)
	case serviceStartPre:
		s.proceed(f, s.enterStart)
	case serviceStart:
		if s.unit.Type == "forking" {
			s.proceed(f, s.daemonStarted)
		}
	case serviceStartPost:
		s.proceed(f, s.startPostDone)
	case serviceReload:
		s.reloadDone(f)
	case serviceReloadPost:
		s.finishReload(f)
	case serviceStop:
		s.enterSignal(serviceStopSigterm, f)
	case serviceStopWatchdog, serviceStopSigterm, serviceStopSigkill:
		if s.mainGone() {
			s.enterStopPost(f)
		}
	case serviceStopPost:
		if s.mainGone() {
			s.enterSignal(serviceFinalSigterm, f)
		}
	case serviceFinalWatchdog, serviceFinalSigterm, serviceFinalSigkill:
		if s.mainGone() {
			s.enterDead(f, true)
		}
	}
}

// proceed goes on with a start, unless a step of it failed.
func (s *service) proceed(f result, next func()) {
	if f != resultSuccess {
		s.enterSignal(serviceStopSigterm, f)
		return
	}
	next()
}

// daemonStarted is the end of the process that Type=forking starts.
func (s *service) daemonStarted() {
	if s.unit.PIDFile == "" {
		s.searchMain()
		s.enterStartPost()
		return
	}
	hasPost := len(s.unit.ExecStartPost) > 0
	level := logInfo
	if hasPost {
		level = logDebug
	}
	if _, err := s.loadPIDFile(level); err == nil || hasPost {
		s.enterStartPost()
		return
	}
	was := s.state
	s.awaitPIDFile()
	if s.state == was && !s.populated() {
		s.enterSignal(serviceStopSigterm, resultProtocol)
	}
}

// startPostDone is the end of the last command of ExecStartPost=.
func (s *service) startPostDone() {
	if s.unit.PIDFile == "" {
		s.searchMain()
		s.enterRunning(resultSuccess)
		return
	}
	if _, err := s.loadPIDFile(logInfo); err == nil {
		s.enterRunning(resultSuccess)
		return
	}
	was := s.state
	s.awaitPIDFile()
	if s.state == was && !s.populated() {
		s.enterStop(resultProtocol)
	}
}

// reloadDone is the end of the last command of ExecReload=.
func (s *service) reloadDone(f result) {
	if s.since(259) && f != resultSuccess {
		s.finishReload(f)
		return
	}
	if f == resultSuccess {
		if _, err := s.loadPIDFile(logInfo); err != nil {
			s.searchMain()
		}
	}
	switch {
	case s.since(259):
		s.enterReloadSignal()
	case s.since(253) && s.notifyState == notifyReloading:
		// READY=1 has to come, too.
		s.reloadResult = f
		s.setState(serviceReloadNotify)
	default:
		s.finishReload(f)
	}
}

// empty is the end of the last process. Mostly that of the main or the control
// process has said more.
func (s *service) empty() {
	if s.populated() {
		return // a process was started since
	}
	defer s.settle()
	lost := s.mainVitality() == deadForSure && s.controlPID == 0
	switch s.state {
	case serviceStart, serviceStartPost:
		switch {
		case s.state == serviceStart && (s.unit.Type == "notify" || s.unit.Type == "notify-reload") && lost:
			// Nobody is left who could say READY=1.
			s.enterStopPost(resultProtocol)
		case s.state == serviceStart && s.unit.ExitType == "cgroup" && s.mainGone():
			s.enterStopPost(resultSuccess)
		case s.awaitsPIDFile && lost:
			s.world.log(logWarning, "Daemon never wrote its PID file. Failing.")
			s.ignorePIDFile()
			if s.state == serviceStart {
				s.enterStopPost(resultProtocol)
			} else {
				s.enterStop(resultProtocol)
			}
		}
	case serviceRunning:
		s.enterRunning(resultSuccess)
	case serviceStopWatchdog, serviceStopSigterm, serviceStopSigkill:
		if s.mainGone() && s.controlPID == 0 {
			s.enterStopPost(resultSuccess)
		}
	case serviceStopPost, serviceFinalWatchdog, serviceFinalSigterm, serviceFinalSigkill:
		if s.mainGone() && s.controlPID == 0 {
			s.enterDead(resultSuccess, true)
		}
	}
}
