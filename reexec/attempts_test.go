// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// outcomes are those of the history, the newest first.
func outcomes(st control.Status) string {
	var list []string
	for _, v := range st.History {
		to := "nobody"
		if v.To != nil {
			to = v.To.Version
		}
		list = append(list, fmt.Sprintf("%s %s", to, v.Outcome))
	}
	return strings.Join(list, ", ")
}

// waitStatus waits for something that main learns by and by.
func (s *service) waitStatus(what string, until func(control.Status) bool) control.Status {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		st := s.status()
		if until(st) {
			return st
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("waited %v for %s: %+v", patience, what, st)
		}
	}
}

// Every verdict is in the history once, whichever generation has given it, with
// what was seen on the way.
func TestHistoryCrossesUpgrades(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		health := t.TempDir() + "/health"
		s := start(t, setup{plan: quick(), managed: managed})
		if st := s.status(); st.History != nil || st.Attempts != nil {
			t.Errorf("before the first attempt: %+v, %v", st.History, st.Attempts)
		}
		s.release("v2", nil)
		s.mustUpgrade()
		s.release("v3", func(p *plan) { p.Built = "exit: no database" })
		if v, _ := s.upgrade(); v.Outcome != control.Refused || v.Before == nil || v.Before.Resident == 0 || v.Before.Heap == 0 {
			t.Errorf("verdict %+v", v)
		}
		_, verdict := s.onTrial(func(p *plan) { p.HealthFile = health })
		writeFile(t, health, "the database is gone")
		if v, _ := verdict(); v.Outcome != control.RolledBack {
			t.Errorf("verdict %+v", v)
		}
		s.release("v4", nil)
		s.mustUpgrade()
		st := s.waitStatus("the end of v2", func(st control.Status) bool { return len(st.History) > 0 && st.History[0].Drain != nil })
		if got := outcomes(st); got != "v4 upgraded, trial rolled back, v3 refused, v2 upgraded" {
			t.Errorf("history: %s", got)
		}
		if a := st.Attempts; len(a) != 3 || a[control.Upgraded] != 2 || a[control.Refused] != 1 || a[control.RolledBack] != 1 {
			t.Errorf("attempts: %v", a)
		}
		for i, v := range st.History {
			if v.Before == nil || v.After == nil || v.Before.Resident == 0 || v.After.Resident == 0 || v.After.Heap == 0 || v.Started.IsZero() || len(v.Phases) == 0 {
				t.Errorf("verdict %d: %+v", i, v)
			}
			if (v.Outcome == control.Upgraded) != (v.Drain != nil) {
				t.Errorf("verdict %d is %s, and its drain %+v", i, v.Outcome, v.Drain)
			}
		}
		if st.Last == nil || st.Last.Outcome != control.Upgraded || !st.Last.Started.Equal(st.History[0].Started) {
			t.Errorf("last %+v, history %+v", st.Last, st.History[0])
		}
		// One that is stopped on the way is an attempt, too.
		s.release("v5", func(p *plan) { p.Built = "stage" })
		stopped := s.asked()
		s.waitStage("built")
		s.signal(st.PID, syscall.SIGTERM)
		if v, _ := stopped(); v.Outcome != control.Stopped {
			t.Errorf("verdict %+v", v)
		}
		s.waitGone(st.PID)
		if managed {
			mustBeStored(t, s, `"stopped":1`)
		}
	})
}

// mustBeStored looks into the frame of the history in the fd store.
func mustBeStored(t *testing.T, s *service, part string) {
	t.Helper()
	for _, e := range s.notify.Store().Entries() {
		if !strings.HasPrefix(e.Name, "state/holdfast.history/1@") {
			continue
		}
		text := make([]byte, 64<<10)
		n, _ := e.File.ReadAt(text, 0)
		if strings.Contains(string(text[:n]), part) {
			return
		}
	}
	t.Errorf("no history with %s in the store: %q", part, s.notify.Store().Names())
}

// Moved connections are in the verdict of their upgrade.
func TestHistoryCountsMovedConnections(t *testing.T) {
	t.Parallel()
	s := start(t, setup{plan: quick()})
	idle := dialMany(t, s.address(0), 20)
	allMustAsk(t, idle, "v1", s.first)
	s.release("v2", nil)
	s.mustUpgrade()
	st := s.waitStatus("the end of v1", func(st control.Status) bool { return len(st.History) == 1 && st.History[0].Drain != nil })
	if d := st.History[0].Drain; d.Moved != len(idle) || st.LastDrain.Moved != len(idle) || d.Seconds <= 0 {
		t.Errorf("drain %+v, last drain %+v; want %d moved", d, st.LastDrain, len(idle))
	}
}

// The attempt whose predecessor died before the verdict is none the less one.
func TestHistoryOfAnOrphan(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		p := quick()
		p.Probation = patience
		s := start(t, setup{plan: p, managed: managed})
		s.release("v2", nil)
		wait := s.brokenUpgrade()
		successor := s.waitLog(0, "offered -> trial").PID
		s.signal(s.first, syscall.SIGKILL)
		wait()
		s.waitLog(successor, "trial -> serving")
		st := s.status()
		if got := outcomes(st); got != "v2 upgraded" || st.Attempts[control.Upgraded] != 1 || st.History[0].From.PID != s.first || st.History[0].To.PID != successor {
			t.Errorf("history: %s: %+v", got, st.History)
		}
		if st.Last != nil {
			t.Errorf("last verdict %+v, which nobody has given", st.Last)
		}
	})
}
