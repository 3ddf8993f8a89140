// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
)

// asDemo makes the test program be the demo.
const asDemo = "HOLDFAST_TEST_AS_DEMO=1"

func TestMain(m *testing.M) {
	name, value, _ := strings.Cut(asDemo, "=")
	if os.Getenv(name) == value {
		main()
	}
	os.Exit(m.Run())
}

// command is the demo as a command of its own. Its exec succeeds for every user.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), asDemo)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // so that it cleans up
	return cmd
}

// exitStatus returns the exit status of a command that was run.
func exitStatus(t *testing.T, err error) int {
	t.Helper()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	t.Fatal(err)
	return 0
}

// needContainers skips the test for all but root, and fails it where a container cannot run.
func needContainers(t *testing.T) {
	t.Helper()
	err := vmtests.RequireContainers()
	if errors.Is(err, vmtests.ErrNotRoot) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		args   []string
		status int
		stderr string
	}{
		{[]string{"-h"}, 0, "usage: demo"},
		{[]string{"-nonsense"}, 2, "-nonsense"},
		{[]string{"more"}, 2, "usage: demo"},
		{[]string{"-on=moon"}, 2, "-on=moon: must be one of container, user, stand-in"},
		{[]string{"-systemd=1"}, 2, `systemd version "1": must be one of 247, 252, 257, 262`},
	} {
		cmd := command(t, tt.args...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		status := exitStatus(t, cmd.Run())
		if status != tt.status || !strings.Contains(stderr.String(), tt.stderr) || stdout.Len() > 0 {
			t.Errorf("demo %q: exit status %d, stdout %q, stderr %q; want %d and %q", tt.args, status, &stdout, &stderr, tt.status, tt.stderr)
		}
	}
}

// Who asks for a container and is not root learns what to type.
func TestContainerAsPlainUser(t *testing.T) {
	for _, args := range [][]string{{"-on=container"}, {"-on=container", "-prepare"}} {
		cmd := command(t, args...)
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		status := exitStatus(t, cmd.Run())
		text := stderr.String()
		if status != 1 || stdout.Len() > 0 || !strings.Contains(text, "needs root") || !strings.Contains(text, `sudo env "PATH=$PATH" make demo`) {
			t.Errorf("demo %q: exit status %d, stdout %q, stderr %q", args, status, &stdout, text)
		}
	}
}

// Who asks for the manager of a login that has none learns why there is none.
func TestNoUserManager(t *testing.T) {
	for dir, why := range map[string]string{"": "$XDG_RUNTIME_DIR is not set", t.TempDir(): "systemd/private: no such file or directory"} {
		cmd := command(t, "-on=user")
		cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR="+dir)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		status := exitStatus(t, cmd.Run())
		if status != 1 || stdout.Len() > 0 || !strings.Contains(stderr.String(), "no service manager of this login: ") || !strings.Contains(stderr.String(), why) {
			t.Errorf("exit status %d, stdout %q, stderr %q; want 1 and %q", status, &stdout, &stderr, why)
		}
	}
}

// The demo itself in a container, read as a program would read it.
func TestDemo(t *testing.T) {
	needContainers(t)
	t.Parallel()
	cmd := command(t)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	status := exitStatus(t, cmd.Run())
	checkDemo(t, status, stdout.String(), stderr.String(), "on systemd 257 in a container: this is root\nunder systemd 257 (")
}

// checkDemo checks what a demo wrote that went well; its first words are start.
func checkDemo(t *testing.T, status int, stdout, stderr, start string) {
	t.Helper()
	t.Logf("stdout:\n%s\nstderr:\n%s", stdout, stderr)
	got, err := parseTally(stdout)
	if err != nil {
		t.Fatal(err)
	}
	if status != got.exitStatus() {
		t.Errorf("exit status %d with %v", status, got)
	}
	want := tally{Upgrades: 3, Rollbacks: 1, Refused: 3, Crashes: 2}
	want.Requests, want.Cut = got.Requests, got.Cut // differ from run to run
	if got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	// Two deaths, of processes that hold one connection of each client at the most.
	if most := 2 * (clients.New + clients.KeepAlive + clients.Transport); got.Requests < 1000 || got.Cut > most {
		t.Errorf("got %d requests, %d cut; want at least 1000 and at most %d", got.Requests, got.Cut, most)
	}
	if !strings.HasPrefix(stdout, start) {
		t.Errorf("standard output does not begin with %q", start)
	}
}

// An interrupt ends the demo before its time: without a last line, and with a status of its own.
func TestInterrupt(t *testing.T) {
	needContainers(t)
	t.Parallel()
	interrupt(t, command(t), "under ") // the machine is up
}

// interrupt interrupts a demo when it writes a line that begins with when. It returns what the demo wrote.
func interrupt(t *testing.T, cmd *exec.Cmd, when string) (stdout string) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = write, &stderr
	err = cmd.Start()
	write.Close()
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	output := bufio.NewReader(read)
	for line := ""; !strings.HasPrefix(line, when); said.WriteString(line) {
		if line, err = output.ReadString('\n'); err != nil {
			t.Errorf("before the interrupt: %v", err)
			break
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Error(err)
	}
	_, _ = io.Copy(&said, output) // until its end
	if status := exitStatus(t, cmd.Wait()); status != 130 || strings.Contains(said.String(), "demo:") {
		t.Errorf("exit status %d, stdout %q, stderr %q; want 130 and no tally", status, said.String(), &stderr)
	}
	return said.String()
}
