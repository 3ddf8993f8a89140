// SPDX-License-Identifier: Apache-2.0

package load_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/load"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/mixed"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/toy"
)

// until has the load go on until it has made n requests, and returns what became of all.
func until(t *testing.T, o load.Options, n int) load.Report {
	t.Helper()
	return untilSeen(t, o, func(r load.Report) bool { return r.Sum.Requests >= n })
}

// untilSeen makes load until a report has what is looked for.
func untilSeen(t *testing.T, o load.Options, seen func(load.Report) bool) load.Report {
	t.Helper()
	o.Sum = true
	g, err := load.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	for !seen(g.Look()) {
		time.Sleep(time.Millisecond)
	}
	report, err := g.Stop()
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// listen serves connections until the test ends.
func listen(t *testing.T, network, address string, serve func(net.Conn)) net.Addr {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return ln.Addr()
}

// socketPath is short enough for a Unix socket.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "load-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "s")
}

// Every mode that a sound service answers.
func TestModesOfASoundService(t *testing.T) {
	sound := func(t *testing.T, network, address string) string {
		t.Helper()
		ln, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: mixed.Handler(1)}
		served := make(chan error, 1)
		go func() { served <- srv.Serve(ln) }()
		t.Cleanup(func() {
			srv.Close()
			if err := <-served; !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		})
		return ln.Addr().String()
	}
	echo := func(t *testing.T, network, address string) string {
		return listen(t, network, address, func(conn net.Conn) {
			lines := bufio.NewReader(conn)
			for {
				line, err := lines.ReadString('\n')
				if err != nil {
					return
				}
				fmt.Fprintf(conn, "1 2 %s", line)
			}
		}).String()
	}
	datagrams := func(t *testing.T, network, address string) string {
		conn, err := net.ListenPacket(network, address)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			toy.EchoDatagrams(conn)
		}()
		t.Cleanup(func() {
			conn.Close()
			<-done
		})
		return conn.LocalAddr().String()
	}
	for name, c := range map[string]struct {
		serve           func(t *testing.T, network, address string) string
		network, listen string
		mode            string
		least           time.Duration // that the median takes
	}{
		"slow":         {sound, "tcp", "127.0.0.1:0", load.Slow, 0},
		"upload":       {sound, "tcp", "127.0.0.1:0", load.Upload, 500 * time.Millisecond},
		"events":       {sound, "tcp", "127.0.0.1:0", load.Events, 500 * time.Millisecond},
		"halves":       {echo, "tcp", "127.0.0.1:0", load.Halves, 10 * time.Millisecond},
		"new, unix":    {sound, "unix", "", load.New, 0},
		"unix":         {sound, "unix", "", load.KeepAlive, 0},
		"unixpacket":   {echo, "unixpacket", "", load.Line, 0},
		"unixgram":     {datagrams, "unixgram", "", load.UDP, 0},
		"udp, as ever": {datagrams, "udp", "127.0.0.1:0", load.UDP, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := load.Options{Mode: c.mode, Clients: 2}
			if c.listen == "" {
				c.listen, o.Network = socketPath(t), c.network
			}
			o.Address = c.serve(t, c.network, c.listen)
			report := untilSeen(t, o, func(r load.Report) bool {
				return r.Sum.Requests >= 3 && r.Connections.Opened >= o.Clients // one may be done before the other begins
			})
			if s := report.Sum; s.Failed != 0 || s.Latency.Count != s.Requests || s.Latency.P50 < c.least || len(report.Samples) != 0 {
				t.Errorf("%+v, want no failures, all latencies, the median at least %v", s, c.least)
			}
			if n := report.Connections; c.mode != load.New && n != (load.Connections{Opened: 2}) {
				t.Errorf("%+v, want a connection for each client", n)
			}
		})
	}
}

