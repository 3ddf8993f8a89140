// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/internal/handover"
	"github.com/holdfast-go/holdfast/reexec/internal/machine"
)

// A hook of the service may set deadlines: they are not net/http's, and say
// nothing about where net/http is.
func TestHookThatSetsDeadlines(t *testing.T) {
	a := firstGeneration(t, &http.Server{Handler: echo("A"), ConnState: func(c net.Conn, s http.ConnState) {
		if s == http.StateIdle {
			_ = c.SetReadDeadline(time.Now().Add(patience))
		}
	}})
	c := dialHTTP(t, a.ln.Addr())
	c.mustAsk("1", "A: 1")
	a.waitPhase(waiting, 1)
	b := a.following(&http.Server{Handler: echo("B")})
	a.moveTo(linked(t, b, nil))
	a.mustEnd()
	c.mustAsk("2", "B: 2")
}

// A client may ask and reset its connection while that is on its way. Then the
// kernel knows its address no more, and the service's hooks must not see that.
// All others move.
func TestClientIsGoneOnTheWay(t *testing.T) {
	a := firstGeneration(t, &http.Server{Handler: echo("A")})
	gone, stays := dialHTTP(t, a.ln.Addr()), dialHTTP(t, a.ln.Addr())
	gone.mustAsk("1", "A: 1")
	stays.mustAsk("1", "A: 1")
	a.waitPhase(waiting, 2)
	b := a.following(&http.Server{Handler: echo("B"), ConnContext: func(ctx context.Context, c net.Conn) context.Context {
		if c.RemoteAddr() == nil {
			t.Error("a connection without an address")
		}
		return ctx
	}})
	port := gone.conn.LocalAddr().(*net.TCPAddr).Port
	reset := make(chan struct{})
	l := linked(t, b, func(l *link, f handover.Frame, files []*os.File) {
		for _, file := range files {
			if peerPort(file) != port {
				continue
			}
			gone.send("2")
			_ = gone.conn.(*net.TCPConn).SetLinger(0)
			_ = gone.conn.Close()
			for deadline := time.Now().Add(patience); peerPort(file) == port; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Error("the reset does not arrive")
					break
				}
			}
			close(reset)
		}
		l.other.adopt(l.b, f, files)
	})
	a.moveTo(l)
	<-reset
	a.mustEnd()
	stays.mustAsk("2", "B: 2")
	// It came after the other one's bytes, and is the only one open.
	for deadline := time.Now().Add(patience); b.ln.conns.count() > 1; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are open, want 1", b.ln.conns.count())
		}
	}
}

// peerPort is 0 if there is no peer any more.
func peerPort(file *os.File) int {
	sa, err := unix.Getpeername(minFD(file))
	if peer, ok := sa.(*unix.SockaddrInet4); err == nil && ok {
		return peer.Port
	}
	return 0
}

// The other generation lives and says what is no frame. Nothing it says later
// is heard, so what it was sent may be its own: only one may read.
func TestReceiverThatCannotBeUnderstood(t *testing.T) {
	a := firstGeneration(t, &http.Server{Handler: echo("A")})
	c := dialHTTP(t, a.ln.Addr())
	c.mustAsk("1", "A: 1")
	a.waitPhase(waiting, 1)
	b := a.following(&http.Server{Handler: echo("B")})

	ours, file, err := handover.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	raw, err := unix.Dup(minFD(file))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(raw)
	theirs, err := handover.New(file)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	log := slog.New(slog.DiscardHandler)
	p := &predecessor{conn: ours, version: handover.Ours.Latest, answers: newAnswers(), ended: make(chan struct{})}
	go p.listen(func(machine.Event, string) {}, nil, nil, nil)
	l := &link{mover: p.mover(log)}
	a.moveTo(l)
	f, files, err := theirs.Receive()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(raw, []byte("garbage")); err != nil {
		t.Fatal(err)
	}
	<-l.mover.over
	a.mustEnd()
	other := &Service{log: log, inv: b.inv}
	other.adopt(theirs, f, files)
	c.mustAsk("2", "B: 2")
}

