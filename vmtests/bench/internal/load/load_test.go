// SPDX-License-Identifier: Apache-2.0

package load_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/load"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/toy"
)

// What a misbehaving server does with a request.
type fate int

const (
	answer   fate = iota
	announce      // answer with Connection: close
	cutLater      // answer, then close without a word
	cutNow        // close without an answer
	stopNow       // close after half of the answer
	lie           // answer with another body
)

// A server does with each request of one client what its script says, and answers what comes after.
type server struct {
	ln      net.Listener
	wg      sync.WaitGroup
	mu      sync.Mutex
	script  []fate
	handled chan struct{} // one for each word of the script, when it is done
	over    chan struct{} // closed when the script is over and another request was answered
	once    sync.Once
}

func serve(t *testing.T, script ...fate) *server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{ln: ln, script: script, handled: make(chan struct{}, len(script)), over: make(chan struct{})}
	s.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.wg.Go(func() { s.handle(conn) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		s.wg.Wait()
	})
	return s
}

func (s *server) next() (f fate, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.script) == 0 {
		return answer, true
	}
	f, s.script = s.script[0], s.script[1:]
	return f, false
}

func (s *server) handle(conn net.Conn) {
	defer conn.Close()
	requests := bufio.NewReader(conn)
	for {
		r, err := http.ReadRequest(requests)
		if err != nil {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		f, last := s.next()
		s.answer(conn, body, f)
		if f != answer && f != lie {
			conn.Close()
		}
		if last {
			s.once.Do(func() { close(s.over) })
		} else {
			s.handled <- struct{}{}
		}
	}
}

func (s *server) answer(conn net.Conn, body []byte, f fate) {
	header := fmt.Sprintf("HTTP/1.1 200 OK\r\n%s: 1\r\nContent-Length: %d\r\n", toy.HeaderPID, len(body))
	text := string(body)
	switch f {
	case cutNow:
		return
	case stopNow:
		text = text[:len(text)/2]
	case lie:
		text = strings.Repeat("y", len(text))
	case announce:
		header += "Connection: close\r\n"
	}
	_, _ = io.WriteString(conn, header+"\r\n"+text) // the client may have gone
}

// run has one client make a request for each word of the script, and one more.
func run(t *testing.T, mode string, script ...fate) (failed int, report load.Report) {
	t.Helper()
	s := serve(t, script...)
	g, err := load.Start(load.Options{Mode: mode, Address: s.ln.Addr().String(), Clients: 1})
	if err != nil {
		t.Fatal(err)
	}
	// What the server closes, it has closed before the next request.
	for range script {
		<-s.handled
		if mode == load.Idle {
			if err := g.Sweep(); err != nil {
				t.Fatal(err)
			}
		}
	}
	<-s.over
	report, err = g.Stop()
	if err != nil {
		t.Fatal(err)
	}
	for _, sample := range report.Samples {
		if sample.Error != "" {
			failed++
		}
	}
	return failed, report
}

func TestFailedAndReconnectsAreCountedApart(t *testing.T) {
	for name, c := range map[string]struct {
		mode   string
		script []fate
		failed int
		want   load.Connections
	}{
		"all is well":           {load.Idle, []fate{answer, answer}, 0, load.Connections{Opened: 1}},
		"announced":             {load.Idle, []fate{answer, announce}, 0, load.Connections{Opened: 2, Announced: 1}},
		"cut while idle":        {load.Idle, []fate{answer, cutLater, cutLater}, 0, load.Connections{Opened: 3, Cut: 2}},
		"cut with a request":    {load.Idle, []fate{answer, cutNow}, 1, load.Connections{Opened: 2}},
		"cut in the answer":     {load.Idle, []fate{stopNow, answer}, 1, load.Connections{Opened: 2}},
		"another body":          {load.Idle, []fate{answer, lie}, 1, load.Connections{Opened: 2}},
		"all kinds":             {load.Idle, []fate{cutNow, announce, stopNow, cutLater}, 2, load.Connections{Opened: 5, Announced: 1, Cut: 1}},
		"new connections":       {load.New, []fate{announce, announce}, 0, load.Connections{Opened: 3}},
		"new connection is cut": {load.New, []fate{cutNow, announce}, 1, load.Connections{Opened: 3}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			failed, report := run(t, c.mode, c.script...)
			if got := report.Connections; failed != c.failed || got != c.want {
				t.Errorf("failed %d, %+v; want %d, %+v", failed, got, c.failed, c.want)
			}
		})
	}
}

func TestRefusedIsFailed(t *testing.T) {
	s := serve(t, announce)
	g, err := load.Start(load.Options{Mode: load.Idle, Address: s.ln.Addr().String(), Clients: 1})
	if err != nil {
		t.Fatal(err)
	}
	s.ln.Close()
	if err := g.Sweep(); err != nil {
		t.Fatal(err)
	}
	report, err := g.Stop()
	if err != nil {
		t.Fatal(err)
	}
	last := report.Samples[len(report.Samples)-1]
	if !strings.Contains(last.Error, "refused") || report.Connections != (load.Connections{Opened: 1}) {
		t.Errorf("last request %+v, %+v; want it refused and no reconnect", last, report.Connections)
	}
}

func TestSweepAsksEveryIdleConnection(t *testing.T) {
	s := serve(t)
	g, err := load.Start(load.Options{Mode: load.Idle, Address: s.ln.Addr().String(), Clients: 40})
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.script = []fate{announce, announce, announce, cutNow}
	s.handled = make(chan struct{}, len(s.script))
	s.mu.Unlock()
	for range 2 {
		if err := g.Sweep(); err != nil {
			t.Fatal(err)
		}
	}
	report, err := g.Stop()
	if err != nil {
		t.Fatal(err)
	}
	want := load.Connections{Opened: 44, Announced: 3}
	if len(report.Samples) != 120 || report.Connections != want {
		t.Errorf("%d requests, %+v; want 120, %+v", len(report.Samples), report.Connections, want)
	}
}

func TestProbeWaitsForAnotherProcess(t *testing.T) {
	s := serve(t) // answers as process 1
	options := load.Options{Mode: load.KeepAlive, Address: s.ln.Addr().String(), Clients: 1}
	first, err := load.Probe(t.Context(), options, []string{"2"})
	if err != nil || first.PID != "1" || first.At == 0 {
		t.Errorf("got %+v (%v), want process 1", first, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if first, err := load.Probe(ctx, options, []string{"1"}); err == nil {
		t.Errorf("got %+v, want an error: nobody but process 1 answers", first)
	}
}

func TestLoadGoesToThisMachineOnly(t *testing.T) {
	for _, address := range []string{"192.0.2.1:80", "localhost:80", "127.0.0.1", ""} {
		if g, err := load.Start(load.Options{Mode: load.New, Address: address, Clients: 1}); err == nil {
			_, _ = g.Stop()
			t.Errorf("%q was accepted", address)
		}
	}
}
