// SPDX-License-Identifier: Apache-2.0

package machine

import "fmt"

// Action is something that the runner does. An action that fails comes back
// as an event, never as a branch in the runner.
type Action uint8

// The actions, to be performed in the order of the cell.
const (
	// Check the new binary; gives Fit or Unfit.
	Check Action = iota
	// CancelCheck ends a check whose result nobody wants any more.
	CancelCheck
	// Start the successor and hand over; gives Died when that fails.
	Start
	// Kill the successor with SIGKILL.
	Kill
	// OfferSelf says ready to the predecessor.
	OfferSelf
	// SayLeaving tells the predecessor that it must take over again.
	SayLeaving
	// TellServe lets the successor accept.
	TellServe
	// TellPromote tells the successor that it is main.
	TellPromote
	// TellUndo tells the successor to go away, with a deadline and SIGKILL
	// behind it.
	TellUndo
	// TellStop tells the successor that the service stops.
	TellStop
	// Accept connections, again or for the first time.
	Accept
	// Pause stops accepting; the listening sockets stay open.
	Pause
	// NameSelf writes our process into the PID file.
	NameSelf
	// NameSuccessor writes the successor into the PID file.
	NameSuccessor
	// MoveMain sends MAINPID= and READY=1, then a barrier; gives Moved or
	// Unmoved.
	MoveMain
	// Announce sends READY=1.
	Announce
	// AnnounceAdopted sends READY=1 once systemd has adopted us in place of a
	// dead predecessor.
	AnnounceAdopted
	// AnnounceStop sends STOPPING=1. Only main may: from an old process it
	// puts the whole unit into stop.
	AnnounceStop
	// TakeLease makes us the writer of the service's state.
	TakeLease
	// DropLease gives that up.
	DropLease
	// BecomeMain takes the control socket and the watchdog over.
	BecomeMain
	// Retire gives the control socket and the watchdog up.
	Retire
	// Drain stops accepting for good and waits for what is left, leading
	// clients away; gives Drained.
	Drain
	// DrainNow is Drain without waiting for idle connections.
	DrainNow
	// Abandon cuts what is left.
	Abandon
	// Empty stops accepting, gathers the idle connections for the next version
	// and waits for the rest, leading clients away; gives Drained.
	Empty
	// Commit saves the service's states and has systemd keep them. Without the
	// lease it does nothing.
	Commit
	// Execute runs the checked binary in this process; gives Unexecuted when
	// that fails, and Stop when one came before it. It does not come back
	// otherwise: the process begins anew in [Renewed].
	Execute
	// Revert does so with the program that runs now.
	Revert
	// Conclude takes the verdict over that the version before wrote down for
	// this one: upgraded, or refused after a Revert.
	Conclude
	// ReplyUpgraded, ReplyRefused, ReplyRolledBack and ReplyStopped answer
	// whoever asked for the upgrade under way.
	ReplyUpgraded
	ReplyRefused
	ReplyRolledBack
	ReplyStopped
	// Hold keeps a request that comes during an upgrade, to be answered with
	// busy when that is over. Not at once: the reload command would end, and
	// systemd would adopt the successor that the PID file names. A signal that
	// comes to a successor on trial, or to a predecessor whose MAINPID= is on
	// its way, is kept for whoever is main then.
	Hold
	// Exit ends the process with success.
	Exit
	// ExitFailed ends the process with an error.
	ExitFailed

	Actions
)

var actionNames = [Actions]string{
	"check", "cancel check", "start", "kill", "offer self", "say leaving", "tell serve",
	"tell promote", "tell undo", "tell stop", "accept", "pause", "name self",
	"name successor", "move main", "announce", "announce adopted", "announce stop",
	"take lease", "drop lease", "become main", "retire", "drain", "drain now", "abandon",
	"empty", "commit", "execute", "revert", "conclude",
	"reply upgraded", "reply refused", "reply rolled back", "reply stopped",
	"hold", "exit", "exit failed",
}

func (a Action) String() string {
	if a < Actions {
		return actionNames[a]
	}
	return fmt.Sprintf("action %d", uint8(a))
}
