// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"

	"github.com/holdfast-go/holdfast/reexec/internal/machine"
)

// Step is one thing that can happen in a world, and the world after it.
type Step struct {
	Name string
	// Fault marks what is not part of a normal run.
	Fault bool
	Next  World
}

// explorer carries the table through the successor function.
type explorer struct {
	table *machine.Table
	err   error // a property broken inside a step
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
	case machine.Abandon:
		g.drainBegun = false
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
		if g.state != machine.Serving || (a == machine.ReplyRolledBack && w.pidFile != i) {
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
	g.state = machine.Gone
	g.down = queue{}
	w.dead |= 1 << i
	if w.server == i && w.client == clientWaiting {
		w.client = clientBroken
	}
	g.asked = false
}

// successors lists every step that is possible in w.
func (x *explorer) successors(w World) []Step {
	var out []Step
	add := func(name string, fault bool, change func(*World)) {
		n := w
		change(&n)
		out = append(out, Step{name, fault, n})
	}
	event := func(i int8, e machine.Event, fault bool) {
		add(fmt.Sprintf("%d: %v", i, e), fault, func(n *World) {
			if fault {
				n.faults--
			}
			x.deliver(n, i, e)
		})
	}

	for i := range int8(Slots) {
		g := &w.gen[i]
		if !g.exists || !g.alive {
			continue
		}
		if w.faults > 0 {
			add(fmt.Sprintf("%d: SIGKILL", i), true, func(n *World) {
				n.faults--
				n.excused = true
				n.mainDied = n.mainDied || hitsMain(n, i)
				x.die(n, i)
			})
			if g.pred != none && !g.hung {
				add(fmt.Sprintf("%d: hangs", i), true, func(n *World) { n.faults--; n.excused = true; n.gen[i].hung = true })
			}
		}
		if g.hung {
			continue
		}
		switch g.state {
		case machine.Booting, machine.Joining:
			event(i, machine.Built, false)
			if w.faults > 0 {
				add(fmt.Sprintf("%d: failed", i), true, func(n *World) {
					n.faults--
					n.mainDied = n.mainDied || hitsMain(n, i)
					x.deliver(n, i, machine.Failed)
				})
			}
		case machine.Trial:
			if w.faults > 0 {
				add(fmt.Sprintf("%d: falls ill", i), true, func(n *World) { n.faults--; n.gen[i].up.push(sayLeaving) })
				add(fmt.Sprintf("%d: failed", i), true, func(n *World) {
					n.faults--
					n.mainDied = n.mainDied || hitsMain(n, i)
					n.excused = n.excused || n.mainDied
					x.deliver(n, i, machine.Failed)
				})
			}
		case machine.Checking:
			event(i, machine.Fit, false)
			event(i, machine.Unfit, false)
		case machine.Promoting:
			if g.unmoved {
				event(i, machine.Unmoved, false)
			}
		}
		switch g.state {
		case machine.Starting:
			event(i, machine.Deadline, false)
		case machine.Probation:
			// Probation is over with the first good beat after its time: what
			// the successor said before that beat has been read by then.
			if s := &w.gen[g.succ]; s.alive && !s.hung && s.up.n == 0 && s.state == machine.Trial {
				event(i, machine.Deadline, false)
			}
		}
		if g.drainBegun {
			event(i, machine.Drained, false)
		}
		// A second generation that is merely slow looks hung.
		if g.succ != none && g.state == machine.Probation {
			if w.gen[g.succ].hung {
				event(i, machine.Hung, false)
			} else if w.faults > 0 {
				event(i, machine.Hung, true)
			}
		}
		if g.early && g.state == machine.Serving && !g.adopting && (w.client == clientIdle || w.client == clientWaiting) {
			add(fmt.Sprintf("%d: takes the kept signal", i), false, func(n *World) {
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
			add(fmt.Sprintf("%d: announces itself", i), false, func(n *World) {
				n.gen[i].adopting = false
				n.notify.push(notification(tellReady, i, 0))
			})
		}
		// From the predecessor: what it said before it died comes first.
		if g.pred != none {
			if g.down.n > 0 {
				add(fmt.Sprintf("%d: reads from %d", i, g.pred), false, func(n *World) {
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
					add(fmt.Sprintf("%d: a message from %d is lost", i, g.pred), true, func(n *World) {
						n.faults--
						n.excused = true
						// A message that cannot be sent closes the channel: the
						// sender takes its successor for dead and kills it.
						n.gen[i].down.pop()
						n.mainDied = n.mainDied || hitsMain(n, i)
						x.die(n, i)
					})
				}
			} else if !w.gen[g.pred].alive && !g.sawOrphan {
				add(fmt.Sprintf("%d: sees the end of %d", i, g.pred), false, func(n *World) {
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
				add(fmt.Sprintf("%d: reads from %d", i, g.succ), false, func(n *World) {
					switch n.gen[g.succ].up.pop() {
					case sayReady:
						x.deliver(n, i, machine.Ready)
					case sayLeaving:
						x.deliver(n, i, machine.Ill)
					}
				})
			}
			if !s.alive && (g.state.Upgrading() || g.state == machine.Stopping) {
				add(fmt.Sprintf("%d: sees the death of %d", i, g.succ), false, func(n *World) {
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
func (x *explorer) operator(w *World, add func(string, bool, func(*World))) {
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
				add(fmt.Sprintf("client asks %d", i), false, func(n *World) {
					n.requests--
					n.client, n.server = clientWaiting, i
					x.ask(n, i, false)
				})
			}
			if w.main == i && !g.adopting {
				add(fmt.Sprintf("SIGUSR2 to %d", i), false, func(n *World) {
					n.requests--
					n.signalled = true
					x.ask(n, i, true)
				})
			}
		}
	}
	// The command's end is a death, and deaths come after notifications.
	if w.client == clientWaiting && w.faults > 0 && w.notify.n == 0 {
		add("the client is killed", true, func(n *World) {
			n.faults--
			n.client, n.excused = clientIdle, true
			n.server = none
			// From here systemd may hold the successor for main, and its death
			// in probation is main's death.
			n.mainDied, n.killed = true, true
			x.readPIDFile(n)
		})
	}
	if (w.client == clientAnswered || w.client == clientBroken) && w.notify.n == 0 {
		add("the reload command ends", false, func(n *World) {
			n.client, n.server = clientIdle, none
			x.readPIDFile(n)
		})
	}
	if w.stops > 0 && w.unit == unitRunning {
		add("systemctl stop", false, func(n *World) {
			n.stops--
			n.stopAsked, n.unit = true, unitStopping
			x.terminateAll(n)
		})
		for i := range int8(Slots) {
			if g := &w.gen[i]; g.alive && !g.hung && w.faults > 0 {
				add(fmt.Sprintf("SIGTERM to %d alone", i), true, func(n *World) {
					n.stops--
					n.faults--
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
		case g.state == machine.Promoting, g.state == machine.Offered, g.state == machine.Trial:
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
func (x *explorer) systemd(w *World, add func(string, bool, func(*World))) {
	if w.notify.n > 0 {
		add("systemd reads a notification", false, func(n *World) { x.notification(n, n.notify.pop()) })
		if last := int(w.notify.n) - 1; w.faults > 0 && last > 0 && w.notify.buf[last]>>4 == tellBarrier {
			add("MAINPID= cannot be sent", true, func(n *World) {
				n.faults--
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
		add(fmt.Sprintf("systemd sees the death of %d", i), false, func(n *World) {
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
				add(fmt.Sprintf("systemd kills %d after TimeoutStopSec", i), false, func(n *World) { x.die(n, i) })
			}
			// A process that was born while the signals went out is told by
			// the second SIGTERM.
			if g.alive && !g.hung && !g.stopped {
				add(fmt.Sprintf("second SIGTERM to %d", i), false, func(n *World) { x.deliver(n, i, machine.Stop) })
			}
		}
		if !left && w.dead == 0 {
			add("the unit is dead", false, func(n *World) { n.unit, n.main = unitDead, none })
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
	if n.main != from {
		n.rejected++
		return
	}
	switch kind {
	case tellReady:
		n.ready = true
		n.signalled = n.signalled && !n.reloading
		n.reloading = false
	case tellReloading:
		n.reloading = true
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
