// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// A step is what a scripted service does with one connection; the connection is
// closed afterwards.
type step func(conn net.Conn)

// script serves one connection after the other with steps, the last of which
// repeats. A nil step closes the listener instead, so that clients are refused.
func script(t *testing.T, steps ...step) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), control.SocketName)
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	var (
		mu    sync.Mutex
		conns []net.Conn
		done  = make(chan struct{})
	)
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			s := steps[min(i, len(steps)-1)]
			if s == nil {
				ln.Close()
				return
			}
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			// The listener of a service that died is gone before its
			// connections are.
			if i+1 < len(steps) && steps[i+1] == nil {
				ln.Close()
			}
			s(conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, conn := range conns {
			conn.Close() // unblocks a step
		}
		mu.Unlock()
		<-done
	})
	return path
}

// readRequest reads one request to its end.
func readRequest(conn net.Conn) {
	if req, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
		_, _ = io.Copy(io.Discard, req.Body)
	}
}

// raw answers with text after it has read the request.
func raw(text string) step {
	return func(conn net.Conn) {
		readRequest(conn)
		_, _ = io.WriteString(conn, text)
	}
}

// answer answers with a whole answer of the given code, type and body.
func answer(code int, mediaType, body string) step {
	return raw(fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
		code, http.StatusText(code), mediaType, len(body), body))
}

func jsonAnswer(code int, body string) step { return answer(code, "application/json", body) }

// stream answers POST /v1/upgrade with lines and ends the connection.
func stream(lines ...string) step {
	return raw("HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n" + strings.Join(lines, ""))
}

// hang reads the request and answers nothing until the client goes away.
func hang(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

const goodStatus = `{"protocol":1,"name":"myapp","instance":"i1","state":"running","generation":1,"version":"1.0","pid":10}`

func TestClientStatus(t *testing.T) {
	want := control.Status{
		Protocol: control.Version, Name: "myapp", Instance: "i1", State: "running", Since: time.Unix(1e9, 0).UTC(),
		Generation: 3, Version: "1.2", PID: 42,
		Successor: &control.Process{PID: 43, Generation: 4},
		Draining:  []control.Process{{PID: 41, Generation: 2, Version: "1.1"}},
		Listeners: []control.Listener{{Name: "http", Network: "tcp", Address: "127.0.0.1:8080", Origin: "socket unit"}},
		Last:      &control.Verdict{Outcome: control.Upgraded, From: control.Process{PID: 41}, To: &control.Process{PID: 42}, Started: time.Unix(1e9, 0).UTC()},
	}
	got, err := control.NewClient(serve(t, backend{status: func() control.Status { return want }})).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("status = %+v, want %+v", got, want)
	}
}

func TestClientUpgrade(t *testing.T) {
	want := control.Verdict{Outcome: control.RolledBack, Reason: "the health check failed", From: control.Process{PID: 1}}
	path := serve(t, backend{upgrade: func(_ context.Context, progress func(control.Status)) control.Verdict {
		progress(control.Status{State: "starting"})
		progress(control.Status{State: "probation"})
		return want
	}})
	var states []string
	got, err := control.NewClient(path).Upgrade(t.Context(), func(st control.Status) { states = append(states, st.State) })
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("verdict = %+v, want %+v", got, want)
	}
	if want := []string{"starting", "probation"}; !reflect.DeepEqual(states, want) {
		t.Errorf("states = %v, want %v", states, want)
	}
}

