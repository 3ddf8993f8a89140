// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// reserve is a descriptor that is kept for the control socket, so that a process at
// its limit of open files can still be asked what is wrong. It gives the descriptor
// up for one connection at a time.
type reserve struct {
	mu   sync.Mutex
	fd   int // -1: given up
	lent bool
	over bool // the listener is closed
}

func newReserve() *reserve {
	r := &reserve{fd: -1}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fillLocked()
	return r
}

// fillLocked takes a descriptor again. Where there is none, the next one that
// becomes free will do.
func (r *reserve) fillLocked() {
	if r.fd >= 0 || r.lent || r.over {
		return
	}
	if fd, err := syscall.Open(os.DevNull, syscall.O_RDONLY|syscall.O_CLOEXEC, 0); err == nil {
		r.fd = fd
	}
}

// giveUp makes room for one descriptor, and says whether it could.
func (r *reserve) giveUp() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fillLocked()
	if r.fd < 0 {
		return false
	}
	_ = syscall.Close(r.fd)
	r.fd, r.lent = -1, true
	return true
}

// back says that the descriptor that had the room is closed, or was never opened.
func (r *reserve) back() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lent = false
	r.fillLocked()
}

func (r *reserve) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	if r.fd >= 0 {
		_ = syscall.Close(r.fd)
		r.fd = -1
	}
}

// reserved is a connection that has the room of the reserve.
type reserved struct {
	net.Conn
	reserve *reserve
	once    sync.Once
}

func (c *reserved) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.reserve.back)
	return err
}

// outOfFiles says that accept(2) found no free descriptor, in the process or in the
// whole system.
func outOfFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// somebodyWaits says whether there is a connection to accept, now or soon. accept(2)
// looks for a descriptor before it looks for that.
func somebodyWaits(ln *net.UnixListener, soon time.Duration) bool {
	raw, err := ln.SyscallConn()
	if err != nil {
		return false
	}
	waits := false
	_ = raw.Control(func(fd uintptr) { waits = readable(fd, soon) }) // closed: nobody waits
	return waits
}

func readable(fd uintptr, soon time.Duration) bool {
	const pollIn = 1
	poll := struct {
		fd              int32
		events, revents int16
	}{fd: int32(fd), events: pollIn}
	limit := syscall.NsecToTimespec(soon.Nanoseconds())
	n, _, errno := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1, uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
	return errno == 0 && n == 1 && poll.revents&pollIn != 0
}
