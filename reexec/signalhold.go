// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SIGUSR2 stays pending across execve(2), which keeps the mask and what is
// pending but resets every handler: it would end the new program before that
// has one. It comes out when the new program calls signal.Notify, which
// unblocks it on a thread of the runtime's.
//
// SIGHUP, SIGINT and SIGTERM cannot wait: the runtime unblocks what ends a
// program by default, when it starts (blockableSig in runtime/signal_unix.go).

// holdSignals blocks it on every thread that there is and, until release, keeps
// the calling goroutine on its own, which is the one to call execve(2) from.
// Where cgo is linked the runtime cannot reach other threads
// (syscall.AllThreadsSyscall): then one that comes in the last microseconds may
// reach a handler of the old program.
func holdSignals() (release func(), err error) {
	runtime.LockOSThread()
	if err := maskSignals(unix.SIG_BLOCK); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	return func() {
		_ = maskSignals(unix.SIG_UNBLOCK) // it was possible to block them
		runtime.UnlockOSThread()
	}, nil
}

func maskSignals(how int) error {
	var set unix.Sigset_t
	bits := int(unsafe.Sizeof(set.Val[0])) * 8
	const sig = int(unix.SIGUSR2) - 1
	set.Val[sig/bits] |= 1 << (sig % bits)
	size := uintptr(8) // of the kernel's set: 64 signals
	if strings.HasPrefix(runtime.GOARCH, "mips") {
		size = 16
	}
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_RT_SIGPROCMASK, uintptr(how), uintptr(unsafe.Pointer(&set)), 0, size, 0, 0)
	runtime.KeepAlive(&set)
	if errno == syscall.ENOTSUP {
		if err := unix.PthreadSigmask(how, &set, nil); err != nil {
			return fmt.Errorf("hold signals: %w", os.NewSyscallError("rt_sigprocmask", err))
		}
		return nil
	}
	if errno != 0 {
		return fmt.Errorf("hold signals: %w", os.NewSyscallError("rt_sigprocmask", errno))
	}
	return nil
}

// errStopCame is why nothing was executed: a stop wins.
var errStopCame = errors.New("the service was told to stop")

// lastSignals ends the delivery of signals to the service, and says what had come
// before: whether to stop, and whether to upgrade. From now on SIGTERM and SIGINT
// end the process at once, and SIGHUP is ignored: whoever handles it does so
// again in the next program, and nobody else may die of it in between. One that
// came before needs no mark, since the next program reads its configuration when it
// starts. resume
// undoes that, but for handlers of the service's own.
//
// signal.Stop returns when all that the runtime has caught is in the channels.
func (s *Service) lastSignals() (stopped os.Signal, upgrade bool, resume func()) {
	signal.Stop(s.upgrades)
	signal.Ignore(syscall.SIGHUP)
	signal.Reset(syscall.SIGTERM, syscall.SIGINT)
	signal.Stop(s.stops)
	select {
	case stopped = <-s.stops:
	default:
	}
	select {
	case <-s.upgrades:
		upgrade = true
	default:
	}
	return stopped, upgrade, func() {
		signal.Notify(s.upgrades, syscall.SIGUSR2)
		signal.Notify(s.stops, syscall.SIGTERM, syscall.SIGINT)
		if len(s.reloaders) > 0 {
			signal.Notify(s.hangups, syscall.SIGHUP)
		}
	}
}
