// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// keepAlives are the connections of one server that may move to another
// generation: those of plain HTTP/1.
type keepAlives struct {
	listener *listener
	lead     func() // leads the clients away from now on

	over chan struct{} // closed when nothing is accepted any more

	mu      sync.Mutex
	open    map[*keepAlive]struct{}
	mover   *mover        // while they move
	closed  bool          // nothing is parked any more
	changed chan struct{} // closed and replaced when a connection has another phase, or is gone
}

func newKeepAlives(l *listener, lead func()) *keepAlives {
	return &keepAlives{listener: l, lead: lead, over: make(chan struct{}), open: map[*keepAlive]struct{}{}, changed: make(chan struct{})}
}

// phase is where net/http is with a connection.
type phase int

const (
	fresh    phase = iota // nothing has been read yet
	arriving              // a part of a request has been read
	busy                  // with a request
	idle                  // the answer is sent; the idle deadline comes next
	waiting               // for a request, unless its first bytes are buffered
)

// keepAlive knows when net/http waits for a request on a connection and has
// nothing of it yet. Then the connection can be offered to another generation
// without a byte being lost.
type keepAlive struct {
	conn interface {
		net.Conn
		syscall.Conn
	}
	set  *keepAlives
	self net.Conn // as net/http gets it

	mu          sync.Mutex
	phase       phase
	parked      bool      // adopted, and not yet net/http's
	buffer      int       // length of net/http's read buffer
	deadline    time.Time // of reads, as net/http wants it
	reading     bool      // a read waits for the first bytes of a request
	interrupted bool      // and we have put a deadline of our own there
}

// keepAliveTCP and keepAliveUnix keep the connection's other methods: net/http
// looks for ReadFrom and CloseWrite, and who hijacks it for all of them.
type keepAliveTCP struct {
	*tcpConn
	*keepAlive
}

type keepAliveUnix struct {
	*unixConn
	*keepAlive
}

// Close says which of the two it is.
func (c keepAliveTCP) Close() error { return c.keepAlive.Close() }

// Close says which of the two it is.
func (c keepAliveUnix) Close() error { return c.keepAlive.Close() }

// wrap returns nil for a kind of connection that cannot move.
func (s *keepAlives) wrap(conn net.Conn) *keepAlive {
	c := &keepAlive{set: s}
	switch conn := conn.(type) {
	case *tcpConn:
		c.conn, c.self = conn, keepAliveTCP{conn, c}
	case *unixConn:
		c.conn, c.self = conn, keepAliveUnix{conn, c}
	default:
		return nil
	}
	return c
}

// add is false when it comes too late for an adopted one.
func (s *keepAlives) add(c *keepAlive) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[c] = struct{}{}
	return !s.closed
}

func (s *keepAlives) remove(c *keepAlive) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
	s.notifyLocked()
}

// notifyLocked wakes who waits for a change.
func (s *keepAlives) notifyLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// arrivalLimit bounds the wait for a request that has not come, or not in full.
const arrivalLimit = time.Second

// answered waits until all requests are answered whose clients could not know
// that the service stops: also those that are on their way on a connection that
// was accepted just now. net/http drops what it has read when Shutdown has begun
// (conn.serve in net/http/server.go, behind readRequest). Who asks nothing for
// arrivalLimit is not waited for, nor is anybody when ctx ends.
func (s *keepAlives) answered(ctx context.Context) {
	select {
	case <-s.over:
	case <-ctx.Done():
		return
	}
	late := time.NewTimer(arrivalLimit)
	defer late.Stop()
	patient := true
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		pending := false
		for _, c := range s.list() {
			switch c.now() {
			case fresh, arriving:
				pending = pending || patient
			case busy:
				pending = true
			}
		}
		if !pending {
			return
		}
		select {
		case <-changed:
		case <-late.C:
			patient = false
		case <-ctx.Done():
			return
		}
	}
}

func (s *keepAlives) list() []*keepAlive {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*keepAlive, 0, len(s.open))
	for c := range s.open {
		list = append(list, c)
	}
	return list
}

// move offers every connection to m: those that wait now, and all others as
// soon as they do.
func (s *keepAlives) move(m *mover) {
	s.mu.Lock()
	s.mover = m
	s.mu.Unlock()
	for _, c := range s.list() {
		c.interrupt()
	}
}

// stay ends that. What is still here is led away.
func (s *keepAlives) stay() {
	s.lead()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mover = nil
}

func (s *keepAlives) moving() *mover {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mover
}

// closeParked closes what net/http does not know of and would not close when
// it shuts down.
func (s *keepAlives) closeParked() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	for _, c := range s.list() {
		if c.isParked() {
			_ = c.Close()
		}
	}
}

// connState is for [http.Server.ConnState].
func connState(conn net.Conn, state http.ConnState) {
	var c *keepAlive
	switch conn := conn.(type) {
	case keepAliveTCP:
		c = conn.keepAlive
	case keepAliveUnix:
		c = conn.keepAlive
	default:
		return
	}
	switch state {
	case http.StateActive:
		c.setPhase(busy)
	case http.StateIdle:
		c.setPhase(idle)
	case http.StateHijacked:
		// It stays busy, so nothing is intercepted any more.
		c.set.remove(c)
	}
}

