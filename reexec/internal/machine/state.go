// SPDX-License-Identifier: Apache-2.0

package machine

import "fmt"

// State is where a generation is in its life.
type State uint8

// The states. Every cell of the table is decided for each of them.
const (
	// Booting: started by systemd or by hand, not ready yet.
	Booting State = iota
	// Joining: started by a predecessor; receives and builds, accepts nothing.
	Joining
	// Offered: said ready to the predecessor, accepts nothing until told.
	Offered
	// Trial: accepts connections while the predecessor stays warm.
	Trial
	// Serving: main, and no upgrade is under way.
	Serving
	// Checking: main; the new binary is being checked.
	Checking
	// Starting: main; the successor was started and is not ready.
	Starting
	// Probation: main, not accepting; the successor is on trial.
	Probation
	// Promoting: MAINPID= is on its way to systemd.
	Promoting
	// Emptying: main, in place; accepts nothing and answers what it has before
	// the new version is executed in this process.
	Emptying
	// Executing: main, in place; nothing is left to answer, and execve(2) is
	// under way.
	Executing
	// Reverting: the new version could not be executed; the running program is,
	// again.
	Reverting
	// Renewed: executed in place by the version before, whose process this was;
	// builds, accepts nothing.
	Renewed
	// Draining: the successor is main; what is left gets its answer.
	Draining
	// Resigning: undone before it was main; what it accepted gets its answer.
	Resigning
	// Stopping: told to stop; what is left gets its answer.
	Stopping
	// Gone: nothing is left to do; the process exits.
	Gone

	States
)

var stateNames = [States]string{
	"booting", "joining", "offered", "trial", "serving", "checking", "starting",
	"probation", "promoting", "emptying", "executing",
	"reverting", "renewed", "draining", "resigning", "stopping", "gone",
}

func (s State) String() string {
	if s < States {
		return stateNames[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Timed says whether a deadline runs in s. It is armed on entry and disarmed
// on leaving, so no timer can outlive its state.
func (s State) Timed() bool {
	switch s {
	case Joining, Offered, Starting, Probation, Emptying, Renewed, Draining, Resigning, Stopping:
		return true
	}
	return false
}

// Drains says whether a generation in s waits for what is left.
func (s State) Drains() bool {
	switch s {
	case Emptying, Draining, Resigning, Stopping:
		return true
	}
	return false
}

// Accepts says whether a generation in s accepts connections.
func (s State) Accepts() bool {
	switch s {
	case Trial, Serving, Checking, Starting:
		return true
	}
	return false
}

// Main says whether a generation in s holds itself to be main and serves the
// control socket. In [Promoting] systemd may already have moved on, so nothing
// but the barrier is sent. In [Renewed] systemd knows the process for main, but
// the version has yet to be ready.
func (s State) Main() bool {
	switch s {
	case Serving, Checking, Starting, Probation, Promoting, Emptying, Executing, Reverting:
		return true
	}
	return false
}

// Upgrading says whether an upgrade is under way in s, so that a further
// request for one is answered with busy.
func (s State) Upgrading() bool {
	switch s {
	case Checking, Starting, Probation, Promoting, Emptying, Executing, Reverting:
		return true
	}
	return false
}

// Reloads says whether a request to read the configuration again is kept in s: it
// is done in [Serving], or passed on to who serves next.
func (s State) Reloads() bool {
	switch s {
	case Draining, Resigning, Stopping, Gone:
		return false
	}
	return true
}

// Inherits says whether a signal that comes in s is kept for the time when this
// generation, or the one that follows, is main.
func (s State) Inherits() bool {
	switch s {
	case Offered, Trial, Promoting, Executing, Reverting, Renewed:
		return true
	}
	return false
}