// as reports whether err has an E in its tree.
func as[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

var errorTypes = map[string]func(error) bool{
	"not running": as[*control.NotRunningError],
	"permission":  as[*control.PermissionError],
	"version":     as[*control.VersionError],
	"protocol":    as[*control.ProtocolError],
	"broken":      as[*control.BrokenError],
}

// wantError checks that err has the one wanted type and says text.
func wantError(t *testing.T, err error, kind, text string) {
	t.Helper()
	for name, is := range errorTypes {
		if is(err) != (name == kind) {
			t.Errorf("error %v: %s = %v, want a %s error", err, name, is(err), kind)
		}
	}
	if err != nil && !strings.Contains(err.Error(), text) {
		t.Errorf("error %q, want it to contain %q", err, text)
	}
}

func TestClientErrors(t *testing.T) {
	huge := strings.Repeat("x", 1<<20)
	for _, tt := range []struct {
		name string
		step step
		kind string
		text string
	}{
		{"another version", jsonAnswer(404, `{"error":"no","versions":[2,3]}`), "version", "speaks protocol version 2, 3, this client version 1"},
		{"no such resource", jsonAnswer(404, `{"error":"no such thing"}`), "protocol", `answer "404 Not Found": no such thing`},
		{"our version and yet not found", jsonAnswer(404, `{"error":"odd","versions":[1]}`), "protocol", "odd"},
		{"forbidden", jsonAnswer(403, `{"error":"uid 7 is not served"}`), "permission", "uid 7 is not served"},
		{"server error", jsonAnswer(500, `{"error":"out of order"}`), "protocol", "out of order"},
		{"error without a body", jsonAnswer(500, ``), "protocol", "without an error"},
		{"error that is no JSON", answer(502, "text/html", "<html>"), "protocol", `"502 Bad Gateway" without an error`},
		{"redirect", raw("HTTP/1.1 302 Found\r\nLocation: http://example.org/\r\nContent-Length: 0\r\n\r\n"), "protocol", "302"},
		{"another media type", answer(200, "text/html", "<html>"), "protocol", `Content-Type "text/html": want application/`},
		{"no media type", raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), "protocol", `Content-Type ""`},
		{"not HTTP", raw("220 smtp.example.org ESMTP\r\n"), "protocol", "malformed HTTP"},
		{"endless head", raw("HTTP/1.1 200 OK\r\nX: " + huge), "protocol", "head of the answer is longer than 65536 bytes"},
		{"silence", func(conn net.Conn) { readRequest(conn) }, "broken", "unexpected EOF"},
		{"reset", func(net.Conn) {}, "broken", ""}, // closed with the request unread
		{"no answer in the end", raw("HTTP/1.1 100 Continue\r\n\r\n"), "protocol", "100 Continue"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := control.NewClient(script(t, tt.step))
			_, err := client.Status(t.Context())
			wantError(t, err, tt.kind, tt.text)
			_, err = client.Upgrade(t.Context(), nil)
			wantError(t, err, tt.kind, tt.text)
		})
	}
	for _, tt := range []struct {
		name, body, kind, text string
	}{
		{"not JSON", "<html>", "protocol", "invalid character"},
		{"empty", "", "protocol", "unexpected end"},
		{"another type", "[]", "protocol", "cannot unmarshal array"},
		{"no protocol", `{"instance":"i1"}`, "protocol", "no protocol version"},
		{"no instance", `{"protocol":1}`, "protocol", "no instance"},
		{"another protocol", `{"protocol":2,"instance":"i1"}`, "version", "speaks protocol version 2"},
		{"too long", `{"name":"` + huge + `"}`, "protocol", "longer than 1048576 bytes"},
		{"two values", goodStatus + goodStatus, "protocol", "invalid character"},
	} {
		t.Run("status "+tt.name, func(t *testing.T) {
			_, err := control.NewClient(script(t, jsonAnswer(200, tt.body))).Status(t.Context())
			wantError(t, err, tt.kind, tt.text)
		})
	}
	for _, tt := range []struct {
		name, line, kind, text string
	}{
		{"not JSON", "<html>\n", "protocol", "invalid character"},
		{"both", `{"state":{},"verdict":{"outcome":"upgraded"}}` + "\n", "protocol", "both a state and a verdict"},
		{"no outcome", `{"verdict":{}}` + "\n", "protocol", "no outcome"},
		{"too long", huge + "\n", "protocol", "longer than 1048576 bytes"},
		{"no verdict", `{"state":{}}` + "\n" + `{"later":1}` + "\n", "broken", "unexpected EOF"},
		{"verdict without a newline", `{"verdict":{"outcome":"upgraded"}}`, "broken", "unexpected EOF"},
	} {
		t.Run("upgrade "+tt.name, func(t *testing.T) {
			_, err := control.NewClient(script(t, stream(tt.line))).Upgrade(t.Context(), nil)
			wantError(t, err, tt.kind, tt.text)
		})
	}
}

func TestClientConnectErrors(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, path, kind, text string
		is                     error
	}{
		{"absent", filepath.Join(dir, "absent"), "not running", "start the service", os.ErrNotExist},
		{"no runtime directory", filepath.Join(dir, "absent", "absent"), "not running", "", os.ErrNotExist},
		{"below a file", filepath.Join(file, "x"), "not running", "", syscall.ENOTDIR},
		{"nobody listens", stale, "not running", "nobody serves it", syscall.ECONNREFUSED},
		{"not a socket", file, "not running", "", syscall.ECONNREFUSED},
		{"empty path", "", "", "must have 1 to 107", nil},
		{"long path", "/" + strings.Repeat("x", 107), "", "path has 108 bytes: must have 1 to 107", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := control.NewClient(tt.path).Status(t.Context())
			if err == nil {
				t.Fatal("no error")
			}
			wantError(t, err, tt.kind, tt.text)
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %v does not wrap %v", err, tt.is)
			}
		})
	}
}

