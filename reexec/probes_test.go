// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/holdfast-go/holdfast/notify/notifytest"
	"github.com/holdfast-go/holdfast/reexec/control"
)

// probe asks one generation, whatever it is.
func (s *service) probe(pid int, path string, into any) (code int) {
	s.t.Helper()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(s.dir, fmt.Sprintf("probes.%d", pid)))
		},
	}}
	resp, err := client.Get("http://probes" + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode
}

// handedOver are the states in which another generation accepts.
var handedOver = []string{"probation", "promoting", "draining", "resigning"}

// mustBeReady asks /readyz of one generation, which must be in this state; reason is
// why it is not ready. It is alive in any case.
func (s *service) mustBeReady(pid int, state, reason string) {
	s.t.Helper()
	var h, alive control.Health
	code := s.probe(pid, "/readyz", &h)
	want := http.StatusOK
	if reason != "" {
		want = http.StatusServiceUnavailable
	}
	if code != want || h.OK != (reason == "") || h.State != state || !strings.Contains(h.Reason, reason) || h.PID != pid {
		s.t.Errorf("readyz of PID %d: %d %+v; want %d, %s: %q", pid, code, h, want, state, reason)
	}
	if reason == "" && h.Accepts == slices.Contains(handedOver, state) {
		s.t.Errorf("PID %d in %s accepts: %t", pid, state, h.Accepts)
	}
	if code := s.probe(pid, "/healthz", &alive); code != http.StatusOK || !alive.OK || alive.PID != pid {
		s.t.Errorf("healthz of PID %d in %s: %d %+v", pid, state, code, alive)
	}
}

// The readiness of both generations in each state of an upgrade. What no process stays in
// (executing, gone) is in TestReadyInEveryState.
func TestReadiness(t *testing.T) {
	t.Parallel()
	probing := func() plan {
		p := quick()
		p.Probes = true
		return p
	}
	t.Run("start", func(t *testing.T) {
		t.Parallel()
		p := probing()
		p.HealthFile = t.TempDir() + "/health"
		writeFile(t, p.HealthFile, "no database yet")
		s := launch(t, setup{plan: p, managed: true})
		s.waitLog(s.first, "not ready yet")
		s.mustBeReady(s.first, "starting up", "it is starting up")
		if s.notify.Store() == nil || len(s.notify.Messages()) > 0 {
			t.Errorf("systemd was told %v", s.notify.Messages())
		}
		writeFile(t, p.HealthFile, "")
		s.waitLog(s.first, "booting -> serving")
		s.mustBeReady(s.first, "running", "")
		writeFile(t, p.HealthFile, "the database is gone")
		s.mustBeReady(s.first, "running", "the database is gone")
		if h, err := s.client.Readyz(t.Context()); err != nil || h.OK || h.Reason != "the database is gone" {
			t.Errorf("on the control socket: %+v, %v", h, err)
		}
		writeFile(t, p.HealthFile, "hang")
		s.mustBeReady(s.first, "running", "health check: it has not returned within 2s")
	})
	t.Run("upgrade", func(t *testing.T) {
		environments(t, func(t *testing.T, managed bool) {
			health := t.TempDir() + "/health"
			s := start(t, setup{plan: probing(), managed: managed})
			slow := s.hold(s.url(""))
			s.release("v2", func(p *plan) {
				p.Check, p.Built, p.HealthFile, p.Probation = "stage", "stage", health, patience
			})
			verdict := s.asked()
			checking := s.waitStage("check")
			s.mustBeReady(s.first, "pre-check", "")
			s.release("v2", func(p *plan) { p.Built, p.HealthFile, p.Probation = "stage", health, patience })
			checking.release("")
			building := s.waitStage("built")
			s.mustBeReady(s.first, "starting", "")
			s.mustBeReady(building.PID, "starting up", "it is starting up")
			writeFile(t, health, "loading")
			building.release("")
			s.waitLog(building.PID, "not ready yet")
			s.mustBeReady(building.PID, "starting up", "it is starting up")
			writeFile(t, health, "")
			s.waitLog(s.first, "starting -> probation")
			s.waitLog(building.PID, "offered -> trial")
			s.mustBeReady(building.PID, "on trial", "")
			s.mustBeReady(s.first, "probation", "")
			var u control.Update
			if code := s.probe(building.PID, "/updatez", &u); code != http.StatusOK || u.From == nil || u.From.PID != s.first || u.To == nil || u.To.PID != building.PID || u.State != "on trial" {
				t.Errorf("updatez of the new version: %d %+v", code, u)
			}
			if u, err := s.client.Updatez(t.Context()); err != nil || u.PID != s.first || u.State != "probation" || u.To == nil || u.To.PID != building.PID {
				t.Errorf("updatez on the control socket: %+v, %v", u, err)
			}
			s.mustReach(s.url("/who"), building.PID)
			held := s.hold(s.url(""))
			writeFile(t, health, "the database is gone")
			if v, _ := verdict(); v.Outcome != control.RolledBack {
				t.Fatalf("verdict %+v", v)
			}
			s.waitLog(building.PID, "trial -> resigning")
			s.mustBeReady(building.PID, "resigning", "")
			s.mustBeReady(s.first, "running", "")
			held.answerNow(t)
			s.waitGone(building.PID)
			if u, err := s.client.Updatez(t.Context()); err != nil || u.LastError == nil || u.LastError.Outcome != control.RolledBack || u.Attempts[control.RolledBack] != 1 {
				t.Errorf("updatez after a rollback: %+v, %v", u, err)
			}

			s.release("v3", nil)
			next := s.mustUpgrade().PID
			s.mustBeReady(s.first, "draining", "")
			s.mustBeReady(next, "running", "")
			if h, err := s.client.Readyz(t.Context()); err != nil || !h.OK || h.PID != next {
				t.Errorf("on the control socket: %+v, %v", h, err)
			}
			slow.answerNow(t)
			s.waitGone(s.first)
			last := s.hold(s.url(""))
			s.signal(next, syscall.SIGTERM)
			s.waitLog(next, "serving -> stopping")
			s.mustBeReady(next, "stopping", "the service stops")
			last.answerNow(t)
		})
	})
	t.Run("offered", func(t *testing.T) {
		t.Parallel()
		s := start(t, setup{plan: probing()})
		s.release("v2", func(p *plan) { p.Built = "stage" })
		wait := s.brokenUpgrade()
		building := s.waitStage("built")
		s.freeze(s.first)
		building.release("")
		s.waitLog(building.PID, "joining -> offered")
		s.mustBeReady(building.PID, "starting up", "has not told it to serve")
		s.signal(s.first, syscall.SIGKILL)
		wait()
	})
	t.Run("promoting", func(t *testing.T) {
		t.Parallel()
		read := make(chan struct{})
		release := sync.OnceFunc(func() { close(read) })
		s := start(t, setup{plan: probing(), managed: true, notify: []notifytest.Option{notifytest.Handle(func(m *notifytest.Message) {
			if m.Has("MAINPID") {
				<-read
			}
		})}})
		t.Cleanup(release)
		s.release("v2", nil)
		verdict := s.asked()
		s.waitLog(s.first, "probation -> promoting")
		s.mustBeReady(s.first, "promoting", "")
		s.mustBeReady(s.waitLog(0, "offered -> trial").PID, "on trial", "")
		release()
		if v, _ := verdict(); v.Outcome != control.Upgraded {
			t.Errorf("verdict %+v", v)
		}
	})
	t.Run("in place", func(t *testing.T) {
		t.Parallel()
		p := inPlace()
		p.Probes = true
		health := t.TempDir() + "/health"
		s := start(t, setup{plan: p, managed: true})
		slow := s.hold(s.url(""))
		s.release("v2", func(p *plan) { p.HealthFile = health })
		writeFile(t, health, "loading")
		result := s.followed()
		s.waitLog(s.first, "checking -> emptying")
		s.mustBeReady(s.first, "emptying", "it answers what it has")
		slow.answerNow(t)
		s.waitLog(s.first, "not ready yet")
		s.mustBeReady(s.first, "starting up", "it is starting up")
		var u control.Update
		if s.probe(s.first, "/updatez", &u); u.From == nil || u.From.Version != "v1" || u.To == nil || u.To.Version != "v2" {
			t.Errorf("updatez: %+v", u)
		}
		writeFile(t, health, "")
		(<-result).must(t, control.Upgraded, "")
		s.mustBeReady(s.first, "running", "")
	})
}

