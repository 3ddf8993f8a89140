// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec"
	"github.com/holdfast-go/holdfast/reexec/control"
)

// inPlace is a plan of a service whose versions follow each other in its process.
func inPlace() plan {
	p := quick()
	p.Mode = reexec.InPlace
	return p
}

// followed asks as the reload command does. The channel has one result.
func (s *service) followed() <-chan followed {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	s.t.Cleanup(cancel)
	result := make(chan followed, 1)
	go func() {
		var f followed
		f.result, f.err = s.client.UpgradeAndFollow(ctx, control.FollowOptions{
			DownAfter: 250 * time.Millisecond,
			OnState:   func(st control.Status) { f.states = append(f.states, st.State) },
		})
		result <- f
	}()
	return result
}

type followed struct {
	result control.Result
	states []string
	err    error
}

func (f followed) must(t *testing.T, outcome control.Outcome, reason string) control.Verdict {
	t.Helper()
	v := f.result.Verdict
	if f.err != nil || v.Outcome != outcome || !strings.Contains(v.Reason, reason) {
		t.Fatalf("verdict %q: %s, error %v; want %q: %s", v.Outcome, v.Reason, f.err, outcome, reason)
	}
	return v
}

// mustBeGeneration checks who serves in the process of the first one.
func (s *service) mustBeGeneration(generation int, version string) control.Status {
	s.t.Helper()
	s.mustServe(s.first)
	st := s.status()
	if st.Generation != generation || st.Version != version || st.Mode != "in place" {
		s.t.Errorf("generation %d of version %s serves in mode %q, want %d of %s in place", st.Generation, st.Version, st.Mode, generation, version)
	}
	return st
}

func TestInPlace(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		p := inPlace()
		p.Packets = []planSocket{{"packets", "udp", "127.0.0.1:0"}}
		s := start(t, setup{plan: p, managed: managed})
		before := s.status()
		idle := dialMany(t, s.address(0), 20)
		allMustAsk(t, idle, "before", s.first)
		load := startLoad(t, s.url("/echo"), 3)
		for i := 2; i <= 4; i++ {
			version := fmt.Sprintf("v%d", i)
			s.release(version, nil)
			slow := s.hold(s.url(""))
			result := s.followed()
			s.waitLog(s.first, "checking -> emptying")
			slow.answerNow(t)
			f := <-result
			v := f.must(t, control.Upgraded, "")
			if v.From.PID != s.first || v.To.PID != s.first || v.To.Version != version || f.result.Note != "" {
				t.Errorf("verdict %+v to %+v, note %q", v, v.To, f.result.Note)
			}
			if got := strings.Join(f.states, " "); got != "running pre-check emptying executing running" {
				t.Errorf("the reload command saw the states %q", got)
			}
			allMustAsk(t, idle, version, s.first)
			after := s.mustBeGeneration(i, version)
			if after.Instance != before.Instance || fmt.Sprint(after.Listeners) != fmt.Sprint(before.Listeners) || after.Adopted < len(idle) {
				t.Errorf("before: %+v\nafter: %+v", before, after)
			}
		}
		load.mustBeWhole()
		if managed {
			// What the service has bound is in the store once, whoever stored it.
			bound := 0
			for _, name := range s.notify.Store().Names() {
				if strings.HasPrefix(name, "bound/") {
					bound++
				}
			}
			store := s.status().Store
			if store == nil || bound != 2 {
				t.Fatalf("the store has %q, the service says %+v; want two sockets", s.notify.Store().Names(), store)
			}
			// Beside them there is the history of upgrades.
			for _, e := range store.Entries {
				if e.Kind == "bound" {
					bound--
				} else if !strings.HasPrefix(e.Name, "state/holdfast.history/1@") {
					t.Errorf("entry %+v in the store", e)
				}
			}
			if bound != 0 {
				t.Errorf("the service says %+v; want two sockets", store)
			}
		}
		s.signal(s.first, syscall.SIGTERM)
		if status := s.waitDeath(s.first); status != "exit 0" {
			t.Errorf("after a stop the process ended with %s", status)
		}
	})
}

