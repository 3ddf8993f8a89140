// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// configured starts a service that reads a configuration.
func configured(t *testing.T, managed bool, change func(*plan)) *service {
	t.Helper()
	p := quick()
	p.Config = filepath.Join(t.TempDir(), "config")
	p.ReloadTimeout = patience
	writeFile(t, p.Config, "first")
	if change != nil {
		change(&p)
	}
	return start(t, setup{plan: p, managed: managed})
}

// configure puts another configuration in place.
func (s *service) configure(text string) {
	s.t.Helper()
	writeFile(s.t, s.base.Config, text)
}

// mustUse checks which configuration is in use.
func (s *service) mustUse(want string) {
	s.t.Helper()
	resp, err := http.Get(s.url("/config"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || string(got) != want {
		s.t.Errorf("the configuration is %q, %v; want %q", got, err, want)
	}
}

// reload asks on the control socket.
func (s *service) reload() control.Reload {
	s.t.Helper()
	return s.reloading()()
}

func (s *service) reloading() func() control.Reload {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	var v control.Reload
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer cancel()
		v, err = s.client.Reload(ctx)
	}()
	return func() control.Reload {
		s.t.Helper()
		<-ended
		if err != nil {
			s.t.Fatalf("reload: %v", err)
		}
		return v
	}
}

func (s *service) mustReload() {
	s.t.Helper()
	if v := s.reload(); v.Outcome != control.Reloaded || v.Reason != "" {
		s.t.Fatalf("reload: %+v", v)
	}
}

func (s *service) mustNotReload(reason string) {
	s.t.Helper()
	if v := s.reload(); v.Outcome != control.Refused || !strings.Contains(v.Reason, reason) {
		s.t.Fatalf("reload: %+v; want it to be refused: %s", v, reason)
	}
}

// A good configuration is used, a bad one changes nothing and is named everywhere.
func TestReload(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		s := configured(t, managed, nil)
		s.mustUse("first")
		s.configure("second")
		s.mustReload()
		s.mustUse("second")
		for _, bad := range []struct{ text, reason string }{
			{"!exit: no such colour", "file: no such colour"},
			{"!panic: index out of range", "file: panic: index out of range"},
		} {
			s.configure(bad.text)
			s.mustNotReload(bad.reason)
			s.mustUse("second")
			s.waitLog(s.first, "witness discards") // although it has nothing against it
		}
		st := s.status()
		if r := st.Reloads; r == nil || r.Done != 1 || r.Refused != 2 || r.Last == nil || r.Last.Outcome != control.Refused {
			t.Errorf("status has %+v", st.Reloads)
		}
		if managed {
			s.notify.Want(t, "STATUS=running: v1 (generation 1); the configuration was refused at "+st.Reloads.Last.Started.Local().Format(time.TimeOnly)+": file: panic: index out of range")
		}
		s.configure("third")
		s.mustReload()
		s.mustUse("third")
		if r := s.status().Reloads; r.Done != 2 || r.Refused != 2 || r.Last.Outcome != control.Reloaded {
			t.Errorf("status has %+v", r)
		}
		// What was asked on the control socket may be a command of ExecReload=.
		if managed {
			for _, m := range s.notify.Messages() {
				if m.Has("RELOADING=1") {
					t.Errorf("systemd was told %v", m)
				}
			}
		}
		s.mustServe(s.first)
	})
}

// A signal is a reload that nobody waits for: systemd is told that it begins and
// ends, whatever has become of it.
func TestReloadBySignal(t *testing.T) {
	t.Parallel()
	s := configured(t, true, nil)
	s.notify.Want(t, "READY=1", "STATUS=running: v1 (generation 1)")
	for _, c := range []struct{ text, use, status string }{
		{"second", "second", "STATUS=running: v1 (generation 1)"},
		{"!exit: no such colour", "second", "; the configuration was refused at "},
	} {
		s.configure(c.text)
		before := len(s.notify.Messages())
		s.signal(s.first, syscall.SIGHUP)
		s.notify.Want(t, "RELOADING=1")
		s.notify.Want(t, "READY=1")
		s.mustUse(c.use)
		var got []string
		for _, m := range s.notify.Messages()[before:] {
			if m.Has("RELOADING=1") || m.Has("READY=1") {
				got = append(got, fields(m))
			}
		}
		if len(got) != 2 || !strings.HasPrefix(got[0], "RELOADING=1 MONOTONIC_USEC=now ") || !strings.HasPrefix(got[1], "READY=1 ") || !strings.Contains(got[1], c.status) {
			t.Errorf("systemd was told %q", got)
		}
	}
	mustBeHeard(t, s.notify.Messages(), s.first)
}

