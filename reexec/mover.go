// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// mover passes connections on to another generation: idle ones of HTTP, and
// sessions. A connection is closed here once the other side has said that it has
// it; it says so before it reads from it. Whatever fails before that, the
// connection stays.
type mover struct {
	conn *handover.Conn
	// gather takes connections instead of another process, if it is not nil.
	gather func(batch []*offer) []fate
	*answers
	log *slog.Logger

	sets   []*keepAlives
	offers chan *offer
	done   chan struct{}
	once   sync.Once
	over   chan struct{} // closed when run has returned
	count  atomic.Int64  // connections that are the other side's: idle ones and sessions

	// settled is closed when no more idle connections will move; sessions may.
	settled    chan struct{}
	settleOnce sync.Once

	// Of run's goroutine.
	next          *offer // did not fit into the last frame
	moved, stayed int    // idle connections
}

// answers are what the other side says, as its reader passes it on.
type answers struct {
	taken  chan handover.Taken // has room for one
	wanted atomic.Bool         // a frame was sent that has no answer yet
	silent chan struct{}       // closed after the last one
	gone   bool                // it has closed its end; set before silent is closed
}

func newAnswers() *answers {
	return &answers{taken: make(chan handover.Taken, 1), silent: make(chan struct{})}
}

// add takes one answer: the mover waits for one at a time.
func (a *answers) add(f handover.Frame) error {
	var t handover.Taken
	if err := f.Decode(&t); err != nil {
		return err
	}
	// One that came before the frame would be taken for its answer.
	if !a.wanted.CompareAndSwap(true, false) {
		return fmt.Errorf("%w: unexpected %v", handover.ErrFrame, f.Kind)
	}
	a.taken <- t // has room: the mover reads an answer before it sends another frame
	return nil
}

// end says why nothing more is read.
func (a *answers) end(err error) {
	a.gone = errors.Is(err, io.EOF)
	close(a.silent)
}

// offer is a connection whose owner waits for the answer.
type offer struct {
	handover.Connection
	set    *keepAlives // of an idle connection; nil for a session
	fd     int
	answer chan fate // has room for one
}

// fate is what became of an offer.
type fate int

const (
	unsent  fate = iota // there is nobody to move to
	refused             // the other side has no room, or nobody for it
	taken
)

func newMover(conn *handover.Conn, from *answers, log *slog.Logger) *mover {
	return &mover{conn: conn, answers: from, log: log, offers: make(chan *offer), done: make(chan struct{}), over: make(chan struct{}), settled: make(chan struct{})}
}

// begin moves the connections of these sets, until end.
func (m *mover) begin(sets []*keepAlives) {
	m.sets = sets
	for _, s := range sets {
		s.move(m)
	}
	go m.run()
}

// end lets everything stay that has not moved, and leads it away.
func (m *mover) end() {
	m.once.Do(func() {
		for _, s := range m.sets {
			s.stay()
		}
		close(m.done)
	})
}

// offer returns what became of the connection. It is called by who would read
// from it otherwise, and waits for the other side.
func (m *mover) offer(o *offer) fate {
	o.answer = make(chan fate, 1)
	select {
	case m.offers <- o:
		return <-o.answer
	case <-m.done:
		return unsent
	}
}

func (m *mover) run() {
	defer close(m.over)
	defer func() {
		m.end()
		if m.next != nil {
			m.next.answer <- unsent
		}
		m.settle()
	}()
	for {
		if !m.moving() {
			m.settle()
		}
		batch := m.batch()
		if len(batch) == 0 {
			return
		}
		fates, err := m.pass(batch)
		if err != nil {
			m.log.Warn("connections stay", "error", err)
			m.end()
		}
		for i, o := range batch {
			if fates[i] == taken {
				m.count.Add(1)
			}
			switch {
			case o.set == nil:
			case fates[i] == taken:
				m.moved++
			default:
				m.stayed++
				o.set.stay()
			}
			o.answer <- fates[i]
		}
		if err != nil {
			return
		}
	}
}

// settle says what became of idle connections.
func (m *mover) settle() {
	m.settleOnce.Do(func() {
		close(m.settled)
		if len(m.sets) > 0 {
			m.log.Info("idle connections have moved", "moved", m.moved, "stayed", m.stayed)
		}
	})
}

