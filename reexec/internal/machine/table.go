// SPDX-License-Identifier: Apache-2.0

package machine

// Cell is what happens in one state on one event.
type Cell struct {
	Next State
	Do   []Action
	// Why says, for a cell that changes nothing, why that is right.
	Why string
	// Never marks an event that our own runner cannot produce in this state.
	Never bool

	decided bool
}

// Table decides every event in every state.
type Table [States][Events]Cell

func to(next State, do ...Action) Cell { return Cell{Next: next, Do: do, decided: true} }

// stay is to() for a cell whose next state is its own; New fills that in.
func stay(do ...Action) Cell { return Cell{Next: States, Do: do, decided: true} }

func ignore(why string) Cell { return Cell{Next: States, Why: why, decided: true} }

func never(why string) Cell { return Cell{Next: States, Why: why, Never: true, decided: true} }

type row map[Event]Cell

// merge lays rows over each other; later ones win.
func merge(rows ...row) row {
	out := row{}
	for _, r := range rows {
		for e, c := range r {
			out[e] = c
		}
	}
	return out
}

var (
	// What a process that has no successor under way says to events about one.
	noSuccessor = row{
		Ready: ignore("its attempt is over"),
		Ill:   ignore("its attempt is over"),
		Hung:  ignore("its attempt is over"),
		Died:  ignore("its attempt is over"),
	}
	// What a process that no predecessor commands says to such commands.
	noPredecessor = row{
		Serve:    ignore("it serves already"),
		Promote:  ignore("it is main already"),
		Undo:     ignore("too late: main answers to no predecessor"),
		Orphaned: ignore("the elder generation has drained and gone"),
	}
	noCheck   = row{Fit: never("no check runs"), FitInPlace: never("no check runs"), FitToRestart: never("no check runs"), Unfit: never("no check runs")}
	noExecve  = row{Unexecuted: never("nothing is executed in place")}
	noMove    = row{Moved: never("MAINPID= was not sent"), Unmoved: never("MAINPID= was not sent")}
	noDrain   = row{Drained: never("nothing drains")}
	noTimer   = row{Deadline: never("no timer runs")}
	builtOnce = row{Built: never("built already")}
	busy      = row{Upgrade: stay(Hold)}
	notMain   = row{Upgrade: ignore("not main: a signal to all processes of the unit reached us too")}
	// systemd reads MAINPID= before we do hear of it, and may send the signal of
	// the next reload to us at once.
	almostMain = row{Upgrade: stay(Hold)}

	// Successors before they are main.
	joined = merge(noSuccessor, noCheck, noMove, noExecve, notMain)
	// Main, whatever it is doing about an upgrade.
	mainRow = merge(noSuccessor, noPredecessor, noCheck, noMove, noExecve, noDrain, noTimer, builtOnce, busy,
		row{Failed: to(Gone, ExitFailed)})
	// Processes that only finish what they have.
	ending = merge(noSuccessor, noPredecessor, noCheck, noMove, noExecve, builtOnce, notMain, row{
		Serve:    ignore("it accepts nothing any more"),
		Promote:  ignore("it accepts nothing any more"),
		Undo:     ignore("it is leaving"),
		Orphaned: ignore("it is leaving"),
		Failed:   to(Gone, ExitFailed),
		Drained:  to(Gone, Exit),
		Deadline: to(Gone, Abandon, Exit),
		Hurry:    to(Gone, Abandon, Exit),
	})
	becomeMain = []Action{TakeLease, Accept, BecomeMain}
	// READY=1 came with MAINPID= already. Once more costs nothing, and ends a
	// reload that the predecessor announced when systemd no longer heard it.
	promoted = with(becomeMain, Announce)
)

func with(first []Action, more ...Action) []Action {
	return append(append([]Action(nil), first...), more...)
}

