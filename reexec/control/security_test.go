// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// quiet is a service that upgrades at once.
type quiet struct{ upgrades chan struct{} }

func (quiet) Status() Status { return Status{Name: "myapp", Instance: "i1", State: "running"} }

func (quiet) Reload(context.Context) Reload { return Reload{Outcome: Reloaded} }

func (q quiet) Upgrade(context.Context, func(Status)) Verdict {
	q.upgrades <- struct{}{}
	return Verdict{Outcome: Upgraded}
}

func (q quiet) Rollback(ctx context.Context, _ string, progress func(Status)) Verdict {
	return q.Upgrade(ctx, progress)
}

// serveAs serves root and uid on a socket that all bits let anybody connect to.
func serveAs(t *testing.T, uid uint32) (path string, log *logBuffer, upgrades chan struct{}) {
	t.Helper()
	ln, path := listenUnix(t)
	log, upgrades = new(logBuffer), make(chan struct{}, 1<<10)
	logger := slog.New(slog.NewTextHandler(log, nil))
	srv := NewServer(quiet{upgrades}, logger)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(NewPeerListener(ln, uid, logger)) }()
	t.Cleanup(func() {
		_ = srv.Close()
		if err := <-served; err != http.ErrServerClosed {
			t.Errorf("serve: %v", err)
		}
	})
	return path, log, upgrades
}

// hostileRequests are what clients send that keep to no rules. Each is answered with
// the code, or with nothing where it is 0, and then closed.
var hostileRequests = []struct {
	name, text string
	code       int
}{
	{"nothing", "", 0},
	{"garbage", "\x00\x01\x02\xff\xfe garbage\r\n\r\n", 400},
	{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400},
	{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404},
	{"half a line", "GET /v1/sta", 400},
	{"half a head", "POST /v1/upgrade HTTP/1.1\r\nHost: x\r\n", 0},
	{"a head without an end", "GET /v1/status HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 64<<10), 431},
	{"half a body", "POST /v1/upgrade HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf", 400},
	{"half a reason", "POST /v1/rollback HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n{\"reason\":\"x", 400},
	{"a reason that is none", "POST /v1/rollback HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n{\"reason\":1}", 400},
	{"too long a reason", "POST /v1/rollback HTTP/1.1\r\nHost: x\r\nContent-Length: 1013\r\n\r\n{\"reason\":\"" + strings.Repeat("x", 1000) + "\"}", 400},
	{"half a body of chunks", "POST /v1/upgrade HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nha", 400},
	{"half a body that nobody wants", "GET /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf", 200},
	{"too large a body", "POST /v1/upgrade HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n" + strings.Repeat("x", 8<<10), 400},
	{"two lengths", "POST /v1/upgrade HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n", 400},
	{"a request behind another one's body", "GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 37\r\n\r\nPOST /v1/upgrade HTTP/1.1\r\nHost: x\r\n\r\n", 200},
	{"another path", "POST /v1/../v1/upgrade HTTP/1.0\r\n\r\n", 404},
	{"the upgrade by GET", "GET /v1/upgrade HTTP/1.0\r\n\r\n", 405},
	{"the upgrade by GET that says POST", "GET /v1/upgrade HTTP/1.0\r\nX-HTTP-Method-Override: POST\r\n\r\n", 405},
}

// Whatever a client sends or does not send, it is answered or closed in a time that it
// has no part in, and others are answered meanwhile. None of it starts an upgrade.
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	path, _, upgrades := serveAs(t, uint32(os.Geteuid()))
	for _, c := range hostileRequests {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(60 * time.Second))
			if _, err := io.WriteString(conn, c.text); err != nil {
				t.Fatal(err)
			}
			if st, err := NewClient(path).Status(t.Context()); err != nil || st.Name != "myapp" {
				t.Errorf("another client gets %+v, %v", st, err)
			}
			answer, err := io.ReadAll(conn)
			if err != nil && len(answer) == 0 {
				t.Fatalf("it is not closed: %v", err)
			}
			code := 0
			if len(answer) > 0 {
				if _, err := fmt.Sscanf(string(answer[len("HTTP/1.x"):]), "%d", &code); err != nil {
					t.Fatalf("answer %q: %v", answer, err)
				}
			}
			if code != c.code || bytes.Count(answer, []byte("HTTP/1.")) > 1 {
				t.Errorf("it is answered %q, want %d", answer, c.code)
			}
			select {
			case <-upgrades:
				t.Error("it has started an upgrade")
			default:
			}
		})
	}
}

// A flood of strangers, of whom each says something else and holds on, does not keep
// root and the service's user out, and gets one line in the log.
func TestFloodOfStrangers(t *testing.T) {
	needRoot(t)
	path, log, upgrades := serveAs(t, 1234)
	for i := range 400 {
		text := hostileRequests[i%len(hostileRequests)].text
		conn := dialAs(t, path, 1235)
		// It may be closed by now.
		_, _ = io.WriteString(conn, text)
		_, _ = io.WriteString(conn, "POST /v1/upgrade HTTP/1.0\r\n\r\n")
		if i%100 != 99 {
			continue
		}
		for _, uid := range []int{0, 1234} {
			if code, body := ask(t, dialAs(t, path, uid)); code != 200 {
				t.Errorf("after %d strangers uid %d is answered %d: %s", i+1, uid, code, body)
			}
		}
	}
	if n := strings.Count(log.String(), "refused a peer"); n != 1 {
		t.Errorf("%d lines in the log, want 1:\n%s", n, log.String())
	}
	select {
	case <-upgrades:
		t.Error("a stranger has started an upgrade")
	default:
	}
}
