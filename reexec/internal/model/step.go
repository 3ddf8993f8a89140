// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"

	"github.com/holdfast-go/holdfast/reexec/internal/machine"
)

// step is one thing that can happen in a world, and the world after it.
type step struct {
	label
	kind
	next World
}

// label names a step. It becomes text only when it is printed.
type label struct {
	who, about int8 // generations; about is none where there is one only
	text       string
}

func (l label) String() string {
	text := l.text
	if l.who != none {
		text = fmt.Sprintf("%d: %s", l.who, text)
	}
	if l.about != none {
		text = fmt.Sprintf("%s %d", text, l.about)
	}
	return text
}

// kind marks what does not come by itself: faults, and what others than the
// service, systemd and the reload client may do.
type kind struct{ fault, outside bool }

var (
	normal  = kind{}
	fault   = kind{fault: true}
	outside = kind{outside: true}
)

// explorer carries the table through the successor function.
type explorer struct {
	table *machine.Table
	steps []step // reused
	err   error  // a property broken inside a step
}

func (x *explorer) fail(format string, args ...any) {
	if x.err == nil {
		x.err = fmt.Errorf(format, args...)
	}
}

// deliver gives event e to generation i and performs the actions.
func (x *explorer) deliver(w *World, i int8, e machine.Event) {
	g := &w.gen[i]
	if x.table.Cell(g.state, e).Never {
		x.fail("generation %d: event %v cannot come in state %v", i, e, g.state)
		return
	}
	if e == machine.Stop {
		g.stopped = true
	}
	if e == machine.Deadline && g.state == machine.Probation {
		w.gen[g.succ].proven = true
	}
	before := g.state
	next, do := x.table.Step(before, e)
	g.state = next
	for _, a := range do {
		x.perform(w, i, a)
	}
	if g.alive && g.accepts != next.Accepts() {
		x.fail("generation %d: accepting=%t in state %v (after %v in %v)", i, g.accepts, next, e, before)
	}
}

func (x *explorer) perform(w *World, i int8, a machine.Action) {
	g := &w.gen[i]
	tell := func(what uint8) {
		if g.succ != none && w.gen[g.succ].alive {
			w.gen[g.succ].down.push(what)
		}
	}
	endAttempt := func() { g.succ = none }
	switch a {
	case machine.Check, machine.CancelCheck, machine.Retire, machine.BecomeMain:
		// The check's result comes from the outside; the control socket and
		// the watchdog follow main and are not modelled apart.
	case machine.Start:
		child := none
		for k := range int8(Slots) {
			if !w.gen[k].exists {
				child = k
				break
			}
		}
		if child == none {
			x.fail("no room for a further generation")
			return
		}
		w.gen[child] = generation{exists: true, alive: true, state: machine.Joining, pred: i, succ: none}
		g.succ = child
	case machine.Kill:
		if g.succ != none {
			x.die(w, g.succ)
			endAttempt()
		}
	case machine.OfferSelf:
		g.up.push(sayReady)
	case machine.SayLeaving:
		g.up.push(sayLeaving)
	case machine.TellServe:
		tell(sayServe)
	case machine.TellPromote:
		if g.early {
			g.early = false
			tell(sayPromoteSignalled)
		} else {
			tell(sayPromote)
		}
	case machine.TellUndo:
		tell(sayUndo)
		endAttempt()
	case machine.TellStop:
		tell(sayStop)
	case machine.Accept:
		if g.stopped {
			x.fail("generation %d accepts after it was told to stop", i)
		}
		g.accepts = true
	case machine.Pause:
		g.accepts = false
	case machine.Drain, machine.DrainNow:
		g.accepts, g.drainBegun = false, true
	case machine.Empty:
		g.accepts, g.drainBegun = false, true
	case machine.Abandon:
		g.drainBegun = false
	case machine.Commit:
		if g.lease && !g.putting && w.commits > 0 {
			x.beginCommit(w, i)
		}
	case machine.Execute:
		g.execve = executeNext
		if g.owed {
			g.owed, g.bySignal = false, true
			w.notify.push(notification(tellReloading, i, 0))
		}
	case machine.Revert:
		g.execve = executeSelf
	case machine.Conclude:
		if !g.asked {
			x.fail("generation %d takes a verdict over that nobody asked for", i)
		}
		g.asked, g.reverted, g.bySignal = false, false, false // READY=1 follows
		w.verdicts++
		if w.server == i && w.client == clientWaiting {
			w.client = clientAnswered
		}
	case machine.NameSelf:
		w.pidFile = i
	case machine.NameSuccessor:
		w.pidFile = g.succ
	case machine.MoveMain:
		g.moving = true
		if g.owed {
			g.owed, g.bySignal = false, true
			w.notify.push(notification(tellReloading, i, 0))
		}
		w.notify.push(notification(tellMain, i, g.succ))
		w.notify.push(notification(tellBarrier, i, g.succ))
	case machine.Announce:
		w.notify.push(notification(tellReady, i, 0))
	case machine.AnnounceAdopted:
		g.adopting = true
	case machine.AnnounceStop:
		w.notify.push(notification(tellStopping, i, 0))
	case machine.TakeLease:
		for k, o := range w.gen {
			if o.alive && o.lease && int8(k) != i {
				x.fail("generations %d and %d both hold the lease", k, i)
			}
		}
		g.lease = true
	case machine.DropLease:
		g.lease = false
	case machine.ReplyUpgraded, machine.ReplyRefused, machine.ReplyRolledBack, machine.ReplyStopped:
		x.reply(w, i, a)
	case machine.Hold:
		// The verdict of the upgrade under way answers a client too; for a
		// signal see ask.
	case machine.Exit, machine.ExitFailed:
		x.die(w, i)
	default:
		x.fail("action %v has no meaning in the model", a)
	}
}