// What is refused before the execution changes nothing.
func TestInPlaceRefused(t *testing.T) {
	t.Parallel()
	s := start(t, setup{plan: inPlace(), managed: true})
	s.release("v2", func(p *plan) { p.Check = "exit: no good" })
	(<-s.followed()).must(t, control.Refused, "no good")
	s.mustBeGeneration(1, "v1")
	s.release("v3", nil)
	(<-s.followed()).must(t, control.Upgraded, "")
	s.mustBeGeneration(2, "v3")
}

// A file that is opened for writing after the check cannot be executed
// (ETXTBSY). The program that ran goes on in its place, and no client notices.
func TestInPlaceCannotExecute(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		s := start(t, setup{plan: inPlace(), managed: managed})
		idle := dialMany(t, s.address(0), 5)
		allMustAsk(t, idle, "before", s.first)
		slow := s.hold(s.url(""))
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		copyFile(t, self, s.path+".new")
		if err := os.Rename(s.path+".new", s.path); err != nil {
			t.Fatal(err)
		}
		s.release("v2", nil)
		result := s.followed()
		s.waitLog(s.first, "checking -> emptying")
		busy, err := os.OpenFile(s.path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer busy.Close()
		s.release("v1", nil)
		slow.answerNow(t)
		v := (<-result).must(t, control.Refused, "text file busy")
		if v.To == nil || v.To.Version != "v2" {
			t.Errorf("the verdict is about %+v, want v2", v.To)
		}
		allMustAsk(t, idle, "after", s.first)
		s.mustBeGeneration(1, "v1")
		_ = busy.Close()
		s.release("v3", nil)
		(<-s.followed()).must(t, control.Upgraded, "")
		s.mustBeGeneration(2, "v3")
	})
}

// If not even the program that runs can be executed, the process ends, so that
// the manager starts the service anew.
func TestInPlaceCannotExecuteAnything(t *testing.T) {
	t.Parallel()
	// execve(2) takes a quarter of the limit of the stack, and at least 128 KiB.
	s := start(t, setup{plan: inPlace(), managed: true, environ: []string{
		"A=" + strings.Repeat("a", 100<<10), "B=" + strings.Repeat("b", 100<<10),
	}})
	slow := s.hold(s.url(""))
	s.release("v2", nil)
	result := s.followed()
	s.waitLog(s.first, "checking -> emptying")
	if err := unix.Prlimit(s.first, unix.RLIMIT_STACK, &unix.Rlimit{Cur: 64 << 10, Max: 64 << 10}, nil); err != nil {
		t.Fatal(err)
	}
	slow.answerNow(t)
	if status := s.waitDeath(s.first); status != "exit 1" {
		t.Errorf("the process ended with %s", status)
	}
	(<-result).must(t, control.Down, "")
	s.log.wait(t, "the reason", func(l line) bool { return l.Msg == "verdict" && strings.Contains(l.Reason, "argument list too long") })
}

// A stop wins while the service empties: nothing is executed.
func TestInPlaceStopWins(t *testing.T) {
	t.Parallel()
	s := start(t, setup{plan: inPlace(), managed: true})
	slow := s.hold(s.url(""))
	s.release("v2", nil)
	verdict := s.asked()
	s.waitLog(s.first, "checking -> emptying")
	s.signal(s.first, syscall.SIGTERM)
	s.waitLog(s.first, "emptying -> stopping")
	if v, _ := verdict(); v.Outcome != control.Stopped {
		t.Errorf("verdict %q: %s", v.Outcome, v.Reason)
	}
	slow.answerNow(t)
	if status := s.waitDeath(s.first); status != "exit 0" {
		t.Errorf("the process ended with %s", status)
	}
}

