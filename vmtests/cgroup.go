// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// cgroup2Mount returns where the unified control-group hierarchy is mounted: /sys/fs/cgroup, or
// /sys/fs/cgroup/unified on hosts that still have the old hierarchies beside it, cgroups(7).
func cgroup2Mount() (string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		// proc_pid_mountinfo(5): ID parent major:minor root mount-point options … - type source super-options
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if !ok || len(fields) < 6 || !strings.HasPrefix(after, "cgroup2 ") {
			continue
		}
		if unix.Access(fields[4], unix.W_OK) == nil {
			return fields[4], nil
		}
	}
	return "", errors.New("no writable cgroup2 mount in /proc/self/mountinfo")
}

// A cgroup is the directory of a control group of the unified hierarchy.
type cgroup string

// createCgroup makes the group dir and hands it every controller its parent has to give.
func createCgroup(dir string) (cgroup, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	controllers, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return "", err
	}
	for controller := range strings.FieldsSeq(string(controllers)) {
		// One at a time, and without those that cannot be had: no story depends on all of them.
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0)
	}
	return cgroup(dir), nil
}

// child makes the group called name below c.
func (c cgroup) child(name string) (cgroup, error) {
	dir := filepath.Join(string(c), name)
	return cgroup(dir), os.Mkdir(dir, 0o755)
}

// procs returns the PIDs of all processes in c and below. Groups that vanish meanwhile are no error.
func (c cgroup) procs() ([]int, error) {
	var pids []int
	err := c.walk(func(dir string) error {
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if gone(err) {
			return nil
		}
		for word := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(word)
			if err != nil {
				return fmt.Errorf("%s/cgroup.procs: %w", dir, err)
			}
			if pid != 0 { // of a PID namespace that we do not see
				pids = append(pids, pid)
			}
		}
		return err
	})
	return pids, err
}

// walk calls visit for c and every group below, parents first.
func (c cgroup) walk(visit func(dir string) error) error {
	return filepath.WalkDir(string(c), func(name string, entry fs.DirEntry, err error) error {
		switch {
		case gone(err):
			return nil
		case err != nil:
			return err
		case !entry.IsDir():
			return nil
		}
		return visit(name)
	})
}

// gone reports whether err says that a group was removed: the files of a removed group answer ENODEV.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

// kill sends SIGKILL to every process in c and below.
func (c cgroup) kill() error {
	err := os.WriteFile(filepath.Join(string(c), "cgroup.kill"), []byte("1"), 0)
	if err == nil || gone(err) && !c.exists() {
		return nil
	}
	// Before Linux 5.14 there is no cgroup.kill: go on until nobody is left to fork.
	for {
		pids, err := c.procs()
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
				return fmt.Errorf("kill %d: %w", pid, err)
			}
		}
	}
}

func (c cgroup) exists() bool {
	_, err := os.Stat(string(c))
	return err == nil
}

// waitEmpty waits until no process is left in c and below.
func (c cgroup) waitEmpty(ctx context.Context) error {
	events, err := os.Open(filepath.Join(string(c), "cgroup.events"))
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer events.Close()
	wake, cancel, err := os.Pipe()
	if err != nil {
		return err
	}
	defer wake.Close()
	defer context.AfterFunc(ctx, func() { cancel.Close() })()
	defer cancel.Close()

	text := make([]byte, 256)
	for {
		n, err := events.ReadAt(text, 0)
		if gone(err) {
			return nil
		}
		if bytes.Contains(text[:n], []byte("populated 0")) {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: wait until it is empty: %w", c, context.Cause(ctx))
		}
		// cgroups(7): a change of cgroup.events shows as POLLPRI.
		fds := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}, {Fd: int32(wake.Fd()), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return fmt.Errorf("poll %s/cgroup.events: %w", c, err)
		}
	}
}

// remove removes c and every group below. All must be empty.
func (c cgroup) remove() error {
	var dirs []string
	if err := c.walk(func(dir string) error { dirs = append(dirs, dir); return nil }); err != nil {
		return err
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		// os.Remove would try unlink first, and report that.
		if err := unix.Rmdir(dirs[i]); err != nil && err != unix.ENOENT {
			return fmt.Errorf("rmdir %s: %w", dirs[i], err)
		}
	}
	return nil
}