// The answer is cut after every byte: no cut may look like a verdict, a
// status or garbage, and none may hang.
func TestClientAnswerCutAnywhere(t *testing.T) {
	path := serve(t, backend{
		status: func() control.Status { return control.Status{Instance: "i1", State: "running"} },
		upgrade: func(_ context.Context, progress func(control.Status)) control.Verdict {
			progress(control.Status{State: "starting", Instance: "i1"})
			return control.Verdict{Outcome: control.Upgraded, To: &control.Process{PID: 2}}
		},
	})
	record := func(request string) string {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, request+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(conn)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}

	var length atomic.Int64
	cut := func(text string) step { return func(conn net.Conn) { raw(text[:length.Load()])(conn) } }

	text := record("POST /v1/upgrade")
	// From here on the line with the verdict is there.
	whole := strings.Index(text, `{"verdict"`)
	whole += strings.Index(text[whole:], "\n") + 1
	client := control.NewClient(script(t, cut(text)))
	for n := range len(text) + 1 {
		length.Store(int64(n))
		v, err := client.Upgrade(t.Context(), nil)
		switch {
		case n >= whole:
			if err != nil || v.Outcome != control.Upgraded {
				t.Fatalf("cut after %d of %d bytes: verdict %+v, error %v", n, len(text), v, err)
			}
		case !as[*control.BrokenError](err):
			t.Fatalf("cut after %q: verdict %+v, error %v, want a *BrokenError", text[:n], v, err)
		}
	}

	text = record("GET /v1/status")
	client = control.NewClient(script(t, cut(text)))
	for n := range len(text) + 1 {
		length.Store(int64(n))
		st, err := client.Status(t.Context())
		switch {
		case n == len(text):
			if err != nil || st.State != "running" {
				t.Fatalf("whole answer: status %+v, error %v", st, err)
			}
		case !as[*control.BrokenError](err):
			t.Fatalf("cut after %q: status %+v, error %v, want a *BrokenError", text[:n], st, err)
		}
	}
}

func TestBrokenErrorHasLastState(t *testing.T) {
	path := script(t, stream(`{"state":{"state":"starting"}}`+"\n", `{"state":{"state":"probation"}}`+"\n", `{"verd`))
	_, err := control.NewClient(path).Upgrade(t.Context(), nil)
	var broken *control.BrokenError
	if !errors.As(err, &broken) || broken.Last == nil || broken.Last.State != "probation" {
		t.Errorf("error %#v, want a *BrokenError with the state probation", err)
	}
}

// The context ends every wait: for the head, for the body, and in the queue of
// a socket that nobody accepts from.
func TestClientContext(t *testing.T) {
	errEnough := errors.New("enough")
	half := func(conn net.Conn) {
		raw("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")(conn)
		hang(conn)
	}
	full := filepath.Join(t.TempDir(), "full")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: full}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	occupier, err := net.Dial("unix", full) // a queue of length 0 holds one
	if err != nil {
		t.Fatal(err)
	}
	defer occupier.Close()

	for name, path := range map[string]string{
		"no answer":   script(t, hang),
		"half a body": script(t, half),
		"queue full":  full,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			time.AfterFunc(20*time.Millisecond, func() { cancel(errEnough) })
			_, err := control.NewClient(path).Status(ctx)
			if !errors.Is(err, errEnough) {
				t.Errorf("error %v, want the cause of the context", err)
			}
			wantError(t, err, "", "wait for control socket")
		})
	}
	t.Run("ended before", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errEnough)
		if _, err := control.NewClient(script(t, hang)).Status(ctx); !errors.Is(err, errEnough) {
			t.Errorf("error %v, want the cause of the context", err)
		}
	})
}

// replaceSocket moves the socket at from over the one at to, as a service
// does that binds its control socket anew.
func replaceSocket(from, to string) error { return os.Rename(from, to) }

func TestClientReload(t *testing.T) {
	refused := control.Reload{Outcome: control.Refused, Reason: "no such colour", Started: time.Unix(1e9, 0).UTC(), Seconds: 0.5}
	asked := 0
	path := serve(t, backend{reload: func(context.Context) control.Reload {
		if asked++; asked < 3 {
			return control.Reload{Outcome: control.Busy, Reason: "another version has become main"}
		}
		return refused
	}})
	got, err := control.NewClient(path).Reload(t.Context())
	if err != nil || got != refused || asked != 3 {
		t.Errorf("asked %d times: %+v, %v; want %+v after three", asked, got, err, refused)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	path = serve(t, backend{reload: func(ctx context.Context) control.Reload {
		<-ctx.Done()
		return control.Reload{}
	}})
	if _, err := control.NewClient(path).Reload(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want that of the context", err)
	}
	var unsupported *control.UnsupportedError
	_, err = control.NewClient(script(t, jsonAnswer(404, `{"error":"no such resource"}`))).Reload(t.Context())
	if !errors.As(err, &unsupported) || unsupported.Resource != "reload" {
		t.Errorf("an older service: %v", err)
	}
	for _, tt := range []struct {
		name, kind, text string
		step             step
	}{
		{"no outcome", "protocol", "without an outcome", jsonAnswer(200, `{}`)},
		{"no JSON", "protocol", "invalid character", jsonAnswer(200, `<html>`)},
		{"silence", "broken", "", func(conn net.Conn) { readRequest(conn) }},
	} {
		_, err := control.NewClient(script(t, tt.step)).Reload(t.Context())
		wantError(t, err, tt.kind, tt.text)
	}
}
