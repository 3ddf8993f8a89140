// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// monotonic returns the time of CLOCK_MONOTONIC in nanoseconds, which containers share with the host.
func monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // every Linux has this clock
	}
	return ts.Nano()
}

// A process is one of the service, watched from outside of its place.
type process struct {
	pid   int // here
	guest int // inside
	pidfd int
}

// openProcess opens the process that has the given PID inside. The caller closes it.
func openProcess(at place, guest int) (*process, error) {
	pid, err := at.hostPID(guest)
	if err != nil {
		return nil, err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	p := &process{pid: pid, guest: guest, pidfd: fd}
	// The PID may have been given to another process before the pidfd was ours.
	if again, err := at.insidePID(pid); err != nil || again != guest {
		p.close()
		return nil, fmt.Errorf("process %d inside: %w", guest, fs.ErrNotExist)
	}
	return p, nil
}

func (p *process) close() { _ = unix.Close(p.pidfd) }

func (p *process) signal(s unix.Signal) error {
	if err := unix.PidfdSendSignal(p.pidfd, s, nil, 0); err != nil {
		return fmt.Errorf("send %s to PID %d: %w", unix.SignalName(s), p.guest, err)
	}
	return nil
}

// waitEnd waits until the process is dead and returns when that was seen.
func (p *process) waitEnd(ctx context.Context) (seen int64, err error) {
	for {
		fds := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 50) // milliseconds, so as to look at ctx
		switch {
		case err != nil && !errors.Is(err, unix.EINTR):
			return 0, fmt.Errorf("poll pidfd of PID %d: %w", p.guest, err)
		case n > 0:
			return monotonic(), nil
		case ctx.Err() != nil:
			return 0, fmt.Errorf("wait for the end of PID %d: %w", p.guest, context.Cause(ctx))
		}
	}
}

// freeze stops the process and returns once none of its threads runs any more.
func (p *process) freeze(ctx context.Context) error {
	if err := p.signal(unix.SIGSTOP); err != nil {
		return err
	}
	for {
		stopped, err := p.stopped()
		if err != nil || stopped {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until PID %d has stopped: %w", p.guest, context.Cause(ctx))
		case <-time.After(time.Millisecond):
		}
	}
}

// stopped reports whether every thread is in the state of proc_pid_stat(5) that SIGSTOP leads to.
func (p *process) stopped() (bool, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.pid))
	if err != nil {
		return false, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			return false, nil // a thread has just ended: look again
		}
		if err != nil {
			return false, err
		}
		if threadState(text) != 'T' {
			return false, nil
		}
	}
	return len(files) > 0, nil
}

// threadState returns the state in a stat file, 0 when there is none. The field before it is the name in
// parentheses, which may itself contain them.
func threadState(stat []byte) byte {
	_, after, ok := bytes.Cut(stat[max(0, bytes.LastIndexByte(stat, ')')):], []byte(") "))
	if !ok || len(after) == 0 {
		return 0
	}
	return after[0]
}

// clientPorts returns the remote ports of the established TCP connections over IPv4 that the process
// holds. They stay the same only while it is frozen.
func (p *process) clientPorts() ([]int, error) {
	dir := fmt.Sprintf("/proc/%d", p.pid)
	entries, err := os.ReadDir(dir + "/fd")
	if err != nil {
		return nil, err
	}
	held := make(map[string]bool)
	for _, entry := range entries {
		target, err := os.Readlink(dir + "/fd/" + entry.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // closed meanwhile, by a process that is not frozen
		}
		if err != nil {
			return nil, err
		}
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			held[strings.TrimSuffix(inode, "]")] = true
		}
	}
	text, err := os.ReadFile(dir + "/net/tcp")
	if err != nil {
		return nil, err
	}
	return connectedPorts(string(text), held)
}

// connectedPorts reads proc_pid_net(5)'s file tcp: the remote ports of established connections whose inode
// is in held.
func connectedPorts(table string, held map[string]bool) ([]int, error) {
	const remote, state, inode = 2, 3, 9
	var ports []int
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) <= inode || fields[state] != "01" || !held[fields[inode]] {
			continue
		}
		_, hex, _ := strings.Cut(fields[remote], ":")
		port, err := strconv.ParseUint(hex, 16, 16)
		if err != nil {
			return nil, fmt.Errorf("remote address %q in /proc/net/tcp: %w", fields[remote], err)
		}
		ports = append(ports, int(port))
	}
	slices.Sort(ports)
	return ports, nil
}

// parseLedger reads what a damaged myapp leaves when it crashes: the ports of the clients that it held, a
// uint16 in network byte order each.
func parseLedger(ledger []byte) ([]int, error) {
	if len(ledger)%2 != 0 {
		return nil, fmt.Errorf("ledger has %d bytes: must be two for each port", len(ledger))
	}
	var ports []int
	for pair := range slices.Chunk(ledger, 2) {
		ports = append(ports, int(binary.BigEndian.Uint16(pair)))
	}
	slices.Sort(ports)
	return ports, nil
}
