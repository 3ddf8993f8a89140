// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"bufio"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The next version is a process that executed the program, not one that was
// forked, and none that executed something else.
func TestUntilExec(t *testing.T) {
	t.Parallel()
	u := &Unit{root: t.TempDir()}
	// The shell forks a copy of itself that executes nothing, and tells of it.
	const forks = "(while :; do sleep 1000; done) & echo $!; exec sleep 1000\n"
	install := func(path string, p Program) string {
		t.Helper()
		if err := p.install(t.Context(), u.Path(path)); err != nil {
			t.Fatal(err)
		}
		return u.Path(path)
	}
	script := install("/script", Text("#!/bin/sh -e\n"+strings.Replace(forks, "exec ", "", 1)))
	shell := install("/shell", File("/bin/sh"))

	// start returns a process and one that it forked.
	start := func(args ...string) (pid, forked int) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
			_ = cmd.Wait()
		})
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if forked, err = strconv.Atoi(strings.TrimSpace(line)); err != nil {
			t.Fatal(err)
		}
		return cmd.Process.Pid, forked
	}
	scripted, scriptForked := start(script)
	sleeping, shellForked := start(shell, "-c", forks)
	for sameFile(sleeping, shell) { // it has said its line, and executes another program now
		time.Sleep(time.Millisecond)
	}
	for _, p := range []struct {
		what    string
		program string
		pid     int
		is      bool
	}{
		{"a script", script, scripted, true},
		{"what a script forked", script, scriptForked, false},
		{"another script's process", shell, scripted, false},
		{"a process that executed something else", shell, sleeping, false},
		{"what a program forked", shell, shellForked, false},
	} {
		if err := unix.Kill(p.pid, unix.SIGSTOP); err != nil || waitStopped(p.pid) != "T" {
			t.Fatalf("process %d does not stop: %v", p.pid, err)
		}
		tr := &trial{TB: t, conformance: &conformance{program: "/" + filepath.Base(p.program)}}
		if got := tr.untilExec(u, p.pid); got != p.is {
			t.Errorf("%s is taken for the next version: %t, want %t", p.what, got, p.is)
		}
	}
}

// A process that goes on too long before it is stopped is told by its CPU time.
func TestCPUTime(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "while :; do :; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(DefaultPatience); cpuTime(cmd.Process.Pid) < 20*loadTime; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("a process that always runs had a processor for %v", cpuTime(cmd.Process.Pid))
		}
	}
	if err := unix.Kill(cmd.Process.Pid, unix.SIGSTOP); err != nil || waitStopped(cmd.Process.Pid) != "T" {
		t.Fatalf("process %d does not stop: %v", cmd.Process.Pid, err)
	}
	if first, second := cpuTime(cmd.Process.Pid), cpuTime(cmd.Process.Pid); first != second {
		t.Errorf("a process that was stopped had a processor for %v, and then for %v", first, second)
	}
}
