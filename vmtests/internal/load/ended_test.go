// SPDX-License-Identifier: Apache-2.0

package load_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/internal/load"
)

// results streams the load until the server has seen enough, and returns every result.
func results(t *testing.T, options load.Options, stop <-chan struct{}) ([]load.Result, load.Summary) {
	t.Helper()
	options.Results = true
	g, err := load.New(options)
	if err != nil {
		t.Fatal(err)
	}
	commands, command := io.Pipe()
	defer command.Close()
	out, in := io.Pipe()
	go func() { in.CloseWithError(load.Stream(t.Context(), g, commands, in)) }()
	go func() {
		<-stop
		// A mark comes after all results before it.
		_, _ = io.WriteString(command, "mark end\nstop\n")
	}()
	var got []load.Result
	var summary load.Summary
	for lines := json.NewDecoder(out); lines.More(); {
		var line load.Line
		if err := lines.Decode(&line); err != nil {
			t.Fatal(err)
		}
		got = append(got, line.Results...)
		switch {
		case line.Mark != nil:
			// Workers note a result first and tell it then.
			if missing := line.Mark.OK + line.Mark.Failed - len(got); missing > options.New+options.KeepAlive+options.Transport {
				t.Errorf("%d results were not told before the mark that counts them", missing)
			}
		case line.Summary != nil:
			summary = *line.Summary
		}
	}
	if len(got) != summary.OK+summary.Failed || len(summary.Marks) != 1 {
		t.Errorf("got %d results of %d requests, and %d marks", len(got), summary.OK+summary.Failed, len(summary.Marks))
	}
	return got, summary
}

func TestResults(t *testing.T) {
	stop, request := after(300)
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { request() }))
	defer server.Close()
	got, summary := results(t, load.Options{URL: server.URL, New: 2, KeepAlive: 2, Transport: 2}, stop)
	modes := map[string]int{}
	for _, r := range got {
		modes[r.Mode]++
		if r.Error != "" || r.Broken || r.ClosedIdle != 0 || r.LocalPort == 0 || r.Start <= 0 || r.End < r.Start {
			t.Errorf("got %+v", r)
		}
	}
	for _, m := range summary.Modes {
		if modes[m.Mode] != m.OK {
			t.Errorf("%s: got %d results of %d requests", m.Mode, modes[m.Mode], m.OK)
		}
	}
}

// rudeServer answers the first request of each connection, without announcing an end, and hands the
// connection to then.
func rudeServer(t *testing.T, then func(n int, conn net.Conn)) (url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() {
		ln.Close()
		serving.Wait()
	})
	serving.Go(func() {
		for n := 1; ; n++ {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			request, err := http.ReadRequest(bufio.NewReader(conn))
			if err == nil {
				_, _ = io.Copy(io.Discard, request.Body)
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}
			then(n, conn)
			conn.Close()
		}
	})
	return "http://" + ln.Addr().String()
}

// With Redial a connection that ended while it was idle costs no request, and is told.
func TestRedial(t *testing.T) {
	stop := make(chan struct{})
	url := rudeServer(t, func(n int, _ net.Conn) {
		if n == 5 {
			close(stop)
		}
	})
	got, summary := results(t, load.Options{URL: url, KeepAlive: 1, Redial: true, Think: 20 * time.Millisecond}, stop)
	if summary.Failed != 0 {
		t.Error(summary.FailureText(3))
	}
	for i, r := range got {
		if i > 0 && (r.Reused || r.ClosedIdle != got[i-1].LocalPort) {
			t.Errorf("request %d: got %+v after %+v; want a new connection in place of the closed one", i, r, got[i-1])
		}
	}
}

// A connection that ends under a request is told from an answer that says no and from no connection.
func TestBroken(t *testing.T) {
	tests := []struct {
		name   string
		url    func(t *testing.T, stop func()) string
		broken bool
	}{
		{"end of the connection", func(t *testing.T, stop func()) string {
			return rudeServer(t, func(_ int, conn net.Conn) {
				_, _ = conn.Read(make([]byte, 1))
				stop()
			})
		}, true},
		{"reset", func(t *testing.T, stop func()) string {
			return rudeServer(t, func(_ int, conn net.Conn) {
				_, _ = conn.Read(make([]byte, 1))
				_ = conn.(*net.TCPConn).SetLinger(0)
				stop()
			})
		}, true},
		{"status", func(t *testing.T, stop func()) string {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				stop()
				http.Error(w, "no", http.StatusServiceUnavailable)
			}))
			t.Cleanup(server.Close)
			return server.URL
		}, false},
		{"time", func(t *testing.T, stop func()) string {
			server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				stop()
				_, _ = io.Copy(io.Discard, r.Body) // or net/http does not see the client go
				<-r.Context().Done()
			}))
			t.Cleanup(server.Close)
			return server.URL
		}, false},
		{"refused", func(t *testing.T, stop func()) string {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ln.Close()
			stop()
			return "http://" + ln.Addr().String()
		}, false},
	}
	for _, tt := range tests {
		for _, options := range []load.Options{{KeepAlive: 1}, {Transport: 1}} {
			t.Run(tt.name, func(t *testing.T) {
				stopped := make(chan struct{})
				var once sync.Once
				options.URL = tt.url(t, func() { once.Do(func() { close(stopped) }) })
				options.Timeout = 500 * time.Millisecond
				got, summary := results(t, options, stopped)
				failed := 0
				for _, r := range got {
					if r.Error == "" {
						continue
					}
					failed++
					if r.Broken != tt.broken {
						t.Errorf("got %+v, want broken: %t", r, tt.broken)
					}
				}
				if failed == 0 || failed != summary.Failed {
					t.Errorf("got %d failures, the summary counts %d", failed, summary.Failed)
				}
			})
		}
	}
}
