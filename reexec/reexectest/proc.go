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

func allStopped(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	return !slices.ContainsFunc(threads, func(path string) bool {
		fields := statFields(path)
		return len(fields) > 0 && fields[0] != "T"
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