// However many ask while one is under way, one more is done for all of them.
func TestReloadsAreMerged(t *testing.T) {
	t.Parallel()
	s := configured(t, true, nil)
	s.configure("!stage")
	first := s.reloading()
	stage := s.waitStage("config")
	s.configure("second")
	var more []func() control.Reload
	for range 5 {
		more = append(more, s.reloading())
		s.signal(s.first, syscall.SIGHUP)
	}
	for range 6 { // a signal may merge with another on its way
		s.waitLog(s.first, "reload of the configuration waits")
	}
	stage.release("exit: not this one")
	if v := first(); v.Outcome != control.Refused || !strings.Contains(v.Reason, "not this one") {
		t.Errorf("the first one: %+v", v)
	}
	results := map[control.Reload]bool{}
	for _, wait := range more {
		v := wait()
		v.Started = v.Started.UTC()
		if results[v] = true; v.Outcome != control.Reloaded {
			t.Errorf("one that came later: %+v", v)
		}
	}
	s.mustUse("second")
	if r := s.status().Reloads; r.Done != 1 || r.Refused != 1 || len(results) != 1 {
		t.Errorf("%d results, status %+v", len(results), r)
	}
	s.mustHearReloadEnd()
}

// A reload that is asked for in any phase of an upgrade is done by whoever is main
// after it.
func TestReloadDuringAnUpgrade(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		for _, at := range []struct {
			name   string
			change func(*plan)
			stage  string
		}{
			{"checking", func(p *plan) { p.Check = "stage" }, "check"},
			{"starting", func(p *plan) { p.Early = "stage" }, "early"},
			{"building", func(p *plan) { p.Built = "stage" }, "built"},
			{"probation", nil, ""},
		} {
			for _, good := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, good %t", at.name, good), func(t *testing.T) {
					t.Parallel()
					s := configured(t, managed, func(p *plan) {
						if at.stage == "" {
							p.Probation = time.Second
						}
					})
					health := filepath.Join(s.dir, "health")
					s.release("v2", func(p *plan) {
						p.HealthFile = health
						if at.change != nil {
							at.change(p)
						}
					})
					verdict := s.asked()
					var stage *stage
					if at.stage != "" {
						st := s.waitStage(at.stage)
						stage = &st
					} else {
						s.waitLog(s.first, "starting -> probation")
					}
					// Behind the back of the new version, if it has read it already.
					s.configure("second")
					s.signal(s.first, syscall.SIGHUP)
					s.waitLog(s.first, "reload of the configuration waits")
					asked := s.reloading()
					s.waitLog(s.first, "reload of the configuration waits")
					s.mustUse("first")
					do := ""
					if !good {
						do = "exit: no licence"
						if stage == nil {
							writeFile(t, health, "no disk")
						}
					}
					if stage != nil {
						stage.release(do)
					}
					v, _ := verdict()
					main := s.first
					switch {
					case good && v.Outcome == control.Upgraded:
						main = v.To.PID
					case good || v.Outcome == control.Upgraded:
						t.Fatalf("verdict %q: %s", v.Outcome, v.Reason)
					}
					if v := asked(); v.Outcome != control.Reloaded {
						t.Errorf("the reload: %+v", v)
					}
					s.mustUse("second")
					s.waitLog(main, "configuration was read again")
					if r := s.status().Reloads; s.status().PID != main || r.Done == 0 {
						t.Errorf("status has %+v", r)
					}
					s.mustServe(main)
					if managed {
						if good {
							mustBeHeard(t, s.notify.Messages(), s.first)
						}
						s.mustHearReloadEnd()
					}
				})
			}
		}
	})
}

// An upgrade that is asked for during a reload begins when that is over.
func TestUpgradeDuringAReload(t *testing.T) {
	t.Parallel()
	s := configured(t, false, nil)
	s.configure("!stage")
	asked := s.reloading()
	stage := s.waitStage("config")
	s.release("v2", nil)
	verdict, _ := s.ask(func(control.Status) {})
	// Nothing tells that it has come, but it must not begin.
	time.Sleep(50 * time.Millisecond)
	if st := s.status(); st.State != "running" || st.PID != s.first {
		t.Errorf("during the reload the state is %s", st.State)
	}
	s.configure("second")
	stage.release("")
	if v := asked(); v.Outcome != control.Reloaded {
		t.Errorf("the reload: %+v", v)
	}
	if v, _ := verdict(); v.Outcome != control.Upgraded {
		t.Errorf("the upgrade: %+v", v)
	}
	s.mustUse("second")
}