// beginCommit puts a new entry into the store: push, barrier, and only then
// the old one is removed.
func (x *explorer) beginCommit(w *World, i int8) {
	g := &w.gen[i]
	if !g.lease {
		x.fail("state has one writer: generation %d commits and does not hold the lease", i)
	}
	w.commits--
	w.seq++
	g.putting, g.putSeq = true, w.seq
	if w.bug == RemoveFirst {
		w.notify.push(notification(tellRemove, i, int8(w.seq)))
	}
	w.notify.push(notification(tellPut, i, int8(w.seq)))
	w.notify.push(notification(tellPutBarrier, i, int8(w.seq)))
	if w.bug == NoBarrier {
		w.reported = w.seq
	}
}

// endCommit is what a generation does when the barrier of its commit returns.
// Whether systemd has kept the descriptor it learns from a probe.
func (x *explorer) endCommit(n *World, i int8, seq uint8) {
	g := &n.gen[i]
	if !g.alive || !g.putting || g.putSeq != seq {
		return
	}
	g.putting = false
	if n.store&(1<<seq) != 0 {
		n.reported = max(n.reported, seq)
		if n.bug != RemoveFirst {
			n.notify.push(notification(tellRemove, i, int8(seq)))
		}
	}
}

// mayCommit says whether the service's call of Commit goes through.
func (w *World) mayCommit(i int8) bool {
	g := &w.gen[i]
	if g.putting || g.adopting || w.commits == 0 {
		return false
	}
	if w.bug == CommitOnTrial && g.state == machine.Trial {
		return true
	}
	switch g.state {
	case machine.Promoting:
		return g.lease && w.bug == CommitWhileMoving
	case machine.Executing, machine.Reverting, machine.Stopping:
		return false
	}
	return g.lease
}

// execute replaces the program of a process by the next one.
func (x *explorer) execute(n *World, i int8) {
	g := &n.gen[i]
	n.gen[i] = generation{
		exists: true, alive: true, state: machine.Renewed, pred: none, succ: none,
		asked: g.asked, early: g.early, bySignal: g.bySignal, reverted: g.execve == executeSelf,
		// A stop that nobody has read would be pending still.
		stopped: g.stopped,
	}
}

