// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// A Hub is where puppets dial in. Its methods may be called from several goroutines at once.
type Hub struct {
	// Address is what a puppet gets as its second argument.
	Address string

	director Director
	listener net.Listener
	readers  sync.WaitGroup

	mu      sync.Mutex
	puppets map[int]*Puppet // that are connected, by PID
	all     []*Puppet       // that ever were, in the order in which they dialled in
	counts  map[string]int  // puppets of a role so far
	events  []Event
	busy    int // commands without an answer, and calls of the director
	moved   time.Time
	closed  bool
}

// A Director says what puppets do of their own accord. Each call has a goroutine of its own and may command
// the puppet.
type Director interface {
	// Started is called when p has dialled in.
	Started(p *Puppet)
	// Signalled is called when p has got a signal that it traps.
	Signalled(p *Puppet, signal int)
}

// A Puppet is one process that dialled in.
type Puppet struct {
	Hello
	Label string // its role and how many of it there have been: "main#2"

	hub  *Hub
	conn net.Conn
	send sync.Mutex

	// Under the hub's mutex.
	last    int64
	waiting map[int64]chan Report
	gone    bool
	traps   map[int]string
	heard   map[int]int
}

// An Event is something that a puppet did or that was done to it.
type Event struct {
	Puppet *Puppet
	Kind   EventKind
	Signal int
	Served string
}

// EventKind says what happened.
type EventKind string

// Events.
const (
	Birth  EventKind = "birth"
	Death  EventKind = "death" // its connection ended
	Signal EventKind = "signal"
	Served EventKind = "served"
)

// ErrGone says that the puppet has ended.
var ErrGone = errors.New("the puppet has ended")

// Listen starts a hub at an abstract address of its own.
func Listen(director Director) (*Hub, error) {
	h := &Hub{
		Address:  "@agreement-" + rand.Text()[:12],
		director: director,
		puppets:  make(map[int]*Puppet),
		counts:   make(map[string]int),
		moved:    time.Now(),
	}
	var err error
	if h.listener, err = net.Listen("unix", h.Address); err != nil {
		return nil, fmt.Errorf("listen for puppets: %w", err)
	}
	h.readers.Go(h.accept)
	return h, nil
}

// Close ends the connections, and with them every puppet that still runs.
func (h *Hub) Close() error {
	h.mu.Lock()
	h.closed = true
	err := h.listener.Close()
	for _, p := range h.puppets {
		_ = p.conn.Close()
	}
	h.mu.Unlock()
	h.readers.Wait()
	return err
}

func (h *Hub) accept() {
	for {
		conn, err := h.listener.Accept()
		if err != nil {
			return // closed
		}
		h.readers.Go(func() { h.read(conn) })
	}
}

func (h *Hub) read(conn net.Conn) {
	defer conn.Close()
	in := json.NewDecoder(conn)
	var first Report
	if err := in.Decode(&first); err != nil || first.Hello == nil {
		return // killed before it could speak
	}
	p := &Puppet{
		Hello: *first.Hello, hub: h, conn: conn,
		waiting: make(map[int64]chan Report), traps: make(map[int]string), heard: make(map[int]int),
	}
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return
	}
	h.counts[p.Role]++
	p.Label = fmt.Sprintf("%s#%d", p.Role, h.counts[p.Role])
	h.puppets[p.PID] = p
	h.all = append(h.all, p)
	h.event(Event{Puppet: p, Kind: Birth})
	h.direct(func() { h.director.Started(p) })
	h.mu.Unlock()
	for {
		var r Report
		if err := in.Decode(&r); err != nil {
			break
		}
		h.mu.Lock()
		switch {
		case r.Answer != 0:
			if answer, ok := p.waiting[r.Answer]; ok {
				delete(p.waiting, r.Answer)
				answer <- r
			}
		case r.Signal != 0:
			p.heard[r.Signal]++
			h.event(Event{Puppet: p, Kind: Signal, Signal: r.Signal})
			h.direct(func() { h.director.Signalled(p, r.Signal) })
		case r.Served != "":
			h.event(Event{Puppet: p, Kind: Served, Served: r.Served})
		}
		h.mu.Unlock()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	p.gone = true
	if h.puppets[p.PID] == p {
		delete(h.puppets, p.PID)
	}
	for id, answer := range p.waiting {
		delete(p.waiting, id)
		answer <- Report{Error: ErrGone.Error()}
	}
	h.event(Event{Puppet: p, Kind: Death})
}

// event notes e; the mutex is held.
func (h *Hub) event(e Event) {
	h.events = append(h.events, e)
	h.moved = time.Now()
}

// direct calls the director; the mutex is held.
func (h *Hub) direct(f func()) {
	h.busy++
	h.readers.Go(func() {
		f()
		h.mu.Lock()
		h.busy--
		h.moved = time.Now()
		h.mu.Unlock()
	})
}

// Take returns the events since the last call.
func (h *Hub) Take() []Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	events := h.events
	h.events = nil
	return events
}

// Quiet returns since when nothing happens, and false while a command or the director is under way.
func (h *Hub) Quiet() (time.Time, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.moved, h.busy == 0
}

// Puppets returns those that are connected, by PID.
func (h *Hub) Puppets() map[int]*Puppet {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make(map[int]*Puppet, len(h.puppets))
	for pid, p := range h.puppets {
		all[pid] = p
	}
	return all
}

// All returns every puppet that ever dialled in, oldest first.
func (h *Hub) All() []*Puppet {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.all)
}

// Trap returns what the puppet does on a signal, as it was last told.
func (p *Puppet) Trap(signal int) string {
	p.hub.mu.Lock()
	defer p.hub.mu.Unlock()
	return p.traps[signal]
}

// Heard returns how often the puppet has reported a signal.
func (p *Puppet) Heard(signal int) int {
	p.hub.mu.Lock()
	defer p.hub.mu.Unlock()
	return p.heard[signal]
}

// Do has the puppet do c and returns its answer, for Exit and Die once the connection has ended. An error
// that the puppet reports is returned as it says it; if it ended, the error is ErrGone.
func (p *Puppet) Do(ctx context.Context, c Command) (Report, error) {
	answer := make(chan Report, 1)
	p.hub.mu.Lock()
	if p.gone {
		p.hub.mu.Unlock()
		return Report{}, ErrGone
	}
	p.last++
	c.ID = p.last
	p.waiting[c.ID] = answer
	if c.Do == Trap {
		p.traps[c.Signal] = c.Then
	}
	p.hub.busy++
	p.hub.mu.Unlock()
	defer func() {
		p.hub.mu.Lock()
		p.hub.busy--
		p.hub.moved = time.Now()
		p.hub.mu.Unlock()
	}()

	p.send.Lock()
	err := json.NewEncoder(p.conn).Encode(c)
	p.send.Unlock()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		// It has just ended; the reader says so.
		_ = p.conn.Close()
	}
	select {
	case r := <-answer:
		switch r.Error {
		case "":
			return r, nil
		case ErrGone.Error():
			return r, ErrGone
		}
		return r, errors.New(r.Error)
	case <-ctx.Done():
		return Report{}, fmt.Errorf("%s: %s: %w", p.Label, c.Do, context.Cause(ctx))
	}
}
