// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// oomMargin is by how much a successor on trial looks worse to the kernel's OOM killer than its predecessor:
// as if it had a fifth of all memory more (proc_pid_oom_score_adj(5)).
const oomMargin = 200

// oomScoreBefore is what the score goes back to with the verdict, "" where it stays.
var oomScoreBefore string

func oomScorePath(pid int) string { return fmt.Sprintf("/proc/%d/oom_score_adj", pid) }

func readOOMScore(pid int) (int, error) {
	text, err := os.ReadFile(oomScorePath(pid))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// raiseOOMScore makes the kernel choose the successor before us, from its first instruction on: memory that an
// init function eats must not cost the version that serves. Raising needs no privilege, but that the process
// is of our user; without it the successor still does so itself when it joins.
func raiseOOMScore(successor int) {
	ours, err := readOOMScore(os.Getpid())
	if err != nil {
		return
	}
	_ = os.WriteFile(oomScorePath(successor), strconv.AppendInt(nil, int64(min(1000, ours+oomMargin)), 10), 0)
}

// keepOOMScore is the successor's part: it raises its own score, should it not be raised yet, and remembers the
// predecessor's for restoreOOMScore.
func keepOOMScore(predecessor int) {
	score, err := readOOMScore(predecessor)
	if err != nil { // hidden from us, or just gone
		if score, err = readOOMScore(os.Getpid()); err != nil {
			return
		}
	}
	if os.WriteFile(oomScorePath(os.Getpid()), strconv.AppendInt(nil, int64(min(1000, score+oomMargin)), 10), 0) == nil {
		oomScoreBefore = strconv.Itoa(score)
	}
}

// restoreOOMScore needs no privilege either: the way back to the value that a privileged process set last is
// free (proc_pid_oom_score_adj(5)).
func restoreOOMScore() {
	if oomScoreBefore != "" {
		_ = os.WriteFile(oomScorePath(os.Getpid()), []byte(oomScoreBefore), 0)
		oomScoreBefore = ""
	}
}