func (x *explorer) reply(w *World, i int8, a machine.Action) {
	g := &w.gen[i]
	if !g.asked {
		x.fail("generation %d answers %v to nobody", i, a)
	}
	g.asked = false
	w.verdicts++
	if w.server == i && w.client == clientWaiting {
		w.client = clientAnswered
	}
	switch a {
	case machine.ReplyUpgraded:
		if g.succ == none || (w.main != g.succ && w.unit == unitRunning && !w.excused) {
			x.fail("verdict upgraded, but main is %d", w.main)
		}
	case machine.ReplyRefused, machine.ReplyRolledBack:
		// One that cannot execute anything ends, and says so.
		last := g.state == machine.Gone && a == machine.ReplyRefused
		if g.state != machine.Serving && !last || (a == machine.ReplyRolledBack && w.pidFile != i) {
			x.fail("%v by a generation in %v, PID file names %d", a, g.state, w.pidFile)
		}
	}
	// With a signal, RELOADING=1 was sent; READY=1 ends it. After MAINPID= has
	// moved it was part of that message, and we are not heard any more.
	if a == machine.ReplyRefused || a == machine.ReplyRolledBack {
		if g.owed || g.early {
			g.owed, g.early = false, false
			g.bySignal = true
			w.notify.push(notification(tellReloading, i, 0))
		}
		if g.bySignal {
			w.notify.push(notification(tellReady, i, 0))
		}
	}
	g.bySignal = false
	if g.state != machine.Draining && g.state != machine.Promoting && g.state != machine.Stopping {
		g.moving, g.unmoved, g.succ = false, false, none
	}
}

// die ends a process for whatever reason.
func (x *explorer) die(w *World, i int8) {
	g := &w.gen[i]
	if !g.alive {
		return
	}
	g.alive, g.hung, g.accepts, g.lease, g.drainBegun = false, false, false, false, false
	g.adopting, g.moving, g.unmoved = false, false, false
	g.execve, g.putting = noExecve, false
	g.state = machine.Gone
	g.down = queue{}
	w.dead |= 1 << i
	if w.server == i && w.client == clientWaiting {
		w.client = clientBroken
	}
	g.asked = false
}

