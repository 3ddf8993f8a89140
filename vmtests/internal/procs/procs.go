// SPDX-License-Identifier: Apache-2.0

// Package procs looks at processes and their memory.
package procs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Started begins the line in which the keeper of a service says when it executed it.
const Started = "keep: started at"

// A Memory is what some processes have of it. RSS counts a page for each process that maps it, PSS once.
type Memory struct {
	RSS int64 `json:"rss_bytes"`
	PSS int64 `json:"pss_bytes"`
}

// MemoryOf adds up the memory of processes. Those that have ended have none.
func MemoryOf(pids []int) (Memory, error) {
	var sum Memory
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if gone(err) {
			continue
		}
		if err != nil {
			return Memory{}, err
		}
		m, err := parseRollup(string(text))
		if err != nil {
			return Memory{}, fmt.Errorf("memory of process %d: %w", pid, err)
		}
		sum.RSS += m.RSS
		sum.PSS += m.PSS
	}
	return sum, nil
}

func parseRollup(text string) (Memory, error) {
	var m Memory
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[2] != "kB" {
			continue
		}
		var to *int64
		switch fields[0] {
		case "Rss:":
			to = &m.RSS
		case "Pss:":
			to = &m.PSS
		default:
			continue
		}
		kilobytes, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return m, err
		}
		*to = kilobytes << 10
	}
	return m, nil
}

func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }

// Descendants returns all processes below pid, its own children first. Zombies are not among them.
func Descendants(pid int) ([]int, error) {
	all, err := running()
	if err != nil {
		return nil, err
	}
	children := make(map[int][]int)
	for _, p := range all {
		parent, alive, err := parentOf(p)
		if err != nil {
			return nil, err
		}
		if alive {
			children[parent] = append(children[parent], p)
		}
	}
	var found []int
	for next := children[pid]; len(next) > 0; {
		found = append(found, next...)
		var below []int
		for _, p := range next {
			below = append(below, children[p]...)
		}
		next = below
	}
	return found, nil
}

// InGroup returns the processes whose control group has a path with both parts.
func InGroup(part, other string) ([]int, error) {
	all, err := running()
	if err != nil {
		return nil, err
	}
	var found []int
	for _, p := range all {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p))
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		_, alive, err := parentOf(p)
		if err != nil {
			return nil, err
		}
		if alive && strings.Contains(string(text), part) && strings.Contains(string(text), other) {
			found = append(found, p)
		}
	}
	return found, nil
}

func running() ([]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(0)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// parentOf returns the parent of a process; alive is false for zombies and what has ended.
func parentOf(pid int) (parent int, alive bool, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if gone(err) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	// proc_pid_stat(5): PID (NAME) STATE PARENT …, where NAME may hold anything.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 2 {
		return 0, false, fmt.Errorf("/proc/%d/stat: %q", pid, text)
	}
	parent, err = strconv.Atoi(fields[1])
	return parent, err == nil && fields[0] != "Z" && fields[0] != "X", err
}

// Watch returns a channel on which comes when a process has ended, in nanoseconds of CLOCK_MONOTONIC. A
// zombie has ended.
func Watch(pid int) (<-chan int64, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	ended := make(chan int64, 1)
	go func() {
		defer unix.Close(fd)
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if !errors.Is(err, unix.EINTR) {
				break
			}
		}
		var now unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // every Linux has this clock
		ended <- now.Nano()
	}()
	return ended, nil
}
