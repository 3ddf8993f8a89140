// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
)

// firstPassed is the number of the first descriptor that is passed on
// (SD_LISTEN_FDS_START).
const firstPassed = 3

// Exit statuses of systemd.exec(5) for a process that could not be started.
const (
	exitChdir                  = 200
	exitFDs                    = 202
	exitExec                   = 203
	exitLimits                 = 205
	exitSignalMask             = 207
	exitStdin                  = 208
	exitStdout                 = 209
	exitStderr                 = 222
	exitRuntimeDirectory       = 233
	exitStateDirectory         = 238
	exitCacheDirectory         = 239
	exitLogsDirectory          = 240
	exitConfigurationDirectory = 241
)

// exitStepNames are systemd's names of them, as its log has them.
var exitStepNames = map[int]string{
	exitChdir: "CHDIR", exitFDs: "FDS", exitExec: "EXEC", exitLimits: "LIMITS",
	exitSignalMask: "SIGNAL_MASK", exitStdin: "STDIN", exitStdout: "STDOUT",
	exitStderr: "STDERR", exitRuntimeDirectory: "RUNTIME_DIRECTORY", exitStateDirectory: "STATE_DIRECTORY",
	exitCacheDirectory: "CACHE_DIRECTORY", exitLogsDirectory: "LOGS_DIRECTORY",
	exitConfigurationDirectory: "CONFIGURATION_DIRECTORY",
}

// Placeholders stand for what only the process itself knows; no value that
// comes from elsewhere contains a NUL byte.
const (
	ownPID     = "\x00PID"
	ownPIDFDID = "\x00PIDFDID"
)

// A bounceOrder is what the process between fork and the program has to do. It
// comes on descriptor 3 + Files; the status goes to the one after that.
type bounceOrder struct {
	Path    string // of the program on this machine
	Name    string // as the unit has it
	Args    []string
	Env     []string
	Files   int // descriptors that are passed on, from firstPassed
	Sockets int // the first of them, whose blocking mode is set
	// NonBlocking says which mode.
	NonBlocking   bool
	Dir           string
	DirOptional   bool
	UMask         os.FileMode
	Limits        []unit.Rlimit
	IgnoreSIGPIPE bool
	Hold          bool           // stops itself before the program runs
	Failure       *bounceFailure // what went wrong already
}

// A bounceFailure is a step that failed. The process ends with the status.
type bounceFailure struct {
	Status  int
	Message string
}

// bounceHot is the status that is written just before the program runs. If the
// status ends after it, the program was executed.
const bounceHot = "\n"

// bounce turns this process into the program, or ends it.
func bounce(argument string) {
	orders, err := strconv.Atoi(argument)
	if err != nil {
		fmt.Fprintf(os.Stderr, "reexectest: trampoline: %v\n", err)
		os.Exit(exitFDs)
	}
	status := os.NewFile(uintptr(orders+1), "status")
	unix.CloseOnExec(orders)
	unix.CloseOnExec(orders + 1)
	failure := bounceTo(orders, status)
	text, err := json.Marshal(failure)
	if err == nil {
		_, _ = status.Write(text)
	}
	os.Exit(failure.Status)
}

// bounceTo returns only if a step fails.
func bounceTo(orders int, status *os.File) *bounceFailure {
	file := os.NewFile(uintptr(orders), "orders")
	text, err := io.ReadAll(io.NewSectionReader(file, 0, math.MaxInt32))
	var order bounceOrder
	if err := errors.Join(err, json.Unmarshal(text, &order)); err != nil {
		return &bounceFailure{exitFDs, err.Error()}
	}
	if order.Failure != nil {
		return order.Failure
	}
	if order.Hold {
		if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
			return &bounceFailure{exitSignalMask, err.Error()}
		}
	}
	// The mask is that of the thread that executes the program.
	runtime.LockOSThread()
	for _, step := range []struct {
		status int
		do     func() error
	}{
		{exitSignalMask, order.resetSignals},
		{exitFDs, order.prepareFiles},
		{exitLimits, order.setLimits},
		{exitChdir, order.changeDir},
	} {
		if err := step.do(); err != nil {
			return &bounceFailure{step.status, strerror(err)}
		}
	}
	if err := order.fillIn(); err != nil {
		return &bounceFailure{exitFDs, err.Error()}
	}
	syscall.Umask(int(order.UMask))
	if _, err := io.WriteString(status, bounceHot); err != nil {
		return &bounceFailure{exitFDs, err.Error()}
	}
	err = syscall.Exec(order.Path, order.Args, order.Env)
	return &bounceFailure{exitExec, strerror(err)}
}

