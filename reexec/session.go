// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// MaxSessionState is how many bytes of state may go with a session.
const MaxSessionState = 64 << 10

// maxSessionKind is how long the name of a kind may be.
const maxSessionKind = 64

var (
	// ErrNoSuccessor: no other generation takes connections, because this one
	// does not drain, because the service stops, or because the other one is gone
	// or of a release that cannot.
	ErrNoSuccessor = errors.New("no other generation takes connections")
	// ErrSessionRefused: the other generation has no handler for such sessions,
	// or no room for more descriptors. It logs which.
	ErrSessionRefused = errors.New("the other generation does not take the session")
)

// sessionKind is what [Service.HandleSession] was told.
type sessionKind struct {
	take  func(net.Conn, []byte)
	conns *connections
}

// session is one that another generation has given us.
type session struct {
	conn  net.Conn
	state []byte
	kind  *sessionKind
}

// HandleSession makes take continue live connections that another generation of
// the service has moved here by [Service.MoveSession], of the same kind, with the
// state that it gave. A version that is undone moves its sessions back, so every
// version handles what it moves.
//
// take is called in a goroutine of its own for each connection, which is the
// service's from then on; a drain waits until it is closed. A drain may have begun
// by the time that take runs. HandleSession panics if take is nil, if the kind has
// a handler already, and if it has not 1 to 64 bytes of UTF-8. Call it before [Service.Run].
func (s *Service) HandleSession(kind string, take func(conn net.Conn, state []byte)) {
	if err := checkKind(kind); err != nil {
		panic(fmt.Sprintf("reexec: kind of session %q: %v", kind, err))
	}
	if take == nil {
		panic(fmt.Sprintf("reexec: kind of session %q: a nil handler", kind))
	}
	if !s.inv.handle(kind, take) {
		panic(fmt.Sprintf("reexec: kind of session %q has a handler already", kind))
	}
}

// checkKind refuses what would not arrive as it is.
func checkKind(kind string) error {
	if kind == "" || len(kind) > maxSessionKind || !utf8.ValidString(kind) {
		return fmt.Errorf("the kind must have 1 to %d bytes of UTF-8", maxSessionKind)
	}
	return nil
}

func (inv *inventory) handle(kind string, take func(net.Conn, []byte)) bool {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	if slices.ContainsFunc(inv.sessions, func(k *sessionKind) bool { return k.conns.name == kind }) {
		return false
	}
	conns := newConnections()
	never := make(chan struct{})
	close(never) // none comes after the inventory is closed
	conns.name, conns.closed = kind, never
	inv.sessions = append(inv.sessions, &sessionKind{take, conns})
	return true
}

func (inv *inventory) sessionKinds() []*sessionKind {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	return slices.Clone(inv.sessions)
}

// MoveSession passes a live connection on to the generation that serves instead
// of this one, whatever its protocol: the client sees nothing. state is all that
// the other one's [Service.HandleSession] needs to go on, such as what was read
// from conn and not used yet; [MaxSessionState] bytes at most.
//
// conn must be of TCP or of a Unix socket, stream or sequential packet, as an
// accepted or hijacked connection is; a TLS connection cannot move, since its keys
// live in package crypto/tls.
// Nobody else may use it meanwhile: end a Read that waits by a deadline in the
// past. Call it after [Service.Draining] is closed; before that there is nobody to
// move to.
//
// If it returns nil, the session is the other generation's, and conn is closed
// here. If not, nothing has happened, and the session goes on here: the error is
// [ErrNoSuccessor], [ErrSessionRefused] or about the arguments.
//
// It returns nil, too, if the other generation lives and has not confirmed when
// the contexts of [Service.OnDrain] end: then it may have the connection, and two
// must not read.
func (s *Service) MoveSession(kind string, conn net.Conn, state []byte) error {
	err := s.moveSession(kind, conn, state)
	if err != nil {
		return fmt.Errorf("reexec: move session %q of %v: %w", kind, conn.RemoteAddr(), err)
	}
	_ = conn.Close() // our copy; nothing is lost by an error
	return nil
}

func (s *Service) moveSession(kind string, conn net.Conn, state []byte) error {
	if len(state) > MaxSessionState {
		return fmt.Errorf("state of %d bytes: at most %d can go with it", len(state), MaxSessionState)
	}
	if err := checkKind(kind); err != nil {
		return err
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return fmt.Errorf("a %T has no descriptor: %w", conn, errors.ErrUnsupported)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	if !s.drain.began() {
		return ErrNoSuccessor
	}
	m := s.drain.mover
	if m == nil {
		return ErrNoSuccessor
	}
	o := &offer{Connection: handover.Connection{Session: kind, State: state}}
	became := unsent
	// The descriptor stays open while it is on its way.
	if err := raw.Control(func(fd uintptr) {
		o.fd = int(fd)
		became = m.offer(o)
	}); err != nil {
		return err
	}
	switch became {
	case taken:
		return nil
	case refused:
		return ErrSessionRefused
	}
	return ErrNoSuccessor
}

// adoptSession finds the handler of a session. It takes the file over.
func (inv *inventory) adoptSession(d handover.Connection, file *os.File) (*session, error) {
	defer file.Close()
	if err := checkConnection(minFD(file)); err != nil {
		return nil, fmt.Errorf("session %q: %w", d.Session, err)
	}
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("session %q: %w", d.Session, err)
	}
	kind, tracked, err := inv.trackSession(d.Session, conn)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("session %q: %w", d.Session, err), conn.Close())
	}
	return &session{tracked, d.State, kind}, nil
}

// checkConnection refuses what net.FileConn would make something else of than a
// connection of accept(2): a socket of datagrams, or one that listens.
func checkConnection(fd int) error {
	for _, c := range []struct {
		option int
		name   string
		good   []int
	}{
		{unix.SO_DOMAIN, "family", []int{unix.AF_INET, unix.AF_INET6, unix.AF_UNIX}},
		{unix.SO_TYPE, "type", []int{unix.SOCK_STREAM, unix.SOCK_SEQPACKET}},
		{unix.SO_ACCEPTCONN, "listening state", []int{0}},
	} {
		got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, c.option)
		if err != nil {
			return fmt.Errorf("the descriptor that came is no connection: %w", err)
		}
		if !slices.Contains(c.good, got) {
			return fmt.Errorf("the descriptor that came is no connection: %s %d", c.name, got)
		}
	}
	return nil
}

// trackSession counts it. Once the inventory is closed, the drain has counted.
func (inv *inventory) trackSession(name string, conn net.Conn) (*sessionKind, net.Conn, error) {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	if inv.closed {
		return nil, nil, errStopped
	}
	i := slices.IndexFunc(inv.sessions, func(k *sessionKind) bool { return k.conns.name == name })
	if i < 0 {
		return nil, nil, errors.New("this version handles none of that kind")
	}
	return inv.sessions[i], inv.sessions[i].conns.track(conn), nil
}

func (s *session) begin() { go s.kind.take(s.conn, s.state) }

func (s *session) giveBack() { _ = s.conn.Close() }
