// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// stat returns the fields of /proc/PID/stat.
func stat(pid int) []string { return statFields(fmt.Sprintf("/proc/%d/stat", pid)) }

// statFields returns the fields after the name, of which the state is the first.
func statFields(path string) []string {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	// The name may hold anything, also parentheses.
	return strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
}

// processState is a letter, as in proc_pid_stat(5), or "" if there is no such process.
func processState(pid int) string {
	if fields := stat(pid); len(fields) > 0 {
		return fields[0]
	}
	return ""
}

// waitStopped waits until all threads of a process have stopped, which is a
// moment after it was told to, or it is gone, and returns its state.
func waitStopped(pid int) (state string) {
	for range 1000 {
		if state = processState(pid); state == "" || state == "Z" || state == "T" && allStopped(pid) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return state
}

func allStopped(pid int) bool { return allThreads(pid, "T") }

// allThreads says whether all threads of a process are in a state.
func allThreads(pid int, state string) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	return !slices.ContainsFunc(threads, func(path string) bool {
		fields := statFields(path)
		return len(fields) > 0 && fields[0] != state
	})
}

// settle waits until no thread of a process has anything to do, for some
// moments in a row, or for a second.
func settle(pid int) {
	const moments = 10
	for idle, look := 0, 0; idle < moments && look < 500; look++ {
		if idle++; !allThreads(pid, "S") {
			idle = 0
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// timesRun changes each time a process gets a processor, see
// /proc/PID/schedstat in proc(5). It does not where the kernel does not count.
func timesRun(pid int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	return string(text)
}

// cpuTime is how long the threads of a process had a processor, 0 where the
// kernel does not count.
func cpuTime(pid int) (sum time.Duration) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, path := range threads {
		text, _ := os.ReadFile(path)
		first, _, _ := strings.Cut(string(text), " ")
		if ns, err := strconv.ParseInt(first, 10, 64); err == nil {
			sum += time.Duration(ns)
		}
	}
	return sum
}

// runs says whether a process executed that file, itself or by an interpreter
// that the file's first line names.
func runs(pid int, path string) bool {
	const forkNoExec = 0x40 // PF_FORKNOEXEC of linux/sched.h
	fields := stat(pid)
	if len(fields) < 7 {
		return false
	}
	if flags, err := strconv.ParseUint(fields[6], 10, 64); err != nil || flags&forkNoExec != 0 {
		return false
	}
	return sameFile(pid, path) || isScript(path) && interprets(pid, path)
}

func isScript(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var start [2]byte
	n, _ := f.Read(start[:])
	return string(start[:n]) == "#!"
}

// interprets says whether the first or the second argument of a process is that
// file: the kernel puts it behind the interpreter and its one option.
func interprets(pid int, path string) bool {
	script, err := os.Stat(path)
	if err != nil {
		return false
	}
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	args := strings.Split(string(line), "\x00")
	return slices.ContainsFunc(args[1:min(3, len(args))], func(arg string) bool {
		if fd, ok := strings.CutPrefix(arg, "/dev/fd/"); ok { // see fexecve(3)
			arg = fmt.Sprintf("/proc/%d/fd/%s", pid, fd)
		}
		info, err := os.Stat(arg)
		return err == nil && os.SameFile(info, script)
	})
}

// startTime is when a process began, in clock ticks since boot.
func startTime(pid int) (uint64, error) {
	fields := stat(pid)
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields behind the name", pid, len(fields))
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// sameFile says whether a process runs that very file.
func sameFile(pid int, path string) bool {
	a, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// descriptors are what a process has open, as /proc says it: "socket:[4711]".
func descriptors(pid int) []string {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var open []string
	for _, e := range entries {
		if link, err := os.Readlink(dir + "/" + e.Name()); err == nil {
			open = append(open, link)
		}
	}
	return open
}

func threads(pid int) int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return len(entries)
}

// tcpSockets are the names of the unit's sockets on which TCP connections are
// accepted.
func (u *Unit) tcpSockets() []string {
	names := slices.Collect(maps.Keys(u.opts.Addresses))
	for _, socket := range u.set.Sockets {
		names = append(names, socket.FileDescriptorName)
	}
	return slices.DeleteFunc(names, func(name string) bool {
		a, err := u.address(name)
		return err != nil || !strings.HasPrefix(a.Network, "tcp")
	})
}

// has says whether a process has that socket.
func has(pid int, inode uint32) bool {
	return inode != 0 && slices.Contains(descriptors(pid), fmt.Sprintf("socket:[%d]", inode))
}
