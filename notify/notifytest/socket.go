// SPDX-License-Identifier: Apache-2.0

package notifytest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxDescriptors is the most that the kernel sends with one message
// (SCM_MAX_FD).
const maxDescriptors = 253

// controlSize is the room for what comes beside a message.
var controlSize = unix.CmsgSpace(unix.SizeofUcred) + unix.CmsgSpace(4*maxDescriptors)

// Socket is a notify socket: a Unix datagram socket that asks the kernel for
// the credentials of the senders.
type Socket struct {
	address string
	conn    *net.UnixConn

	mu sync.Mutex // one Receive at a time
}

// Listen makes a notify socket at address: an absolute path where nothing is
// yet, or "@" and a name in the abstract namespace. The caller closes it.
func Listen(address string) (*Socket, error) {
	if !strings.HasPrefix(address, "/") && !strings.HasPrefix(address, "@") {
		return nil, fmt.Errorf("listen on notify socket %q: must be an absolute path or an abstract name", address)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: address})
	if err != nil {
		return nil, fmt.Errorf("listen on notify socket: %w", err)
	}
	s := &Socket{address: address, conn: conn}
	if err := s.passCredentials(); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on notify socket %q: %w", address, err), s.Close())
	}
	return s, nil
}

func (s *Socket) passCredentials() error {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return err
	}
	var optErr error
	err = raw.Control(func(fd uintptr) {
		optErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
	})
	return errors.Join(err, os.NewSyscallError("setsockopt SO_PASSCRED", optErr))
}

// Address returns the address as NOTIFY_SOCKET takes it.
func (s *Socket) Address() string { return s.address }

// Close closes the socket, with all that is in its queue, and removes its
// path. A Receive that waits returns an error that wraps [net.ErrClosed].
func (s *Socket) Close() error {
	err := s.conn.Close()
	if strings.HasPrefix(s.address, "/") {
		err = errors.Join(err, os.Remove(s.address))
	}
	return err
}

// Receive returns the next message, in the order in which they were sent. The
// caller owns its descriptors; a message that systemd would drop is returned
// too, with its Err set. When ctx is done first, the error wraps its cause.
func (s *Socket) Receive(ctx context.Context) (*Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.conn.SetReadDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("receive on notify socket %q: %w", s.address, err)
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = s.conn.SetReadDeadline(time.Unix(1, 0))
	})
	defer func() {
		// The next Receive clears the deadline, so it must be set by then.
		if !stop() {
			<-interrupted
		}
	}()

	payload := make([]byte, MaxPayload)
	control := make([]byte, controlSize)
	n, controlled, flags, _, err := s.conn.ReadMsgUnix(payload, control)
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("receive on notify socket %q: %w", s.address, err)
	}
	return s.message(payload[:n], control[:controlled], flags)
}

// TryReceive is Receive for whoever waits otherwise, such as with epoll(7) on
// the descriptor of [Socket.SyscallConn]. Without a message it does not wait: the error
// wraps EAGAIN.
func (s *Socket) TryReceive() (*Message, error) {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("receive on notify socket %q: %w", s.address, err)
	}
	payload := make([]byte, MaxPayload)
	control := make([]byte, controlSize)
	var n, controlled, flags int
	var recvErr error
	err = raw.Control(func(fd uintptr) {
		for {
			n, controlled, flags, _, recvErr = unix.Recvmsg(int(fd), payload, control, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
			if recvErr != unix.EINTR {
				return
			}
		}
	})
	if err := errors.Join(err, os.NewSyscallError("recvmsg", recvErr)); err != nil {
		return nil, fmt.Errorf("receive on notify socket %q: %w", s.address, err)
	}
	return s.message(payload[:n], control[:controlled], flags)
}

// SyscallConn returns the socket itself, to wait for messages on it.
func (s *Socket) SyscallConn() (syscall.RawConn, error) { return s.conn.SyscallConn() }

// message makes sense of what was received.
func (s *Socket) message(payload, control []byte, flags int) (*Message, error) {
	m := &Message{Payload: payload}
	if err := m.readControl(control); err != nil {
		return nil, errors.Join(fmt.Errorf("receive on notify socket %q: %w", s.address, err), m.Close())
	}
	m.Descriptors = len(m.Files)
	switch {
	case flags&unix.MSG_TRUNC != 0:
		m.Err = ErrTooLong
	case flags&unix.MSG_CTRUNC != 0:
		m.Err = ErrDescriptorsLost
	case m.Sender.PID == 0:
		m.Err = ErrNoCredentials
	default:
		m.Fields, m.Err = Parse(m.Payload)
	}
	return m, nil
}

// readControl takes the sender and the descriptors from the control messages.
// It takes all descriptors also if it fails, so that none leaks.
func (m *Message) readControl(control []byte) error {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return os.NewSyscallError("parse control message", err)
	}
	for i := range messages {
		switch messages[i].Header.Type {
		case unix.SCM_CREDENTIALS:
			credentials, parseErr := unix.ParseUnixCredentials(&messages[i])
			if parseErr != nil {
				err = errors.Join(err, os.NewSyscallError("parse credentials", parseErr))
				continue
			}
			m.Sender = Sender{PID: int(credentials.Pid), UID: credentials.Uid, GID: credentials.Gid}
		case unix.SCM_RIGHTS:
			fds, parseErr := unix.ParseUnixRights(&messages[i])
			if parseErr != nil {
				err = errors.Join(err, os.NewSyscallError("parse descriptors", parseErr))
				continue
			}
			for _, fd := range fds {
				m.Files = append(m.Files, os.NewFile(uintptr(fd), fmt.Sprintf("received descriptor %d", fd)))
			}
		}
	}
	return err
}