// What a server does wrong is seen, and counted once.
func TestFaultsAreSeen(t *testing.T) {
	// respond answers the head of every request, and the body that it announces, with that text.
	respond := func(text string) func(net.Conn) {
		return func(conn net.Conn) {
			r, err := http.ReadRequest(bufio.NewReader(conn))
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, r.Body); err == nil {
				_, _ = io.WriteString(conn, text)
			}
		}
	}
	const head = "HTTP/1.1 200 OK\r\nConnection: close\r\n"
	stream := func(from, to int) string {
		text := head + "\r\n"
		for i := from; i <= to; i++ {
			text += fmt.Sprintf("data: %d\n\n", i)
		}
		return text
	}
	for name, c := range map[string]struct {
		mode  string
		serve func(net.Conn)
		want  string
	}{
		"a stream that ends early":  {load.Events, respond(stream(1, 3)), "read event 4 of 20"},
		"a stream without an event": {load.Events, respond(stream(2, 21)), `must be "data: 1\n\n"`},
		"a stream that goes on":     {load.Events, respond(stream(1, 21)), "goes on after event 20"},
		"no stream":                 {load.Events, respond("HTTP/1.1 503 No\r\nConnection: close\r\n\r\n"), "status 503"},
		"another sum":               {load.Upload, respond(head + "Content-Length: 3\r\n\r\nabc"), "that are not the 64"},
		"an answer to another":      {load.Slow, respond(head + "Content-Length: 512\r\n\r\n" + strings.Repeat("x", 512)), "that are not the 512"},
		"half a line is dropped": {load.Halves, func(conn net.Conn) {
			lines := bufio.NewReader(conn)
			_, _ = lines.Discard(256)
			line, _ := lines.ReadString('\n')
			fmt.Fprintf(conn, "1 2 %s", line)
		}, "must be the version"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := listen(t, "tcp", "127.0.0.1:0", c.serve)
			s := until(t, load.Options{Mode: c.mode, Address: address.String(), Clients: 1}, 1).Sum
			if s.Failed != s.Requests || s.Latency.Count != 0 || len(s.Failures) == 0 {
				t.Fatalf("%+v, want all failed", s)
			}
			if got := s.Failures[0]; !strings.Contains(got.Error, c.want) || got.Start == 0 || got.End <= got.Start {
				t.Errorf("%+v, want %q", got, c.want)
			}
		})
	}
}

// A connection on which another process answers than before has moved.
func TestMovedIsCounted(t *testing.T) {
	var asked atomic.Int64
	address := listen(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
		lines := bufio.NewReader(conn)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			fmt.Fprintf(conn, "1 %d %s", min(asked.Add(1), 3), line) // by processes 1, 2, 3, 3, ...
		}
	})
	report := until(t, load.Options{Mode: load.Line, Address: address.String(), Clients: 1}, 6)
	if want := (load.Connections{Opened: 1, Moved: 2}); report.Sum.Failed != 0 || report.Connections != want {
		t.Errorf("%+v, failed %d; want %+v", report.Connections, report.Sum.Failed, want)
	}
}

// An answer that comes twice must not pass for that to the next line.
func TestAnswersThatComeTwiceAreSeen(t *testing.T) {
	address := listen(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
		lines := bufio.NewReader(conn)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			fmt.Fprintf(conn, "1 2 %s1 2 %[1]s", line)
		}
	})
	report := until(t, load.Options{Mode: load.Line, Address: address.String(), Clients: 1, Think: time.Millisecond}, 3)
	if report.Sum.Failed+report.Connections.Cut == 0 {
		t.Errorf("%+v, %+v: nothing is wrong", *report.Sum, report.Connections)
	}
}

func TestOptionsOfUnixSockets(t *testing.T) {
	for name, o := range map[string]load.Options{
		"a stream of datagrams":   {Mode: load.UDP, Network: "unix", Address: "/tmp/s"},
		"datagrams for HTTP":      {Mode: load.New, Network: "unixgram", Address: "/tmp/s"},
		"a path that is relative": {Mode: load.New, Network: "unix", Address: "s"},
		"a delay":                 {Mode: load.New, Network: "unix", Address: "/tmp/s", Delay: time.Millisecond},
		"another machine":         {Mode: load.New, Network: "tcp", Address: "192.0.2.1:80"},
		"no such mode":            {Mode: "rest", Address: "127.0.0.1:1"},
	} {
		o.Clients = 1
		if g, err := load.Start(o); err == nil {
			_, _ = g.Stop()
			t.Errorf("%s was accepted", name)
		}
	}
}
