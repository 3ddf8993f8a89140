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

func oomScore(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// On trial the kernel would choose the successor, and after the verdict nobody more than before. The way back
// holds over several upgrades: nobody raises what is raised already.
func TestOOMScoreOfSuccessor(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		s := start(t, setup{plan: quick(), managed: managed})
		before, main := oomScore(t, s.first), s.first
		for range 2 {
			successor, verdict := s.onTrial(nil)
			if got, want := oomScore(t, successor), min(1000, before+200); got != want {
				t.Errorf("on trial the score is %d, want %d", got, want)
			}
			if got := oomScore(t, main); got != before {
				t.Errorf("the score of the predecessor is %d, was %d", got, before)
			}
			if v, _ := verdict(); v.Outcome != "upgraded" {
				t.Fatalf("verdict %+v", v)
			}
			for deadline := time.Now().Add(patience); oomScore(t, successor) != before; {
				if time.Now().After(deadline) {
					t.Fatalf("after the verdict the score is %d, want %d as before", oomScore(t, successor), before)
				}
				time.Sleep(time.Millisecond)
			}
			main = successor
		}
	})
}
