// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// updates is [Service.update].
type updates func(u handover.Update, files []*os.File)

// receive takes an update apart.
func (update updates) receive(f handover.Frame, files []*os.File) {
	var u handover.Update
	if err := f.Decode(&u); err != nil {
		closeFiles(files) // of a newer release
		return
	}
	update(u, files)
}

// update is what has changed at another generation. It takes the files over.
func (s *Service) update(u handover.Update, files []*os.File) {
	switch u.Role {
	case roleStored:
		s.store.learn(u.Stored, u.Removed)
	case roleState:
		if len(files) > 0 {
			s.states.update(u, files[0])
			files = files[1:]
		}
	case roleKept:
		switch {
		case u.Removed:
			s.inv.letGo(u.Name)
		case len(files) > 0:
			s.inv.inherit(u.Name, files[0])
			files = files[1:]
		}
	}
	closeFiles(files)
}

// updater tells another generation of a change; conn may be nil.
type updater interface {
	update(u handover.Update, conn syscall.Conn) error
}

// handOn tells the successor of an upgrade under way what has changed. One that
// cannot be told is as good as gone.
func (s *Service) handOn(u handover.Update, conn syscall.Conn) {
	if c := s.follower.Load(); c != nil {
		_ = c.update(u, conn)
	}
}

// update tells the successor of a change, once it has got everything else.
func (c *successor) update(u handover.Update, conn syscall.Conn) error {
	p, err := passingUpdate(u, conn)
	if err != nil {
		return err // it was closed meanwhile
	}
	c.updating.Lock()
	defer c.updating.Unlock()
	if c.caughtUp {
		return c.sendUpdate(u, p)
	}
	c.updates = append(c.updates, func() { _ = c.sendUpdate(u, p) })
	return nil
}

// errNotHeard: the other generation cannot be told of a change.
var errNotHeard = errors.New("the other generation does not hear of it")

// sendUpdate tells a successor, unless it is gone or of a release that knows
// nothing of updates.
func (c *successor) sendUpdate(u handover.Update, p passing) error {
	c.mu.Lock()
	version := c.version
	c.mu.Unlock()
	if c.lost {
		version = 0
	}
	return sendUpdate(c.conn, version, u, p)
}

// catchUp sends what has changed during the handover, if that has succeeded.
func (c *successor) catchUp(complete bool) {
	c.updating.Lock()
	defer c.updating.Unlock()
	c.caughtUp, c.lost = true, !complete
	for _, send := range c.updates {
		send()
	}
	c.updates = nil
}

// update tells the predecessor of a change: it is main again.
func (p *predecessor) update(u handover.Update, conn syscall.Conn) error {
	to, err := passingUpdate(u, conn)
	if err != nil {
		return err
	}
	return sendUpdate(p.conn, p.version, u, to)
}

func passingUpdate(u handover.Update, conn syscall.Conn) (p passing, err error) {
	p = passing{Descriptor: u.Descriptor, fd: -1}
	if conn != nil {
		if p.fd, err = duplicate(conn); err != nil {
			return p, fmt.Errorf("update of %q: %w", u.Name, err)
		}
	}
	return p, nil
}

// sendUpdate takes the descriptor of p over.
func sendUpdate(conn *handover.Conn, version int, u handover.Update, p passing) error {
	var fds []int
	if p.fd >= 0 {
		fds = []int{p.fd}
		defer closePassing([]passing{p})
	}
	if !handover.Updates(version) {
		return errNotHeard
	}
	return conn.Send(handover.KindUpdate, u, fds...)
}
