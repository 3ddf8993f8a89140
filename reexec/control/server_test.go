// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// backend is a service made of functions.
type backend struct {
	status  func() control.Status
	upgrade func(ctx context.Context, progress func(control.Status)) control.Verdict
	// rollback is upgrade where it is nil.
	rollback func(ctx context.Context, reason string, progress func(control.Status)) control.Verdict
	reload   func(ctx context.Context) control.Reload
}

func (b backend) Status() control.Status { return b.status() }

func (b backend) Upgrade(ctx context.Context, progress func(control.Status)) control.Verdict {
	return b.upgrade(ctx, progress)
}

func (b backend) Rollback(ctx context.Context, reason string, progress func(control.Status)) control.Verdict {
	if b.rollback == nil {
		return b.upgrade(ctx, progress)
	}
	return b.rollback(ctx, reason, progress)
}

func (b backend) Reload(ctx context.Context) control.Reload { return b.reload(ctx) }

// serve runs b on a socket until the end of the test and returns its path.
func serve(t *testing.T, b control.Backend) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), control.SocketName)
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := control.NewServer(b, slog.New(slog.DiscardHandler))
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Errorf("close the server: %v", err)
		}
		if err := <-done; err != http.ErrServerClosed {
			t.Errorf("serve: %v", err)
		}
	})
	return path
}

// plainHTTP talks to the socket without package control's client.
func plainHTTP(t *testing.T, path string) *http.Client {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func TestServerAnswers(t *testing.T) {
	path := serve(t, backend{
		status: func() control.Status { return control.Status{Name: "myapp", Instance: "i1", State: "running"} },
		upgrade: func(context.Context, func(control.Status)) control.Verdict {
			t.Error("an upgrade ran that nobody asked for")
			return control.Verdict{}
		},
	})
	client := plainHTTP(t, path)
	for _, tt := range []struct {
		method, path string
		code         int
		allow        string
		body         string // contained in the answer
	}{
		{"GET", "/v1/status", 200, "", `"protocol":1,"name":"myapp","instance":"i1","state":"running"`},
		{"HEAD", "/v1/status", 200, "", ""},
		{"POST", "/v1/status", 405, "GET, HEAD", `"error":"method \"POST\" on /v1/status: use GET"`},
		{"GET", "/v1/upgrade", 405, "POST", `use POST`},
		{"GET", "/v1/reload", 405, "POST", `use POST`},
		{"GET", "/v2/status", 404, "", `"error":"protocol version 2 is not spoken here: speak version 1","versions":[1]`},
		{"POST", "/v2/upgrade", 404, "", `"versions":[1]`},
		{"GET", "/v01/status", 404, "", `"versions":[1]`},
		{"GET", "/v+1/status", 404, "", `"versions":[1]`},
		{"GET", "/v99999999999999999999/status", 404, "", `"versions":[1]`},
		{"GET", "/", 404, "", `"versions":[1]`},
		{"GET", "/status", 404, "", `"versions":[1]`},
		{"GET", "/v1/stop", 404, "", `"error":"path \"/v1/stop\": version 1 has status, upgrade, rollback and reload only"}`},
		{"GET", "/v1/rollback", 405, "POST", `use POST`},
		{"GET", "/v1", 404, "", `status, upgrade, rollback and reload only`},
		{"GET", "/v1/status/", 404, "", `status, upgrade, rollback and reload only`},
	} {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://control"+tt.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != tt.code {
				t.Errorf("status code = %d, want %d", resp.StatusCode, tt.code)
			}
			if got := resp.Header.Get("Allow"); got != tt.allow {
				t.Errorf("Allow = %q, want %q", got, tt.allow)
			}
			if got := resp.Header.Get("Content-Type"); got != "application/json" {
				t.Errorf("Content-Type = %q", got)
			}
			if !strings.Contains(string(body), tt.body) {
				t.Errorf("body = %s, want it to contain %s", body, tt.body)
			}
			if tt.method != "HEAD" && !json.Valid(body) {
				t.Errorf("body is not JSON: %s", body)
			}
		})
	}
}

