// SPDX-License-Identifier: Apache-2.0

package procs_test

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests/internal/procs"
)

func TestDescendantsAreThoseThatRun(t *testing.T) {
	// A child that has a child, and lives until its standard input ends.
	cmd := exec.Command("sh", "-c", `sh -c 'echo $$; read -r end' <&3 & exec 3<&-; wait`)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Args[2] = "exec 3<&0; " + cmd.Args[2]
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	grandchild, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	below, err := procs.Descendants(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	child, deep := slices.Index(below, cmd.Process.Pid), slices.Index(below, grandchild)
	if child < 0 || deep < child {
		t.Errorf("descendants %v; want %d and, after it, %d", below, cmd.Process.Pid, grandchild)
	}
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	below, err = procs.Descendants(os.Getpid())
	if err != nil || slices.Contains(below, cmd.Process.Pid) || slices.Contains(below, grandchild) {
		t.Errorf("descendants %v (%v) after both have ended", below, err)
	}
	gone, err := procs.MemoryOf([]int{cmd.Process.Pid, grandchild})
	if err != nil || gone != (procs.Memory{}) {
		t.Errorf("memory of what has ended: %+v (%v)", gone, err)
	}
}

func TestMemoryAddsUp(t *testing.T) {
	one, err := procs.MemoryOf([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	if one.PSS < 1<<20 || one.RSS < one.PSS {
		t.Errorf("memory %+v of this process", one)
	}
	const size = 64 << 20
	held := make([]byte, size)
	for i := range held {
		held[i] = 1
	}
	more, err := procs.MemoryOf([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	if more.PSS-one.PSS < size/2 {
		t.Errorf("memory grew from %+v to %+v with %d bytes more", one, more, len(held))
	}
	twice, err := procs.MemoryOf([]int{os.Getpid(), os.Getpid()})
	if err != nil || twice.PSS < more.PSS*3/2 {
		t.Errorf("memory of two: %+v (%v), of one: %+v", twice, err, more)
	}
	if held[size-1] != 1 {
		t.Error("the memory is not held")
	}
}

func TestGroup(t *testing.T) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	in, err := procs.InGroup(line, "")
	if err != nil || !slices.Contains(in, os.Getpid()) {
		t.Errorf("in %q: %v (%v), want this process", line, in, err)
	}
	in, err = procs.InGroup(line, "/no/such/group")
	if err != nil || len(in) != 0 {
		t.Errorf("in a group that is not there: %v (%v)", in, err)
	}
}

// The end of a process is seen when it happens, not when somebody waits for it.
func TestWatch(t *testing.T) {
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended, err := procs.Watch(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
		t.Error("it has ended before its input")
	default:
	}
	before := monotonic()
	_ = stdin.Close()
	if at := <-ended; at < before || at > monotonic() {
		t.Errorf("ended at %d, the input at %d", at, before)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := procs.Watch(cmd.Process.Pid); !errors.Is(err, unix.ESRCH) {
		t.Errorf("watch what is gone: %v, want ESRCH", err)
	}
}

func monotonic() int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // every Linux has this clock
	return now.Nano()
}
