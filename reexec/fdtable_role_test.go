// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// fdSize is how many descriptors the table of a process has room for.
func fdSize(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "\nFDSize:")
	value, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.Atoi(strings.TrimSpace(value))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A service with many descriptors makes room for as many copies as soon as it is
// main, and its successor has that room from the beginning.
func TestSuccessorHasRoomForDescriptors(t *testing.T) {
	t.Parallel()
	const used = 150
	p := quick()
	p.FillTo = used
	s := start(t, setup{plan: p})
	for deadline := time.Now().Add(patience); fdSize(t, s.first) < 2*used; {
		if time.Now().After(deadline) {
			t.Fatalf("main has room for %d descriptors with %d in use, want for twice as many", fdSize(t, s.first), used)
		}
		time.Sleep(time.Millisecond)
	}
	successor, verdict := s.onTrial(func(p *plan) { p.FillTo = 0 })
	if ours, theirs := fdSize(t, s.first), fdSize(t, successor); theirs < ours {
		t.Errorf("the successor has room for %d descriptors, its predecessor for %d", theirs, ours)
	}
	if v, _ := verdict(); v.Outcome != "upgraded" {
		t.Errorf("verdict %+v", v)
	}
}
