// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// held is a request that a process has and has not answered.
type held struct {
	stage
	answer <-chan error
}

// hold sends a request that is answered when the test says so.
func (s *service) hold(url string) held {
	s.t.Helper()
	answer := make(chan error, 1)
	go func() {
		client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get(url + "/wait")
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			_ = resp.Body.Close()
		}
		answer <- err
	}()
	return held{s.waitStage("wait"), answer}
}

// answerNow lets it be answered, and fails the test if it is not.
func (h held) answerNow(t *testing.T) {
	t.Helper()
	h.release("")
	if err := <-h.answer; err != nil {
		t.Errorf("a request that was held: %v", err)
	}
}

// mustEnd waits until no process of the service is left.
func (s *service) mustEnd() {
	s.t.Helper()
	s.reports.wait(s.t, "the end of all processes", func(m managed) bool { return m.Event == "end" })
}

// ended is how each process ended that the manager has reaped.
func (s *service) ended() map[int]string {
	out := map[int]string{}
	for _, m := range s.reports.all() {
		if m.Event == "died" {
			out[m.PID] = m.Status
		}
	}
	return out
}

func TestStopWhileServing(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
			s := start(t, setup{plan: quick(), managed: managed})
			url := s.url("")
			h := s.hold(url)
			s.signal(s.first, sig)
			s.waitLog(s.first, "serving -> stopping")
			if sig == syscall.SIGTERM {
				// systemd may send two.
				s.signal(s.first, sig)
				s.log.wait(t, "the second one to change nothing", func(l line) bool { return l.Msg == "state kept" })
			}
			if st := s.status(); st.State != "stopping" {
				t.Errorf("state %q", st.State)
			}
			for deadline := time.Now().Add(patience); !managed; {
				if _, err := askWho(url + "/who"); err != nil {
					break // the listener is closed
				}
				if time.Now().After(deadline) {
					t.Fatal("it accepts connections after it was told to stop")
				}
			}
			h.answerNow(t)
			s.mustEnd()
			if status := s.waitDeath(s.first); status != "exit 0" {
				t.Errorf("%v: ended with %s", sig, status)
			}
			if managed {
				s.notify.Want(t, "STOPPING=1")
			}
		}
	})
}

func TestSecondInterruptCutsTheRest(t *testing.T) {
	t.Parallel()
	s := start(t, setup{plan: quick()})
	h := s.hold(s.url(""))
	s.signal(s.first, syscall.SIGINT)
	s.waitLog(s.first, "serving -> stopping")
	s.signal(s.first, syscall.SIGINT)
	if err := <-h.answer; err == nil {
		t.Error("the request was answered")
	}
	s.mustEnd()
	if status := s.waitDeath(s.first); status != "exit 0" {
		t.Errorf("ended with %s", status)
	}
	h.release("")
}

func TestDrainDeadline(t *testing.T) {
	t.Parallel()
	p := quick()
	p.DrainTimeout = 300 * time.Millisecond
	s := start(t, setup{plan: p})
	h := s.hold(s.url(""))
	begin := time.Now()
	s.signal(s.first, syscall.SIGTERM)
	if err := <-h.answer; err == nil {
		t.Error("the request was answered")
	}
	s.mustEnd()
	if took := time.Since(begin); took < p.DrainTimeout {
		t.Errorf("cut after %v already", took)
	}
	h.release("")
}

// Stop wins in every state of an upgrade, whoever is told: systemd tells all
// processes of the unit, a person perhaps one.
func TestStopDuringAnUpgrade(t *testing.T) {
	const (
		all = iota
		predecessor
	)
	environments(t, func(t *testing.T, managed bool) {
		for _, c := range []struct {
			state  string
			change func(*plan)
		}{
			{"pre-check", func(p *plan) { p.Check = "stage" }},
			{"starting", func(p *plan) { p.Built = "stage" }},
			{"probation", nil},
		} {
			for _, whom := range []int{all, predecessor} {
				name := c.state + "/all"
				if whom == predecessor {
					name = c.state + "/predecessor"
				}
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					p := quick()
					p.Probation = patience
					s := start(t, setup{plan: p, managed: managed})
					url := s.url("")
					h := s.hold(url)
					s.release("v2", c.change)
					verdict := s.asked()
					var successor int
					var waiting stage
					var atSuccessor held
					switch c.state {
					case "pre-check":
						waiting = s.waitStage("check")
					case "starting":
						waiting = s.waitStage("built")
						successor = waiting.PID
					case "probation":
						successor = s.waitLog(0, "offered -> trial").PID
						s.mustReach(url+"/who", successor)
						atSuccessor = s.hold(url)
					}
					s.signal(s.first, syscall.SIGTERM)
					if whom == all && successor != 0 {
						s.signal(successor, syscall.SIGTERM)
					}
					v, _ := verdict()
					// A successor that is told first says so first, or is gone first.
					first := whom == all && (v.Outcome == control.RolledBack && c.state == "probation" ||
						v.Outcome == control.Refused && c.state == "starting")
					if v.Outcome != control.Stopped && !first || !strings.Contains(v.Reason, "SIGTERM") {
						t.Errorf("verdict %q: %s", v.Outcome, v.Reason)
					}
					h.answerNow(t)
					if atSuccessor.conn != nil {
						atSuccessor.answerNow(t)
					}
					if waiting.conn != nil {
						waiting.release("")
					}
					s.mustEnd()
					for pid, status := range s.ended() {
						switch {
						case status == "exit 0":
						// Neither a check nor a successor that accepts nothing
						// has anything to lose. And a process that has not
						// called Run yet has the default action.
						case pid == waiting.PID && (status == "SIGKILL" || status == "SIGTERM"):
						default:
							t.Errorf("PID %d ended with %s", pid, status)
						}
					}
				})
			}
		}
	})
}

// A stop reaches an old generation that still drains, and main.
func TestStopWhileDraining(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		for _, c := range []struct{ elder, main bool }{{true, false}, {false, true}, {true, true}} {
			s := start(t, setup{plan: quick(), managed: managed})
			url := s.url("")
			h := s.hold(url)
			s.release("v2", nil)
			st := s.mustUpgrade()
			if len(st.Draining) != 1 || st.Draining[0].PID != s.first {
				t.Errorf("draining: %+v", st.Draining)
			}
			if c.elder {
				s.signal(s.first, syscall.SIGTERM)
				s.waitLog(s.first, "draining -> stopping")
			}
			if c.main {
				s.signal(st.PID, syscall.SIGTERM)
				s.waitGone(st.PID)
			}
			h.answerNow(t)
			if status := s.waitDeath(s.first); status != "exit 0" {
				t.Errorf("%+v: the elder ended with %s", c, status)
			}
			if c.main {
				s.mustEnd()
				continue
			}
			s.mustServe(st.PID)
		}
	})
}

// A successor that does not end when the service stops does not outlive it
// where nobody else would end it.
func TestStopWithASuccessorThatHangs(t *testing.T) {
	t.Parallel()
	p := quick()
	p.DrainTimeout, p.Probation = 500*time.Millisecond, patience
	s := start(t, setup{plan: p})
	successor, verdict := s.onTrial(nil)
	s.signal(successor, syscall.SIGSTOP)
	s.signal(s.first, syscall.SIGTERM)
	v, _ := verdict()
	s.mustEnd()
	s.waitGone(successor)
	t.Logf("verdict %q: %s", v.Outcome, v.Reason)
}