func TestServerStreamsUpgrade(t *testing.T) {
	step := make(chan string)
	path := serve(t, backend{upgrade: func(_ context.Context, progress func(control.Status)) control.Verdict {
		for state := range step {
			progress(control.Status{State: state})
		}
		return control.Verdict{Outcome: control.Upgraded, To: &control.Process{PID: 2}}
	}})
	resp, err := plainHTTP(t, path).Post("http://control/v1/upgrade", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); got != "application/x-ndjson" {
		t.Errorf("Content-Type = %q", got)
	}
	// Each state is read before the next one happens: nothing is held back.
	lines := bufio.NewScanner(resp.Body)
	for _, state := range []string{"pre-check", "starting", "probation"} {
		step <- state
		var ev control.Event
		if !lines.Scan() {
			t.Fatalf("the stream ended at %s: %v", state, lines.Err())
		}
		if err := json.Unmarshal(lines.Bytes(), &ev); err != nil {
			t.Fatal(err)
		}
		if ev.State == nil || ev.State.State != state || ev.State.Protocol != control.Version || ev.Verdict != nil {
			t.Errorf("line %s, want the state %s", lines.Bytes(), state)
		}
	}
	close(step)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), `{"verdict":{"outcome":"upgraded",`) {
		t.Errorf("last line %q, error %v, want the verdict", lines.Text(), lines.Err())
	}
	if lines.Scan() {
		t.Errorf("line after the verdict: %s", lines.Bytes())
	}
}

func TestServerTellsBackendThatClientIsGone(t *testing.T) {
	started, gone := make(chan struct{}), make(chan struct{})
	path := serve(t, backend{upgrade: func(ctx context.Context, progress func(control.Status)) control.Verdict {
		close(started)
		<-ctx.Done()
		progress(control.Status{State: "probation"})
		close(gone)
		return control.Verdict{Outcome: control.Upgraded}
	}})
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	// A body is not asked for, and must not keep the server from noticing.
	if _, err := io.WriteString(conn, "POST /v1/upgrade HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"); err != nil {
		t.Fatal(err)
	}
	<-started
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	<-gone
}

func TestServerRefusesBody(t *testing.T) {
	path := serve(t, backend{upgrade: func(context.Context, func(control.Status)) control.Verdict {
		t.Error("the upgrade was started")
		return control.Verdict{}
	}})
	resp, err := plainHTTP(t, path).Post("http://control/v1/upgrade", "", bytes.NewReader(make([]byte, 5<<10)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("status code = %d, want 400", resp.StatusCode)
	}
}

// A client that does not read must not hold up the upgrade, and still gets the
// verdict when it reads at last.
func TestServerNeverWaitsForClient(t *testing.T) {
	big := control.Status{State: "starting", Listeners: []control.Listener{{Name: strings.Repeat("x", 64<<10)}}}
	var returned sync.WaitGroup
	returned.Add(1)
	path := serve(t, backend{upgrade: func(_ context.Context, progress func(control.Status)) control.Verdict {
		defer returned.Done()
		for range 1000 { // 64 MB, far more than the socket's buffer
			progress(big)
		}
		return control.Verdict{Outcome: control.Refused, Reason: "test"}
	}})
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST /v1/upgrade HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	returned.Wait()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if tail := answer[bytes.LastIndexByte(answer[:len(answer)-1], '\n')+1:]; !bytes.HasPrefix(tail, []byte(`{"verdict":{"outcome":"refused"`)) {
		t.Errorf("last line %.100q, want the verdict", tail)
	}
	if n := bytes.Count(answer, []byte(`{"state":`)); n >= 1000 {
		t.Errorf("%d states were kept for a client that does not read", n)
	}
}
