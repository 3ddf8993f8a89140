// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// httpGeneration is one generation with an HTTP server.
type httpGeneration struct {
	t      *testing.T
	inv    *inventory
	ln     *listener
	drain  *drain
	server *httpServer
	served chan error
	done   chan error // of the drain
}

func newHTTPGeneration(t *testing.T, inv *inventory, srv *http.Server) *httpGeneration {
	t.Helper()
	return newHTTPGenerationOn(t, inv, srv, "tcp", "127.0.0.1:0", nil)
}

func newHTTPGenerationOn(t *testing.T, inv *inventory, srv *http.Server, network, address string, wrap func(net.Listener) net.Listener) *httpGeneration {
	t.Helper()
	g := &httpGeneration{
		t: t, inv: inv, ln: mustListen(t, inv, "http", network, address),
		drain: newDrain(inv), served: make(chan error, 1), done: make(chan error, 1),
	}
	var ln net.Listener = g.ln
	if wrap != nil {
		ln = wrap(ln)
	}
	g.server = newHTTPServer(srv, ln, nil)
	g.drain.servers = append(g.drain.servers, g.server)
	go func() { g.served <- g.server.serve(g.server.prepare()) }()
	t.Cleanup(func() {
		g.begin(successors)
		g.drain.abandon()
		g.mustEnd()
		if err := <-g.served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return g
}

func (g *httpGeneration) begin(paths ownership) {
	g.drain.begin(paths, func(err error) { g.done <- err })
}

// mustEnd waits until nothing is left to answer.
func (g *httpGeneration) mustEnd() {
	g.t.Helper()
	select {
	case err := <-g.done:
		if err != nil {
			g.t.Errorf("drain: %v", err)
		}
		g.done <- nil // for the next one who asks
	case <-time.After(patience):
		g.t.Fatalf("the drain does not end; %d connections are open", g.inv.openConnections())
	}
}

// mustWait checks that the drain is not over. No event says that something
// will not come, so it is given a moment to come.
func (g *httpGeneration) mustWait() {
	g.t.Helper()
	notYet(g.t, g.done)
}

func notYet(t *testing.T, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		t.Fatalf("the drain is over: %v", err)
	case <-time.After(30 * time.Millisecond):
	}
}

func (g *httpGeneration) url() string { return "http://" + g.ln.Addr().String() }

func echo(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, "%s: %s", name, body)
	})
}

// Clients with keep-alive connections and requests that cannot be sent again
// go from generation to generation and lose none.
func TestClientsAreLedAway(t *testing.T) {
	const generations, clients = 8, 8
	gen := newHTTPGeneration(t, firstInventory(t), &http.Server{Handler: echo("0")})
	gen.inv.accept()
	url := gen.url()
	var asked atomic.Int64
	stop := make(chan struct{})
	var done sync.WaitGroup
	for range clients {
		done.Go(func() {
			transport := &http.Transport{MaxConnsPerHost: 1}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport, Timeout: patience}
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				body := fmt.Sprint("request ", i)
				resp, err := client.Post(url, "text/plain", struct{ io.Reader }{strings.NewReader(body)})
				if err != nil {
					t.Errorf("a client: %v", err)
					return
				}
				answer, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if _, got, _ := strings.Cut(string(answer), ": "); err != nil || got != body {
					t.Errorf("answer %q, %v", answer, err)
					return
				}
				asked.Add(1)
			}
		})
	}
	for i := range generations {
		// Some load on each.
		for before := asked.Load(); asked.Load() < before+10*clients && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
		next := newHTTPGeneration(t, nextInventory(t, gen.inv), &http.Server{Handler: echo(fmt.Sprint(i + 1))})
		next.inv.accept()
		gen.inv.pause()
		gen.begin(successors)
		// Each client is led away with its next answer, so this ends by itself.
		gen.mustEnd()
		gen = next
	}
	close(stop)
	done.Wait()
	t.Logf("%d requests over %d generations", asked.Load(), generations+1)
}

