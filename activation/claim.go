// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// want is one pair of claiming methods.
type want struct {
	noun   string
	method string
}

var (
	wantListener = want{"listener", "Listeners"}
	wantConn     = want{"connection", "Conns"}
	wantPacket   = want{"packet socket", "PacketConns"}
	wantFile     = want{"file", "Files"}
)

// claimOf returns the one way to claim a kind.
func claimOf(kind Kind) want {
	switch kind {
	case KindListener:
		return wantListener
	case KindConn:
		return wantConn
	case KindPacket:
		return wantPacket
	}
	return wantFile
}

func claimNamed(noun string) want {
	for _, w := range []want{wantListener, wantConn, wantPacket} {
		if w.noun == noun {
			return w
		}
	}
	return wantFile
}

// Listeners claims all listeners of that name, at least one, in the order of arrival. They are *net.TCPListener,
// *net.UnixListener or [*VsockListener]; the caller closes them. Closing a Unix listener does not remove its
// path, which is systemd's.
//
// Either all are claimed or none. The errors are [*NotPassedError], [*KindError] if the name has no listener,
// [*ClaimedError], [ErrClosed], and what the kernel says.
func (s *Set) Listeners(name string) ([]net.Listener, error) {
	return claim(s, wantListener, name, several, openListener)
}

// Listener is [Set.Listeners] for a name that stands for exactly one listener; if there are more, none is claimed
// and the error is a [*CountError].
func (s *Set) Listener(name string) (net.Listener, error) {
	return one(claim(s, wantListener, name, single, openListener))
}

// Conns claims all connections of that name, at least one, in the order of arrival. They are *net.TCPConn,
// *net.UnixConn or [*VsockConn]; the caller closes them. The errors are those of [Set.Listeners].
func (s *Set) Conns(name string) ([]net.Conn, error) {
	return claim(s, wantConn, name, several, openConn)
}

// Conn is [Set.Conns] for a name that stands for exactly one connection, such as "connection" of a socket unit
// with Accept=yes.
func (s *Set) Conn(name string) (net.Conn, error) {
	return one(claim(s, wantConn, name, single, openConn))
}

// PacketConns claims all datagram sockets of that name, at least one, in the order of arrival. They are
// *net.UDPConn or *net.UnixConn; the caller closes them. The errors are those of [Set.Listeners].
func (s *Set) PacketConns(name string) ([]net.PacketConn, error) {
	return claim(s, wantPacket, name, several, openPacketConn)
}

// PacketConn is [Set.PacketConns] for a name that stands for exactly one datagram socket.
func (s *Set) PacketConn(name string) (net.PacketConn, error) {
	return one(claim(s, wantPacket, name, single, openPacketConn))
}

// Files claims all descriptors of that name which are neither listeners, connections nor datagram sockets, at
// least one, in the order of arrival; the caller closes them. FIFOs are turned to non-blocking mode, so that
// deadlines work and Close ends a Read; of anything else the blocking mode is as it came. The errors are those
// of [Set.Listeners].
func (s *Set) Files(name string) ([]*os.File, error) {
	return claim(s, wantFile, name, several, openFile)
}

// File is [Set.Files] for a name that stands for exactly one descriptor.
func (s *Set) File(name string) (*os.File, error) {
	return one(claim(s, wantFile, name, single, openFile))
}

type howMany int

const (
	single howMany = iota
	several
)

func one[T any](claimed []T, err error) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	return claimed[0], nil
}

// claim opens copies of all descriptors that fit, or of none.
//
// Each original is closed when its copy is open, not all at the end: with a thousand of them the table of
// descriptors would have to grow, for which the kernel lets a process with threads wait for many milliseconds.
func claim[T io.Closer](s *Set, w want, name string, count howMany, open func(*os.File, Info) (T, error)) ([]T, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, err := s.find(w, name, count)
	if err != nil {
		return nil, err
	}
	opened := make([]T, 0, len(entries))
	for _, e := range entries {
		value, err := openCopy(e, open)
		if err != nil {
			err = fmt.Errorf("claim %s %q from descriptor %d: %w", w.noun, name, e.fd, err)
			for i, o := range opened {
				err = errors.Join(err, entries[i].takeBack(o), o.Close())
			}
			return nil, err
		}
		_ = unix.Close(e.fd) // a copy is open
		opened = append(opened, value)
	}
	by := caller()
	for _, e := range entries {
		e.claimedBy = by
	}
	return opened, nil
}

