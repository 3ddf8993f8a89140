// SPDX-License-Identifier: Apache-2.0

package load_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/internal/load"
)

// run makes load until enough says so, which is asked at each request that the server gets.
func run(t *testing.T, options load.Options, stop <-chan struct{}) load.Summary {
	t.Helper()
	g, err := load.New(options)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	s := g.Run(ctx)
	select {
	case <-stop:
	default:
		t.Fatalf("the load ended before it should: %+v", s)
	}
	if s.OK+s.Failed == 0 || s.Start <= 0 || s.End < s.Start {
		t.Errorf("summary makes no sense: %+v", s)
	}
	return s
}

// after returns a channel that closes at the n-th call of the function.
func after(n int64) (<-chan struct{}, func()) {
	done := make(chan struct{})
	var calls atomic.Int64
	return done, func() {
		if calls.Add(1) == n {
			close(done)
		}
	}
}

func TestGoodServer(t *testing.T) {
	stop, request := after(500)
	var seen atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		want := 0
		if r.Method == http.MethodPost {
			want = 100
		}
		if err != nil || len(body) != want {
			t.Errorf("%s: got a body of %d bytes (%v), want %d", r.Method, len(body), err, want)
		}
		version := "1"
		if seen.Add(1) > 250 {
			version = "2"
		}
		w.Header().Set(load.HeaderPID, "4"+version)
		w.Header().Set(load.HeaderVersion, version)
		io.WriteString(w, "hello")
		request()
	}))
	defer server.Close()

	s := run(t, load.Options{URL: server.URL, New: 2, KeepAlive: 3, Transport: 2, Connect: 1, BodySize: 100, Think: time.Millisecond}, stop)
	if s.Failed != 0 || len(s.Failures) != 0 || s.FailureText(10) != "" {
		t.Errorf("failures of a good server: %s", s.FailureText(10))
	}
	sum := 0
	for _, mode := range s.Modes {
		if mode.OK == 0 {
			t.Errorf("mode %s: no request", mode.Mode)
		}
		sum += mode.OK
		wantConnections := mode.Workers
		if mode.Mode == load.ModeNew || mode.Mode == load.ModeConnect {
			wantConnections = mode.OK
		}
		if mode.Connections != wantConnections {
			t.Errorf("mode %s: got %d connections, want %d", mode.Mode, mode.Connections, wantConnections)
		}
		if mode.Mode != load.ModeConnect {
			continue
		}
		if got := int64(s.OK - mode.OK); got != seen.Load() {
			t.Errorf("counted %d requests, the server saw %d", got, seen.Load())
		}
	}
	if len(s.Modes) != 4 || sum != s.OK {
		t.Errorf("modes: got %d with %d successes, want 4 with %d", len(s.Modes), sum, s.OK)
	}
	if len(s.Served) != 2 || s.Served[0].PID != 41 || s.Served[0].Version != "1" || s.Served[0].OK != 250 || s.Served[1].PID != 42 {
		t.Errorf("served: got %+v, want 250 of version 1 by PID 41, then version 2 by PID 42", s.Served)
	}
	if s.LongestGap.Duration <= 0 || s.LongestGap.Start < s.Start {
		t.Errorf("longest gap: got %+v", s.LongestGap)
	}
}

// badServer answers HTTP requests on every connection, until misbehave takes one over. That is called
// with the number of the request, counted over all connections from 1, and with the connection, and
// reports whether it dealt with the request.
func badServer(t *testing.T, misbehave func(n int64, conn net.Conn) bool) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() {
		ln.Close()
		serving.Wait()
	})
	var count atomic.Int64
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				buffered := bufio.NewReader(conn)
				for {
					request, err := http.ReadRequest(buffered)
					if err != nil {
						return
					}
					io.Copy(io.Discard, request.Body)
					if misbehave(count.Add(1), conn) {
						return
					}
					io.WriteString(conn, "HTTP/1.1 200 OK\r\nX-Myapp-Pid: 7\r\nX-Myapp-Version: 1\r\nContent-Length: 2\r\n\r\nok")
				}
			})
		}
	})
	return "http://" + ln.Addr().String() + "/"
}

