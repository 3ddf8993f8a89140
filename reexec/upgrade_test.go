// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"fmt"
	"slices"
	"testing"
)

func TestUpgrade(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		s := start(t, setup{plan: quick(), managed: managed})
		s.mustServe(s.first)
		before := s.status()
		load := startLoad(t, s.url("/echo"), 3)
		s.release("v2", nil)
		v, states := s.upgrade()
		if v.Outcome != "upgraded" || v.From.PID != s.first || v.To.Version != "v2" || v.To.Generation != 2 {
			t.Fatalf("verdict %+v to %+v", v, v.To)
		}
		// What comes after the verdict is known may or may not be seen.
		if n := len(states); n > 0 && states[n-1] == "draining" {
			states = states[:n-1]
		}
		if want := []string{"pre-check", "starting", "probation", "promoting"}; !slices.Equal(states, want) {
			t.Errorf("states %q, want %q", states, want)
		}
		phases := ""
		for _, p := range v.Phases {
			phases += fmt.Sprintf(" %s %.3fs", p.Name, p.Seconds)
		}
		t.Logf("phases:%s", phases)
		s.mustServe(v.To.PID)
		after := s.status()
		if after.Instance != before.Instance || after.Generation != 2 || after.Last == nil || after.Last.Outcome != "upgraded" {
			t.Errorf("status after the upgrade: %+v", after)
		}
		if after.Listeners[0] != before.Listeners[0] {
			t.Errorf("listener %+v became %+v", before.Listeners[0], after.Listeners[0])
		}
		if status := s.waitDeath(s.first); status != "exit 0" {
			t.Errorf("the predecessor ended with %s", status)
		}
		load.mustBeWhole()
	})
}

func TestTwentyUpgradesInARow(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		p := quick()
		p.Probation = p.Beat
		s := start(t, setup{plan: p, managed: managed})
		load := startLoad(t, s.url("/echo"), 3)
		pids := []int{s.first}
		for i := range 20 {
			s.release(fmt.Sprintf("v%d", i+2), nil)
			st := s.mustUpgrade()
			if st.Generation != i+2 {
				t.Fatalf("generation %d, want %d", st.Generation, i+2)
			}
			pids = append(pids, st.PID)
		}
		load.mustBeWhole()
		s.mustServe(pids[20])
		for _, pid := range pids[:20] {
			if status := s.waitDeath(pid); status != "exit 0" {
				t.Errorf("PID %d ended with %s", pid, status)
			}
		}
		if st := s.status(); len(st.Draining) != 0 {
			t.Errorf("still draining: %+v", st.Draining)
		}
	})
}
