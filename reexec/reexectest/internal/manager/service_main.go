// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"errors"
	"fmt"
)

// setMain makes a process the main process.
func (s *service) setMain(pid int) {
	if pid <= 1 || pid == s.world.pid() || s.mainKnown && s.mainPID == pid {
		return
	}
	if s.mainPID != pid {
		s.lastMain = lastProcess{pid: pid}
	}
	s.mainPID = pid
	s.mainKnown = true
	s.mainID, _ = s.world.pidfdID(pid)
	s.mainAlien = !s.world.isChild(pid)
	if s.mainAlien {
		s.world.log(logWarning, "Supervising process %d which is not our child. We'll most likely not notice when it exits.", pid)
	}
}

// suitableMain judges a process that shall become main: belongs says whether it
// is one of the unit's, and why, in systemd's words, that it cannot be main at all.
func (s *service) suitableMain(pid int) (belongs bool, why string) {
	switch {
	case pid == 1 || pid == s.world.pid():
		return false, fmt.Sprintf("New main PID %d is the manager, refusing.", pid)
	case pid == s.controlPID:
		return false, fmt.Sprintf("New main PID %d is the control process, refusing.", pid)
	case !s.world.alive(pid):
		return false, fmt.Sprintf("New main PID %d does not exist or is a zombie.", pid)
	}
	return s.world.belongs(pid), ""
}

// Why PIDFile= names no new main process.
var (
	errNoPIDFile  = errors.New("no PIDFile=")
	errUnsuitable = errors.New("PIDFile= names a process that cannot be main")
)

// loadPIDFile makes the process that PIDFile= names the main process. It
// reports whether that is another one than before.
func (s *service) loadPIDFile(level int) (changed bool, err error) {
	if s.unit.PIDFile == "" {
		return false, errNoPIDFile
	}
	pid, err := s.world.readPIDFile()
	if err != nil {
		s.world.log(level, "Can't open PID file '%s' (yet?) after %s: %v", s.unit.PIDFile, s.state.subState(s.version), err)
		return false, err
	}
	if s.mainKnown && pid == s.mainPID {
		return false, nil
	}
	// A process outside of the unit is accepted: the file is the manager's user's.
	if _, why := s.suitableMain(pid); why != "" {
		s.world.log(level, "%s", why)
		return false, errUnsuitable
	}
	if s.mainKnown {
		s.world.log(logDebug, "Main PID changing: %d -> %d", s.mainPID, pid)
		s.mainPID, s.mainKnown = 0, false
	} else {
		s.world.log(logDebug, "Main PID loaded: %d", pid)
	}
	s.setMain(pid)
	return true, nil
}

// awaitPIDFile waits until a start can read PIDFile=.
func (s *service) awaitPIDFile() {
	s.awaitsPIDFile = true
	s.world.watchPIDFile(true)
	// It may have appeared just before.
	s.retryPIDFile()
}

func (s *service) retryPIDFile() {
	if _, err := s.loadPIDFile(logDebug); err != nil {
		return
	}
	s.ignorePIDFile()
	s.enterRunning(resultSuccess)
}

func (s *service) ignorePIDFile() {
	if s.awaitsPIDFile {
		s.awaitsPIDFile = false
		s.world.watchPIDFile(false)
	}
}

// pidFileChanged reads the file again while a start waits for it.
func (s *service) pidFileChanged() {
	defer s.settle()
	if s.awaitsPIDFile {
		s.retryPIDFile()
	}
}

// searchMain guesses the main process of Type=forking: the only child that the
// manager has among the unit's processes.
func (s *service) searchMain() {
	if s.mainKnown || !s.unit.GuessMainPID {
		return
	}
	found := 0
	for _, pid := range s.world.processes() {
		if !s.world.isChild(pid) {
			continue
		}
		if found != 0 {
			return
		}
		found = pid
	}
	if found != 0 {
		s.world.log(logDebug, "Main PID guessed: %d", found)
		s.setMain(found)
	}
}

// A vitality says whether a process lives; nobody may know.
type vitality int

const (
	perhapsAlive vitality = iota
	aliveForSure
	deadForSure
)

// mainVitality trusts in SIGCHLD for the manager's children, and looks at others.
func (s *service) mainVitality() vitality {
	switch {
	case !s.mainKnown:
		return perhapsAlive
	case s.mainPID == 0:
		return deadForSure
	case s.mainAlien && !s.world.alive(s.mainPID):
		return deadForSure
	}
	return aliveForSure
}

// mainGone reports whether nothing is to be expected of the main process.
func (s *service) mainGone() bool { return s.mainVitality() != aliveForSure }

// good reports whether the service has what it takes to be running.
func (s *service) good() bool {
	switch s.mainVitality() {
	case aliveForSure:
		return true
	case deadForSure:
		if s.unit.ExitType != "cgroup" {
			return false
		}
	}
	return s.populated()
}

// populated reports whether the unit has a process.
func (s *service) populated() bool { return len(s.world.processes()) > 0 }
