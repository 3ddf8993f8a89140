// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"
)

// cuts are ways in which a server fails in the middle of an answer.
var cuts = map[string]http.HandlerFunc{
	"/header": func(w http.ResponseWriter, _ *http.Request) {
		hijack(w, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n", false)
	},
	"/length": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	},
	"/chunked": func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	},
	"/chunk": func(w http.ResponseWriter, _ *http.Request) {
		hijack(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf", false)
	},
	"/reset": func(w http.ResponseWriter, _ *http.Request) {
		hijack(w, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", true)
	},
	"/nothing": func(w http.ResponseWriter, _ *http.Request) { hijack(w, "", false) },
}

// hijack writes to the connection and closes or resets it.
func hijack(w http.ResponseWriter, text string, reset bool) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	_, _ = io.WriteString(conn, text)
	if reset {
		_ = conn.(*net.TCPConn).SetLinger(0)
	}
	_ = conn.Close()
}

// at is a unit that is not there, and a service of its own at an address.
func at(address string) *Unit {
	return &Unit{opts: Options{Addresses: map[string]string{"http": address}, Patience: DefaultPatience}}
}

// An answer that ends in the middle is a lost request, however it ends.
func TestHTTPCut(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { cuts[r.URL.Path](w, r) }))
	t.Cleanup(server.Close)
	u := at(server.Listener.Addr().String())
	for path := range cuts {
		l := startLoad(t.Context(), u, HTTP{Path: path}.Kinds(), 1, time.Millisecond)
		if err := l.round(t.Context()); err != nil {
			t.Error(err)
		}
		n, losses := l.end()
		if len(losses) != n || n == 0 {
			t.Errorf("%s: of %d requests that were cut, %d are seen as lost", path, n, len(losses))
		}
		for _, loss := range losses {
			if !errors.Is(loss.err, io.ErrUnexpectedEOF) && !errors.Is(loss.err, syscall.ECONNRESET) || loss.refused() {
				t.Errorf("%s: lost by: %v", path, loss.err)
			}
		}
	}
}

// A request in flight that is cut is lost, with its body held back or without.
func TestHTTPCutInFlight(t *testing.T) {
	t.Parallel()
	end := make(chan bool)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			_, _ = io.ReadAll(r.Body) // which sends 100 Continue
		} else {
			_ = http.NewResponseController(w).Flush()
			<-end
		}
		cuts[r.URL.Path](w, r)
	}))
	t.Cleanup(server.Close)
	u := at(server.Listener.Addr().String())
	for _, h := range []HTTP{{Path: "/length"}, {Path: "/header"}, {Path: "/reset"}, {SlowPath: "/chunked"}} {
		for _, kind := range h.Kinds() {
			client, err := kind.Dial(t.Context(), u)
			if err != nil {
				t.Fatal(err)
			}
			finish, err := client.(SlowClient).Begin(t.Context())
			if err != nil {
				t.Fatalf("%+v: %v", h, err)
			}
			if h.SlowPath != "" {
				end <- true
			}
			if err := finish(t.Context()); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%+v: a request in flight was cut: %v", h, err)
			}
			if err := client.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// A path whose answer is there at once is none for requests in flight.
func TestHTTPNotSlow(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(http.NotFound))
	t.Cleanup(server.Close)
	for _, kind := range (HTTP{SlowPath: "/sloow"}).Kinds() {
		client, err := kind.Dial(t.Context(), at(server.Listener.Addr().String()))
		if err != nil {
			t.Fatal(err)
		}
		want := `HTTP.SlowPath="/sloow": the answer (404 Not Found) was complete within 100ms: must be a path whose answer takes longer`
		if _, err := client.(SlowClient).Begin(t.Context()); err == nil || err.Error() != want {
			t.Errorf("error is %v, want %s", err, want)
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	}
}
