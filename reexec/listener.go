// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/activation"
)

// listener is what [Service.Listen] returns. It stands for all sockets of one
// name, and stops and starts accepting without closing them: a connection that
// nobody accepts waits in the kernel's queue, which both generations share.
//
// It takes a connection from the kernel only when Accept is called, so that
// none is in the hands of a service that does not ask for it. With several
// lanes two may take one at the same moment; then the second goes to the next
// Accept.
type listener struct {
	name  string
	lanes []*lane

	accepted  chan accepted
	closing   chan struct{} // no lane will accept any more
	closed    chan struct{} // and nobody holds a connection
	abandoned chan struct{} // what is still held is closed
	once      sync.Once
	cutOnce   sync.Once

	gate    *gate
	mu      sync.Mutex
	holders int         // lanes and adopted connections that may yet come to Accept
	asked   int         // calls of Accept that wait, less what is held for them
	demand  *gate       // open while asked is positive
	adopter *keepAlives // of the server that takes adopted connections; nil without
	conns   *connections
}

type accepted struct {
	conn net.Conn
	err  error
}

// lane is one listening socket.
type lane struct {
	net.Listener
	network, address string            // as the service asked for it, if we bound it
	bound            bool              // by this generation or an earlier one, not by systemd
	inherited        bool              // from the predecessor, if bound
	key              string            // in the fd store, if bound
	source           activation.Source // the store, if it was found there

	accepting sync.Mutex // held while Accept runs
}

// odd says that the connections are of a kind that cannot move, such as vsock.
func (l *lane) odd() bool {
	switch l.Listener.(type) {
	case *net.TCPListener, *net.UnixListener:
		return false
	}
	return true
}

// gate lets the lanes of all listeners through or holds them.
type gate struct {
	mu     sync.Mutex
	opened chan struct{} // closed while the gate is open
	open   bool
}

func newGate() *gate { return &gate{opened: make(chan struct{})} }

func (g *gate) set(open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if open == g.open {
		return
	}
	g.open = open
	if open {
		close(g.opened)
	} else {
		g.opened = make(chan struct{})
	}
}

func (g *gate) state() (open bool, opened <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open, g.opened
}

func newListener(name string, lanes []*lane, g *gate) *listener {
	l := &listener{
		name: name, lanes: lanes, gate: g,
		accepted:  make(chan accepted),
		closing:   make(chan struct{}),
		closed:    make(chan struct{}),
		abandoned: make(chan struct{}),
		demand:    newGate(),
		conns:     newConnections(),
		holders:   len(lanes),
	}
	for _, lane := range lanes {
		go l.run(lane)
	}
	l.conns.name, l.conns.closed = name, l.closed
	return l
}

// ask changes the number of connections that are asked for.
func (l *listener) ask(by int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked += by
	l.demand.set(l.asked > 0)
}

// run accepts on one lane while the gate is open and somebody asks. What it
// has accepted it hands on, also when the gate closes meanwhile: it is ours to
// answer.
func (l *listener) run(lane *lane) {
	defer l.release()
	for l.mayAccept(lane) {
		conn, err := l.accept(lane)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// The gate closed, or opened again before we saw it.
			setDeadline(lane.Listener, time.Time{})
			continue
		}
		a := accepted{err: err} // such as EMFILE: the server decides, as with any listener
		if err == nil {
			a.conn = l.conns.track(conn)
		} else if l.isClosing() {
			return
		}
		if !l.deliver(a) {
			return
		}
	}
}

// deliver hands a connection to the next Accept. It is false when the rest is
// cut.
func (l *listener) deliver(a accepted) bool {
	l.ask(-1)
	select {
	case l.accepted <- a:
		return true
	case <-l.abandoned:
		if a.conn != nil {
			_ = a.conn.Close()
		}
		return false
	}
}

// release ends a holder. When the last one is gone, so is the listener.
func (l *listener) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holders--
	if l.holders == 0 {
		close(l.closed)
	}
}

// accept accepts one connection unless the gate has closed since it was looked
// at: then the error is that of the pause.
func (l *listener) accept(lane *lane) (net.Conn, error) {
	lane.accepting.Lock()
	defer lane.accepting.Unlock()
	if open, _ := l.gate.state(); !open {
		return nil, os.ErrDeadlineExceeded
	}
	return lane.Accept()
}

// mayAccept waits until the lane may accept; it is false once the listener is
// closed. The deadline of a pause is cleared before the gate is looked at, so
// that no pause after that is missed.
func (l *listener) mayAccept(lane *lane) bool {
	for {
		asked, demand := l.demand.state()
		open, opened := l.gate.state()
		if open && asked {
			return !l.isClosing()
		}
		if open {
			opened = nil
		}
		if asked {
			demand = nil
		}
		select {
		case <-demand:
		case <-opened:
			setDeadline(lane.Listener, time.Time{})
		case <-l.closing:
			return false
		}
	}
}

