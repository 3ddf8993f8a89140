// SPDX-License-Identifier: Apache-2.0

package campaign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests/internal/procs"
)

// A process is one of the service, or a pre-check of it.
type process struct {
	host    int // its PID here
	guest   int // and in the machine
	started uint64
	ended   <-chan int64
}

func vanished(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV)
}

// processes returns those of the service that run, the oldest first.
func (s *System) processes() ([]process, error) {
	text, err := os.ReadFile(s.group + "/cgroup.procs")
	if vanished(err) {
		return nil, nil // the unit has no control group while it is stopped
	}
	if err != nil {
		return nil, err
	}
	var found []process
	for word := range strings.FieldsSeq(string(text)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.group, err)
		}
		p, ok, err := lookAt(pid)
		if err != nil {
			return nil, err
		}
		if ok {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, func(a, b process) int {
		if a.started != b.started {
			return int(int64(a.started) - int64(b.started))
		}
		return a.host - b.host
	})
	return found, nil
}

// lookAt returns the process with that PID; ok is false for what has ended and for the reload command, which
// is in the unit's control group too.
func lookAt(pid int) (p process, ok bool, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if vanished(err) {
		return p, false, nil
	}
	if err != nil {
		return p, false, err
	}
	// proc_pid_stat(5): PID (NAME) STATE …, and the time of its start is field 22.
	begin, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	fields := strings.Fields(string(stat[end+1:]))
	if begin < 0 || len(fields) < 20 {
		return p, false, fmt.Errorf("/proc/%d/stat: %q", pid, stat)
	}
	name := string(stat[begin+1 : end])
	if fields[0] == "Z" || fields[0] == "X" || name == "holdfast" || strings.HasPrefix(name, "(") || strings.HasPrefix(name, "sd-") {
		return p, false, nil
	}
	started, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return p, false, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if vanished(err) {
		return p, false, nil
	}
	if err != nil {
		return p, false, err
	}
	for line := range strings.Lines(string(status)) {
		if list, isIt := strings.CutPrefix(line, "NSpid:"); isIt {
			inner := strings.Fields(list)
			guest, err := strconv.Atoi(inner[len(inner)-1])
			return process{host: pid, guest: guest, started: started}, err == nil, err
		}
	}
	return p, false, fmt.Errorf("/proc/%d/status has no NSpid", pid)
}

// watch has ended told when p ends.
func (p *process) watch() (err error) {
	p.ended, err = procs.Watch(p.host)
	return err
}

func (p *process) signal(s unix.Signal) error {
	if err := unix.Kill(p.host, s); err != nil {
		return fmt.Errorf("kill -%v %d: %w", unix.SignalName(s), p.host, err)
	}
	return nil
}

// freeze stops p and returns once none of its threads runs any more.
func (p *process) freeze(ctx context.Context) error {
	if err := p.signal(unix.SIGSTOP); err != nil {
		return err
	}
	for {
		running, err := p.runs()
		if err != nil || !running {
			return err
		}
		// No event tells it; it takes microseconds, or as long as the machine is busy with others.
		select {
		case <-time.After(100 * time.Microsecond):
		case <-ctx.Done():
			return fmt.Errorf("process %d does not stop: %w", p.host, context.Cause(ctx))
		}
	}
}

func (p *process) runs() (bool, error) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.host))
	if vanished(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, task := range tasks {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/stat", p.host, task.Name()))
		if vanished(err) {
			continue
		}
		if err != nil {
			return false, err
		}
		if rest := stat[bytes.LastIndexByte(stat, ')')+1:]; len(rest) < 2 || !bytes.ContainsAny(rest[1:2], "TtZX") {
			return true, nil
		}
	}
	return false, nil
}

// clients returns the ports of the clients whose TCP connections p has accepted. It takes a copy of each socket
// and asks that: the tables of /proc/net are not read in one piece, and may lack some while others change.
func (p *process) clients() (map[int]bool, error) {
	pidfd, err := unix.PidfdOpen(p.host, 0)
	if err != nil {
		return nil, ignoreEnded(err)
	}
	defer unix.Close(pidfd)
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.host))
	if err != nil {
		if vanished(err) {
			return nil, nil
		}
		return nil, err
	}
	ports := make(map[int]bool)
	for _, name := range names {
		number, err := strconv.Atoi(name.Name())
		if err != nil {
			return nil, err
		}
		fd, err := unix.PidfdGetfd(pidfd, number, 0)
		if err != nil {
			continue // it is a stopped process's, so it has ended
		}
		peer, err := unix.Getpeername(fd)
		_ = unix.Close(fd)
		if tcp, ok := peer.(*unix.SockaddrInet4); ok && err == nil {
			ports[tcp.Port] = true
		}
	}
	return ports, nil
}

// eachSocket calls visit for the sockets of a protocol in the network of a process (proc_net(5)).
func eachSocket(pid int, protocol string, visit func(local, remote int, state string, inode uint64)) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, protocol))
	if vanished(err) || errors.Is(err, unix.EINVAL) { // that of a process that has just ended
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 10 || fields[0] == "sl" {
			continue
		}
		inode, err := strconv.ParseUint(fields[9], 10, 64)
		if err != nil {
			return fmt.Errorf("/proc/%d/net/%s: %w", pid, protocol, err)
		}
		visit(port(fields[1]), port(fields[2]), fields[3], inode)
	}
	return nil
}

// port is that of an address in hexadecimal digits.
func port(address string) int {
	_, digits, _ := strings.Cut(address, ":")
	n, _ := strconv.ParseUint(digits, 16, 16) // written by the kernel
	return int(n)
}

// listening is the state of a TCP socket, TCP_LISTEN.
const listening = "0A"

// listeners returns the inodes of the sockets that clients of the service connect to, by the names of the
// sockets. One that was lost and bound again has another.
func (s *System) listeners() (map[string]uint64, error) {
	found := make(map[string]uint64)
	err := eachSocket(s.leader, "tcp", func(local, _ int, state string, inode uint64) {
		if state == listening && local == 8080 {
			found["http"] = inode
		}
		if state == listening && local == 8081 {
			found["own"] = inode
		}
	})
	if err != nil {
		return nil, err
	}
	err = eachSocket(s.leader, "udp", func(local, _ int, _ string, inode uint64) {
		if local == 8082 {
			found["own-udp"] = inode
		}
	})
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/unix", s.leader))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		// Num RefCount Protocol Flags Type St Inode Path; the flag of a listener is __SO_ACCEPTCON.
		fields := strings.Fields(line)
		if len(fields) == 8 && fields[3] == "00010000" && strings.HasSuffix(fields[7], "/own.sock") {
			if found["own-unix"], err = strconv.ParseUint(fields[6], 10, 64); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}
