// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"strings"

	"github.com/holdfast-go/holdfast/reexec/internal/machine"
)

// Slots is the number of generations a world has room for: the first one, and
// one for each of two requests to upgrade.
const Slots = 3

const none = int8(-1)

// queue is a small FIFO that can be compared, so that a world can be a map key.
type queue struct {
	n   uint8
	buf [12]uint8
}

func (q *queue) push(v uint8) {
	q.buf[q.n] = v // out of range: the model's queues are too short
	q.n++
}

func (q *queue) pop() uint8 {
	v := q.buf[0]
	copy(q.buf[:], q.buf[1:])
	q.n--
	q.buf[q.n] = 0
	return v
}

// generation is one process and its two queues to and from its predecessor.
type generation struct {
	exists, alive, hung bool
	state               machine.State
	accepts, lease      bool
	stopped             bool // was told to stop at least once
	drainBegun          bool
	proven              bool // outlived its probation
	pred, succ          int8 // succ: of the attempt under way
	sawOrphan           bool
	asked               bool // somebody waits for the verdict
	early               bool // a signal is kept for whoever is main next
	owed                bool // RELOADING=1 is due at the end
	bySignal            bool // ... and it was SIGUSR2, so RELOADING=1 was sent
	moving, unmoved     bool // MAINPID= sent and barrier awaited; or it could not be sent
	adopting            bool // READY=1 is due once systemd has reaped the predecessor
	down, up            queue
}

// What predecessor and successor tell each other.
const (
	sayServe uint8 = iota
	sayPromote
	sayPromoteSignalled // ... and a signal was kept for you
	sayUndo
	sayStop
	sayReady
	sayLeaving
)

// Notifications. The sender is in the lower bits, see notification.
const (
	tellReady uint8 = iota
	tellReloading
	tellMain // MAINPID=successor and READY=1
	tellStopping
	tellBarrier
)

func notification(kind uint8, from, about int8) uint8 {
	return kind<<4 | uint8(from)<<2 | uint8(about)&3
}

// unit is systemd's view.
type unit uint8

const (
	unitRunning unit = iota
	unitStopping
	unitFailing // main died: what is left is stopped, then the unit starts anew
	unitDead
)

// client is the reload command.
type client uint8

const (
	clientIdle client = iota
	clientWaiting
	clientAnswered
	clientBroken // the stream ended without a verdict
)

// World is everything at one instant.
type World struct {
	gen [Slots]generation

	// systemd
	unit      unit
	main      int8
	pidFile   int8
	reloading bool // RELOADING=1 without READY=1 since
	signalled bool // systemd sent SIGUSR2 and waits for RELOADING=1 and READY=1
	notify    queue
	dead      uint8 // processes that died and were not reaped
	ready     bool  // READY=1 was heard once

	// reload client
	client client
	server int8 // who has its request

	// what may still go wrong, and what the operator may still do
	faults, requests, stops uint8
	stopAsked               bool

	// what happened, for the properties
	rejected   uint8
	mainMoves  uint8 // by MAINPID=
	backMoves  uint8 // by MAINPID=, to an older generation
	excused    bool  // a fault happened that may make systemd refuse a message
	mainDied   bool  // main died by a fault, so the unit may end
	killed     bool  // the reload command was killed
	verdicts   uint8
	askedCount uint8
}

// Start is a world in which systemd has just started the first generation.
func Start(faults, requests, stops uint8) World {
	w := World{main: 0, pidFile: none, server: none, faults: faults, requests: requests, stops: stops}
	for i := range w.gen {
		w.gen[i] = generation{pred: none, succ: none}
	}
	w.gen[0].exists, w.gen[0].alive, w.gen[0].state = true, true, machine.Booting
	return w
}

func (w World) String() string {
	var b strings.Builder
	unitNames := [...]string{"running", "stopping", "failing", "dead"}
	fmt.Fprintf(&b, "unit=%s main=%d pidfile=%d reloading=%t client=%d", unitNames[w.unit], w.main, w.pidFile, w.reloading, w.client)
	for i, g := range w.gen {
		if !g.exists {
			continue
		}
		fmt.Fprintf(&b, " | %d %v", i, g.state)
		for _, f := range []struct {
			on   bool
			name string
		}{{!g.alive, "dead"}, {g.hung, "hung"}, {g.accepts, "accepts"}, {g.lease, "lease"}, {g.asked, "asked"}} {
			if f.on {
				b.WriteString(" " + f.name)
			}
		}
	}
	return b.String()
}
