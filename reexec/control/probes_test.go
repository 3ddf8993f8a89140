// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// probed is a service made of answers.
type probed struct {
	healthz, readyz control.Health
	updatez         control.Update
	metrics         http.Handler
}

func (p probed) Healthz() control.Health               { return p.healthz }
func (p probed) Readyz(context.Context) control.Health { return p.readyz }
func (p probed) Updatez() control.Update               { return p.updatez }
func (p probed) Metrics() http.Handler                 { return p.metrics }

func serveProbes(t *testing.T, p probed) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), control.SocketName)
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: control.NewProbeHandler(p)}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return socket
}

var metricsText = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = io.WriteString(w, "up 1\n")
})

func TestProbeAnswers(t *testing.T) {
	good := control.Health{OK: true, Accepts: true, State: "running", Process: control.Process{PID: 7, Generation: 2, Version: "v1"}}
	paused := good
	paused.Accepts, paused.State = false, "probation"
	ill := good
	ill.OK, ill.Reason = false, "the database is gone\n\x1b[2J"
	for _, tt := range []struct {
		name         string
		probed       probed
		method, path string
		code         int
		closes       bool
		body         string
	}{
		{"alive", probed{healthz: good}, "GET", "/healthz", 200, false, `{"ok":true,"state":"running","pid":7,"generation":2,"version":"v1","accepts":true}`},
		{"alive", probed{healthz: good}, "HEAD", "/healthz", 200, false, ""},
		{"stuck", probed{healthz: ill}, "GET", "/healthz", 503, false, `"reason":"the database is gone\n\u001b[2J"`},
		{"ready", probed{readyz: good}, "GET", "/readyz", 200, false, `"ok":true`},
		{"ill", probed{readyz: ill}, "GET", "/readyz", 503, false, `"ok":false`},
		{"ill", probed{readyz: ill}, "HEAD", "/readyz", 503, false, ""},
		{"paused", probed{readyz: paused}, "GET", "/readyz", 200, true, `"accepts":false`},
		{"state", probed{updatez: control.Update{Name: "myapp", State: "running"}}, "GET", "/updatez", 200, false, `{"name":"myapp","state":"running"`},
		{"metrics", probed{metrics: metricsText}, "GET", "/metrics", 200, false, "up 1\n"},
		{"metrics", probed{metrics: metricsText}, "HEAD", "/metrics", 200, false, ""},
		{"no metrics", probed{}, "GET", "/metrics", 404, false, `"error":"this service has no metrics`},
		{"post", probed{healthz: good}, "POST", "/healthz", 405, false, `use GET`},
		{"delete", probed{metrics: metricsText}, "DELETE", "/metrics", 405, false, `use GET`},
		{"other", probed{}, "GET", "/v1/status", 404, false, `"error":"path \"/v1/status\": there are /healthz, /readyz, /updatez and /metrics"`},
		{"other", probed{}, "GET", "/readyz/", 404, false, `there are`},
	} {
		t.Run(tt.name+" "+tt.method, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://control"+tt.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := plainHTTP(t, serveProbes(t, tt.probed)).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != tt.code || resp.Close != tt.closes || !strings.Contains(string(body), tt.body) || tt.method == "HEAD" && len(body) > 0 {
				t.Errorf("%d, closes: %t, %q, %v; want %d, %t, %q", resp.StatusCode, resp.Close, body, err, tt.code, tt.closes, tt.body)
			}
			if allow := resp.Header.Get("Allow"); (allow == "GET, HEAD") != (tt.code == 405) {
				t.Errorf("Allow: %q", allow)
			}
		})
	}
}

func TestClientAsksProbes(t *testing.T) {
	ill := control.Health{State: "running", Process: control.Process{PID: 7}, Reason: "why"}
	c := control.NewClient(serveProbes(t, probed{
		healthz: control.Health{OK: true}, readyz: ill, updatez: control.Update{Name: "myapp", Attempts: map[control.Outcome]uint64{control.Refused: 3}}, metrics: metricsText,
	}))
	if h, err := c.Healthz(t.Context()); err != nil || !h.OK {
		t.Errorf("%+v, %v", h, err)
	}
	if h, err := c.Readyz(t.Context()); err != nil || h != ill {
		t.Errorf("%+v, %v", h, err)
	}
	if u, err := c.Updatez(t.Context()); err != nil || u.Name != "myapp" || u.Attempts[control.Refused] != 3 {
		t.Errorf("%+v, %v", u, err)
	}
	if text, err := c.Metrics(t.Context()); err != nil || string(text) != "up 1\n" {
		t.Errorf("%q, %v", text, err)
	}
	var strange *control.ProtocolError
	if _, err := control.NewClient(serveProbes(t, probed{})).Metrics(t.Context()); !errors.As(err, &strange) || !strings.Contains(err.Error(), "SetMetrics") {
		t.Errorf("without metrics: %v", err)
	}
	// A release of Holdfast that has no probes.
	old := serve(t, backend{})
	var unsupported *control.UnsupportedError
	if _, err := control.NewClient(old).Readyz(t.Context()); !errors.As(err, &unsupported) || unsupported.Resource != "/readyz" {
		t.Errorf("an older release: %v", err)
	}
}

func TestUpdateOfAStatus(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	v1, v2, v3 := control.Process{PID: 1, Generation: 1, Version: "v1"}, control.Process{PID: 2, Generation: 2, Version: "v2"}, control.Process{PID: 3, Generation: 3, Version: "v3"}
	history := []control.Verdict{
		{Outcome: control.Upgraded, From: v1, To: &v2, Started: at},
		{Outcome: control.RolledBack, Reason: "ill", From: v1, To: &v3, Started: at.Add(-time.Hour)},
		{Outcome: control.Refused, Reason: "bad", From: v1, Started: at.Add(-2 * time.Hour)},
	}
	st := control.Status{Name: "myapp", State: "running", Since: at, PID: 2, Generation: 2, Version: "v2", History: history, Attempts: map[control.Outcome]uint64{control.Upgraded: 1}}
	u := st.Update()
	if u.Process != v2 || *u.From != v1 || *u.To != v2 || u.Last.Outcome != control.Upgraded || u.LastError.Reason != "ill" || u.Attempts[control.Upgraded] != 1 {
		t.Errorf("%+v", u)
	}
	st.State = "pre-check"
	if u := st.Update(); *u.From != v2 || u.To != nil {
		t.Errorf("under way: from %+v to %+v", u.From, u.To)
	}
	st.State, st.Successor = "probation", &v3
	if u := st.Update(); *u.From != v2 || *u.To != v3 {
		t.Errorf("under way: from %+v to %+v", u.From, u.To)
	}
	if u := (control.Status{State: "running"}).Update(); u.From != nil || u.To != nil || u.Last != nil || u.LastError != nil || u.Attempts == nil {
		t.Errorf("of a new service: %+v", u)
	}
}
