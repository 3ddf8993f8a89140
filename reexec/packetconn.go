// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// packetConn is what [Service.ListenPacket] returns: a datagram socket whose
// ReadFrom waits while the service does not accept. What nobody reads waits in
// the kernel's queue, which both generations share.
type packetConn struct {
	net.PacketConn
	name             string
	network, address string
	bound, inherited bool // as of a lane
	gate             *gate
	closing          chan struct{}
	once             sync.Once

	mu       sync.Mutex
	deadline time.Time     // of the user
	changed  chan struct{} // closed and replaced when deadline changes
}

func (c *packetConn) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		if err := c.waitOpen(); err != nil {
			return 0, nil, &net.OpError{Op: "read", Net: c.LocalAddr().Network(), Addr: c.LocalAddr(), Err: err}
		}
		if err := c.restoreDeadline(); err != nil {
			return 0, nil, err
		}
		if open, _ := c.gate.state(); !open && !c.isClosing() {
			continue
		}
		n, from, err := c.PacketConn.ReadFrom(p)
		if err != nil && errors.Is(err, os.ErrDeadlineExceeded) && !c.expired() {
			continue // paused, not the user's deadline
		}
		return n, from, err
	}
}

func (c *packetConn) isClosing() bool {
	select {
	case <-c.closing:
		return true
	default:
		return false
	}
}

// waitOpen waits until the gate is open or the socket closed, to the user's
// deadline, which may change meanwhile.
func (c *packetConn) waitOpen() error {
	for {
		open, opened := c.gate.state()
		if open || c.isClosing() {
			return nil
		}
		c.mu.Lock()
		deadline, changed := c.deadline, c.changed
		c.mu.Unlock()
		var over <-chan time.Time
		if !deadline.IsZero() {
			over = time.After(time.Until(deadline))
		}
		select {
		case <-opened:
		case <-changed:
		case <-c.closing:
		case <-over:
			return os.ErrDeadlineExceeded
		}
	}
}

func (c *packetConn) expired() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.deadline.IsZero() && !time.Now().Before(c.deadline)
}

func (c *packetConn) restoreDeadline() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.PacketConn.SetReadDeadline(c.deadline)
}

// pause ends the ReadFrom that waits. The gate must be shut already.
func (c *packetConn) pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.PacketConn.SetReadDeadline(time.Unix(1, 0))
}

func (c *packetConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	close(c.changed)
	c.changed = make(chan struct{})
	if open, _ := c.gate.state(); !open {
		return nil
	}
	return c.PacketConn.SetReadDeadline(t)
}

func (c *packetConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// Close closes our copy of the socket and unblocks ReadFrom. Closing again does
// nothing.
func (c *packetConn) Close() (err error) {
	c.once.Do(func() {
		close(c.closing)
		err = c.PacketConn.Close()
	})
	return err
}
