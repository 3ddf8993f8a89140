// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// Each test stops one side in one phase (SIGSTOP) and waits for the bound of
// PROTOCOL.md. The hang of a successor in its probation is in
// TestRolledBack, that of a predecessor in TestPredecessorThatWasStopped.

// bound is the StartTimeout of tests that wait for its end.
const bound = 3 * time.Second

func TestSuccessorHangsWhileItStarts(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		p := quick()
		p.StartTimeout = bound
		s := start(t, setup{plan: p, managed: managed})
		s.release("v2", func(p *plan) { p.Early = "stage" })
		verdict := s.asked()
		early := s.waitStage("early")
		s.freeze(early.PID)
		v, _ := verdict()
		if v.Outcome != control.Refused || !strings.Contains(v.Reason, "not ready within 3s") {
			t.Errorf("verdict %q: %s", v.Outcome, v.Reason)
		}
		s.waitGone(early.PID)
		s.mustServe(s.first)
	})
}

func TestPredecessorHangsWhileItIsToAnswer(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		p := quick()
		p.StartTimeout = bound
		s := start(t, setup{plan: p, managed: managed})
		s.release("v2", func(p *plan) { p.Built = "stage" })
		verdict := s.asked()
		building := s.waitStage("built")
		s.freeze(s.first)
		building.release("")
		s.waitLog(building.PID, "joining -> offered")
		s.waitLog(building.PID, "offered -> gone")
		if !managed {
			// Its parent has to see the end.
			s.signal(s.first, syscall.SIGCONT)
		} else if status := s.waitDeath(building.PID); status != "exit 1" {
			t.Errorf("the successor ended with %s", status)
		}
		if managed {
			s.signal(s.first, syscall.SIGCONT)
		}
		// It may find its deadline first, or what the successor said.
		if v, _ := verdict(); v.Outcome != control.Refused && v.Outcome != control.RolledBack {
			t.Errorf("verdict %q: %s", v.Outcome, v.Reason)
		}
		s.mustServe(s.first)
		s.release("v3", nil)
		s.mustServe(s.mustUpgrade().PID)
	})
}

func TestPredecessorHangsWhileASuccessorBuilds(t *testing.T) {
	t.Parallel()
	p := quick()
	p.StartTimeout = bound
	s := start(t, setup{plan: p, managed: true})
	s.release("v2", func(p *plan) {
		p.Built = "stage"
		p.HealthFile = s.dir + "/health"
		writeFile(t, p.HealthFile, "still loading")
	})
	verdict := s.asked()
	building := s.waitStage("built")
	s.freeze(s.first)
	building.release("")
	s.waitLog(building.PID, "joining -> gone")
	if status := s.waitDeath(building.PID); status != "exit 1" {
		t.Errorf("the successor ended with %s", status)
	}
	s.signal(s.first, syscall.SIGCONT)
	if v, _ := verdict(); v.Outcome != control.Refused {
		t.Errorf("verdict %q: %s", v.Outcome, v.Reason)
	}
	s.mustServe(s.first)
}

// A main that hangs keeps its predecessor no longer than its drain takes.
func TestNewMainHangsWhileConnectionsMove(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		p := quick()
		p.DrainTimeout = bound
		s := start(t, setup{plan: p, managed: managed})
		idle := dialMany(t, s.address(0), 20)
		allMustAsk(t, idle, "before", s.first)
		slow := s.hold(s.url(""))
		s.release("v2", nil)
		next := s.mustUpgrade().PID
		s.freeze(next)
		// One more becomes idle, and moves to one that does not take it.
		slow.answerNow(t)
		if status := s.waitDeath(s.first); status != "exit 0" {
			t.Errorf("the predecessor ended with %s", status)
		}
		s.signal(next, syscall.SIGCONT)
		s.mustServe(next)
	})
}

// An undone version that hangs in its drain is killed when its time is over.
func TestUndoneVersionHangs(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		p := quick()
		p.DrainTimeout, p.Probation = 500*time.Millisecond, patience
		p.HealthFile = t.TempDir() + "/health"
		s := start(t, setup{plan: p, managed: managed})
		url := s.url("")
		successor, verdict := s.onTrial(func(p *plan) { p.DrainTimeout = patience })
		s.mustReach(url+"/who", successor)
		slow := s.hold(url)
		if slow.PID != successor {
			t.Fatalf("PID %d has the request, want %d", slow.PID, successor)
		}
		writeFile(t, p.HealthFile, "damaged")
		if v, _ := verdict(); v.Outcome != control.RolledBack {
			t.Fatalf("verdict %q: %s", v.Outcome, v.Reason)
		}
		writeFile(t, p.HealthFile, "")
		s.waitLog(successor, "trial -> resigning")
		s.freeze(successor)
		s.waitGone(successor)
		s.waitLog(s.first, "an undone version was killed: it did not end by itself")
		s.mustServe(s.first)
	})
}