func (l *listener) isClosing() bool {
	select {
	case <-l.closing:
		return true
	default:
		return false
	}
}

// pause ends the Accept that a lane waits in, and returns when no lane is in
// one: from then on nothing is accepted. The gate must be shut already.
//
// Without the wait a goroutine that was about to call accept(2) could take one
// more connection after the other generation was told to serve.
func (l *listener) pause() {
	for _, lane := range l.lanes {
		if setDeadline(lane.Listener, time.Unix(1, 0)) {
			lane.waitAccepted()
		}
	}
}

// waitAccepted waits until no Accept runs.
func (l *lane) waitAccepted() {
	l.accepting.Lock()
	defer l.accepting.Unlock()
}

// setDeadline reports whether the listener has deadlines; all of Go's do.
func setDeadline(ln net.Listener, t time.Time) bool {
	d, ok := ln.(interface{ SetDeadline(time.Time) error })
	return ok && d.SetDeadline(t) == nil
}

// Accept returns the next connection of any lane. It waits while the service
// does not accept, and returns net.ErrClosed once the listener is closed and
// every connection that had been accepted was returned.
func (l *listener) Accept() (net.Conn, error) {
	l.ask(1)
	select {
	case a := <-l.accepted:
		return a.conn, a.err
	case <-l.closed:
		l.ask(-1)
		return nil, &net.OpError{Op: "accept", Net: l.Addr().Network(), Addr: l.Addr(), Err: net.ErrClosed}
	}
}

// Close closes our copies of the sockets. Connections wait on in the kernel's
// queue when somebody else has a copy: systemd, or another generation.
func (l *listener) Close() error {
	var errs []error
	l.once.Do(func() {
		close(l.closing)
		for _, lane := range l.lanes {
			errs = append(errs, lane.Close())
		}
	})
	return errors.Join(errs...)
}

// abandon closes the connections that are open, and those that nobody took.
func (l *listener) abandon() {
	l.cutOnce.Do(func() { close(l.abandoned) })
	l.conns.abandon()
}

// Addr is the address of the first socket.
func (l *listener) Addr() net.Addr { return l.lanes[0].Addr() }

// connections are the open connections of one listener, or sessions of one kind.
type connections struct {
	name   string
	closed <-chan struct{} // no more will come

	mu      sync.Mutex
	open    map[*trackedConn]struct{}
	changed chan struct{} // closed and replaced when open becomes empty
}

func newConnections() *connections {
	return &connections{open: map[*trackedConn]struct{}{}, changed: make(chan struct{})}
}

// trackedConn leaves the set when it is closed. It keeps the methods of the
// connection that others look for.
type trackedConn struct {
	net.Conn
	set *connections
}

func (c *connections) track(conn net.Conn) net.Conn {
	t := &trackedConn{Conn: conn, set: c}
	c.mu.Lock()
	c.open[t] = struct{}{}
	c.mu.Unlock()
	switch conn := conn.(type) {
	case *net.TCPConn:
		return &tcpConn{TCPConn: conn, tracked: t}
	case *net.UnixConn:
		return &unixConn{UnixConn: conn, tracked: t}
	}
	return t
}

func (t *trackedConn) Close() error {
	t.set.remove(t)
	return t.Conn.Close()
}

// tcpConn keeps ReadFrom, WriteTo, CloseWrite, SyscallConn and the rest.
type tcpConn struct {
	*net.TCPConn
	tracked *trackedConn
}

func (c *tcpConn) Close() error { return c.tracked.Close() }

type unixConn struct {
	*net.UnixConn
	tracked *trackedConn
}

func (c *unixConn) Close() error { return c.tracked.Close() }

func (c *connections) remove(t *trackedConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.open[t]; !ok {
		return
	}
	delete(c.open, t)
	if len(c.open) == 0 {
		close(c.changed)
		c.changed = make(chan struct{})
	}
}

func (c *connections) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}

// wait returns true when none is open, or false when stop is closed.
func (c *connections) wait(stop <-chan struct{}) bool {
	for {
		c.mu.Lock()
		n, changed := len(c.open), c.changed
		c.mu.Unlock()
		if n == 0 {
			return true
		}
		select {
		case <-changed:
		case <-stop:
			return false
		}
	}
}

// abandon closes all of them.
func (c *connections) abandon() {
	c.mu.Lock()
	open := make([]*trackedConn, 0, len(c.open))
	for t := range c.open {
		open = append(open, t)
	}
	c.mu.Unlock()
	for _, t := range open {
		_ = t.Close()
	}
}
