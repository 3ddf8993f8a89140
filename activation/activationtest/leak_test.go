// SPDX-License-Identifier: Apache-2.0

package activationtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tests stands for testing.M.
type tests func() int

func (f tests) Run() int { return f() }

func TestRunReportsWhatIsLeft(t *testing.T) {
	cases := []struct {
		name string
		// leave leaves something behind and returns how to remove it and what the report has to say.
		leave func(t *testing.T) (remove func(), want []string)
	}{
		{"descriptor", func(t *testing.T) (func(), []string) {
			f, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			return func() { _ = f.Close() }, []string{fmt.Sprintf("\ndescriptor %d /dev/null\n", f.Fd()), "1 descriptors, 0 goroutines"}
		}},
		{"goroutine", func(t *testing.T) (func(), []string) {
			release, ended := make(chan struct{}), make(chan struct{})
			go waitForRelease(release, ended)
			return func() { close(release); <-ended }, []string{"1 goroutines", "waitForRelease", "leak_test.go:"}
		}},
		{"child process", func(t *testing.T) (func(), []string) {
			cmd := exec.Command("/proc/self/exe", "an argument")
			cmd.Env = append(os.Environ(), roleVar+"=wait")
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			// The command line is that of the child only after its exec, which Start waits for.
			return func() { _ = stdin.Close(); _ = cmd.Wait() },
				[]string{"1 child processes", fmt.Sprintf("child process %d /proc/self/exe an argument", cmd.Process.Pid)}
		}},
		{"zombie", func(t *testing.T) (func(), []string) {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), roleVar+"=report")
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			// The end of its output comes before its end; WNOWAIT leaves the zombie in place.
			_, _ = io.Copy(io.Discard, stdout)
			waitLeaving(t, cmd.Process.Pid)
			return func() { _ = cmd.Wait() }, []string{fmt.Sprintf("child process %d exe (state Z)", cmd.Process.Pid)}
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var report bytes.Buffer
			var remove func()
			var want []string
			code := run(tests(func() int {
				remove, want = c.leave(t)
				return 0
			}), &report, 0)
			remove()
			if code != 1 {
				t.Errorf("exit status %d, want 1", code)
			}
			for _, text := range want {
				if !strings.Contains(report.String(), text) {
					t.Errorf("the report lacks %q:\n%s", text, report.String())
				}
			}
		})
	}
}

func waitForRelease(release <-chan struct{}, ended chan<- struct{}) {
	<-release
	close(ended)
}

func TestRunIsSilentWhenNothingIsLeft(t *testing.T) {
	// The descriptor was there before: it is none of the tests' business.
	before, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	for _, code := range []int{0, 3} {
		var report bytes.Buffer
		got := run(tests(func() int {
			// The goroutine of os/signal stays for ever, and is not a leak.
			signals := make(chan os.Signal, 1)
			signal.Notify(signals, syscall.SIGUSR1)
			signal.Stop(signals)
			return code
		}), &report, settleTime)
		if got != code || report.Len() > 0 {
			t.Errorf("exit status %d, want %d; report: %s", got, code, report.String())
		}
	}
}

// What ends by itself within the bound is no leak, however late it is.
func TestRunWaitsForWhatIsEnding(t *testing.T) {
	var report bytes.Buffer
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	release, ended := make(chan struct{}), make(chan struct{})
	code := run(tests(func() int {
		go func() {
			defer close(ended)
			<-release
			_ = r.Close()
			_ = w.Close()
		}()
		time.AfterFunc(20*time.Millisecond, func() { close(release) })
		return 0
	}), &report, settleTime)
	<-ended
	if code != 0 {
		t.Errorf("exit status %d, want 0; report: %s", code, report.String())
	}
}

func TestRunKeepsTheStatusOfFailedTests(t *testing.T) {
	var left *os.File
	var report bytes.Buffer
	code := run(tests(func() int {
		left, _ = os.Open(os.DevNull)
		return 7
	}), &report, 0)
	_ = left.Close()
	if code != 7 || !strings.Contains(report.String(), "descriptor") {
		t.Errorf("exit status %d, want 7; report: %q", code, report.String())
	}
}

// waitLeaving waits for the end of a child and leaves it unreaped.
func waitLeaving(t *testing.T, pid int) {
	t.Helper()
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err == nil {
			return
		}
		if err != unix.EINTR {
			t.Fatal(err)
		}
	}
}

// A new descriptor under an old number is told from the one that was there.
func TestInventoryTellsReusedNumbersApart(t *testing.T) {
	old, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	before := takeInventory()
	replacement, err := os.CreateTemp(t.TempDir(), "replacement")
	if err != nil {
		t.Fatal(err)
	}
	defer replacement.Close()
	if err := unix.Dup3(int(replacement.Fd()), int(old.Fd()), unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	if left := takeInventory().minus(before); len(left.descriptors) != 2 {
		t.Errorf("%v, want both the file and the descriptor that it replaced", left.descriptors)
	}
}

// leaveDescriptor is the role "leak".
type leaveDescriptor struct{}

var left *os.File

func (leaveDescriptor) Run() int {
	left, _ = os.Open(os.DevNull)
	return 0
}

func TestLeakFailsTheProcess(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVar+"=leak")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("a process with a leak: %v, want exit status 1", err)
	}
	if !strings.Contains(string(out), "/dev/null") {
		t.Errorf("the leak is not named: %s", out)
	}
}

func TestSplitStat(t *testing.T) {
	for stat, want := range map[string][]string{
		"1 (init) S 0":       {"init", "S", "0"},
		"7 (a b) c) Z 1":     {"a b) c", "Z", "1"},
		"7 () R 1":           {"", "R", "1"},
		"no parentheses":     {""},
		"):(":                {""},
		"7 ((sd-pam)) S 1 2": {"(sd-pam)", "S", "1", "2"},
	} {
		command, fields := splitStat(stat)
		if got := append([]string{command}, fields...); strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("splitStat(%q) = %q, want %q", stat, got, want)
		}
	}
}
