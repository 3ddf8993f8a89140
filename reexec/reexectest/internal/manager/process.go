// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// A process is what /proc/PID/stat says.
type process struct {
	pid, parent int
	state       byte
	threads     int
	start       uint64 // clock ticks since boot
	comm        string
}

// dead reports whether only the exit status is left. A process whose first
// thread alone has ended looks like a zombie, too.
func (p process) dead() bool { return p.state == 'X' || p.state == 'Z' && p.threads <= 1 }

// readProcess reads /proc/PID/stat. The error wraps [os.ErrNotExist] or
// ESRCH if there is no such process.
func readProcess(pid int) (process, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	return parseStat(text)
}

func parseStat(text []byte) (process, error) {
	// The name may contain anything, parentheses too.
	open, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return process{}, fmt.Errorf("parse /proc/PID/stat: no name in %q", text)
	}
	fields := strings.Fields(string(text[end+1:]))
	const state, parent, threads, start = 0, 1, 17, 19
	if len(fields) <= start || len(fields[state]) != 1 {
		return process{}, fmt.Errorf("parse /proc/PID/stat: too few fields in %q", text)
	}
	p := process{state: fields[state][0], comm: string(text[open+1 : end])}
	var errs [4]error
	p.pid, errs[0] = strconv.Atoi(strings.TrimSpace(string(text[:open])))
	p.parent, errs[1] = strconv.Atoi(fields[parent])
	p.threads, errs[2] = strconv.Atoi(fields[threads])
	p.start, errs[3] = strconv.ParseUint(fields[start], 10, 64)
	return p, errors.Join(errs[:]...)
}

// descendants returns all processes below root, zombies included. A process
// that changes its parent meanwhile can be missing; whoever has to be sure looks again.
func descendants(root int) []process {
	var all []process
	parents := []int{root}
	for len(parents) > 0 {
		pid := parents[0]
		parents = parents[1:]
		for _, child := range childrenOf(pid) {
			p, err := readProcess(child)
			if err != nil || slices.ContainsFunc(all, func(q process) bool { return q.pid == child }) {
				continue
			}
			all = append(all, p)
			parents = append(parents, child)
		}
	}
	return all
}

// childrenOf returns the children of all threads of a process.
func childrenOf(pid int) []int {
	tasks := fmt.Sprintf("/proc/%d/task", pid)
	entries, err := readNames(tasks)
	if err != nil {
		return nil
	}
	var children []int
	for _, task := range entries {
		text, err := os.ReadFile(tasks + "/" + task + "/children")
		if errors.Is(err, os.ErrNotExist) && task == strconv.Itoa(pid) {
			// A kernel without CONFIG_PROC_CHILDREN.
			return childrenByParent(pid)
		}
		for _, field := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}

// childrenByParent asks all processes for their parent.
func childrenByParent(pid int) []int {
	names, err := readNames("/proc")
	if err != nil {
		return nil
	}
	var children []int
	for _, name := range names {
		child, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, err := readProcess(child); err == nil && p.parent == pid {
			children = append(children, child)
		}
	}
	return children
}

// readNames is os.ReadDir without the sorting and the types.
func readNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

// isDescendant reports whether pid is below root. A process whose parents die
// at the same time is looked up again.
func isDescendant(pid, root int) bool {
	for range 3 {
		below, sure := ancestry(pid, root)
		if sure {
			return below
		}
	}
	return false
}

func ancestry(pid, root int) (below, sure bool) {
	const deepest = 1000
	for step := range deepest {
		if pid <= 1 {
			return false, true
		}
		p, err := readProcess(pid)
		if err != nil {
			// The process itself is gone, or an ancestor has just died and
			// left its children to the manager.
			return false, step == 0
		}
		if p.parent == root {
			return true, true
		}
		pid = p.parent
	}
	return false, true
}

// describe returns what the wire says about a process.
func describe(p process) wire.Process {
	d := wire.Process{PID: p.pid, Parent: p.parent, Start: p.start, State: string(p.state)}
	d.Exe, _ = os.Readlink(fmt.Sprintf("/proc/%d/exe", p.pid))
	if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid)); err == nil && len(line) > 0 {
		d.Command = strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
	}
	return d
}

