// SPDX-License-Identifier: Apache-2.0

package load

import (
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// connectionEnded reports whether a request failed because its connection ended.
func connectionEnded(err error) bool {
	// net/http closes a connection that ended while it writes a request, hence the last one.
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, net.ErrClosed} {
		if errors.Is(err, end) {
			return true
		}
	}
	// net/http has an error of its own, which it does not export, for an end that it saw before the
	// first byte of the answer.
	return strings.Contains(err.Error(), "server closed idle connection")
}

// closedByPeer reports whether the end of a connection has arrived. It reads nothing.
func closedByPeer(conn net.Conn) bool {
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return true
	}
	closed := false
	err = raw.Control(func(fd uintptr) {
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		for err == unix.EINTR {
			n, _, err = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		}
		closed = err == nil && n == 0 || err != nil && err != unix.EAGAIN
	})
	return closed || err != nil
}
