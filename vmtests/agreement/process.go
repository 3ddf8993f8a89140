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
	dying  bool   // it got SIGKILL
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
	if len(fields) < 2 {
		return process{}, fmt.Errorf("/proc/%d/stat: %q", pid, text)
	}
	p.state = fields[0][0]
	if p.parent, err = strconv.Atoi(fields[1]); err != nil {
		return process{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	p.exe, _ = os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)) // a zombie has none
	p.dying, err = killed(pid)
	return p, err
}

// killed reports whether a process got SIGKILL. The signal stays pending for the
// process until its end, only the thread that obeys takes its own copy off.
func killed(pid int) (bool, error) {
	path := fmt.Sprintf("/proc/%d/status", pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "ShdPnd:"); ok {
			pending, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			if err != nil {
				return false, fmt.Errorf("%s: ShdPnd: %w", path, err)
			}
			return pending>>(unix.SIGKILL-1)&1 != 0, nil
		}
	}
	return false, fmt.Errorf("%s has no ShdPnd", path)
}