// TestFindsLosses shows that the generator finds each kind of loss, and every one. Without it, a summary
// without failures would mean nothing.
func TestFindsLosses(t *testing.T) {
	const answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	for _, test := range []struct {
		name  string
		wrong func(net.Conn) // what the server does to every tenth request
		want  string         // in the failure of a keepalive worker
		lost  bool           // the request is answered, the next one fails
	}{
		{"closes instead of answering", func(net.Conn) {}, "read response: unexpected EOF", false},
		{"resets instead of answering", func(c net.Conn) { c.(*net.TCPConn).SetLinger(0) }, "connection reset by peer", false},
		{"breaks off the body", func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok") }, "read response body: unexpected EOF", false},
		{"answers with an error", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
		}, "status 503", false},
		{"closes an idle connection without warning", func(c net.Conn) { io.WriteString(c, answer) }, "", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			stop, request := after(300)
			var wrong atomic.Int64
			url := badServer(t, func(n int64, conn net.Conn) bool {
				request()
				if n%10 != 0 {
					return false
				}
				wrong.Add(1)
				test.wrong(conn)
				return true
			})
			s := run(t, load.Options{URL: url, KeepAlive: 2}, stop)
			// A connection closed at the very end may have had no next request.
			if got, most := int64(s.Failed), wrong.Load(); got > most || got < most-2 || (!test.lost && got != most) {
				t.Errorf("got %d failures, want %d", got, most)
			}
			if s.Failed != len(s.Failures) {
				t.Errorf("got %d failures in detail, want %d", len(s.Failures), s.Failed)
			}
			for _, f := range s.Failures {
				if !strings.Contains(f.Error, test.want) || f.Error == "" || f.LocalPort == 0 || f.Start < s.Start || f.End < f.Start || f.End > s.End {
					t.Errorf("failure: got %+v, want its port, times and an error with %q", f, test.want)
				}
				if test.lost && !f.Reused {
					t.Errorf("failure on a new connection: %+v", f)
				}
			}
			if text := s.FailureText(3); !strings.Contains(text, "keepalive") || !strings.Contains(text, "more") {
				t.Errorf("FailureText(3): got %q", text)
			}
		})
	}
}

// TestTransportNeverRetries: net/http repeats requests that it may. Ours it may not: what the server did
// not answer is a failure, and no request reaches it twice.
func TestTransportNeverRetries(t *testing.T) {
	stop, request := after(300)
	var dropped, served atomic.Int64
	url := badServer(t, func(n int64, _ net.Conn) bool {
		request()
		if n%10 == 0 {
			dropped.Add(1)
			return true
		}
		served.Add(1)
		return false
	})
	s := run(t, load.Options{URL: url, Transport: 2}, stop)
	if int64(s.Failed) != dropped.Load() || int64(s.OK) != served.Load() {
		t.Errorf("got %d ok and %d failed, want %d and %d", s.OK, s.Failed, served.Load(), dropped.Load())
	}
}

// TestTransportReconnects: where net/http saved a request by a new connection, the count shows it.
func TestTransportReconnects(t *testing.T) {
	stop, request := after(20)
	url := badServer(t, func(_ int64, conn net.Conn) bool {
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
		request()
		return true
	})
	s := run(t, load.Options{URL: url, Transport: 1, KeepAlive: 1}, stop)
	if s.Failed != 0 {
		t.Errorf("closing with warning is no loss: %s", s.FailureText(5))
	}
	for _, mode := range s.Modes {
		if mode.Connections != mode.OK {
			t.Errorf("mode %s: got %d connections, want one for each of %d requests", mode.Mode, mode.Connections, mode.OK)
		}
	}
}

