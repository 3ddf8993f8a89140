// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// VsockAddr is an address of AF_VSOCK, see vsock(7).
type VsockAddr struct {
	CID  uint32 // context identifier: the machine; unix.VMADDR_CID_ANY is any of this machine's
	Port uint32
}

// Network returns "vsock".
func (a *VsockAddr) Network() string { return "vsock" }

// String returns CID:port, without the CID if that is any, as in ListenStream=vsock:CID:port.
func (a *VsockAddr) String() string {
	port := strconv.FormatUint(uint64(a.Port), 10)
	if a.CID == unix.VMADDR_CID_ANY {
		return ":" + port
	}
	return strconv.FormatUint(uint64(a.CID), 10) + ":" + port
}

func vsockAddr(sa unix.Sockaddr) *VsockAddr {
	if vm, ok := sa.(*unix.SockaddrVM); ok {
		return &VsockAddr{CID: vm.CID, Port: vm.Port}
	}
	return &VsockAddr{}
}

// VsockListener is a listening AF_VSOCK socket. Its errors are *net.OpError, as those of package net.
type VsockListener struct {
	vsock
	addr *VsockAddr
}

// VsockConn is a connected AF_VSOCK socket. Its errors are *net.OpError, as those of package net.
type VsockConn struct {
	vsock
	local, remote *VsockAddr
}

var (
	_ net.Listener = (*VsockListener)(nil)
	_ net.Conn     = (*VsockConn)(nil)
	_ syscall.Conn = (*VsockListener)(nil)
	_ syscall.Conn = (*VsockConn)(nil)
)

// vsock is what listeners and connections share: an os.File in the care of the runtime's poller.
type vsock struct {
	file    *os.File
	network string
	closed  atomic.Bool
}

// Close closes the socket and ends the calls that wait for it, with [net.ErrClosed].
func (v *vsock) Close() error {
	v.closed.Store(true)
	if err := v.file.Close(); err != nil {
		return v.opError("close", err, nil, nil)
	}
	return nil
}

// SetDeadline bounds calls, those that wait already included, which then end with [os.ErrDeadlineExceeded].
// The zero time means no bound.
func (v *vsock) SetDeadline(t time.Time) error { return v.set(v.file.SetDeadline(t)) }

func (v *vsock) set(err error) error {
	if err != nil {
		return v.opError("set", err, nil, nil)
	}
	return nil
}

// SyscallConn returns the raw socket; see [syscall.Conn].
func (v *vsock) SyscallConn() (syscall.RawConn, error) { return v.file.SyscallConn() }

// File returns a copy of the descriptor, which the caller closes. Closing either does not affect the other; the
// blocking mode is common to both.
func (v *vsock) File() (*os.File, error) {
	fd, err := duplicate(v.file)
	if err != nil {
		return nil, v.opError("file", err, nil, nil)
	}
	return os.NewFile(uintptr(fd), v.file.Name()), nil
}

// opError gives an error the form that callers of package net expect: net.ErrClosed after Close, and the system
// call without the path that package os adds.
func (v *vsock) opError(op string, err error, source, addr *VsockAddr) error {
	if pathErr := (*os.PathError)(nil); errors.As(err, &pathErr) {
		err = pathErr.Err
		if errno, ok := err.(syscall.Errno); ok {
			err = os.NewSyscallError(pathErr.Op, errno)
		}
	}
	// The runtime's own error for a socket that closes during a raw operation cannot be matched.
	if errors.Is(err, os.ErrClosed) || v.closed.Load() && !errors.As(err, new(syscall.Errno)) {
		err = net.ErrClosed
	}
	opErr := &net.OpError{Op: op, Net: v.network, Err: err}
	// A nil *VsockAddr in the interface would not be nil.
	if source != nil {
		opErr.Source = source
	}
	if addr != nil {
		opErr.Addr = addr
	}
	return opErr
}

// newVsockListener takes over file, also on an error.
func newVsockListener(file *os.File, network string) (*VsockListener, error) {
	l := &VsockListener{vsock: vsock{file: file, network: network}}
	local, err := sockaddrOf(file, unix.Getsockname)
	if err != nil {
		_ = file.Close()
		return nil, l.opError("file", os.NewSyscallError("getsockname", err), nil, nil)
	}
	l.addr = vsockAddr(local)
	return l, nil
}

// newVsockConn takes over file, also on an error.
func newVsockConn(file *os.File, network string) (*VsockConn, error) {
	c := &VsockConn{vsock: vsock{file: file, network: network}}
	local, err := sockaddrOf(file, unix.Getsockname)
	if err != nil {
		_ = file.Close()
		return nil, c.opError("file", os.NewSyscallError("getsockname", err), nil, nil)
	}
	c.local, c.remote = vsockAddr(local), &VsockAddr{}
	// The peer may have gone already; then the first Read tells.
	if remote, err := sockaddrOf(file, unix.Getpeername); err == nil {
		c.remote = vsockAddr(remote)
	}
	return c, nil
}