// While the other generation hangs, nothing is lost: neither what it was sent,
// nor what waits to be sent.
func TestReceiverThatHangs(t *testing.T) {
	const clients = 300
	a := firstGeneration(t, &http.Server{Handler: echo("A")})
	var all []*httpClient
	for range clients {
		c := dialHTTP(t, a.ln.Addr())
		c.mustAsk("1", "A: 1")
		all = append(all, c)
	}
	a.waitPhase(waiting, clients)
	b := a.following(&http.Server{Handler: echo("B")})
	hangs, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	l := linked(t, b, func(l *link, f handover.Frame, files []*os.File) {
		once.Do(func() { close(hangs); <-goOn })
		l.other.adopt(l.b, f, files)
	})
	a.moveTo(l)
	<-hangs
	for i, c := range all {
		c.send(fmt.Sprint(i))
	}
	a.mustWait()
	close(goOn)
	for i, c := range all {
		c.answer(fmt.Sprintf("B: %d", i))
	}
	a.mustEnd()
}

// oddListener is one whose connections the package does not know how to move.
type oddListener struct{ *net.TCPListener }

func (l oddListener) Accept() (net.Conn, error) {
	conn, err := l.TCPListener.Accept()
	return struct{ net.Conn }{conn}, err
}

// What moves and what does not may come and go in any order: in the end the
// listener has no holder, and nobody asks it for a connection in vain.
func TestListenerCountsAfterMoves(t *testing.T) {
	gen := firstGeneration(t, &http.Server{Handler: echo("0")})
	var all []*httpClient
	for range 40 {
		c := dialHTTP(t, gen.ln.Addr())
		c.mustAsk("1", "0: 1")
		all = append(all, c)
	}
	gen.waitPhase(waiting, len(all))
	for i := range 4 {
		next := gen.following(&http.Server{Handler: echo(fmt.Sprint(i + 1))})
		gen.moveTo(linked(t, next, nil))
		gen.mustEnd()
		gen = next
		// Some ask, some are silent, some go.
		for j, c := range all {
			if j%3 == i%3 {
				c.mustAsk("2", fmt.Sprintf("%d: 2", i+1))
			}
		}
		_ = all[0].conn.Close()
		all = all[1:]
		gen.waitCounts(len(all))
	}
	for _, c := range all {
		c.mustAsk("3", "4: 3")
	}
	gen.waitCounts(len(all))
	gen.ln.mu.Lock()
	defer gen.ln.mu.Unlock()
	if gen.ln.holders != len(gen.ln.lanes) || gen.ln.asked != 1 {
		t.Errorf("%d holders, want %d; asked %d, want 1", gen.ln.holders, len(gen.ln.lanes), gen.ln.asked)
	}
}

// waitCounts waits until n connections are open, and each parked one is a holder.
func (g *httpGeneration) waitCounts(n int) {
	g.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		parked := 0
		for _, c := range g.serving().list() {
			if c.isParked() {
				parked++
			}
		}
		g.ln.mu.Lock()
		holders, asked := g.ln.holders, g.ln.asked
		g.ln.mu.Unlock()
		if g.ln.conns.count() == n && holders == len(g.ln.lanes)+parked && asked == 1 {
			return
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("%d connections are open, want %d; %d holders, %d parked; asked %d", g.ln.conns.count(), n, holders, parked, asked)
		}
	}
}

