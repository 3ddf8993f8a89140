// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// The processes of the unit are looked at often after something happened, and
// ever more seldom while nothing does. What depends on them does not wait for
// that: it only tells the test sooner.
const (
	lookFirst = 10 * time.Millisecond
	lookLater = 320 * time.Millisecond
)

// lookAround takes note of all processes of the unit, and returns them.
func (m *manager) lookAround() []process {
	all := descendants(m.self)
	there := make(map[int]bool)
	for _, p := range all {
		there[p.pid] = true
		if !p.dead() {
			m.seen(p, false)
		}
	}
	for pid, p := range m.known {
		if there[pid] {
			continue
		}
		// Between two parents a process can be missed for a moment.
		if now, err := readProcess(pid); err == nil && now.start == p.start {
			continue
		}
		delete(m.known, pid)
		m.event(wire.Event{Kind: wire.ProcessDied, Death: &wire.Death{PID: pid}})
		m.lookAfter = 0
	}
	return all
}

// born takes note of one process that is known to be the unit's.
func (m *manager) born(pid int) {
	if p, err := readProcess(pid); err == nil {
		m.seen(p, false)
	}
}

// seen takes note of a process, and holds it if it is new and a fault asks for
// that; unless it is the manager's own, which knows how to stop itself.
func (m *manager) seen(p process, own bool) {
	if known, ok := m.known[p.pid]; ok && known.start == p.start {
		return
	}
	m.known[p.pid] = p
	m.lookAfter = 0
	d := describe(p)
	m.event(wire.Event{Kind: wire.ProcessBorn, Process: &d})
	if m.faults.hold != nil && !own && signalDescendant(m.self, p.pid, syscall.SIGSTOP) == nil {
		m.holdFor(p.pid)
	}
	if !m.filled {
		m.filled = true
		m.watchBirths()
	}
}

// watchBirths looks around as long as there is something to see.
func (m *manager) watchBirths() {
	m.looking.stop()
	m.lookAfter = min(max(lookFirst, 2*m.lookAfter), lookLater)
	interval := m.lookAfter
	if m.faults.hold != nil {
		interval = holdInterval
	}
	m.looking = m.loop.after(interval, priorityNormal, func() {
		m.lookAround()
		if m.filled {
			m.watchBirths()
		}
	})
}

// lookSoon has the processes looked at soon, because something happens.
func (m *manager) lookSoon() {
	if m.lookAfter > 4*lookFirst {
		m.lookAfter = 0
		m.watchBirths()
	}
}

func (m *manager) signal(pid int, sig syscall.Signal) error {
	err := signalDescendant(m.self, pid, sig)
	if err == nil {
		m.markDying(pid)
	}
	return err
}

func (m *manager) signalAll(sig syscall.Signal, except ...int) int {
	there := m.dyingNow()
	for _, pid := range signalDescendants(m.self, sig, true, except...) {
		m.markDying(pid)
		there[pid] = true
	}
	for _, pid := range except {
		delete(there, pid)
	}
	return len(there)
}

// A process that was signalled takes a moment to die, and systemd is done with
// the rest of its turn by then: it finds the process still there. The manager looks through
// /proc, which takes longer. So for the rest of the turn a process that it
// signalled counts as there.
func (m *manager) markDying(pid int) {
	if m.dying == nil || m.dyingTurn != m.loop.turn {
		m.dyingTurn, m.dying = m.loop.turn, make(map[int]bool)
	}
	m.dying[pid] = true
}

// dyingNow are the processes that were signalled in this turn and have died
// since, but are not reaped.
func (m *manager) dyingNow() map[int]bool {
	now := make(map[int]bool)
	if m.dyingTurn == m.loop.turn {
		for pid := range m.dying {
			if p, err := readProcess(pid); err == nil && p.dead() {
				now[pid] = true
			}
		}
	}
	return now
}

func (m *manager) processes() []int {
	dying := m.dyingNow()
	var all []int
	for _, p := range m.lookAround() {
		if !p.dead() || dying[p.pid] {
			all = append(all, p.pid)
		}
	}
	return all
}

func (m *manager) isChild(pid int) bool {
	p, err := readProcess(pid)
	return err == nil && p.parent == m.self
}

func (m *manager) belongs(pid int) bool { return isDescendant(pid, m.self) }

func (m *manager) alive(pid int) bool {
	p, err := readProcess(pid)
	return err == nil && (!p.dead() || m.dyingNow()[pid])
}

func (m *manager) handles(pid int, sig syscall.Signal) bool {
	mask := signalMask(pid, "SigCgt") | signalMask(pid, "SigBlk")
	return mask>>(sig-1)&1 != 0
}

func (m *manager) pidfdID(pid int) (id uint64, ok bool) { return pidfdID(pid) }