// Who asks on a new connection each time, as load balancers do, sees nothing of an
// upgrade or a rollback; who keeps its connection is led to the one that accepts.
func TestReadinessThroughUpgrades(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		health := t.TempDir() + "/health"
		s := start(t, setup{plan: quick(), managed: managed})
		url := s.url("/readyz")
		ctx, stop := context.WithCancel(t.Context())
		var asking sync.WaitGroup
		asked := 0
		var ill atomic.Int64
		asking.Go(func() {
			client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
			for ; ctx.Err() == nil; asked++ {
				resp, err := client.Get(url)
				if err != nil {
					t.Error(err)
					return
				}
				var h control.Health
				err = json.NewDecoder(resp.Body).Decode(&h)
				_ = resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK && h.PID != int(ill.Load()) {
					t.Errorf("answer %s: %+v, %v", resp.Status, h, err)
				}
			}
		})
		kept := &http.Client{Timeout: patience, Transport: new(http.Transport)}
		ask := func() (h control.Health, closes bool) {
			t.Helper()
			resp, err := kept.Get(url)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if err := json.NewDecoder(resp.Body).Decode(&h); err != nil {
				t.Fatal(err)
			}
			return h, resp.Close
		}
		if h, _ := ask(); !h.OK || h.PID != s.first {
			t.Errorf("%+v", h)
		}
		successor, verdict := s.onTrial(func(p *plan) { p.HealthFile, p.Probation = health, patience })
		if h, closes := ask(); !h.OK || h.Accepts || h.PID != s.first || !closes {
			t.Errorf("a paused generation says %+v, and closes: %t", h, closes)
		}
		s.mustReach(s.url("/who"), successor)
		if h, _ := ask(); !h.OK || h.PID != successor {
			t.Errorf("asked again: %+v", h)
		}
		ill.Store(int64(successor))
		writeFile(t, health, "the database is gone")
		if v, _ := verdict(); v.Outcome != control.RolledBack {
			t.Errorf("verdict %+v", v)
		}
		for i := range 3 {
			s.release(fmt.Sprintf("v%d", i), nil)
			s.mustUpgrade()
		}
		stop()
		asking.Wait()
		if asked < 10 {
			t.Errorf("asked %d times", asked)
		}
	})
}
