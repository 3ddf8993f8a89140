// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// abandonVariable makes a test process that leaves its unit behind: by the end
// that it names.
const abandonVariable = "REEXECTEST_ABANDON"

// abandon is not a test but what a process of TestAbandoned does.
func abandon(t *testing.T, end string) {
	u := Start(t, Options{Files: plainUnits("-bug=ignores", true)})
	line := u.Root()
	for _, p := range u.Processes() {
		line += fmt.Sprintf(" %d", p.PID)
	}
	fmt.Println("abandon", line)
	switch end {
	case "panic":
		panic("on purpose")
	case "exit":
		os.Exit(3)
	}
	select {} // until it is killed
}

// However a test process ends, its units end with it and leave nothing.
func TestAbandoned(t *testing.T) {
	if end := os.Getenv(abandonVariable); end != "" {
		abandon(t, end)
	}
	t.Parallel()
	for _, end := range []string{"kill", "panic", "exit"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestAbandoned$")
			cmd.Env = append(os.Environ(), abandonVariable+"="+end)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			root, pidfds := readAbandoned(t, out)
			if end == "kill" {
				if err := cmd.Process.Kill(); err != nil {
					t.Error(err)
				}
			}
			_, _ = io.Copy(io.Discard, out)
			if err := cmd.Wait(); err == nil {
				t.Error("the process ended well")
			}
			// A pidfd is readable when its process is gone.
			for pid, fd := range pidfds {
				poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
				if n, err := pollUninterrupted(poll, 30*time.Second); n != 1 {
					t.Errorf("process %s of the unit lives on (%v)", pid, err)
				}
				_ = unix.Close(fd)
			}
			for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
				_, err := os.Stat(root)
				if errors.Is(err, os.ErrNotExist) {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%s is left behind", root)
				}
			}
		})
	}
}

// Also a test process that is killed while a unit is made leaves nothing.
func TestAbandonedAtBirth(t *testing.T) {
	t.Parallel()
	for range 5 {
		dir, err := os.MkdirTemp("/tmp", "ab")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		entries := func() int {
			all, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			return len(all)
		}
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestAbandoned$")
		cmd.Env = append(os.Environ(), abandonVariable+"=kill", "TMPDIR="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for entries() == 0 && t.Context().Err() == nil {
			runtime.Gosched()
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait()
		for deadline := time.Now().Add(30 * time.Second); entries() > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s has %d entries", dir, entries())
			}
		}
	}
}

// readAbandoned reads what abandon prints.
func readAbandoned(t *testing.T, out io.Reader) (root string, pidfds map[string]int) {
	t.Helper()
	pidfds = make(map[string]int)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "abandon" {
			continue
		}
		for _, pid := range fields[2:] {
			var n int
			if _, err := fmt.Sscan(pid, &n); err != nil {
				t.Fatal(err)
			}
			fd, err := unix.PidfdOpen(n, 0)
			if err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Fatal(err)
			}
			if err == nil {
				pidfds[pid] = fd
			}
		}
		return fields[1], pidfds
	}
	t.Fatal("the process said nothing")
	return "", nil
}

func pollUninterrupted(fds []unix.PollFd, timeout time.Duration) (n int, err error) {
	for deadline := time.Now().Add(timeout); ; {
		n, err = unix.Poll(fds, int(time.Until(deadline).Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