// strerror is an error as systemd's log has it, which is the C library's text of
// the number.
func strerror(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	text := errno.Error()
	return strings.ToUpper(text[:1]) + text[1:]
}

// resetSignals has the program start with every signal at its default and none
// blocked, but for SIGPIPE.
func (o *bounceOrder) resetSignals() error {
	// What is ignored stays so in the program; what has a handler becomes
	// default. Not by package os/signal, which leaves alone the signals that C
	// libraries keep for themselves (32 to 34): systemd resets them too. All
	// zeros is SIG_DFL without flags, whatever the layout.
	const maskSize = 64 / 8
	var standard [64]byte
	ignored := signalMask(os.Getpid(), "SigIgn")
	for sig := uintptr(1); sig <= 64; sig++ {
		if ignored>>(sig-1)&1 == 0 {
			continue
		}
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&standard)), 0, maskSize, 0, 0); errno != 0 {
			return os.NewSyscallError("rt_sigaction", errno)
		}
	}
	if o.IgnoreSIGPIPE {
		signal.Ignore(syscall.SIGPIPE)
	}
	var none unix.Sigset_t
	return os.NewSyscallError("sigprocmask", unix.PthreadSigmask(unix.SIG_SETMASK, &none, nil))
}

func (o *bounceOrder) prepareFiles() error {
	for fd := firstPassed; fd < firstPassed+o.Sockets; fd++ {
		if err := unix.SetNonblock(fd, o.NonBlocking); err != nil {
			return fmt.Errorf("set the blocking mode of descriptor %d: %w", fd, err)
		}
	}
	names, err := readNames("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, name := range names {
		if fd, err := strconv.Atoi(name); err == nil && fd >= firstPassed+o.Files {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

func (o *bounceOrder) setLimits() error {
	for _, limit := range o.Limits {
		want := syscall.Rlimit{Cur: limit.Soft, Max: limit.Hard}
		// syscall and not unix: the runtime would undo a change of the file
		// limit that it does not know of.
		err := syscall.Setrlimit(limit.Resource, &want)
		if errors.Is(err, os.ErrPermission) {
			// As systemd does without the privilege: as much as the limit of now allows.
			var have syscall.Rlimit
			if err = syscall.Getrlimit(limit.Resource, &have); err == nil {
				want.Max = min(want.Max, have.Max)
				want.Cur = min(want.Cur, want.Max)
				err = syscall.Setrlimit(limit.Resource, &want)
			}
		}
		if err != nil {
			return fmt.Errorf("%s=%d:%d: %w", limit.Name, limit.Soft, limit.Hard, err)
		}
	}
	return nil
}

func (o *bounceOrder) changeDir() error {
	err := os.Chdir(o.Dir)
	if err != nil && o.DirOptional {
		err = os.Chdir("/")
	}
	return err
}

// fillIn puts the numbers of this process in place.
func (o *bounceOrder) fillIn() error {
	replacer := strings.NewReplacer(ownPID, strconv.Itoa(os.Getpid()))
	for _, list := range [][]string{o.Args, o.Env} {
		for i, text := range list {
			if strings.Contains(text, ownPIDFDID) {
				id, ok := pidfdID(os.Getpid())
				if !ok {
					return fmt.Errorf("%s: pidfds of this kernel have no inode numbers: needs Linux 6.9", text)
				}
				text = strings.ReplaceAll(text, ownPIDFDID, strconv.FormatUint(id, 10))
			}
			list[i] = replacer.Replace(text)
		}
	}
	return nil
}

// pidfdID returns the inode number of a process's pidfd, which no other
// process of this boot has; false where the kernel has none (before 6.9).
func pidfdID(pid int) (uint64, bool) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, false
	}
	defer unix.Close(fd)
	const pidfsMagic = 0x50494446
	var fs unix.Statfs_t
	var stat unix.Stat_t
	if unix.Fstatfs(fd, &fs) != nil || fs.Type != pidfsMagic || unix.Fstat(fd, &stat) != nil {
		return 0, false
	}
	return stat.Ino, true
}
