// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// adopter is [Service.adopt] or another one who takes descriptors over.
type adopter func(conn *handover.Conn, f handover.Frame, files []*os.File)

// adopt takes connections over from another generation, and says which of them. It says so before it reads from them: what it has not claimed is
// the other's.
func (s *Service) adopt(conn *handover.Conn, f handover.Frame, files []*os.File) {
	var list handover.Connections
	if err := f.Decode(&list); err != nil {
		s.log.Error("adopt connections", "error", err)
		list.List = nil // what was understood of it may lack something
	}
	answer := handover.Taken{Count: len(list.List)}
	var kept []adopted
	var refused error
	room := roomForFiles()
	for i, file := range files {
		if i >= len(list.List) {
			_ = file.Close()
			continue
		}
		if minFD(file) >= room {
			_ = file.Close()
			refused = errNoRoom
			continue
		}
		c, err := s.inv.adoptAny(list.List[i], file)
		if err != nil {
			refused = err
			continue
		}
		kept = append(kept, c)
		answer.Kept = append(answer.Kept, i)
	}
	if len(files) < len(list.List) {
		refused = errNoRoom
	}
	if refused != nil {
		s.log.Warn("connections are left to the other generation", "left", len(list.List)-len(kept), "error", refused)
	}
	s.countAdopted(len(kept))
	err := conn.Send(handover.KindTaken, answer)
	if err == nil || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		// They are ours, also if the other one is dead.
		for _, c := range kept {
			c.begin()
		}
		s.observeMoved(len(kept))
		return
	}
	s.log.Error("adopt connections", "error", err)
	s.countAdopted(-len(kept))
	for _, c := range kept {
		c.giveBack()
	}
}

// adopted is a connection that another generation has sent.
type adopted interface {
	begin()    // it is ours
	giveBack() // it is the other's still
}

func (inv *inventory) adoptAny(d handover.Connection, file *os.File) (adopted, error) {
	if d.Session != "" {
		return inv.adoptSession(d, file)
	}
	return inv.adopt(d, file)
}

func (c *keepAlive) begin() { go c.park() }

func (c *keepAlive) giveBack() {
	_ = c.Close()
	c.set.listener.release()
}

// errNoRoom is why connections are given back.
var errNoRoom = errors.New("the limit of open files is near: raise LimitNOFILE=")

// roomForFiles is the first descriptor that an adopted connection must not
// have. A quarter of what the process may open is left for those who connect, and
// for what the service does. The kernel gives the lowest free number, so one
// of that quarter means that the others are in use.
func roomForFiles() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > math.MaxInt32 {
		return math.MaxInt
	}
	return int(limit.Cur - limit.Cur/4)
}

func (s *Service) countAdopted(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.adopted += n
}

func (s *Service) observeMoved(n int) {
	for _, o := range s.observing() {
		if o.Moved != nil && n > 0 {
			o.Moved(n)
		}
	}
}

// adopt finds the server of a connection. It takes the file over.
func (inv *inventory) adopt(d handover.Connection, file *os.File) (*keepAlive, error) {
	defer file.Close()
	inv.mu.Lock()
	i := slices.IndexFunc(inv.listeners, func(l *listener) bool { return l.name == d.Listener })
	var l *listener
	if i >= 0 {
		l = inv.listeners[i]
	}
	inv.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("connection of listener %q: this version has none", d.Listener)
	}
	set := l.hold()
	if set == nil {
		return nil, fmt.Errorf("connection of listener %q: it is closed, or is no plain HTTP/1 in this version", d.Listener)
	}
	err := checkConnection(minFD(file))
	var conn net.Conn
	if err == nil {
		conn, err = net.FileConn(file)
	}
	if err == nil {
		var c *keepAlive
		if c, err = set.adopt(conn, d.Left); err == nil {
			return c, nil
		}
	}
	l.release()
	return nil, fmt.Errorf("connection of listener %q: %w", d.Listener, err)
}

// adopt wraps a connection of another generation, to be parked or closed.
func (s *keepAlives) adopt(conn net.Conn, left time.Duration) (*keepAlive, error) {
	conn = s.listener.conns.track(conn)
	c := s.wrap(conn)
	if c == nil {
		return nil, errors.Join(fmt.Errorf("a %s socket", conn.LocalAddr().Network()), conn.Close())
	}
	c.parked = true
	if !s.add(c) {
		return nil, errors.Join(errStopped, c.Close())
	}
	if left > 0 {
		if err := c.SetReadDeadline(time.Now().Add(left)); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// adoptFor makes the listener take adopted connections.
func (l *listener) adoptFor(set *keepAlives) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.adopter = set
}

// hold keeps the listener from closing while an adopted connection may yet
// come to Accept. It returns nil if nobody takes such connections.
func (l *listener) hold() *keepAlives {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.adopter == nil || l.holders == 0 || l.isClosing() {
		return nil
	}
	l.holders++
	return l.adopter
}

// park keeps an adopted connection until its next request begins, and gives it
// to net/http then. net/http takes it for a new one: earlier, the time for
// the header would run.
func (c *keepAlive) park() {
	l := c.set.listener
	defer l.release()
	// One that was reset on its way has no address any more, and a request may
	// be in it. net/http never gets such a one from accept(2), nor do hooks.
	if _, err := c.await(c.peek); err != nil || c.conn.RemoteAddr() == nil || c.unpark() != nil {
		_ = c.Close()
		return
	}
	l.deliver(accepted{conn: c.self})
}

func (c *keepAlive) unpark() error {
	c.mu.Lock()
	c.parked = false
	c.mu.Unlock()
	return c.SetReadDeadline(time.Time{})
}
