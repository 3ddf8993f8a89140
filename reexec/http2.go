// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"time"
)

// net/http's own way to end HTTP/2 is one GOAWAY with the last stream that it
// has seen: a request that is on its way is not processed. RFC 9113, section
// 6.8, has the graceful one, in two steps. An http2Conn takes them, between
// net/http and the connection.

const (
	// drainSettle is how long no stream is open before a connection ends whose
	// client has confirmed the first GOAWAY. A client may have begun a request
	// before it read that, and write its headers after it has answered the PING.
	drainSettle = 250 * time.Millisecond
	// drainConfirm bounds the wait for the answer to the PING when the service
	// stops, once no stream is open.
	drainConfirm = time.Second
	// drainLinger is how long the client may take to close its end. Closing
	// with something unread would reset the connection, and what the client has
	// not yet read would be lost.
	drainLinger = time.Second
)

// http2Conns are the HTTP/2 connections of one server.
type http2Conns struct {
	mu      sync.Mutex
	open    map[*http2Conn]struct{}
	changed chan struct{} // closed and replaced when open becomes empty
	leading bool

	hurry     chan struct{} // closed when nobody is waited for longer than need be
	hurryOnce sync.Once
}

func newHTTP2Conns() *http2Conns {
	return &http2Conns{open: map[*http2Conn]struct{}{}, changed: make(chan struct{}), hurry: make(chan struct{})}
}

func (s *http2Conns) add(conn net.Conn) *http2Conn {
	c := &http2Conn{
		Conn: conn, set: s,
		news: make(chan struct{}, 1), parted: make(chan struct{}), done: make(chan struct{}),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[c] = struct{}{}
	if s.leading {
		go c.drain()
	}
	return c
}

func (s *http2Conns) remove(c *http2Conn) {
	close(c.done)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
	if len(s.open) == 0 {
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

// lead leads the clients away: those that are here and those yet to come.
func (s *http2Conns) lead() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leading {
		return
	}
	s.leading = true
	for c := range s.open {
		go c.drain()
	}
}

// hasten does so without waiting for clients that have no request and say
// nothing.
func (s *http2Conns) hasten() {
	s.lead()
	s.hurryOnce.Do(func() { close(s.hurry) })
}

// wait returns when none is left, or ctx ends.
func (s *http2Conns) wait(ctx context.Context) {
	for {
		s.mu.Lock()
		n, changed := len(s.open), s.changed
		s.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// http2Conn is a connection as net/http's HTTP/2 gets it. It passes all bytes
// on, and knows which streams are open. While it drains it adds frames of its
// own: GOAWAY with the highest possible stream, which asks the client to open
// no more here, and PING. What the client sends before its answer to that may
// be a request that was on its way. When all is answered, a second GOAWAY names
// the last stream, and the connection ends.
type http2Conn struct {
	net.Conn
	set *http2Conns

	writing sync.Mutex // held while anything is written

	mu      sync.Mutex
	in, out frameCutter
	streams streams
	queued  []byte // frames of ours, until they fit in
	nonce   [pingLen]byte
	begun   bool      // it drains
	acked   bool      // the PING was answered
	changed time.Time // when that, or a stream, changed last
	foreign bool      // net/http has sent a GOAWAY: it ends the connection itself
	closing bool      // the second GOAWAY is decided: net/http reads nothing more
	silent  bool      // it is out: net/http writes nothing more

	news   chan struct{} // something has changed that the drain waits for; has room for one
	parted chan struct{} // closed when silent
	done   chan struct{} // closed when net/http is done with it
}

// http2TLSConn tells net/http about the TLS below.
type http2TLSConn struct {
	*http2Conn
	tls *tls.Conn
}

func (c http2TLSConn) ConnectionState() tls.ConnectionState { return c.tls.ConnectionState() }

// withoutFrames is the connection that the service knows.
func withoutFrames(conn net.Conn) net.Conn {
	switch c := conn.(type) {
	case http2TLSConn:
		return c.Conn
	case *http2Conn:
		return c.Conn
	}
	return conn
}

// Read returns io.EOF when the connection has been drained.
func (c *http2Conn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if c.received(p[:n]) {
			return n, err
		}
		if err != nil {
			return 0, io.EOF
		}
	}
}

// received notes what the client has sent. It is false when that comes too
// late: the client has been told that it is not processed.
func (c *http2Conn) received(p []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return false
	}
	open, last, acked := len(c.streams.open), c.streams.last, c.acked
	c.in.each(p, func(f frame) {
		if c.foreign {
			return // net/http ignores new streams, and need not end them
		}
		c.streams.received(f)
		if c.begun && f.kind == framePing && f.has(flagAck) && f.begin == c.nonce {
			c.acked = true
		}
	})
	if len(c.streams.open) != open || c.streams.last != last || c.acked != acked {
		c.notify()
	}
	return true
}

// Write writes what net/http has to send, and between two frames of that what
// is queued.
func (c *http2Conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	written := 0
	for {
		if err := c.flush(); err != nil {
			return written, err
		}
		part, silent := c.upToGap(p[written:])
		if silent {
			return len(p), nil
		}
		if len(part) == 0 {
			return written, nil
		}
		n, err := c.Conn.Write(part)
		written += n
		c.sent(part[:n])
		if err != nil {
			return written, err
		}
	}
}

// upToGap returns what may be written before flush is called again.
func (c *http2Conn) upToGap(p []byte) (part []byte, silent bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queued) > 0 {
		p = p[:c.out.gap(p)]
	}
	return p, c.silent
}

// sent notes what is out.
func (c *http2Conn) sent(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	open := len(c.streams.open)
	c.out.each(p, func(f frame) {
		c.streams.sent(f)
		if f.kind == frameGoAway && !c.closing {
			// A later one must not name a higher stream.
			c.foreign, c.queued = true, nil
		}
	})
	if len(c.streams.open) != open {
		c.notify()
	}
}

// flush writes what is queued if a frame may come now. If only a part of it can
// be written, nothing else comes before the rest. c.writing is held.
func (c *http2Conn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.out.between() {
		return nil
	}
	for len(c.queued) > 0 && !c.silent {
		b := c.queued
		c.mu.Unlock()
		n, err := c.Conn.Write(b)
		c.mu.Lock()
		c.queued = c.queued[n:]
		if err != nil {
			return err
		}
	}
	if c.closing && !c.silent {
		c.silent = true
		close(c.parted)
	}
	return nil
}

// notify wakes the drain. c.mu is held.
func (c *http2Conn) notify() {
	if !c.begun {
		return
	}
	c.changed = time.Now()
	select {
	case c.news <- struct{}{}:
	default:
	}
}

// SetReadDeadline is for net/http. Once the connection ends, the deadline is
// ours.
func (c *http2Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil
	}
	return c.Conn.SetReadDeadline(t)
}

