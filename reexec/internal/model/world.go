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
	execve              execve
	reverted            bool // was executed because the next version could not be
	putting             bool // a commit waits for its barrier
	putSeq              uint8
	adopting            bool // READY=1 is due once systemd has reaped the predecessor
	down, up            queue
}

// execve is what a generation is about to execute in its own process.
type execve uint8

const (
	noExecve execve = iota
	executeNext
	executeSelf
)

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
	// About these is a sequence number.
	tellPut        // FDSTORE=1 with a new entry
	tellPutBarrier // the barrier of a commit
	tellRemove     // FDSTOREREMOVE=1 of all entries with lower numbers
)

// lastSeq is the highest sequence number that fits into a notification.
const lastSeq = 3

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
	store     uint8 // the entries of one state: a bit for each sequence number

	// reload client
	client client
	server int8 // who has its request

	// what may still go wrong, and what the operator may still do
	faults, requests, stops uint8
	stopAsked               bool
	mode                    Mode
	commits                 uint8
	bug                     Bug

	// what happened, for the properties
	rejected   uint8
	mainMoves  uint8 // by MAINPID=
	backMoves  uint8 // by MAINPID=, to an older generation
	excused    bool  // a fault happened that may make systemd refuse a message
	mainDied   bool  // main died by a fault, so the unit may end
	killed     bool  // the reload command was killed
	verdicts   uint8
	askedCount uint8
	seq        uint8 // of the last commit that was begun
	reported   uint8 // of the last one whose success the service was told
}

// Mode is what versions do when a new file is fit.
type Mode uint8

const (
	Overlap Mode = iota
	InPlace
	Restart
	// Mixed: each version does any of the three.
	Mixed
)

func (m Mode) overlaps() bool { return m == Overlap || m == Mixed }
func (m Mode) inPlace() bool  { return m == InPlace || m == Mixed }
func (m Mode) restarts() bool { return m == Restart || m == Mixed }

// Bug is a fault of the runner that the exploration has to find, as against one
// of the table.
type Bug uint8

const (
	NoBug Bug = iota
	// CommitOnTrial: a successor commits before the verdict.
	CommitOnTrial
	// RemoveFirst: an entry is removed before its replacement is in.
	RemoveFirst
	// NoBarrier: a commit is reported before systemd has it.
	NoBarrier
	// CommitWhileMoving: probation ends while a commit is under way, and further
	// ones begin.
	CommitWhileMoving
)

// Limits say what may happen in a world, and how often.
type Limits struct {
	Mode                             Mode
	Faults, Requests, Stops, Commits uint8 // Commits: at most 3
	Bug                              Bug
}

// Start is a world in which systemd has just started the first generation.
func Start(l Limits) World {
	w := World{
		main: 0, pidFile: none, server: none, faults: l.Faults, requests: l.Requests, stops: l.Stops,
		mode: l.Mode, commits: min(l.Commits, lastSeq), bug: l.Bug,
	}
	for i := range w.gen {
		w.gen[i] = generation{pred: none, succ: none}
	}
	w.gen[0].exists, w.gen[0].alive, w.gen[0].state = true, true, machine.Booting
	return w
}

func (w World) String() string {
	var b strings.Builder
	unitNames := [...]string{"running", "stopping", "failing", "dead"}
	fmt.Fprintf(&b, "unit=%s main=%d pidfile=%d reloading=%t client=%d store=%b reported=%d", unitNames[w.unit], w.main, w.pidFile, w.reloading, w.client, w.store, w.reported)
	for i, g := range w.gen {
		if !g.exists {
			continue
		}
		fmt.Fprintf(&b, " | %d %v", i, g.state)
		for _, f := range []struct {
			on   bool
			name string
		}{{!g.alive, "dead"}, {g.hung, "hung"}, {g.accepts, "accepts"}, {g.lease, "lease"}, {g.asked, "asked"}, {g.putting, "commits"}} {
			if f.on {
				b.WriteString(" " + f.name)
			}
		}
	}
	return b.String()
}
