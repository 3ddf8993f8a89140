// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/notify/notifytest"
	"github.com/holdfast-go/holdfast/reexec/control"
)

// onTrial offers a version and returns once it accepts and its predecessor does
// not any more: that is when the predecessor announces its state.
func (s *service) onTrial(change func(*plan)) (successor int, verdict func() (control.Verdict, []string)) {
	s.t.Helper()
	s.release("trial", change)
	paused := make(chan struct{})
	var once sync.Once
	verdict, done := s.ask(func(st control.Status) {
		if st.State == "probation" {
			once.Do(func() { close(paused) })
		}
	})
	successor = s.waitLog(0, "offered -> trial").PID
	select {
	case <-paused:
	case <-done:
	}
	return successor, verdict
}

// mustReach waits until new connections reach this process, which may be a
// moment after it has said that it accepts.
func (s *service) mustReach(url string, pid int) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		got, err := askWho(url)
		if err != nil {
			s.t.Fatal(err)
		}
		if got.PID == pid {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("PID %d answers, want %d", got.PID, pid)
		}
	}
}

// A version that fails in its probation is undone: the old one accepts again
// at once, and the next upgrade works.
func TestRolledBack(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		p := quick()
		p.Probation = 1500 * time.Millisecond
		s := start(t, setup{plan: p, managed: managed})
		url := s.url("")
		health := filepath.Join(s.dir, "health")
		for _, c := range []struct {
			name string
			harm func(successor int)
			want string // of the reason
			end  string // of the successor's process
			// lossless says that even its own requests are answered.
			lossless bool
		}{
			{"dies", func(pid int) { s.signal(pid, syscall.SIGKILL) }, "successor (PID %d) " + died(managed, "was killed by SIGKILL"), "SIGKILL", false},
			{"hangs", func(pid int) { s.signal(pid, syscall.SIGSTOP) }, "successor (PID %d) hangs: no beat for ", "SIGKILL", false},
			{"panics", func(int) { _, _ = http.Get(url + "/crash") }, "successor (PID %d) " + died(managed, "exited with status 2") + ": panic: crash on demand", "exit 2", false},
			{"health check hangs", func(int) { writeFile(t, health, "hang") }, "successor (PID %d) hangs: no beat for ", "SIGKILL", false},
			{"is ill", func(int) { writeFile(t, health, "the cache is cold") }, "successor (PID %d) is not healthy: the cache is cold", "exit 0", true},
			{"is told to stop", func(pid int) { s.signal(pid, syscall.SIGTERM) }, "successor (PID %d): SIGTERM", "exit 0", false},
		} {
			writeFile(t, health, "")
			successor, verdict := s.onTrial(func(p *plan) { p.HealthFile = health })
			s.mustReach(url+"/who", successor)
			if got := s.pidFile(); got != successor {
				t.Errorf("%s: in its probation the PID file names %d, want %d", c.name, got, successor)
			}
			if st := s.status(); st.PID != s.first || st.State != "probation" || st.Successor == nil || st.Successor.PID != successor {
				t.Errorf("%s: in its probation the control socket says %+v", c.name, st)
			}
			var clients *load
			if c.lossless {
				clients = startLoad(t, url+"/echo", 2)
			}
			begin := time.Now()
			c.harm(successor)
			v, _ := verdict()
			decided := time.Since(begin)
			// What waited in the queue, and what comes now, is the old one's.
			s.mustReach(url+"/who", s.first)
			t.Logf("%s: undone %v, answered %v after it", c.name, decided.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
			if want := fmt.Sprintf(c.want+"|", successor); v.Outcome != control.RolledBack || !strings.Contains(v.Reason+"|", strings.TrimSuffix(want, "|")) {
				t.Errorf("%s: verdict %q, reason %q; want rolled back, %q", c.name, v.Outcome, v.Reason, want)
			}
			if clients != nil {
				clients.mustBeWhole()
			}
			if managed {
				if status := s.waitDeath(successor); status != c.end {
					t.Errorf("%s: the successor ended with %s, want %s", c.name, status, c.end)
				}
			} else {
				s.waitGone(successor)
			}
			// Until then a successor that ends in peace may answer what it was just accepting.
			s.mustServe(s.first)
			if st := s.status(); st.Last == nil || st.Last.Outcome != control.RolledBack {
				t.Errorf("%s: the last verdict is %+v", c.name, st.Last)
			}
		}
		s.release("good", nil)
		s.mustServe(s.mustUpgrade().PID)
	})
}

// How long nobody answers when a successor dies: the time that the old one
// needs to accept again.
func TestTimeToAcceptAgain(t *testing.T) {
	t.Parallel()
	p := quick()
	p.Probation = patience
	s := start(t, setup{plan: p, managed: true})
	url := s.url("/who")
	var longest time.Duration
	for range 5 {
		successor, verdict := s.onTrial(nil)
		s.mustReach(url, successor)
		begin := time.Now()
		s.signal(successor, syscall.SIGKILL)
		// It waits in the queue of a listening socket that nobody reads.
		w, err := askWho(url)
		longest = max(longest, time.Since(begin))
		if err != nil || w.PID != s.first {
			t.Errorf("answered by %+v, %v", w, err)
		}
		if v, _ := verdict(); v.Outcome != control.RolledBack {
			t.Errorf("verdict %+v", v)
		}
	}
	t.Logf("a request after the death of the successor was answered within %v", longest)
}