func sockaddrOf(file *os.File, get func(int) (unix.Sockaddr, error)) (sa unix.Sockaddr, err error) {
	conn, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	if controlErr := conn.Control(func(fd uintptr) { sa, err = get(int(fd)) }); controlErr != nil {
		return nil, controlErr
	}
	return sa, err
}

// Accept waits for the next connection, a [*VsockConn].
func (l *VsockListener) Accept() (net.Conn, error) {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return nil, l.opError("accept", err, nil, l.addr)
	}
	var fd int
	var acceptErr error
	waitErr := raw.Read(func(listener uintptr) (done bool) {
		for {
			fd, _, acceptErr = unix.Accept4(int(listener), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			// A client that gave up while it was in the queue is no error of the listener; accept(2).
			if acceptErr != unix.EINTR && acceptErr != unix.ECONNABORTED {
				return acceptErr != unix.EAGAIN
			}
		}
	})
	if waitErr != nil {
		return nil, l.opError("accept", waitErr, nil, l.addr)
	}
	if acceptErr != nil {
		return nil, l.opError("accept", os.NewSyscallError("accept4", acceptErr), nil, l.addr)
	}
	conn, err := newVsockConn(os.NewFile(uintptr(fd), l.network), l.network)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// Addr returns the [*VsockAddr] that the socket is bound to.
func (l *VsockListener) Addr() net.Addr { return l.addr }

// Read reads from the connection; see [net.Conn].
func (c *VsockConn) Read(p []byte) (int, error) {
	n, err := c.file.Read(p)
	// io.EOF is returned as it is: callers compare it.
	if pathErr := (*os.PathError)(nil); errors.As(err, &pathErr) {
		err = c.opError("read", err, c.local, c.remote)
	}
	return n, err
}

// Write writes to the connection; see [net.Conn].
func (c *VsockConn) Write(p []byte) (int, error) {
	n, err := c.file.Write(p)
	if err != nil {
		err = c.opError("write", err, c.local, c.remote)
	}
	return n, err
}

// LocalAddr returns the [*VsockAddr] of this side.
func (c *VsockConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the [*VsockAddr] of the other side.
func (c *VsockConn) RemoteAddr() net.Addr { return c.remote }

// SetReadDeadline bounds Read; see [net.Conn].
func (c *VsockConn) SetReadDeadline(t time.Time) error { return c.set(c.file.SetReadDeadline(t)) }

// SetWriteDeadline bounds Write; see [net.Conn].
func (c *VsockConn) SetWriteDeadline(t time.Time) error { return c.set(c.file.SetWriteDeadline(t)) }

// CloseRead shuts down the reading side.
func (c *VsockConn) CloseRead() error { return c.shutdown(unix.SHUT_RD) }

// CloseWrite shuts down the writing side: the peer reads the end of the stream.
func (c *VsockConn) CloseWrite() error { return c.shutdown(unix.SHUT_WR) }

func (c *VsockConn) shutdown(how int) error {
	_, err := sockaddrOf(c.file, func(fd int) (unix.Sockaddr, error) { return nil, unix.Shutdown(fd, how) })
	if err != nil {
		return c.opError("close", os.NewSyscallError("shutdown", err), c.local, c.remote)
	}
	return nil
}

func listenVsock(address string) (net.Listener, error) {
	wrap := func(err error) error { return fmt.Errorf("listen vsock %q: %w", address, err) }
	addr, err := parseVsockAddr(address)
	if err != nil {
		return nil, wrap(err)
	}
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, wrap(os.NewSyscallError("socket", err))
	}
	file := os.NewFile(uintptr(fd), "vsock")
	if err := unix.Bind(fd, &unix.SockaddrVM{CID: addr.CID, Port: addr.Port}); err != nil {
		_ = file.Close()
		return nil, wrap(os.NewSyscallError("bind", err))
	}
	// The kernel caps the backlog at net.core.somaxconn.
	if err := unix.Listen(fd, 1<<16-1); err != nil {
		_ = file.Close()
		return nil, wrap(os.NewSyscallError("listen", err))
	}
	l, err := newVsockListener(file, "vsock")
	if err != nil {
		return nil, err
	}
	return l, nil
}

func parseVsockAddr(address string) (VsockAddr, error) {
	cid, port, ok := strings.Cut(address, ":")
	if !ok {
		return VsockAddr{}, errors.New("must be CID:port")
	}
	addr := VsockAddr{CID: unix.VMADDR_CID_ANY}
	if cid != "" {
		n, err := parseNumber(cid, 32)
		if err != nil {
			return VsockAddr{}, fmt.Errorf("CID %q: must be empty or a number below 2^32", cid)
		}
		addr.CID = uint32(n)
	}
	n, err := parseNumber(port, 32)
	if err != nil {
		return VsockAddr{}, fmt.Errorf("port %q: must be a number below 2^32", port)
	}
	addr.Port = uint32(n)
	if addr.Port == 0 {
		addr.Port = unix.VMADDR_PORT_ANY
	}
	return addr, nil
}