// An idle connection is not closed under a client; its next request is
// answered, and told to go.
func TestDrainWaitsForIdleConnections(t *testing.T) {
	g := newHTTPGeneration(t, firstInventory(t), &http.Server{Handler: echo("A")})
	g.inv.accept()
	client := dialHTTP(t, g.ln.Addr())
	if resp := client.ask("one"); resp.Close {
		t.Error("told to close before anything drains")
	}
	g.begin(successors)
	<-g.drain.draining
	g.mustWait()
	if resp := client.ask("two"); !resp.Close {
		t.Error("the answer does not lead away")
	}
	client.mustBeClosed()
	g.mustEnd()
}

// A service that stops waits for no idle connection.
func TestDrainNowClosesIdleConnections(t *testing.T) {
	g := newHTTPGeneration(t, firstInventory(t), &http.Server{Handler: echo("A")})
	g.inv.accept()
	client := dialHTTP(t, g.ln.Addr())
	client.ask("one")
	g.begin(ours)
	g.drain.now()
	client.mustBeClosed()
	g.mustEnd()
}

// A client that has connected knows nothing of the stop: what it asks then is
// answered, also if a part of it was there before. net/http would drop it.
func TestDrainNowAnswersWhatArrives(t *testing.T) {
	for _, sent := range []string{"", "POST / HTTP/1.1\r\nHo"} {
		t.Run(fmt.Sprintf("%d bytes before", len(sent)), func(t *testing.T) {
			accepted := make(chan struct{}, 1)
			g := newHTTPGeneration(t, firstInventory(t), &http.Server{Handler: echo("A"), ConnState: func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					accepted <- struct{}{}
				}
			}})
			g.inv.accept()
			conn, err := net.Dial("tcp", g.ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, sent); err != nil {
				t.Fatal(err)
			}
			// Accepted, and read as far as it has come.
			<-accepted
			if sent != "" {
				g.waitPhase(arriving, 1)
			}
			g.begin(ours)
			g.drain.now()
			g.mustWait()
			if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"[len(sent):]); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil || string(body) != "A: x" || !resp.Close {
				t.Errorf("answered %q, %v, close: %t; want an answer that leads away", body, err, resp.Close)
			}
			g.mustEnd()
		})
	}
}

// It waits for a request in flight, now or not, and gives up when it is told.
func TestDrainWaitsForRequests(t *testing.T) {
	for _, c := range []string{"answered", "abandoned"} {
		t.Run(c, func(t *testing.T) {
			entered, release := make(chan struct{}), make(chan struct{})
			g := newHTTPGeneration(t, firstInventory(t), &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				// A client that is gone is noticed behind its request's end.
				_, _ = io.Copy(io.Discard, r.Body)
				close(entered)
				select {
				case <-release:
				case <-r.Context().Done():
				}
				fmt.Fprint(w, "late")
			})})
			g.inv.accept()
			client := dialHTTP(t, g.ln.Addr())
			client.send("x")
			<-entered
			g.begin(ours)
			g.drain.now()
			g.mustWait()
			if c == "answered" {
				close(release)
				if resp := client.receive(); resp == nil {
					t.Error("no answer")
				}
			} else {
				g.drain.abandon()
			}
			client.mustBeClosed()
			g.mustEnd()
		})
	}
}

// A hijacked connection, such as a WebSocket, is waited for as well.
func TestDrainWaitsForHijackedConnections(t *testing.T) {
	for _, now := range []bool{false, true} {
		t.Run(fmt.Sprintf("now %t", now), func(t *testing.T) {
			hijacked := make(chan net.Conn, 1)
			g := newHTTPGeneration(t, firstInventory(t), &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
				}
				hijacked <- conn
			})})
			g.inv.accept()
			client := dialHTTP(t, g.ln.Addr())
			client.send("x")
			conn := <-hijacked
			if _, ok := conn.(interface{ CloseWrite() error }); !ok {
				t.Error("the hijacked connection has no CloseWrite")
			}
			g.begin(successors)
			if now {
				g.drain.now()
			}
			if _, err := conn.Write([]byte("x")); err != nil {
				t.Errorf("it was closed under its user: %v", err)
			}
			g.mustWait()
			_ = conn.Close()
			g.mustEnd()
		})
	}
}

