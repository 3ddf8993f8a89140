// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// mover passes waiting connections on to another generation. A connection is
// closed here once the other side has said that it has it; it says so before
// it reads from it. Whatever fails before that, the connection stays.
type mover struct {
	conn *handover.Conn
	*answers
	log *slog.Logger

	sets   []*keepAlives
	offers chan *offer
	done   chan struct{}
	once   sync.Once
	over   chan struct{} // closed when run has returned

	moved, stayed int // of run's goroutine
}

// answers are what the other side says, as its reader passes it on.
type answers struct {
	taken  chan handover.Taken // has room for one
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
	select {
	case a.taken <- t:
		return nil
	default:
		return fmt.Errorf("%w: unexpected %v", handover.ErrFrame, f.Kind)
	}
}

// end says why nothing more is read.
func (a *answers) end(err error) {
	a.gone = errors.Is(err, io.EOF)
	close(a.silent)
}

// offer is a connection whose owner waits for the answer.
type offer struct {
	conn   *keepAlive
	fd     int
	left   time.Duration
	answer chan bool // has room for one
}

func newMover(conn *handover.Conn, from *answers, log *slog.Logger) *mover {
	return &mover{conn: conn, answers: from, log: log, offers: make(chan *offer), done: make(chan struct{}), over: make(chan struct{})}
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

// offer returns whether the connection has moved. It is called by the
// connection's reader.
func (m *mover) offer(c *keepAlive, fd int, left time.Duration) bool {
	o := &offer{conn: c, fd: fd, left: left, answer: make(chan bool, 1)}
	select {
	case m.offers <- o:
		return <-o.answer
	case <-m.done:
		return false
	}
}

func (m *mover) run() {
	defer close(m.over)
	defer func() {
		m.end()
		m.log.Info("idle connections have moved", "moved", m.moved, "stayed", m.stayed)
	}()
	for m.moving() {
		var batch []*offer
		select {
		case o := <-m.offers:
			batch = m.more(o)
		case <-m.silent:
			return
		case <-m.done:
			return
		}
		kept, err := m.pass(batch)
		if err != nil {
			m.log.Warn("idle connections stay", "error", err)
			m.end()
		}
		for i, o := range batch {
			if kept[i] {
				m.moved++
			} else {
				m.stayed++
				o.conn.set.stay()
			}
			o.answer <- kept[i]
		}
		if err != nil {
			return
		}
	}
}

// moving is false once the other side has refused a connection of every
// server: it has no room, or no such server.
func (m *mover) moving() bool {
	return slices.ContainsFunc(m.sets, func(s *keepAlives) bool { return s.moving() == m })
}

// more collects what is offered at the same time.
func (m *mover) more(first *offer) []*offer {
	batch := []*offer{first}
	for len(batch) < handover.MaxDescriptors {
		select {
		case o := <-m.offers:
			batch = append(batch, o)
		default:
			return batch
		}
	}
	return batch
}

// pass sends one batch and returns which of it the other side has. There is
// one on its way at a time, so that an answer can be about nothing else.
func (m *mover) pass(batch []*offer) (kept []bool, err error) {
	kept = make([]bool, len(batch))
	var list handover.Connections
	fds := make([]int, len(batch))
	for i, o := range batch {
		list.List = append(list.List, handover.Connection{Listener: o.conn.set.listener.name, Left: o.left})
		fds[i] = o.fd
	}
	if err := m.send(list, fds); err != nil {
		return kept, err
	}
	answer, ok := m.answer()
	if !ok {
		var err error
		select {
		case <-m.silent:
			if m.gone {
				// It did not say that it has them, so it has read nothing of them.
				return kept, errors.New("the other generation is gone")
			}
			err = errors.New("the other generation lives and is not understood: what was sent last is its own")
		default: // we are to end
		}
		// It may have them or get them yet, and only one may read.
		for i := range kept {
			kept[i] = true
		}
		return kept, err
	}
	for _, i := range answer.Kept {
		if i < 0 || i >= len(batch) {
			return kept, fmt.Errorf("%w: connection %d of %d was taken", handover.ErrFrame, i, len(batch))
		}
		kept[i] = true
	}
	if answer.Count != len(batch) {
		return kept, fmt.Errorf("%w: %d connections were sent, the answer is about %d", handover.ErrFrame, len(batch), answer.Count)
	}
	return kept, nil
}

// While too many descriptors of this user are on their way, also those of other
// processes, sending is tried again (unix(7), ETOOMANYREFS). A request on one of
// the connections waits as long, so this has an end.
const (
	crowdedInterval = 5 * time.Millisecond
	crowdedLimit    = 5 * time.Second
)

func (m *mover) send(list handover.Connections, fds []int) error {
	err := m.conn.Send(handover.KindConnections, list, fds...)
	if !errors.Is(err, unix.ETOOMANYREFS) {
		return err
	}
	m.log.Info("idle connections wait: too many descriptors of this user are on their way")
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

// answer waits for it. What was said before the end counts.
func (m *mover) answer() (handover.Taken, bool) {
	select {
	case t := <-m.taken:
		return t, true
	case <-m.silent:
	case <-m.done:
	}
	select {
	case t := <-m.taken:
		return t, true
	default:
		return handover.Taken{}, false
	}
}
