// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// process is another process, by pidfd where the kernel has it (5.3), so that
// a PID that was used again is never hit. On older kernels, such as RHEL 8's,
// it falls back to the PID.
type process struct {
	pid int

	mu     sync.Mutex
	file   *os.File // nil without pidfd, or once closed
	closed bool
}

// newProcess takes pidfd over; -1 means that there is none.
func newProcess(pid, pidfd int) *process {
	p := &process{pid: pid}
	if pidfd < 0 {
		var err error
		pidfd, err = unix.PidfdOpen(pid, 0)
		p.closed = errors.Is(err, unix.ESRCH) // gone already
	}
	if pidfd > 0 {
		_ = unix.SetNonblock(pidfd, true) // so that the runtime polls it
		p.file = os.NewFile(uintptr(pidfd), fmt.Sprintf("pidfd of %d", pid))
	}
	return p
}

// copy returns another handle of the same process, to be closed apart.
func (p *process) copy() *process {
	fd := -1
	open := p.with(func(pidfd int) {
		if pidfd >= 0 {
			fd, _ = unix.FcntlInt(uintptr(pidfd), unix.F_DUPFD_CLOEXEC, 0)
		}
	})
	if !open {
		return &process{pid: p.pid, closed: true}
	}
	return newProcess(p.pid, fd)
}

// with calls f with the pidfd, or with -1 where there never was one. Once
// closed, the PID may be a stranger's: f is not called, and with says so.
func (p *process) with(f func(pidfd int)) (open bool) {
	p.mu.Lock()
	file, closed := p.file, p.closed
	p.mu.Unlock()
	if closed {
		return false
	}
	if file != nil {
		if raw, err := file.SyscallConn(); err == nil {
			if raw.Control(func(fd uintptr) { f(int(fd)) }) == nil {
				return true
			}
		}
		return false // closed meanwhile
	}
	f(-1)
	return true
}

func (p *process) signal(sig unix.Signal) (err error) {
	err = unix.ESRCH
	p.with(func(pidfd int) {
		if pidfd >= 0 {
			err = unix.PidfdSendSignal(pidfd, sig, nil, 0)
		} else {
			err = unix.Kill(p.pid, sig)
		}
	})
	return err
}

// reaped says whether the process is gone from the process table, that is, its
// parent has seen its death.
func (p *process) reaped() bool { return errors.Is(p.signal(0), unix.ESRCH) }

// alive says whether it runs; a zombie does not.
func (p *process) alive() (alive bool) {
	p.with(func(pidfd int) {
		if pidfd < 0 {
			alive = unix.Kill(p.pid, 0) == nil
			return
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
		alive = err != nil || n == 0
	})
	return alive
}

// wait returns when the process has ended.
func (p *process) wait() {
	p.mu.Lock()
	file, closed := p.file, p.closed
	p.mu.Unlock()
	if closed {
		return
	}
	if file != nil {
		raw, err := file.SyscallConn()
		if err == nil && raw.Read(func(uintptr) bool { return !p.alive() }) == nil {
			return
		}
	}
	for unix.Kill(p.pid, 0) == nil {
		time.Sleep(50 * time.Millisecond)
	}
}

// pidfdInfo is struct pidfd_info of linux/pidfd.h, first version with the exit
// code.
type pidfdInfo struct {
	mask                                                   uint64
	cgroupID                                               uint64
	pid, tgid, ppid                                        uint32
	ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid, exit uint32
}

const (
	pidfdInfoExit = 1 << 3
	// _IOWR(0xFF, 11, struct pidfd_info), whose first version has 64 bytes.
	pidfdGetInfo = 3<<30 | uint(unsafe.Sizeof(pidfdInfo{}))<<16 | 0xff<<8 | 11
)

// reapTimeout is how long the parent of a dead process may take to see that.
const reapTimeout = time.Second

// ending says how the process ended, as far as one who is not its parent can
// know: from Linux 6.15 on, once its parent has reaped it.
func (p *process) ending() string {
	deadline := time.Now().Add(reapTimeout)
	for !p.reaped() && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	text := "died"
	p.with(func(pidfd int) {
		if pidfd < 0 {
			return
		}
		info := pidfdInfo{mask: pidfdInfoExit}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(pidfd), uintptr(pidfdGetInfo), uintptr(unsafe.Pointer(&info)))
		if errno == 0 && info.mask&pidfdInfoExit != 0 {
			text = describeStatus(syscall.WaitStatus(info.exit))
		}
	})
	return text
}

func (p *process) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.file != nil {
		_ = p.file.Close()
		p.file = nil
	}
}
