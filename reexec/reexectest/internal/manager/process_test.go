// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
)

func TestParseStat(t *testing.T) {
	tests := []struct {
		text string
		want process
		dead bool
	}{
		{
			"90 (cat) R 81 81 81 0 -1 4194304 77 0 0 0 0 0 0 0 20 0 1 0 186733 3366912 425",
			process{pid: 90, parent: 81, state: 'R', threads: 1, start: 186733, comm: "cat"},
			false,
		},
		{
			"7 (a) b ) (c) Z 1 7 7 0 -1 4194304 77 0 0 0 0 0 0 0 20 0 1 0 5 0 0",
			process{pid: 7, parent: 1, state: 'Z', threads: 1, start: 5, comm: "a) b ) (c"},
			true,
		},
		{ // its first thread has ended, others run
			"8 (x) Z 1 7 7 0 -1 4194304 77 0 0 0 0 0 0 0 20 0 4 0 5 0 0",
			process{pid: 8, parent: 1, state: 'Z', threads: 4, start: 5, comm: "x"},
			false,
		},
	}
	for _, test := range tests {
		got, err := parseStat([]byte(test.text))
		if err != nil || got != test.want || got.dead() != test.dead {
			t.Errorf("%q: got %+v, %v, dead %v", test.text, got, err, got.dead())
		}
	}
	for _, text := range []string{"", "1 (x) R 1", "1 x R 1 2 3", "x (y) R z 81 81 0 -1 4194304 77 0 0 0 0 0 0 0 20 0 1 0 5 0 0"} {
		if got, err := parseStat([]byte(text)); err == nil {
			t.Errorf("%q: got %+v, want an error", text, got)
		}
	}
}

func TestDescendants(t *testing.T) {
	// The shell is there until its standard input ends, with a child that is, too.
	cmd := exec.Command("/bin/sh", "-c", "cat; :")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	}()
	var child process
	for child.comm != "cat" {
		all := descendants(cmd.Process.Pid)
		if len(all) > 0 {
			child = all[0]
		}
	}
	if child.parent != cmd.Process.Pid {
		t.Errorf("the child is %+v", child)
	}
	self := os.Getpid()
	if !slices.Contains(childrenOf(self), cmd.Process.Pid) || !slices.Contains(childrenByParent(self), cmd.Process.Pid) {
		t.Errorf("children are %v, or %v without CONFIG_PROC_CHILDREN; want %d among them",
			childrenOf(self), childrenByParent(self), cmd.Process.Pid)
	}
	if !isDescendant(child.pid, self) || !isDescendant(child.pid, cmd.Process.Pid) || isDescendant(self, cmd.Process.Pid) ||
		isDescendant(1, self) || isDescendant(child.pid, child.pid) {
		t.Error("descent is wrong")
	}
	// Signals go to descendants only.
	if err := signalDescendant(cmd.Process.Pid, self, syscall.SIGKILL); err != syscall.ESRCH {
		t.Errorf("signal to a process that is no descendant: %v", err)
	}
	if got := signalDescendants(cmd.Process.Pid, syscall.SIGCONT, false); !slices.Equal(got, []int{child.pid}) {
		t.Errorf("signalled are %v, want %d", got, child.pid)
	}
	if got := signalDescendants(cmd.Process.Pid, syscall.SIGKILL, false, child.pid); len(got) != 0 {
		t.Errorf("signalled are %v, want none but the one left out", got)
	}
}

func TestSignalMask(t *testing.T) {
	// A shell ignores what it was told to.
	cmd := exec.Command("/bin/sh", "-c", "trap : USR1; trap '' USR2; echo; read x")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	}()
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	m := &manager{}
	pid := cmd.Process.Pid
	if !m.handles(pid, syscall.SIGUSR1) || m.handles(pid, syscall.SIGUSR2) || m.handles(pid, syscall.SIGTERM) {
		t.Errorf("SigCgt is %x", signalMask(pid, "SigCgt"))
	}
}

// For the rest of the turn, what was signalled counts as there; later only what is.
func TestDyingProcessesAreThere(t *testing.T) {
	m, _, _ := socketManager(t, &unit.Socket{})
	cmd := exec.Command("/bin/sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	pid := cmd.Process.Pid
	if err := m.signal(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for {
		if p, err := readProcess(pid); err != nil || p.dead() {
			break
		}
	}
	if !m.alive(pid) || !slices.Contains(m.processes(), pid) || m.signalAll(syscall.SIGCONT) != 1 || m.signalAll(syscall.SIGCONT, pid) != 0 {
		t.Error("the process was killed in this turn, and is not there any more")
	}
	m.loop.turn++
	if m.alive(pid) || slices.Contains(m.processes(), pid) || m.signalAll(syscall.SIGCONT) != 0 {
		t.Error("the process died in the turn before, and is still there")
	}
}