// successors lists every step that is possible in w.
func (x *explorer) successors(w World) []step {
	out := x.steps[:0]
	defer func() { x.steps = out }()
	add := func(who int8, text string, about int8, k kind, change func(*World)) {
		n := w
		if k.fault {
			n.faults--
		}
		change(&n)
		out = append(out, step{label{who, about, text}, k, n})
	}
	event := func(i int8, e machine.Event, k kind) {
		add(i, e.String(), none, k, func(n *World) { x.deliver(n, i, e) })
	}

	for i := range int8(Slots) {
		g := &w.gen[i]
		if !g.exists || !g.alive {
			continue
		}
		if w.faults > 0 {
			add(i, "SIGKILL", none, fault, func(n *World) {
				n.excused = true
				n.mainDied = n.mainDied || hitsMain(n, i)
				x.die(n, i)
			})
			if g.pred != none && !g.hung {
				add(i, "hangs", none, fault, func(n *World) { n.excused = true; n.gen[i].hung = true })
			}
		}
		if g.hung {
			continue
		}
		switch g.state {
		case machine.Booting, machine.Joining, machine.Renewed:
			event(i, machine.Built, normal)
			if g.state == machine.Renewed && w.faults > 0 {
				add(i, machine.Deadline.String(), none, fault, func(n *World) {
					n.mainDied = true
					x.deliver(n, i, machine.Deadline)
				})
			}
			if w.faults > 0 {
				add(i, "failed", none, fault, func(n *World) {
					n.mainDied = n.mainDied || hitsMain(n, i)
					x.deliver(n, i, machine.Failed)
				})
			}
		case machine.Trial:
			if w.faults > 0 {
				add(i, "falls ill", none, fault, func(n *World) { n.gen[i].up.push(sayLeaving) })
				add(i, "failed", none, fault, func(n *World) {
					n.mainDied = n.mainDied || hitsMain(n, i)
					n.excused = n.excused || n.mainDied
					x.deliver(n, i, machine.Failed)
				})
			}
		case machine.Checking:
			if w.mode.overlaps() && w.free() {
				event(i, machine.Fit, normal)
			}
			if w.mode.inPlace() {
				event(i, machine.FitInPlace, normal)
			}
			if w.mode.restarts() {
				event(i, machine.FitToRestart, normal)
			}
			event(i, machine.Unfit, normal)
		case machine.Promoting:
			if g.unmoved {
				event(i, machine.Unmoved, normal)
			}
		}
		switch g.state {
		case machine.Joining, machine.Offered:
			// Comes only if the predecessor hangs, and does not see it either.
			if w.gen[g.pred].hung {
				event(i, machine.Deadline, normal)
			}
		case machine.Starting, machine.Emptying:
			event(i, machine.Deadline, normal)
			if g.state == machine.Emptying && w.faults > 0 {
				add(i, machine.Unexecuted.String(), none, fault, func(n *World) {
					n.gen[i].drainBegun = false
					x.deliver(n, i, machine.Unexecuted)
				})
			}
		case machine.Probation:
			// Probation is over with the first good beat after its time: what
			// the successor said before that beat has been read by then. It also waits
			// for a commit under way: systemd would refuse the rest of it.
			if g.putting && w.bug != CommitWhileMoving {
				break
			}
			if s := &w.gen[g.succ]; s.alive && !s.hung && s.up.n == 0 && s.state == machine.Trial {
				event(i, machine.Deadline, normal)
			}
		}
		if g.execve != noExecve && !g.putting {
			add(i, "is executed anew", none, normal, func(n *World) { x.execute(n, i) })
			if w.faults > 0 {
				add(i, machine.Unexecuted.String(), none, fault, func(n *World) {
					n.gen[i].execve = noExecve
					n.mainDied = n.mainDied || g.state == machine.Reverting
					x.deliver(n, i, machine.Unexecuted)
				})
			}
		}
		if w.mayCommit(i) {
			add(i, "commits its state", none, outside, func(n *World) { x.beginCommit(n, i) })
		}
		if g.drainBegun {
			event(i, machine.Drained, normal)
		}
		// A second generation that is merely slow looks hung.
		if g.succ != none && g.state == machine.Probation {
			if w.gen[g.succ].hung {
				event(i, machine.Hung, normal)
			} else if w.faults > 0 {
				event(i, machine.Hung, fault)
			}
		}
		if g.early && g.state == machine.Serving && !g.adopting && (w.client == clientIdle || w.client == clientWaiting) {
			add(i, "takes the kept signal", none, normal, func(n *World) {
				n.gen[i].early = false
				if n.free() {
					x.ask(n, i, true)
					return
				}
				// No room in this world for a further generation: as if refused.
				n.notify.push(notification(tellReloading, i, 0))
				n.notify.push(notification(tellReady, i, 0))
			})
		}
		if g.adopting && w.dead&(1<<g.pred) == 0 {
			add(i, "announces itself", none, normal, func(n *World) {
				n.gen[i].adopting = false
				n.notify.push(notification(tellReady, i, 0))
			})
		}
		// From the predecessor: what it said before it died comes first.
		if g.pred != none {
			if g.down.n > 0 {
				add(i, "reads from", g.pred, normal, func(n *World) {
					switch what := n.gen[i].down.pop(); what {
					case sayServe:
						x.deliver(n, i, machine.Serve)
					case sayPromoteSignalled:
						n.gen[i].early = true
						x.deliver(n, i, machine.Promote)
					case sayPromote:
						x.deliver(n, i, machine.Promote)
					case sayUndo:
						x.deliver(n, i, machine.Undo)
					case sayStop:
						x.deliver(n, i, machine.Stop)
					}
				})
				if w.faults > 0 {
					add(i, "loses a message from", g.pred, fault, func(n *World) {
						n.excused = true
						// A message that cannot be sent closes the channel: the
						// sender takes its successor for dead and kills it.
						n.gen[i].down.pop()
						n.mainDied = n.mainDied || hitsMain(n, i)
						x.die(n, i)
					})
				}
			} else if !w.gen[g.pred].alive && !g.sawOrphan {
				add(i, "sees the end of", g.pred, normal, func(n *World) {
					n.gen[i].sawOrphan = true
					x.deliver(n, i, machine.Orphaned)
				})
			}
		}
		// From the successor of the attempt under way; its death may be seen
		// before its last words are read.
		if g.succ != none {
			s := &w.gen[g.succ]
			if s.up.n > 0 {
				add(i, "reads from", g.succ, normal, func(n *World) {
					switch n.gen[g.succ].up.pop() {
					case sayReady:
						x.deliver(n, i, machine.Ready)
					case sayLeaving:
						x.deliver(n, i, machine.Ill)
					}
				})
			}
			if !s.alive && (g.state.Upgrading() || g.state == machine.Stopping) {
				add(i, "sees the death of", g.succ, normal, func(n *World) {
					x.deliver(n, i, machine.Died)
					n.gen[i].succ = none
				})
			}
		}
	}
	x.operator(&w, add)
	x.systemd(&w, add)
	return out
}

