// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// One upgrade at a time: who asks during one waits for its end and is told
// that it was busy.
func TestRequestDuringAnUpgrade(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		for _, outcome := range []control.Outcome{control.Upgraded, control.Refused} {
			s := start(t, setup{plan: quick(), managed: managed})
			s.release("v2", func(p *plan) {
				p.Check = "stage"
				p.Built = "stage"
			})
			first := s.asked()
			checking := s.waitStage("check")
			second := s.upgradeUnseen()
			checking.release("")
			building := s.waitStage("built")
			third := s.upgradeUnseen()
			if outcome == control.Refused {
				building.release("exit: not today")
			} else {
				building.release("")
			}
			if v, _ := first(); v.Outcome != outcome {
				t.Errorf("first: %q: %s", v.Outcome, v.Reason)
			}
			for _, v := range []control.Verdict{second(), third()} {
				if want := "another upgrade was under way; it ended: " + string(outcome); v.Outcome != control.Busy || v.Reason != want {
					t.Errorf("later one: %q: %q, want busy: %q", v.Outcome, v.Reason, want)
				}
			}
		}
	})
}

// upgradeUnseen asks for an upgrade during another one, and returns once the
// service knows of it.
func (s *service) upgradeUnseen() (verdict func() control.Verdict) {
	s.t.Helper()
	wait, _ := s.ask(func(control.Status) {})
	s.waitLog(0, "request for an upgrade is held")
	return func() control.Verdict {
		s.t.Helper()
		v, _ := wait()
		return v
	}
}

// Old generations that still drain are bounded.
func TestRequestBeyondMaxDraining(t *testing.T) {
	t.Parallel()
	p := quick()
	p.MaxDraining = 1
	s := start(t, setup{plan: p})
	url := s.url("")
	var requests []held
	var pids []int
	for i := range 2 {
		h := s.hold(url)
		requests, pids = append(requests, h), append(pids, h.PID)
		s.release(fmt.Sprintf("v%d", i+2), nil)
		s.mustUpgrade()
	}
	main := s.status()
	if len(main.Draining) != 2 {
		t.Fatalf("draining: %+v", main.Draining)
	}
	v, states := s.upgrade()
	if v.Outcome != control.Busy || !strings.HasPrefix(v.Reason, "2 older generations still drain, at most 1 may:") {
		t.Errorf("verdict %q: %s", v.Outcome, v.Reason)
	}
	for i, pid := range pids {
		if want := fmt.Sprintf("PID %d (generation %d)", pid, i+1); !strings.Contains(v.Reason, want) {
			t.Errorf("reason %q does not name %s", v.Reason, want)
		}
	}
	if len(states) != 0 {
		t.Errorf("something was begun: %q", states)
	}
	requests[0].answerNow(t)
	s.waitDeath(pids[0])
	s.release("v4", nil)
	s.mustUpgrade()
	requests[1].answerNow(t)
}

// A signal that reaches a process that is not main starts nothing there.
func TestSignalToAnElder(t *testing.T) {
	t.Parallel()
	s := start(t, setup{plan: quick(), managed: true})
	h := s.hold(s.url(""))
	s.release("v2", nil)
	main := s.mustUpgrade()
	s.signal(s.first, syscall.SIGUSR2)
	s.log.wait(t, "the elder to say no", func(l line) bool {
		return l.PID == s.first && strings.Contains(l.Reason, "not main")
	})
	s.mustServe(main.PID)
	h.answerNow(t)
}