// A listener whose connections the service accepts itself.
func TestDrainWaitsForOtherConnections(t *testing.T) {
	for _, now := range []bool{false, true} {
		t.Run(fmt.Sprintf("now %t", now), func(t *testing.T) {
			inv := firstInventory(t)
			ln := mustListen(t, inv, "raw", "tcp", "127.0.0.1:0")
			d := newDrain(inv)
			inv.accept()
			client, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			conn, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			d.begin(ours, func(err error) { done <- err })
			if now {
				d.now()
			}
			select {
			case <-d.draining:
			default:
				t.Error("the service is not told")
			}
			if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("accept: %v", err)
			}
			notYet(t, done)
			_ = conn.Close()
			if err := <-done; err != nil {
				t.Error(err)
			}
			d.abandon()
		})
	}
}

// TLS connections are led away like others, HTTP/2 ones by GOAWAY.
func TestDrainTLS(t *testing.T) {
	serverTLS, clientTLS := tlsForTests(t)
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			server := func(name string) *http.Server {
				return &http.Server{Handler: echo(name), TLSConfig: serverTLS.Clone()}
			}
			a := newHTTPGeneration(t, firstInventory(t), server("A"))
			a.inv.accept()
			var dials atomic.Int64
			transport := &http.Transport{
				TLSClientConfig:   clientTLS.Clone(),
				ForceAttemptHTTP2: proto == "HTTP/2.0",
				DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
					dials.Add(1)
					return new(net.Dialer).DialContext(ctx, network, address)
				},
			}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport, Timeout: patience}
			ask := func(want string) {
				t.Helper()
				resp, err := client.Post("https://"+a.ln.Addr().String(), "text/plain", strings.NewReader("x"))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if err != nil || string(body) != want+": x" || resp.Proto != proto {
					t.Errorf("%s answers %q, %v; want %s of %s", resp.Proto, body, err, want, proto)
				}
			}
			ask("A")
			ask("A")
			b := newHTTPGeneration(t, nextInventory(t, a.inv), server("B"))
			b.inv.accept()
			a.inv.pause()
			a.begin(successors)
			if proto == "HTTP/1.1" {
				a.mustWait()
				ask("A") // over the connection that it has, and is led away
			}
			a.mustEnd()
			ask("B")
			if n := dials.Load(); n != 2 {
				t.Errorf("%d connections were made, want 2", n)
			}
		})
	}
}

// A server that fails is an error of the service.
func TestServeFails(t *testing.T) {
	failure := errors.New("no more")
	h := newHTTPServer(&http.Server{}, failingListener{failure}, nil)
	if err := h.serve(h.prepare()); !errors.Is(err, failure) {
		t.Errorf("got %v, want %v", err, failure)
	}
}

type failingListener struct{ err error }

func (f failingListener) Accept() (net.Conn, error) { return nil, f.err }
func (f failingListener) Close() error              { return nil }
func (f failingListener) Addr() net.Addr            { return &net.TCPAddr{} }

// httpClient is one keep-alive connection.
type httpClient struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func dialHTTP(t *testing.T, addr net.Addr) *httpClient {
	t.Helper()
	conn, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &httpClient{t, conn, bufio.NewReader(patientReader{conn})}
}

// patientReader bounds each wait for an answer, and not all of them together.
type patientReader struct{ net.Conn }

func (r patientReader) Read(p []byte) (int, error) {
	_ = r.SetReadDeadline(time.Now().Add(patience))
	return r.Conn.Read(p)
}

func (c *httpClient) send(body string) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.conn, "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
		c.t.Fatal(err)
	}
}

func (c *httpClient) receive() *http.Response {
	c.t.Helper()
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		c.t.Fatal(err)
	}
	return resp
}

func (c *httpClient) ask(body string) *http.Response {
	c.t.Helper()
	c.send(body)
	return c.receive()
}

// mustBeClosed waits until the server has closed the connection.
func (c *httpClient) mustBeClosed() {
	c.t.Helper()
	if n, err := c.in.Read(make([]byte, 1)); n != 0 || err == nil || isTimeout(err) {
		c.t.Errorf("the connection is not closed: %d, %v", n, err)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