// hitsMain says whether a fault in i may rightly end the unit: i is main, or
// becomes it at this instant because it has outlived its probation. The fault
// of a successor on trial never may.
func hitsMain(n *World, i int8) bool {
	g := &n.gen[i]
	onTrial := g.pred != none && !g.proven && !g.lease
	return !onTrial && (n.main == i || g.moving || g.pred != none && n.gen[g.pred].moving)
}

// operator: requests, stops, and signals that go astray.
func (x *explorer) operator(w *World, add func(who int8, text string, about int8, k kind, change func(*World))) {
	// systemd starts no reload job before READY=1, and none before the last
	// one's command has ended, which takes no time next to an upgrade.
	if w.requests > 0 && w.unit == unitRunning && w.ready && w.client != clientAnswered && w.client != clientBroken {
		for i := range int8(Slots) {
			g := &w.gen[i]
			if !g.alive || g.hung {
				continue
			}
			// The control socket follows main; a signal goes to MainPID.
			// One that systemd has yet to adopt is busy.
			if w.client == clientIdle && g.state.Main() && !g.adopting {
				add(none, "client asks", i, outside, func(n *World) {
					n.requests--
					n.client, n.server = clientWaiting, i
					x.ask(n, i, false)
				})
			}
			if w.main == i && !g.adopting {
				add(none, "SIGUSR2 to", i, outside, func(n *World) {
					n.requests--
					n.signalled = true
					x.ask(n, i, true)
				})
			}
		}
	}
	// The command's end is a death, and deaths come after notifications.
	if w.client == clientWaiting && w.faults > 0 && w.notify.n == 0 {
		add(none, "the client is killed", none, fault, func(n *World) {
			n.client, n.excused = clientIdle, true
			n.server = none
			// From here systemd may hold the successor for main, and its death
			// in probation is main's death.
			n.mainDied, n.killed = true, true
			x.readPIDFile(n)
		})
	}
	if (w.client == clientAnswered || w.client == clientBroken) && w.notify.n == 0 {
		add(none, "the reload command ends", none, normal, func(n *World) {
			n.client, n.server = clientIdle, none
			x.readPIDFile(n)
		})
	}
	if w.stops > 0 && w.unit == unitRunning {
		add(none, "systemctl stop", none, outside, func(n *World) {
			n.stops--
			n.stopAsked, n.unit = true, unitStopping
			x.terminateAll(n)
		})
		for i := range int8(Slots) {
			if g := &w.gen[i]; g.alive && !g.hung && w.faults > 0 {
				add(none, "SIGTERM alone to", i, fault, func(n *World) {
					n.stops--
					n.excused = true
					n.mainDied = n.mainDied || hitsMain(n, i)
					x.deliver(n, i, machine.Stop)
				})
			}
		}
	}
}

func (x *explorer) ask(n *World, i int8, bySignal bool) {
	g := &n.gen[i]
	fresh := g.state == machine.Serving
	if bySignal {
		switch {
		case g.state.Inherits():
			g.early = true
		case g.state.Main() && n.client == clientWaiting && n.server == i:
			// With a reload command running, RELOADING=1 would leave the unit
			// in reload if we died.
			g.owed = true
		case g.state.Main():
			g.bySignal = true
			n.notify.push(notification(tellReloading, i, 0))
		}
	}
	if fresh {
		g.asked = true
		n.askedCount++
	}
	x.deliver(n, i, machine.Upgrade)
}

// free says whether there is a slot for one more generation.
func (w *World) free() bool {
	for _, g := range w.gen {
		if !g.exists {
			return true
		}
	}
	return false
}