// Whatever a service does with deadlines and keep-alives, its connections move
// afterwards.
func TestServicesThatMeddle(t *testing.T) {
	for name, handler := range map[string]func(w http.ResponseWriter, r *http.Request){
		"deadlines": func(w http.ResponseWriter, _ *http.Request) {
			c := http.NewResponseController(w)
			_ = c.SetReadDeadline(time.Now().Add(time.Hour))
			_ = c.SetReadDeadline(time.Time{})
			_ = c.SetWriteDeadline(time.Now().Add(time.Hour))
		},
		"body unread": func(http.ResponseWriter, *http.Request) {},
		"full duplex": func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).EnableFullDuplex()
			_, _ = w.Write(nil)
			_ = http.NewResponseController(w).Flush()
			_, _ = io.Copy(io.Discard, r.Body)
		},
		"flush": func(w http.ResponseWriter, _ *http.Request) { _ = http.NewResponseController(w).Flush() },
	} {
		for _, network := range []string{"tcp", "unix"} {
			t.Run(name+" "+network, func(t *testing.T) {
				address := "127.0.0.1:0"
				if network == "unix" {
					address = t.TempDir() + "/s"
				}
				a := generationOn(t, firstInventory(t), &http.Server{Handler: http.HandlerFunc(handler), ReadTimeout: patience, IdleTimeout: patience}, network, address)
				c, old := dialHTTP(t, a.ln.Addr()), dialHTTP(t, a.ln.Addr())
				if resp := c.ask("1"); resp.Close {
					t.Fatal("the answer leads away")
				}
				// HTTP/1.0 with keep-alive.
				old.write("POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n1")
				stays := !old.receive().Close
				want := 1
				if stays {
					want = 2
				}
				a.waitPhase(waiting, want)
				b := generationOn(t, nextInventory(t, a.inv), &http.Server{Handler: echo("B")}, network, address)
				l := linked(t, b, nil)
				a.moveTo(l)
				a.mustEnd()
				c.mustAsk("2", "B: 2")
				if stays {
					old.write("POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n2")
					old.answer("B: 2")
				}
				if l.adopted() != want {
					t.Errorf("%d were adopted, want %d", l.adopted(), want)
				}
			})
		}
	}
}

// Two servers take turns on one listener.
func TestTwoServersOnOneListener(t *testing.T) {
	const clients = 20
	pair := func(inv *inventory, name string) *httpGeneration {
		g := newHTTPGeneration(t, inv, &http.Server{Handler: echo(name)})
		second := newHTTPServer(&http.Server{Handler: echo(name)}, g.ln, nil)
		g.drain.servers = append(g.drain.servers, second)
		served := make(chan error, 1)
		go func() { served <- second.serve(second.prepare()) }()
		t.Cleanup(func() {
			g.begin(successors)
			g.drain.abandon()
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
		g.serving()
		for second.keepAlives.Load() == nil {
			time.Sleep(time.Millisecond)
		}
		g.inv.accept()
		return g
	}
	gen := pair(firstInventory(t), "0")
	var all []*httpClient
	for range clients {
		c := dialHTTP(t, gen.ln.Addr())
		c.mustAsk("1", "0: 1")
		all = append(all, c)
	}
	for i := range 3 {
		next := pair(nextInventory(t, gen.inv), fmt.Sprint(i+1))
		l := linked(t, next, nil)
		gen.moveTo(l)
		gen.mustEnd()
		for _, c := range all {
			c.mustAsk("2", fmt.Sprintf("%d: 2", i+1))
		}
		if l.adopted() != clients {
			t.Errorf("%d were adopted, want %d", l.adopted(), clients)
		}
		gen = next
	}
}

// The drain deadline ends the wait for one that hangs. So does a service that
// closes its idle connections itself, which first waits for the mover.
func TestWaitForReceiverThatHangsEnds(t *testing.T) {
	for name, end := range map[string]func(*httpGeneration){
		"deadline": func(a *httpGeneration) { a.mustWait(); a.drain.abandon() },
		"service":  func(a *httpGeneration) { a.server.srv.SetKeepAlivesEnabled(false) },
	} {
		t.Run(name, func(t *testing.T) {
			a := firstGeneration(t, &http.Server{Handler: echo("A")})
			c := dialHTTP(t, a.ln.Addr())
			c.mustAsk("1", "A: 1")
			a.waitPhase(waiting, 1)
			b := a.following(&http.Server{Handler: echo("B")})
			hangs := make(chan struct{})
			l := linked(t, b, func(_ *link, _ handover.Frame, files []*os.File) {
				closeFiles(files)
				close(hangs)
			})
			a.moveTo(l)
			<-hangs
			end(a)
			a.mustEnd()
			c.mustBeClosed()
		})
	}
}