// A SIGUSR2 that comes before the new program has a handler waits for it.
func TestInPlaceHoldsSignals(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		s := start(t, setup{plan: inPlace(), managed: managed})
		s.release("v2", func(p *plan) { p.Early = "stage" })
		result := s.followed()
		early := s.waitStage("early")
		s.signal(s.first, syscall.SIGUSR2)
		s.signal(s.first, syscall.SIGHUP) // is lost, and does no harm
		s.release("v3", nil)
		early.release("")
		(<-result).must(t, control.Upgraded, "")
		s.waitLog(s.first, "emptying -> executing")
		s.waitLog(s.first, "emptying -> executing") // for the signal
		s.waitLog(s.first, "renewed -> serving")
		s.waitLog(s.first, "renewed -> serving")
		s.mustBeGeneration(3, "v3")
		if managed {
			// The reload that the signal began has ended.
			s.mustHearReloadEnd()
		}
	})
}

// mustHearReloadEnd checks that READY=1 came after the last RELOADING=1.
func (s *service) mustHearReloadEnd() {
	s.t.Helper()
	reloading, ready := -1, -1
	for i, m := range s.notify.Messages() {
		if m.Has("RELOADING=1") {
			reloading = i
		}
		if m.Has("READY=1") {
			ready = i
		}
	}
	if reloading < 0 || ready < reloading {
		s.t.Errorf("RELOADING=1 is message %d, READY=1 %d", reloading, ready)
	}
}

// A stop that comes then ends the process at once: all was answered before.
func TestInPlaceStopBeforeNew(t *testing.T) {
	t.Parallel()
	s := start(t, setup{plan: inPlace(), managed: true})
	s.release("v2", func(p *plan) { p.Early = "stage" })
	result := s.followed()
	s.waitStage("early")
	s.signal(s.first, syscall.SIGTERM)
	if status := s.waitDeath(s.first); status != "SIGTERM" {
		t.Errorf("the process ended with %s", status)
	}
	(<-result).must(t, control.Down, "")
}

// A program that fails after its execution ends, and the reload command says so.
func TestInPlaceFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*service, *plan)
		status string
	}{
		"before New": {func(_ *service, p *plan) { p.Early = "panic: damaged" }, "exit 2"},
		"after New":  {func(_ *service, p *plan) { p.Built = "exit: damaged" }, "exit 1"},
		"never ready": {func(s *service, p *plan) {
			p.HealthFile = s.dir + "/health"
			if err := os.WriteFile(p.HealthFile, []byte("hang"), 0o644); err != nil {
				s.t.Fatal(err)
			}
		}, "exit 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := inPlace()
			if name == "never ready" {
				p.StartTimeout = 2 * time.Second
			}
			s := start(t, setup{plan: p, managed: true})
			s.release("v2", func(p *plan) { c.change(s, p) })
			result := s.followed()
			if status := s.waitDeath(s.first); status != c.status {
				t.Errorf("the process ended with %s, want %s", status, c.status)
			}
			(<-result).must(t, control.Down, "died during the upgrade")
		})
	}
}

// What takes too long is cut, and the new version is executed all the same.
func TestInPlaceDeadline(t *testing.T) {
	t.Parallel()
	p := inPlace()
	p.DrainTimeout = 500 * time.Millisecond
	s := start(t, setup{plan: p, managed: true})
	slow := s.hold(s.url(""))
	s.release("v2", nil)
	(<-s.followed()).must(t, control.Upgraded, "")
	if err := <-slow.answer; err == nil {
		t.Error("a request that nobody answered was not cut")
	}
	st := s.mustBeGeneration(2, "v2")
	if d := st.LastDrain; d == nil || len(d.Holders) != 1 || !d.Holders[0].Cut {
		t.Errorf("the last drain: %+v", d)
	}
}

// A service that only systemd may restart says how.
func TestRestartMode(t *testing.T) {
	t.Parallel()
	p := quick()
	p.Mode = reexec.Restart
	s := start(t, setup{plan: p, managed: true})
	s.release("v2", nil)
	(<-s.followed()).must(t, control.Refused, "v2 is fit, and this service changes its version by a restart only: systemctl ")
	s.release("v3", func(p *plan) { p.Check = "exit: no good" })
	(<-s.followed()).must(t, control.Refused, "no good")
	s.mustServe(s.first)
}