// drain leads the client away and ends the connection when all that it has
// asked is answered. It returns when the connection is over.
func (c *http2Conn) drain() {
	c.begin()
	hurry := c.set.hurry
	var hurried time.Time
	for {
		left, ends := c.left(hurried)
		if ends && left <= 0 {
			break
		}
		var timer <-chan time.Time
		if ends {
			timer = time.After(left)
		}
		select {
		case <-c.news:
		case <-timer:
		case <-hurry:
			hurry, hurried = nil, time.Now()
		case <-c.done:
			return
		}
	}
	c.flushSoon()
	select {
	case <-c.parted:
	case <-c.done:
		return
	}
	_ = c.Conn.SetReadDeadline(time.Now().Add(drainLinger))
	// The client learns at once that this is all, and closes its end.
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	<-c.done
}

// begin sends the first GOAWAY and the PING.
func (c *http2Conn) begin() {
	c.mu.Lock()
	_, _ = rand.Read(c.nonce[:]) // never fails, see crypto/rand
	c.begun, c.changed = true, time.Now()
	if !c.foreign {
		c.queued = appendPing(appendGoAway(c.queued, maxStreamID), c.nonce)
	}
	c.mu.Unlock()
	c.flushSoon()
}

// flushSoon writes what is queued now, or leaves it to the next Write of
// net/http that comes to a gap. net/http finds an error itself.
func (c *http2Conn) flushSoon() {
	c.writing.Lock()
	defer c.writing.Unlock()
	_ = c.flush()
}

// left says how long the connection is still given while nothing happens. With
// ends false it has no limit: there are streams open, or the client has not
// confirmed and there is time. At 0 the end is decided, and the GOAWAY that says
// so is queued.
func (c *http2Conn) left(hurried time.Time) (left time.Duration, ends bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.foreign || len(c.streams.open) > 0:
		return 0, false
	case c.acked:
		left = drainSettle - time.Since(c.changed)
	case !hurried.IsZero():
		left = drainConfirm - min(time.Since(c.changed), time.Since(hurried))
	default:
		return 0, false
	}
	if left <= 0 {
		c.closing = true
		c.queued = appendGoAway(c.queued, c.streams.last)
	}
	return left, true
}
