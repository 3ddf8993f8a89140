// SPDX-License-Identifier: Apache-2.0

package agreement

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A process is one of /proc.
type process struct {
	pid    int
	parent int
	name   string
	state  byte
	exe    string // "" when it cannot be read
	dying  bool   // it got SIGKILL, or is on its way out
}

// dead reports whether only the parent's wait(2) is missing.
func (p process) dead() bool { return p.state == 'Z' || p.state == 'X' }

// readProcess reads /proc/PID. A process that is gone is an error.
func readProcess(pid int) (process, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	p := process{pid: pid}
	begin, end := strings.IndexByte(string(text), '('), strings.LastIndexByte(string(text), ')')
	if begin < 0 || end < begin {
		return process{}, fmt.Errorf("/proc/%d/stat: %q", pid, text)
	}
	p.name = string(text[begin+1 : end])
	fields := strings.Fields(string(text[end+1:]))
	if len(fields) < 29 {
		return process{}, fmt.Errorf("/proc/%d/stat: %q", pid, text)
	}
	p.state = fields[0][0]
	if p.parent, err = strconv.Atoi(fields[1]); err != nil {
		return process{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	flags, err := strconv.ParseUint(fields[6], 10, 64)
	if err != nil {
		return process{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	signals, err := strconv.ParseUint(fields[28], 10, 64)
	if err != nil {
		return process{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	const exiting = 0x4 // PF_EXITING of linux/sched.h
	p.dying = flags&exiting != 0 || signals>>(unix.SIGKILL-1)&1 != 0
	p.exe, _ = os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)) // a zombie has none
	return p, nil
}