func (x *explorer) terminateAll(n *World) {
	for i := range int8(Slots) {
		if n.gen[i].alive && !n.gen[i].hung {
			x.deliver(n, i, machine.Stop)
		}
	}
}

// readPIDFile is service_load_pid_file as it is called when the reload
// command ends.
func (x *explorer) readPIDFile(n *World) {
	if n.unit == unitRunning && n.pidFile != none && n.gen[n.pidFile].alive {
		n.main = n.pidFile
	}
}

// systemd: notifications first, then deaths; what is left of a stopping unit
// goes in the end.
func (x *explorer) systemd(w *World, add func(who int8, text string, about int8, k kind, change func(*World))) {
	if w.notify.n > 0 {
		add(none, "systemd reads a notification", none, normal, func(n *World) { x.notification(n, n.notify.pop()) })
		if last := int(w.notify.n) - 1; w.faults > 0 && last > 0 && w.notify.buf[last]>>4 == tellBarrier {
			add(none, "MAINPID= cannot be sent", none, fault, func(n *World) {
				n.excused = true
				g := &n.gen[n.notify.buf[last]>>2&3]
				n.notify.n, n.notify.buf[last], n.notify.buf[last-1] = uint8(last-1), 0, 0
				if g.alive && g.state == machine.Promoting {
					g.moving, g.unmoved = false, true
				}
			})
		}
		return
	}
	for i := range int8(Slots) {
		if w.dead&(1<<i) == 0 {
			continue
		}
		add(none, "systemd sees the death of", i, normal, func(n *World) {
			n.dead &^= 1 << i
			if n.main != i || n.unit != unitRunning {
				return
			}
			if n.pidFile != none && n.gen[n.pidFile].alive {
				n.main = n.pidFile
				return
			}
			n.main, n.unit = none, unitFailing
			x.terminateAll(n)
		})
	}
	if w.unit == unitStopping || w.unit == unitFailing {
		left := false
		for i := range int8(Slots) {
			g := &w.gen[i]
			left = left || g.alive
			if g.alive && g.hung {
				add(none, "after TimeoutStopSec systemd kills", i, normal, func(n *World) { x.die(n, i) })
			}
			// A process that was born while the signals went out is told by
			// the second SIGTERM.
			if g.alive && !g.hung && !g.stopped {
				add(none, "second SIGTERM to", i, normal, func(n *World) { x.deliver(n, i, machine.Stop) })
			}
		}
		if !left && w.dead == 0 {
			add(none, "the unit is dead", none, normal, func(n *World) { n.unit, n.main = unitDead, none })
		}
	}
}

func (x *explorer) notification(n *World, m uint8) {
	kind, from, about := m>>4, int8(m>>2&3), int8(m&3)
	g := &n.gen[from]
	if kind == tellBarrier {
		if g.alive && g.moving && g.succ == about {
			g.moving = false
			// systemd refuses MAINPID= of a dead process without a word, so
			// the barrier alone proves nothing: only a successor that lives
			// after it was accepted.
			if g.succ != none && n.gen[g.succ].alive {
				x.deliver(n, from, machine.Moved)
			} else {
				x.deliver(n, from, machine.Died)
				g.succ = none
			}
		}
		return
	}
	if kind == tellPutBarrier {
		x.endCommit(n, from, uint8(about))
		return
	}
	if n.main != from {
		// A stop may come while MAINPID= is on its way; then the last commit is too
		// late, and fails.
		if kind != tellPut || n.unit == unitRunning {
			n.rejected++
		}
		return
	}
	switch kind {
	case tellReady:
		n.ready = true
		n.signalled = n.signalled && !n.reloading
		n.reloading = false
	case tellReloading:
		n.reloading = true
	case tellPut:
		n.store |= 1 << about
	case tellRemove:
		n.store &^= 1<<about - 1
	case tellStopping:
		if n.unit == unitRunning {
			n.unit = unitStopping
			x.terminateAll(n)
		}
	case tellMain:
		if n.unit != unitRunning || !n.gen[about].alive {
			return
		}
		n.mainMoves++
		if about < from {
			n.backMoves++
		}
		n.signalled = n.signalled && !n.reloading
		n.main, n.reloading = about, false
	}
}