// moving is false once the other side has refused an idle connection of every
// server: it has no room, or no such server.
func (m *mover) moving() bool {
	return slices.ContainsFunc(m.sets, func(s *keepAlives) bool { return s.moving() == m })
}

// batch waits for an offer, and collects what is offered at the same time and
// fits into one frame. It returns nothing when the move is over.
func (m *mover) batch() (batch []*offer) {
	if m.next == nil {
		select {
		case m.next = <-m.offers:
		case <-m.silent:
			return nil
		case <-m.done:
			return nil
		}
	}
	if m.ended() {
		return nil
	}
	room := handover.MaxPayload - len(`{"list":[]}`)
	for {
		if room -= m.next.Size(); room < 0 && len(batch) > 0 || len(batch) == handover.MaxDescriptors {
			return batch
		}
		batch = append(batch, m.next)
		m.next = nil
		select {
		case m.next = <-m.offers:
		default:
			return batch
		}
	}
}

// ended says that nothing more may be sent: an offer may have come at the same
// moment, or may have waited for the next frame.
func (m *mover) ended() bool {
	select {
	case <-m.silent:
		return true
	case <-m.done:
		return true
	default:
		return false
	}
}

// pass sends one batch and returns what became of it. There is one on its way at
// a time, so that an answer can be about nothing else.
func (m *mover) pass(batch []*offer) (fates []fate, err error) {
	if m.gather != nil {
		return m.gather(batch), nil
	}
	fates = make([]fate, len(batch))
	var list handover.Connections
	fds := make([]int, len(batch))
	for i, o := range batch {
		list.List = append(list.List, o.Connection)
		fds[i] = o.fd
	}
	if err := m.send(list, fds); err != nil {
		return fates, err
	}
	answer, ok := m.answer()
	if !ok {
		var err error
		select {
		case <-m.silent:
			if m.gone {
				// It did not say that it has them, so it has read nothing of them.
				return fates, errors.New("the other generation is gone")
			}
			err = errors.New("the other generation lives and is not understood: what was sent last is its own")
		default: // we are to end
		}
		// It may have them or get them yet, and only one may read.
		for i := range fates {
			fates[i] = taken
		}
		return fates, err
	}
	for i := range fates {
		fates[i] = refused
	}
	for _, i := range answer.Kept {
		if i < 0 || i >= len(batch) {
			return fates, fmt.Errorf("%w: connection %d of %d was taken", handover.ErrFrame, i, len(batch))
		}
		fates[i] = taken
	}
	if answer.Count != len(batch) {
		return fates, fmt.Errorf("%w: %d connections were sent, the answer is about %d", handover.ErrFrame, len(batch), answer.Count)
	}
	return fates, nil
}

// While too many descriptors of this user are on their way, also those of other
// processes, sending is tried again (unix(7), ETOOMANYREFS). A request on one of
// the connections waits as long, so this has an end.
const (
	crowdedInterval = 5 * time.Millisecond
	crowdedLimit    = 5 * time.Second
)

func (m *mover) send(list handover.Connections, fds []int) error {
	m.wanted.Store(true)
	err := m.conn.Send(handover.KindConnections, list, fds...)
	if !errors.Is(err, unix.ETOOMANYREFS) {
		return err
	}
	m.log.Info("connections wait: too many descriptors of this user are on their way")
	limit := time.After(crowdedLimit)
	for errors.Is(err, unix.ETOOMANYREFS) {
		select {
		case <-time.After(crowdedInterval):
			err = m.conn.Send(handover.KindConnections, list, fds...)
		case <-limit:
			return err
		case <-m.silent:
			return err
		case <-m.done:
			return err
		}
	}
	return err
}

// lastAnswer is how long the answer to the last frame is waited for when the move
// is to end. Who lives answers at once: without it a connection that was refused
// would be closed on both sides, with the request that is in it.
const lastAnswer = 500 * time.Millisecond

// answer waits for it. What was said before the end counts.
func (m *mover) answer() (handover.Taken, bool) {
	select {
	case t := <-m.taken:
		return t, true
	case <-m.silent:
	case <-m.done:
		select {
		case t := <-m.taken:
			return t, true
		case <-m.silent:
		case <-time.After(lastAnswer):
		}
	}
	select {
	case t := <-m.taken:
		return t, true
	default:
		return handover.Taken{}, false
	}
}