// brokenUpgrade asks for an upgrade whose predecessor dies in the middle.
func (s *service) brokenUpgrade() (wait func()) {
	var done sync.WaitGroup
	begun := make(chan struct{})
	done.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		var once sync.Once
		_, err := s.client.Upgrade(ctx, func(control.Status) { once.Do(func() { close(begun) }) })
		var broken *control.BrokenError
		if !errors.As(err, &broken) {
			s.t.Errorf("the upgrade of a process that died gives %v", err)
		}
	})
	<-begun
	return done.Wait
}

// A successor that has not offered itself goes with its predecessor: systemd
// starts the service anew. One that is ready in the moment in which it sees the
// end may as well serve, and then does so in every respect.
func TestPredecessorDiesInStarting(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		s := start(t, setup{plan: quick(), managed: managed})
		s.release("v2", func(p *plan) { p.Built = "stage" })
		wait := s.brokenUpgrade()
		building := s.waitStage("built")
		s.signal(s.first, syscall.SIGKILL)
		wait()
		building.release("")
		end := s.log.wait(t, "the successor to go or to serve", func(l line) bool {
			return l.PID == building.PID && (l.Msg == "service ends" || l.Msg == "offered -> serving")
		})
		if end.Msg == "offered -> serving" {
			s.mustServe(building.PID)
			return
		}
		if status := s.waitDeath(building.PID); status != "exit 1" {
			t.Errorf("the successor ended with %s", status)
		}
		if s.pidFile() != s.first {
			t.Error("the PID file names a process that was never ready")
		}
	})
}

// In its probation a successor takes over when its predecessor dies.
func TestPredecessorDiesInProbation(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		p := quick()
		p.Probation = patience
		s := start(t, setup{plan: p, managed: managed})
		url, before := s.url("/who"), s.status()
		s.release("v2", func(p *plan) { p.Probation = 100 * time.Millisecond })
		wait := s.brokenUpgrade()
		successor := s.waitLog(0, "offered -> trial").PID
		s.mustReach(url, successor)
		clients := startLoad(t, s.url("/echo"), 2)
		begin := time.Now()
		s.signal(s.first, syscall.SIGKILL)
		wait()
		s.mustServe(successor)
		t.Logf("took over within %v", time.Since(begin).Round(time.Millisecond))
		// Its socket closes a moment before the process is gone.
		s.waitDeath(s.first)
		if st := s.status(); st.Instance != before.Instance || st.Generation != 2 || len(st.Draining) != 0 {
			t.Errorf("status %+v", st)
		}
		if managed {
			if m := s.notify.Want(t, "READY=1", "STATUS=running: v2 (generation 2)"); m.Sender.PID != successor {
				t.Errorf("%v is not of PID %d", m, successor)
			}
			for _, m := range s.notify.Messages() {
				if m.Has("MAINPID") {
					t.Errorf("MAINPID= was sent: %v", m)
				}
			}
		}
		s.release("v3", nil)
		s.mustServe(s.mustUpgrade().PID)
		clients.mustBeWhole()
	})
}

// A successor that has offered itself to a predecessor that never read it ends
// with it: what that has acknowledged last is in the fd store only.
func TestPredecessorDiesBeforeItReadsTheOffer(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		s := start(t, setup{plan: quick(), managed: managed})
		s.release("v2", func(p *plan) { p.Built = "stage" })
		wait := s.brokenUpgrade()
		building := s.waitStage("built")
		s.freeze(s.first)
		building.release("")
		s.waitLog(building.PID, "joining -> offered")
		s.signal(s.first, syscall.SIGKILL)
		wait()
		s.waitLog(building.PID, "offered -> gone")
		s.waitDeath(building.PID)
	})
}

// When MAINPID= is under way the successor is main for systemd, whether its
// predecessor lives to say so or not.
func TestPredecessorDiesInPromoting(t *testing.T) {
	t.Parallel()
	var s *service
	var once sync.Once
	ready := make(chan struct{})
	s = start(t, setup{plan: quick(), managed: true, notify: []notifytest.Option{notifytest.Handle(func(m *notifytest.Message) {
		if m.Has("MAINPID") {
			once.Do(func() {
				<-ready
				_ = syscall.Kill(s.first, syscall.SIGKILL)
			})
		}
	})}})
	close(ready)
	s.release("v2", nil)
	wait := s.brokenUpgrade()
	wait()
	successor := s.waitLog(0, "trial -> serving").PID
	s.mustServe(successor)
	s.waitDeath(s.first)
	s.release("v3", nil)
	s.mustServe(s.mustUpgrade().PID)
}

// A predecessor that was itself stopped for a while does not blame its
// successor for the silence.
func TestPredecessorThatWasStopped(t *testing.T) {
	t.Parallel()
	p := quick()
	p.Beat, p.Probation = 50*time.Millisecond, 100*time.Millisecond
	s := start(t, setup{plan: p})
	url := s.url("/who")
	s.release("v2", nil)
	probation := make(chan int, 1)
	verdict, _ := s.ask(func(st control.Status) {
		if st.State == "probation" {
			probation <- st.Successor.PID // once: it is told at each change
		}
	})
	successor := <-probation
	// Before that it is not told to serve: then nobody would.
	s.waitLog(successor, "offered -> trial")
	s.freeze(s.first)
	// Longer than the beats that may be missed; the successor serves all
	// the time, and its answers show that the time passes.
	for end := time.Now().Add(8 * p.Beat); time.Now().Before(end); {
		s.mustReach(url, successor)
	}
	s.signal(s.first, syscall.SIGCONT)
	if v, _ := verdict(); v.Outcome != control.Upgraded {
		t.Errorf("verdict %q: %s", v.Outcome, v.Reason)
	}
}