// find returns the entries that a claim is about: all of one name and fitting kind, none claimed, at least one.
func (s *Set) find(w want, name string, count howMany) ([]*entry, error) {
	var fitting []*entry
	named := s.named[name]
	for _, e := range named {
		if claimOf(e.info.Kind) == w {
			fitting = append(fitting, e)
		}
	}
	switch {
	case len(named) == 0:
		return nil, &NotPassedError{Want: w.noun, Name: name, Passed: s.names(), Reason: s.reason}
	case len(fitting) == 0:
		got := make([]Info, len(named))
		for i, e := range named {
			got[i] = e.info
		}
		return nil, &KindError{Want: w.noun, Name: name, Got: got}
	case !fitting[0].unclaimed():
		// Those of one name and kind are only ever claimed together.
		return nil, &ClaimedError{Want: w.noun, Name: name, By: fitting[0].claimedBy.String()}
	case s.closed:
		return nil, fmt.Errorf("claim %s %q: %w", w.noun, name, ErrClosed)
	case count == single && len(fitting) > 1:
		return nil, &CountError{Want: w.noun, Name: name, Count: len(fitting)}
	}
	return fitting, nil
}

// openCopy hands open a close-on-exec copy, which is then open's to keep or close.
func openCopy[T any](e *entry, open func(*os.File, Info) (T, error)) (T, error) {
	var none T
	fd, err := unix.FcntlInt(uintptr(e.fd), unix.F_DUPFD_CLOEXEC, firstDescriptor)
	if err != nil {
		return none, os.NewSyscallError("fcntl", err)
	}
	// Before os.NewFile, which looks at the mode to decide whether the runtime's poller watches the descriptor.
	// Package net makes a copy of its own and sets the mode itself.
	if e.info.Kind == KindFIFO || claimOf(e.info.Kind) != wantFile && isVsock(e.info) {
		if err := unix.SetNonblock(fd, true); err != nil {
			_ = unix.Close(fd)
			return none, os.NewSyscallError("fcntl", err)
		}
	}
	return open(os.NewFile(uintptr(fd), e.info.Name), e.info)
}

// takeBack undoes what openCopy has done, with a copy of the copy.
func (e *entry) takeBack(opened any) error {
	fd, err := duplicate(opened.(syscall.Conn))
	e.fd, e.info.FD = fd, fd
	return err
}

func openListener(file *os.File, info Info) (net.Listener, error) {
	if isVsock(info) {
		return newVsockListener(file, info.Network)
	}
	defer file.Close()
	return net.FileListener(file)
}

func openConn(file *os.File, info Info) (net.Conn, error) {
	if isVsock(info) {
		return newVsockConn(file, info.Network)
	}
	defer file.Close()
	return net.FileConn(file)
}

func openPacketConn(file *os.File, _ Info) (net.PacketConn, error) {
	defer file.Close()
	return net.FilePacketConn(file)
}

func openFile(file *os.File, _ Info) (*os.File, error) { return file, nil }

func isVsock(info Info) bool { return strings.HasPrefix(info.Network, "vsock") }

// place is where this package was called from. Only an error has to know it in words.
type place []uintptr

func caller() place {
	counters := make([]uintptr, 16)
	return counters[:runtime.Callers(2, counters)]
}

// String returns directory/file:line.
func (p place) String() string {
	frames := runtime.CallersFrames(p)
	for {
		frame, more := frames.Next()
		if !strings.HasPrefix(frame.Function, packagePath+".") {
			dir, file := filepath.Split(frame.File)
			return fmt.Sprintf("%s:%d", filepath.Join(filepath.Base(dir), file), frame.Line)
		}
		if !more {
			return "an unknown place"
		}
	}
}

const packagePath = "github.com/holdfast-go/holdfast/activation"
