// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// choose settles the type of socket that "vsock:" leaves open: datagrams if
// the kernel and the hypervisor have them, else packets, else a stream.
func (a *address) choose() error {
	if a.kind != 0 {
		return nil
	}
	var err error
	for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_SEQPACKET, unix.SOCK_STREAM} {
		var fd int
		fd, err = unix.Socket(a.family, kind|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			a.kind = kind
			return unix.Close(fd)
		}
		if !unsupported(err) {
			break
		}
	}
	return os.NewSyscallError("socket", err)
}

// unsupported reports whether err says that a type of socket does not exist
// here.
func unsupported(err error) bool {
	for _, errno := range []unix.Errno{
		unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.ESOCKTNOSUPPORT, unix.EPFNOSUPPORT, unix.ENODEV,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// open makes a socket for the address. It is not connected yet.
func (a *address) open() (int, error) {
	fd, err := unix.Socket(a.family, a.kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if a.family == unix.AF_VSOCK {
		bindPrivileged(fd)
	}
	return fd, nil
}

// bindPrivileged gives a vsock socket a port below 1024, by which a host may
// tell a guest's system from its users. It is worth a try only: unprivileged
// processes may not.
func bindPrivileged(fd int) {
	for port := uint32(1023); port > 0; port-- {
		err := unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port})
		if !errors.Is(err, unix.EADDRINUSE) {
			return
		}
	}
}

// dial returns a datagram socket that is connected to the address. A connected
// socket can be polled for room in the receiver's queue.
func (a *address) dial() (int, error) {
	fd, err := a.open()
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, a.sockaddr); err != nil {
		_ = unix.Close(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

// sendDatagram sends one datagram, waiting for room until deadline.
func sendDatagram(ctx context.Context, deadline time.Time, fd int, payload, rights []byte) error {
	for {
		var err error
		if rights == nil {
			err = unix.Send(fd, payload, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT) // cheaper
		} else {
			_, err = unix.SendmsgN(fd, payload, rights, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		}
		switch {
		case err == nil:
			return nil
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			if err := wait(ctx, deadline, fd, unix.POLLOUT); err != nil {
				return err
			}
		default:
			return os.NewSyscallError("sendmsg", err)
		}
	}
}

// sendConnected sends one message over a connection of its own. The receiver
// takes the end of the stream for the end of the message, and answers with the
// end of its own when it has read all.
func (a *address) sendConnected(ctx context.Context, deadline time.Time, payload, rights []byte) (err error) {
	fd, err := a.open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := connect(ctx, deadline, fd, a.sockaddr); err != nil {
		return err
	}
	for len(payload) > 0 {
		sent, err := unix.SendmsgN(fd, payload, rights, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		switch {
		case err == nil:
			payload, rights = payload[sent:], nil
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			if err := wait(ctx, deadline, fd, unix.POLLOUT); err != nil {
				return err
			}
		default:
			return os.NewSyscallError("sendmsg", err)
		}
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		return os.NewSyscallError("shutdown", err)
	}
	return waitEOF(ctx, deadline, fd)
}

// connect waits for a connection until deadline.
func connect(ctx context.Context, deadline time.Time, fd int, to unix.Sockaddr) error {
	for {
		err := unix.Connect(fd, to)
		switch err {
		case nil, unix.EISCONN:
			return nil
		case unix.EINTR, unix.EALREADY, unix.EINPROGRESS:
		default:
			// Also EAGAIN, by which a Unix socket says that its backlog is full.
			return os.NewSyscallError("connect", err)
		}
		if err := wait(ctx, deadline, fd, unix.POLLOUT); err != nil {
			return err
		}
		errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil {
			return os.NewSyscallError("getsockopt", err)
		}
		if errno != 0 {
			return os.NewSyscallError("connect", unix.Errno(errno))
		}
	}
}

// waitEOF waits until the receiver closed the connection.
func waitEOF(ctx context.Context, deadline time.Time, fd int) error {
	for {
		var answer [1]byte
		n, _, err := unix.Recvfrom(fd, answer[:], unix.MSG_DONTWAIT)
		switch {
		case err == nil && n > 0:
			return errors.New("receiver answered, which the protocol does not know")
		case err == nil:
			return nil
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			if err := wait(ctx, deadline, fd, unix.POLLIN); err != nil {
				return err
			}
		default:
			return os.NewSyscallError("recvfrom", err)
		}
	}
}

// wait returns nil when events may have happened on fd, an error that wraps
// os.ErrDeadlineExceeded at the deadline and the cause of ctx when it is done.
//
// It blocks a thread, not the Go scheduler. That is bounded and rare, and
// unlike the runtime's poller it gives each of many senders its own deadline.
func wait(ctx context.Context, deadline time.Time, fd int, events int16) error {
	fds := [2]unix.PollFd{{Fd: int32(fd), Events: events}, {Fd: -1}}
	if ctx.Done() != nil {
		cancelled, cancel, err := os.Pipe()
		if err != nil {
			return err
		}
		defer cancelled.Close()
		// The read end hangs up when the other end closes, at the latest when
		// wait returns.
		defer cancel.Close()
		stop := context.AfterFunc(ctx, func() { cancel.Close() })
		defer stop()
		raw, err := cancelled.SyscallConn()
		if err != nil {
			return err
		}
		if err := raw.Control(func(fd uintptr) { fds[1].Fd = int32(fd) }); err != nil {
			return err
		}
	}
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("no room in the receiver's queue: %w", os.ErrDeadlineExceeded)
		}
		timeout := unix.NsecToTimespec(left.Nanoseconds())
		_, err := unix.Ppoll(fds[:], &timeout, nil)
		if err != nil && err != unix.EINTR {
			return os.NewSyscallError("ppoll", err)
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if fds[0].Revents != 0 {
			return nil
		}
	}
}