func TestRefusedConnections(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + ln.Addr().String() + "/"
	ln.Close()
	g, err := load.New(load.Options{URL: url, New: 1, KeepAlive: 1, Transport: 1, Connect: 1, Think: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	out, in := io.Pipe()
	defer out.Close()
	commands, command := io.Pipe()
	defer command.Close()
	go func() { in.CloseWithError(load.Stream(t.Context(), g, commands, in)) }()
	var s load.Summary
	for lines := json.NewDecoder(out); s.End == 0; {
		var line load.Line
		if err := lines.Decode(&line); err != nil {
			t.Fatal(err)
		}
		switch {
		case line.Summary != nil:
			s = *line.Summary
		case line.Progress != nil && line.Progress.Failed >= 40: // the modes take turns: each has failed
			go io.WriteString(command, "stop\n")
		}
	}
	if s.OK != 0 || s.Failed < 40 {
		t.Errorf("got %d ok and %d failed, want 0 and 40 or more", s.OK, s.Failed)
	}
	for _, mode := range s.Modes {
		if mode.Failed == 0 || mode.Connections != 0 {
			t.Errorf("mode %s: got %d failures and %d connections, want some and none", mode.Mode, mode.Failed, mode.Connections)
		}
	}
	for _, f := range s.Failures {
		if !strings.Contains(f.Error, "connection refused") {
			t.Errorf("failure: got %q, want connection refused", f.Error)
		}
	}
}

func TestTimeout(t *testing.T) {
	hang := make(chan struct{})
	stop, request := after(2)
	url := badServer(t, func(n int64, _ net.Conn) bool {
		request()
		if n == 2 {
			<-hang
		}
		return false
	})
	defer close(hang)
	s := run(t, load.Options{URL: url, KeepAlive: 1, Timeout: 100 * time.Millisecond}, stop)
	if s.OK != 1 || s.Failed != 1 || !strings.Contains(s.Failures[0].Error, "i/o timeout") {
		t.Errorf("got %d ok, %s; want 1 ok and an i/o timeout", s.OK, s.FailureText(5))
	}
	// The time without a success is the one that the request waited in vain.
	if s.LongestGap.Duration < 100*time.Millisecond {
		t.Errorf("longest gap: got %v, want 100ms or more", s.LongestGap.Duration)
	}
}

func TestFailuresAreBounded(t *testing.T) {
	stop, request := after(1500)
	url := badServer(t, func(int64, net.Conn) bool { request(); return true })
	s := run(t, load.Options{URL: url, New: 2}, stop)
	if s.Failed < 1500 || len(s.Failures) != 1000 || s.FailuresOmitted != s.Failed-1000 {
		t.Errorf("got %d failed, %d in detail, %d omitted", s.Failed, len(s.Failures), s.FailuresOmitted)
	}
}

func TestNewRefusesOptions(t *testing.T) {
	for _, test := range []struct {
		options load.Options
		want    string
	}{
		{load.Options{URL: "http://127.0.0.1:80/"}, "no workers"},
		{load.Options{URL: "http://127.0.0.1:80/", New: -1}, "negative"},
		{load.Options{URL: "https://127.0.0.1:80/", New: 1}, "scheme"},
		{load.Options{URL: "http://192.0.2.1:80/", New: 1}, "loopback"},
		{load.Options{URL: "http://example.test:80/", New: 1}, "loopback"},
		{load.Options{URL: "http://127.0.0.1/", New: 1}, "port"},
		{load.Options{URL: "http://127.0.0.1:x/", New: 1}, "invalid port"},
	} {
		if _, err := load.New(test.options); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("New(%+v): got error %v, want one with %q", test.options, err, test.want)
		}
	}
	for _, url := range []string{"http://127.0.0.1:80/", "http://[::1]:8080", "http://127.1.2.3:80/x?y"} {
		if _, err := load.New(load.Options{URL: url, New: 1}); err != nil {
			t.Errorf("New with URL %q: %v", url, err)
		}
	}
}

// TestStream holds the conversation that a story holds with the program.
func TestStream(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(load.HeaderPID, strconv.Itoa(7))
		w.Header().Set(load.HeaderVersion, "1")
	}))
	defer server.Close()
	g, err := load.New(load.Options{URL: server.URL, KeepAlive: 1, Think: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	commands, command := io.Pipe()
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- load.Stream(t.Context(), g, commands, in)
		in.Close()
	}()

	var summary *load.Summary
	var marks, refused, progress int
	lines := json.NewDecoder(out)
	for lines.More() {
		var line load.Line
		if err := lines.Decode(&line); err != nil {
			t.Fatal(err)
		}
		if summary != nil {
			t.Errorf("line after the summary: %+v", line)
		}
		switch {
		case line.Progress != nil:
			progress++
			if progress == 2 {
				go io.WriteString(command, "mark here it is\nmark\n")
			}
		case line.Mark != nil:
			marks++
			if line.Mark.Name != "here it is" || line.Mark.OK == 0 || line.Mark.Versions["1"] != line.Mark.OK || line.Mark.At == 0 {
				t.Errorf("mark: got %+v", line.Mark)
			}
		case line.Error != "":
			refused++
			go io.WriteString(command, "stop\n")
		case line.Summary != nil:
			summary = line.Summary
		default:
			t.Errorf("empty line")
		}
	}
	command.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if summary == nil || summary.OK == 0 || summary.Failed != 0 || len(summary.Marks) != 1 || marks != 1 || refused != 1 {
		t.Errorf("got summary %+v, %d marks, %d refused commands; want one of each", summary, marks, refused)
	}
}

// brokenPipe is the output of a reader that went away.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestStreamEndsWithItsReader(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	g, err := load.New(load.Options{URL: server.URL, KeepAlive: 1, Think: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := load.Stream(t.Context(), g, new(bytes.Buffer), brokenPipe{}); err != io.ErrClosedPipe {
		t.Errorf("Stream: got error %v, want %v", err, io.ErrClosedPipe)
	}
}