// signalMask returns a set of signals from /proc/PID/status, such as SigCgt.
func signalMask(pid int, key string) uint64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			mask, _ := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			return mask
		}
	}
	return 0
}

// waitable returns the PID of a child that can be reaped, or 0, and reaps
// nothing: its /proc entry can still be read.
func waitable() int {
	// Of siginfo_t only si_pid matters: after three ints, aligned to a word.
	var info [128]byte
	const pidOffset = 12 + (bits.UintSize-32)/8
	for {
		_, _, errno := unix.Syscall6(unix.SYS_WAITID, unix.P_ALL, 0, uintptr(unsafe.Pointer(&info)),
			unix.WEXITED|unix.WNOHANG|unix.WNOWAIT|unix.WALL, 0, 0)
		switch errno {
		case 0:
			return int(*(*int32)(unsafe.Pointer(&info[pidOffset])))
		case unix.EINTR:
		default: // ECHILD
			return 0
		}
	}
}

// hasChildren reports whether the manager has a child, dead or alive. Without one
// it has no descendant either: orphans come to it.
func hasChildren() bool {
	var info [128]byte
	for {
		_, _, errno := unix.Syscall6(unix.SYS_WAITID, unix.P_ALL, 0, uintptr(unsafe.Pointer(&info)),
			unix.WEXITED|unix.WNOHANG|unix.WNOWAIT|unix.WALL, 0, 0)
		if errno != unix.EINTR {
			return errno == 0
		}
	}
}

// reap waits for one child, which is dead.
func reap(pid int) (syscall.WaitStatus, error) {
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(pid, &status, syscall.WNOHANG|unix.WALL, nil)
		if err != syscall.EINTR {
			return status, os.NewSyscallError("wait4", err)
		}
	}
}

// signalDescendant sends sig to a process below root, and to no other: the
// pidfd holds on to the process that was looked at.
func signalDescendant(root, pid int, sig syscall.Signal) error {
	if pid <= 0 {
		return syscall.ESRCH
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
			if !isDescendant(pid, root) {
				return syscall.ESRCH
			}
			return syscall.Kill(pid, sig)
		}
		return err
	}
	defer unix.Close(fd)
	if !isDescendant(pid, root) {
		return syscall.ESRCH
	}
	return unix.PidfdSendSignal(fd, sig, nil, 0)
}

// signalDescendants sends sig to each living process below root once, but not
// to those in except, and returns which they were. resume continues stopped ones. Processes
// that are born meanwhile are followed.
func signalDescendants(root int, sig syscall.Signal, resume bool, except ...int) []int {
	type identity struct {
		pid   int
		start uint64
	}
	seen := make(map[identity]bool)
	var signalled []int
	// Twice without anything new: a process may hide from one look by changing
	// its parent during it.
	for quiet := 0; quiet < 2; quiet++ {
		for _, p := range descendants(root) {
			id := identity{p.pid, p.start}
			if p.dead() || seen[id] || slices.Contains(except, p.pid) {
				continue
			}
			seen[id] = true
			quiet = 0
			if signalDescendant(root, p.pid, sig) != nil {
				continue
			}
			signalled = append(signalled, p.pid)
			if resume && sig != syscall.SIGKILL {
				_ = signalDescendant(root, p.pid, syscall.SIGCONT)
			}
		}
	}
	return signalled
}

// killDescendants kills and reaps everything below the manager, and returns
// when nothing is left. The error says what does not die: a process that runs with the
// privileges of somebody else.
func killDescendants() error {
	deadline := time.Now().Add(endPatience)
	for hasChildren() {
		signalDescendants(os.Getpid(), syscall.SIGKILL, false)
		for {
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG|unix.WALL, nil)
			if err == syscall.EINTR {
				continue
			}
			if err != nil || pid == 0 {
				break
			}
			deadline = time.Now().Add(endPatience)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill the processes of the service: %+v are left: the manager may not signal them", descendants(os.Getpid()))
		}
		// What was killed takes a moment to die. Waiting for it could be for
		// the wrong process: one that hid from the look and lives.
		time.Sleep(time.Millisecond)
	}
	return nil
}