var rows = map[State]row{
	Booting: merge(noSuccessor, noPredecessor, noCheck, noMove, noExecve, noDrain, noTimer, row{
		Built:   to(Serving, TakeLease, NameSelf, Accept, BecomeMain, Announce),
		Failed:  to(Gone, ExitFailed),
		Upgrade: ignore("not serving yet: there is nothing to upgrade from"),
		Stop:    to(Gone, Exit),
		Hurry:   to(Gone, Exit),
		Serve:   never("it has no predecessor"), Promote: never("it has no predecessor"),
		Undo: never("it has no predecessor"), Orphaned: never("it has no predecessor"),
	}),

	Joining: merge(joined, noDrain, row{
		Built:  to(Offered, OfferSelf),
		Failed: to(Gone, SayLeaving, ExitFailed),
		// Later than a predecessor that lives would have killed it.
		Deadline: to(Gone, SayLeaving, ExitFailed),
		Serve:    ignore("not offered yet"),
		Promote:  ignore("not offered yet"),
		Undo:     to(Gone, Exit),
		Orphaned: to(Gone, ExitFailed),
		Stop:     to(Gone, Exit),
		Hurry:    to(Gone, Exit),
	}),
	Offered: merge(joined, noDrain, builtOnce, almostMain, row{
		Failed: to(Gone, SayLeaving, ExitFailed),
		// The predecessor hangs, and is main: its clients wait for it, or for
		// systemd's watchdog to end it, which must not find us beside it.
		Deadline: to(Gone, SayLeaving, ExitFailed),
		Serve:    to(Trial, Accept),
		Promote:  to(Serving, promoted...),
		Undo:     to(Gone, Exit),
		// The predecessor died before it told us to serve. It may have
		// acknowledged commits that we have not heard of; and the file names it, so
		// that systemd stops us with it. The fd store has all, for the next start.
		Orphaned: to(Gone, ExitFailed),
		Stop:     to(Gone, Exit),
		Hurry:    to(Gone, Exit),
	}),
	Trial: merge(joined, noDrain, noTimer, builtOnce, almostMain, row{
		Failed:   to(Stopping, SayLeaving, DrainNow),
		Serve:    ignore("it accepts already"),
		Promote:  to(Serving, promoted...),
		Undo:     to(Resigning, Drain),
		Orphaned: to(Serving, with(becomeMain, AnnounceAdopted)...),
		// The predecessor may not have been told: without SayLeaving nobody
		// would accept until we are gone. If the service stops, the predecessor
		// says so too; if only we do, clients have somewhere else to go, and
		// are led there.
		Stop:  to(Stopping, SayLeaving, Drain),
		Hurry: to(Stopping, SayLeaving, DrainNow),
	}),

	Serving: merge(mainRow, row{
		Upgrade: to(Checking, Check),
		Stop:    to(Stopping, AnnounceStop, DrainNow),
		Hurry:   to(Stopping, AnnounceStop, DrainNow),
	}),
	Checking: merge(mainRow, row{
		Fit:        to(Starting, Start),
		FitInPlace: to(Emptying, Empty),
		// Only the service manager can do it; the reason of the verdict says how.
		FitToRestart: to(Serving, ReplyRefused),
		Unfit:        to(Serving, ReplyRefused),
		Stop:         to(Stopping, CancelCheck, ReplyStopped, DrainNow),
		Hurry:        to(Stopping, CancelCheck, ReplyStopped, DrainNow),
	}),
	Starting: merge(mainRow, row{
		Ready: to(Probation, NameSuccessor, TellServe, Pause),
		// It has accepted nothing, so nothing is lost by killing it.
		Ill:      to(Serving, Kill, ReplyRefused),
		Hung:     to(Serving, Kill, ReplyRefused),
		Died:     to(Serving, ReplyRefused),
		Deadline: to(Serving, Kill, ReplyRefused),
		Stop:     to(Stopping, Kill, ReplyStopped, DrainNow),
		Hurry:    to(Stopping, Kill, ReplyStopped, DrainNow),
	}),
	Probation: merge(mainRow, row{
		Ready:    ignore("it said so before"),
		Ill:      to(Serving, NameSelf, Accept, TellUndo, ReplyRolledBack),
		Hung:     to(Serving, NameSelf, Accept, Kill, ReplyRolledBack),
		Died:     to(Serving, NameSelf, Accept, ReplyRolledBack),
		Deadline: to(Promoting, MoveMain),
		Stop:     to(Stopping, TellStop, ReplyStopped, DrainNow),
		Hurry:    to(Stopping, TellStop, ReplyStopped, DrainNow),
	}),
	Promoting: merge(mainRow, row{
		Ready: ignore("it said so before"),
		Ill:   ignore("too late: the verdict was for it, systemd has been told"),
		Hung:  ignore("too late: the verdict was for it, systemd has been told"),
		// If systemd had not yet read MAINPID= it refuses a dead process, and
		// we are main still. If it had, the PID file that names us again may
		// reach it in time; else it restarts the unit.
		Died:    to(Serving, NameSelf, Accept, ReplyRolledBack),
		Moved:   to(Draining, Retire, DropLease, TellPromote, ReplyUpgraded, Drain),
		Unmoved: to(Serving, NameSelf, Accept, TellUndo, ReplyRolledBack),
		Stop:    to(Stopping, TellStop, ReplyStopped, DrainNow),
		Hurry:   to(Stopping, TellStop, ReplyStopped, DrainNow),
	}),

	Emptying: merge(mainRow, row{
		Drained:  to(Executing, Commit, Execute),
		Deadline: to(Executing, Abandon, Commit, Execute),
		// Not all could be gathered, as at the limit of open files. Nothing else
		// has begun.
		Unexecuted: to(Serving, Accept, ReplyRefused),
		Stop:       to(Stopping, ReplyStopped, DrainNow),
		Hurry:      to(Stopping, ReplyStopped, DrainNow),
	}),
	// What this process had is closed or gathered, so there is no way back to
	// serving but through execve(2): of the running program, if the new one
	// cannot be executed. That file is open and runs, whatever became of its path.
	Executing: merge(mainRow, row{
		Drained:    ignore("it was cut at the deadline"),
		Unexecuted: to(Reverting, Revert),
		Stop:       to(Gone, ReplyStopped, Exit),
		Hurry:      to(Gone, ReplyStopped, Exit),
	}),
	Reverting: merge(mainRow, row{
		Drained: ignore("it was cut at the deadline"),
		// The manager starts the service anew; sockets and states wait for it.
		Unexecuted: to(Gone, ReplyRefused, ExitFailed),
		Stop:       to(Gone, ReplyStopped, Exit),
		Hurry:      to(Gone, ReplyStopped, Exit),
	}),
	// It has accepted nothing but idle connections, so that a stop ends it at
	// once. There is nobody to go back to: what fails here ends the process, and
	// the manager starts the service anew.
	Renewed: merge(noSuccessor, noPredecessor, noCheck, noMove, noExecve, noDrain, row{
		Built:    to(Serving, TakeLease, NameSelf, Conclude, Accept, BecomeMain, Announce),
		Failed:   to(Gone, ExitFailed),
		Deadline: to(Gone, ExitFailed),
		Upgrade:  stay(Hold),
		Stop:     to(Gone, Exit),
		Hurry:    to(Gone, Exit),
		Serve:    never("it has no predecessor"), Promote: never("it has no predecessor"),
		Undo: never("it has no predecessor"), Orphaned: never("it has no predecessor"),
	}),

	Draining: merge(ending, row{
		Died: ignore("systemd sees main's death itself and restarts the unit"),
		Stop: to(Stopping, DrainNow),
	}),
	Resigning: merge(ending, row{
		Stop: to(Stopping, DrainNow),
	}),
	// systemd sends SIGTERM twice when main goes first (FINAL_SIGTERM); what is
	// being answered gets its answer all the same, the deadline bounds it.
	Stopping: merge(ending, row{
		Stop:     stay(DrainNow),
		Drained:  to(Gone, Commit, Exit),
		Deadline: to(Gone, Abandon, Commit, Exit),
		Hurry:    to(Gone, Abandon, Commit, Exit),
		// What the successor's process was told survives in the socket; the
		// barrier's return means nothing any more.
		Moved: ignore("stop won"), Unmoved: ignore("stop won"),
		Fit: ignore("stop won"), FitInPlace: ignore("stop won"), FitToRestart: ignore("stop won"),
		Unfit: ignore("stop won"), Unexecuted: ignore("stop won"),
	}),
}

// Default is the table that package reexec runs.
var Default = build()

func build() *Table {
	var t Table
	for s := range States {
		for e := range Events {
			c, ok := rows[s][e]
			if s == Gone {
				c, ok = ignore("it is gone"), true
			}
			if ok && c.Next == States {
				c.Next = s
			}
			t[s][e] = c
		}
	}
	return &t
}

// Step returns the state that follows s on e, and what to do on the way. It
// panics on a state or an event that does not exist.
func (t *Table) Step(s State, e Event) (State, []Action) {
	c := &t[s][e]
	return c.Next, c.Do
}

// Cell returns one cell.
func (t *Table) Cell(s State, e Event) Cell { return t[s][e] }

// Decided says whether the cell was written down at all.
func (c Cell) Decided() bool { return c.decided }