func (c *keepAlive) setPhase(p phase) {
	c.mu.Lock()
	c.phase = p
	c.mu.Unlock()
	c.set.mu.Lock()
	defer c.set.mu.Unlock()
	c.set.notifyLocked()
}

func (c *keepAlive) now() phase {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.phase
}

// Close closes our copy of the socket.
func (c *keepAlive) Close() error {
	c.set.remove(c)
	return c.conn.Close()
}

// SetReadDeadline also tells what net/http does: between two requests it sets
// one deadline for the wait and another for the request. If it has the second
// request in its buffer, nothing else shows that it went on.
func (c *keepAlive) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.phase {
	case idle:
		c.phase = waiting
	case waiting:
		c.phase = busy
	}
	c.deadline = t
	return c.conn.SetReadDeadline(t)
}

// SetDeadline is both deadlines.
func (c *keepAlive) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.conn.SetWriteDeadline(t))
}

// Read reads for net/http. The read that waits for a request has all of its
// buffer to fill; with less, the beginning of a request is there already.
func (c *keepAlive) Read(p []byte) (int, error) {
	if !c.awaitsRequest(len(p)) {
		return c.conn.Read(p)
	}
	n, err := c.await(func() (int, error) { return c.conn.Read(p) })
	if n > 0 {
		c.setPhase(arriving)
	}
	return n, err
}

func (c *keepAlive) awaitsRequest(room int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.buffer == 0 {
		c.buffer = room // the first read has all of it
	}
	switch {
	case c.phase == fresh:
		return true
	case c.phase == waiting && room == c.buffer:
		return true
	case c.phase == waiting:
		c.phase = busy
	}
	return false
}

// await waits in read for the first bytes of a request. While the set moves,
// it offers the connection instead; the error after a move is net.ErrClosed.
func (c *keepAlive) await(read func() (int, error)) (int, error) {
	for {
		m, left := c.enter()
		if m == nil {
			n, err := read()
			if c.leave() && n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
				continue
			}
			return n, err
		}
		moved, err := c.offer(m, left)
		if err != nil {
			return 0, err
		}
		if moved {
			return 0, &net.OpError{Op: "read", Net: c.conn.LocalAddr().Network(), Source: c.conn.LocalAddr(), Addr: c.conn.RemoteAddr(), Err: net.ErrClosed}
		}
	}
}

// enter says whether to read or to whom to offer the connection, and what is
// left of its idle time; 0 is no limit. One whose time is over reads, and
// learns it that way.
func (c *keepAlive) enter() (m *mover, left time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.deadline.IsZero() {
		left = time.Until(c.deadline)
	}
	if m = c.set.moving(); m != nil && (left > 0 || c.deadline.IsZero()) {
		return m, left
	}
	c.reading = true
	return nil, 0
}

// leave ends a read and says whether it was interrupted before its time.
func (c *keepAlive) leave() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading = false
	if !c.interrupted {
		return false
	}
	c.interrupted = false
	_ = c.conn.SetReadDeadline(c.deadline)
	return c.deadline.IsZero() || time.Now().Before(c.deadline)
}

// interrupt ends a read that waits for a request.
func (c *keepAlive) interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reading && !c.interrupted {
		c.interrupted = true
		_ = c.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// offer lends the descriptor to m and waits for the answer. Until then Close
// cannot free the descriptor's number for another file.
func (c *keepAlive) offer(m *mover, left time.Duration) (moved bool, err error) {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return false, err
	}
	o := &offer{Connection: handover.Connection{Listener: c.set.listener.name, Left: left}, set: c.set}
	err = raw.Control(func(fd uintptr) {
		o.fd = int(fd)
		moved = m.offer(o) == taken
	})
	return moved, err
}

func (c *keepAlive) isParked() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.parked
}

// peek waits for a byte and leaves it where it is. The connection's end is an
// error.
func (c *keepAlive) peek() (int, error) {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n int
	var peekErr error
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, peekErr = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return !errors.Is(peekErr, unix.EAGAIN)
	})
	switch {
	case err != nil:
		return 0, err
	case peekErr != nil:
		return 0, os.NewSyscallError("recvfrom", peekErr)
	case n == 0:
		return 0, net.ErrClosed
	}
	return n, nil
}

// keepAliveListener gives net/http connections that can move.
type keepAliveListener struct {
	*listener
	set *keepAlives
}

// Accept also returns adopted connections, when they have a request.
func (l keepAliveListener) Accept() (net.Conn, error) {
	conn, err := l.listener.Accept()
	if err != nil {
		return nil, err
	}
	if c := l.set.wrap(conn); c != nil {
		l.set.add(c)
		return c.self, nil
	}
	return conn, nil // adopted, or of a kind that cannot move
}