// A reload that does not end is given up, and no other begins beside it.
func TestReloadHangs(t *testing.T) {
	t.Parallel()
	s := configured(t, false, func(p *plan) { p.ReloadTimeout = 100 * time.Millisecond })
	s.configure("!wait")
	s.mustNotReload("not done within 100ms: file: context deadline exceeded")
	s.configure("!stage")
	s.mustNotReload("not done within 100ms")
	stage := s.waitStage("config")
	s.configure("second")
	s.mustNotReload("the last reload hangs still, although its time is over")
	s.mustUse("first")
	stage.release("")
	s.waitLog(s.first, "witness discards") // of the first
	s.waitLog(s.first, "witness discards")
	for deadline := time.Now().Add(patience); ; {
		v := s.reload()
		if v.Outcome == control.Reloaded {
			break
		}
		if !strings.Contains(v.Reason, "hangs still") || time.Now().After(deadline) {
			t.Fatalf("reload: %+v", v)
		}
	}
	s.mustUse("second")
}

// A stop ends a reload, and what waits for it.
func TestStopDuringAReload(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		for _, text := range []string{"!wait", "!hang"} {
			t.Run(text, func(t *testing.T) {
				t.Parallel()
				s := configured(t, managed, nil)
				slow := s.hold(s.url(""))
				s.configure(text)
				asked := s.reloading()
				s.waitLog(s.first, "witness prepares")
				later := s.reloading()
				s.waitLog(s.first, "reload of the configuration waits")
				s.signal(s.first, syscall.SIGTERM)
				s.waitLog(s.first, "serving -> stopping")
				if v := asked(); v.Outcome != control.Stopped {
					t.Errorf("the reload under way: %+v", v)
				}
				if v := later(); v.Outcome != control.Stopped {
					t.Errorf("the one that waits: %+v", v)
				}
				s.signal(s.first, syscall.SIGHUP)
				s.waitLog(s.first, "configuration is not read again")
				slow.answerNow(t)
				if status := s.waitDeath(s.first); status != "exit 0" {
					t.Errorf("the process ended with %s", status)
				}
				if slices.ContainsFunc(s.log.all(), func(l line) bool { return l.Msg == "witness commits" }) {
					t.Error("it was committed")
				}
			})
		}
	})
}

// A service that reads nothing again says so, and keeps what SIGHUP does by default.
func TestNothingToReload(t *testing.T) {
	t.Parallel()
	s := start(t, setup{plan: quick()})
	s.mustNotReload("the service registers nothing to read again (Service.OnReload)")
	if r := s.status().Reloads; r != nil {
		t.Errorf("status has %+v", r)
	}
	s.signal(s.first, syscall.SIGHUP)
	if status := s.waitDeath(s.first); status != "SIGHUP" {
		t.Errorf("the process ended with %s", status)
	}
}

// In place SIGHUP never ends the process, and what it asks for is done or needless:
// the next program reads its configuration when it starts.
func TestReloadInPlace(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		s := configured(t, managed, func(p *plan) { p.Mode = inPlace().Mode })
		slow := s.hold(s.url(""))
		s.release("v2", func(p *plan) { p.Early = "stage" })
		result := s.followed()
		s.waitLog(s.first, "checking -> emptying")
		s.configure("second")
		s.signal(s.first, syscall.SIGHUP)
		s.waitLog(s.first, "reload of the configuration waits")
		asked := s.reloading()
		s.waitLog(s.first, "reload of the configuration waits")
		slow.answerNow(t)
		early := s.waitStage("early")
		s.signal(s.first, syscall.SIGHUP) // is lost, and does no harm
		early.release("")
		(<-result).must(t, control.Upgraded, "")
		if v := asked(); v.Outcome != control.Reloaded {
			t.Errorf("the reload: %+v", v)
		}
		s.mustBeGeneration(2, "v2")
		s.mustUse("second")
		s.configure("third")
		s.signal(s.first, syscall.SIGHUP)
		s.waitLog(s.first, "configuration was read again")
		s.waitLog(s.first, "configuration was read again")
		s.mustUse("third")
		if managed {
			s.mustHearReloadEnd()
		}
	})
}
