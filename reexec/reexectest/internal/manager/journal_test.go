// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// written runs a shell whose output is a stream, and returns the entries, with the
// shell's PID as 1 and others as 2.
func written(t *testing.T, script string) (lines []string) {
	t.Helper()
	l := testLoop(t)
	var entries []wire.JournalEntry
	j := newJournal(func(e wire.JournalEntry) { entries = append(entries, e) }, keepsUp)
	s, end, err := j.open(l, "a.service", "sh", 6, true)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(end), "stream")
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Stdout, cmd.Stderr = theirs, theirs
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	s.start(cmd.Process.Pid)
	if err := l.run(func() bool { return len(j.streams) == 0 }); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		who := 2
		if e.PID == cmd.Process.Pid {
			who = 1
		}
		if e.Unit != "a.service" || e.Identifier != "sh" {
			t.Errorf("entry is %+v", e)
		}
		lines = append(lines, fmt.Sprintf("%d <%d> %s", who, e.Priority, e.Message))
	}
	return lines
}

// Each write has its writer, also through an inherited descriptor.
func TestStreamWriters(t *testing.T) {
	got := written(t, `echo own; /bin/echo child; printf 'half a line'; /bin/echo 'and another'; echo '<3>bad'; echo; echo '  x  ' >&2`)
	want := []string{"1 <6> own", "2 <6> child", "1 <6> half a line", "2 <6> and another", "1 <3> bad", "1 <6>   x"}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestStreamLongLines(t *testing.T) {
	got := written(t, `head -c 100000 /dev/zero | tr '\0' x; printf 'end'`)
	var lengths []int
	for _, line := range got {
		lengths = append(lengths, len(line)-len("2 <6> "))
	}
	if !slices.Equal(lengths, []int{maxLine, maxLine, 100000 - 2*maxLine, 3}) {
		t.Errorf("lengths of the lines are %v", lengths)
	}
}

// Descriptors that somebody sends along are closed.
func TestStreamClosesDescriptors(t *testing.T) {
	l := testLoop(t)
	entries := 0
	j := newJournal(func(wire.JournalEntry) { entries++ }, keepsUp)
	_, end, err := j.open(l, "a.service", "x", 6, true)
	if err != nil {
		t.Fatal(err)
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	if err := unix.Sendmsg(end, []byte("x\n"), unix.UnixRights(pipe[1]), nil, 0); err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(pipe[1])
	_ = unix.Close(end)
	for range 2 { // the line, and the end
		j.drain()
	}
	if n, err := unix.Read(pipe[0], make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("read %d, %v: somebody has the writing end", n, err)
	}
	_ = unix.Close(pipe[0])
	if len(j.streams) != 0 || entries != 1 {
		t.Errorf("%d streams, %d entries", len(j.streams), entries)
	}
}

// Who writes faster than the test reads waits, and loses nothing.
func TestStreamWaits(t *testing.T) {
	l := testLoop(t)
	lines := 0
	behind := true
	j := newJournal(func(wire.JournalEntry) { lines++ }, func() bool { return behind })
	s, end, err := j.open(l, "a.service", "x", 6, true)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := unix.SetNonblock(end, true); err != nil {
		t.Fatal(err)
	}
	written := 0
	fill := func() {
		for {
			n, err := unix.Write(end, []byte("12345\n"))
			if err != nil {
				break
			}
			written += n
		}
	}
	fill()
	passed := false
	l.after(0, priorityJournal+1, func() { passed = true })
	if err := l.run(func() bool { return passed && len(j.waiting) == 1 }); err != nil {
		t.Fatal(err)
	}
	if lines != 0 {
		t.Errorf("%d lines were read", lines)
	}
	// Before an answer, all that is there is read.
	j.drain()
	if lines != written/6 || lines == 0 {
		t.Errorf("%d lines were read of %d", lines, written/6)
	}
	fill()
	behind = false
	j.caughtUp()
	_ = unix.Close(end)
	if err := l.run(func() bool { return len(j.streams) == 0 }); err != nil {
		t.Fatal(err)
	}
	if lines != written/6 {
		t.Errorf("%d lines were read of %d", lines, written/6)
	}
}

func keepsUp() bool { return false }
