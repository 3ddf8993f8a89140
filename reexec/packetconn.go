// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/activation"
)

// packetConn is one datagram socket. What nobody reads waits in the kernel's
// queue, which both generations share, so reading is for the one that accepts.
// Writing is for everybody until the drain is over: who has read a datagram
// answers it, whoever reads the next one.
//
// It is what the types that [Service.ListenPacket] returns have in common. They
// embed it above the methods of package net, which it hides.
type packetConn struct {
	sock             packetSocket
	name             string
	network, address string
	bound, inherited bool // as of a lane
	key              string
	source           activation.Source
	gate             *gate

	// settled is closed when reading has ended and every reader has learned it:
	// none is about to answer what it has read.
	settled chan struct{}

	mu       sync.Mutex
	quiet    sync.Cond     // reading is 0, or held is false
	changed  chan struct{} // closed and replaced when something below changes that a paused read waits for
	deadline time.Time     // of the user
	held     bool          // the socket has the deadline of a pause instead
	over     bool          // reading has ended for good
	closed   bool
	pauses   int
	reading  int // reads that may take a datagram
	away     int // readers that have left and not come back for the next datagram
}

// packetSocket is what every datagram socket of package net is.
type packetSocket interface {
	net.PacketConn
	net.Conn
	syscall.Conn
}

// newPacketConn returns the socket, and its face for the service. It takes conn
// over.
func newPacketConn(conn net.PacketConn, g *gate) (*packetConn, net.PacketConn, error) {
	c := &packetConn{gate: g, settled: make(chan struct{}), changed: make(chan struct{})}
	c.quiet.L = &c.mu
	switch sock := conn.(type) {
	case *net.UDPConn:
		c.sock = sock
		return c, &udpConn{c, udpMethods{sock}}, nil
	case *net.UnixConn:
		c.sock = sock
		return c, &unixgramConn{c, unixMethods{sock}}, nil
	case *net.IPConn:
		c.sock = sock
		return c, &ipConn{c, ipMethods{sock}}, nil
	}
	return nil, nil, errors.Join(fmt.Errorf("a %T cannot be shared between generations", conn), conn.Close())
}

// read runs one read of the socket while this generation may read. A pause ends
// it, and it begins again when the pause is over.
func (c *packetConn) read(try func() error) error {
	c.comeBack()
	for {
		if again, err := c.attempt(try); !again {
			return err
		}
	}
}

func (c *packetConn) attempt(try func() error) (again bool, err error) {
	turn, err := c.begin()
	if err != nil {
		return false, &net.OpError{Op: "read", Net: c.sock.LocalAddr().Network(), Source: c.sock.LocalAddr(), Err: err}
	}
	// Also if a function that was given to SyscallConn panics.
	defer func() { again = c.end(turn, err) }()
	return false, try()
}

// comeBack notes that a reader asks for the next datagram: the last one is
// answered, or in other hands. Who has left and who comes cannot be told apart;
// only their number counts.
func (c *packetConn) comeBack() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = max(0, c.away-1)
	c.settle()
}

// begin waits until a read may run, to the user's deadline, which may change
// meanwhile. It returns the number of pauses so far.
func (c *packetConn) begin() (turn int, err error) {
	for {
		c.mu.Lock()
		open, opened := c.gate.state()
		deadline, changed := c.deadline, c.changed
		if c.over || open {
			turn, err = c.pauses, c.enter()
			c.mu.Unlock()
			return turn, err
		}
		c.mu.Unlock()
		var late <-chan time.Time
		if !deadline.IsZero() {
			late = time.After(time.Until(deadline))
		}
		select {
		case <-opened:
		case <-changed:
		case <-late:
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// enter lets a read run. The deadline of the pause goes in the same moment in
// which the gate was seen open: a pause that comes later sets it again.
func (c *packetConn) enter() error {
	if c.over {
		return net.ErrClosed
	}
	if c.held {
		if err := c.sock.SetReadDeadline(c.deadline); err != nil {
			return err
		}
		c.held = false
		c.quiet.Broadcast()
	}
	c.reading++
	return nil
}

// end says whether a pause has ended the read, so that it must be done again.
func (c *packetConn) end(turn int, err error) (again bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading--
	if c.reading == 0 {
		c.quiet.Broadcast()
	}
	if c.pauses != turn && errors.Is(err, os.ErrDeadlineExceeded) && (c.deadline.IsZero() || time.Now().Before(c.deadline)) {
		return true
	}
	if err == nil || !c.over {
		c.away++
	}
	return false
}

// pause ends the reads that wait, and returns when none runs: from then on no
// datagram is taken. The gate must be shut already; if it opens meanwhile, the
// pause is over.
func (c *packetConn) pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold()
}

func (c *packetConn) hold() {
	c.held = true
	c.pauses++
	_ = c.sock.SetReadDeadline(time.Unix(1, 0)) // fails if closed, and then no read waits
	for c.held && c.reading > 0 {
		c.quiet.Wait()
	}
}

// finish ends reading for good, with net.ErrClosed. The socket stays open for
// answers until close.
func (c *packetConn) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	c.wake()
	c.hold()
	c.settle()
}

// settle needs mu, as does wake.
func (c *packetConn) settle() {
	if c.over && (c.away == 0 || c.closed) {
		select {
		case <-c.settled:
		default:
			close(c.settled)
		}
	}
}

func (c *packetConn) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// Close closes our copy of the socket and ends the reads that wait. Closing
// again does nothing.
func (c *packetConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed, c.over = true, true
	c.wake()
	c.settle()
	return c.sock.Close()
}

// SetReadDeadline bounds reads, also while they wait for the end of a pause.
func (c *packetConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	if open, _ := c.gate.state(); !open {
		c.wake()
	}
	if c.held && !c.closed {
		return nil
	}
	return c.sock.SetReadDeadline(t)
}

func (c *packetConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.sock.SetWriteDeadline(t))
}

func (c *packetConn) Read(p []byte) (n int, err error) {
	err = c.read(func() error { n, err = c.sock.Read(p); return err })
	return n, err
}

func (c *packetConn) ReadFrom(p []byte) (n int, from net.Addr, err error) {
	err = c.read(func() error { n, from, err = c.sock.ReadFrom(p); return err })
	return n, from, err
}

// SyscallConn returns the socket for calls that package net does not have, such
// as recvmmsg(2). Its Read is a read like all others; Control is at any time,
// for options and not for data.
func (c *packetConn) SyscallConn() (syscall.RawConn, error) {
	raw, err := c.sock.SyscallConn()
	if err != nil {
		return nil, err
	}
	return rawPacketConn{raw, c}, nil
}

type rawPacketConn struct {
	syscall.RawConn
	conn *packetConn
}

func (r rawPacketConn) Read(f func(fd uintptr) (done bool)) error {
	return r.conn.read(func() error { return r.RawConn.Read(f) })
}

// File returns a copy of the descriptor, which the caller closes. Reads from it
// know nothing of generations. Unlike with package net its Fd leaves the
// blocking mode alone, which systemd and the other generations share.
func (c *packetConn) File() (*os.File, error) {
	fd, err := duplicate(c.sock)
	if err != nil {
		return nil, fmt.Errorf("reexec: copy the descriptor of %q: %w", c.name, err)
	}
	return os.NewFile(uintptr(fd), c.sock.LocalAddr().String()), nil
}
