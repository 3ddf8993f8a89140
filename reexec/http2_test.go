// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// tlsForTests returns the certificate of httptest, and a client that trusts it.
func tlsForTests(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	model := httptest.NewUnstartedServer(nil)
	model.StartTLS()
	defer model.Close()
	pool := x509.NewCertPool()
	pool.AddCert(model.Certificate())
	return &tls.Config{Certificates: model.TLS.Certificates}, &tls.Config{RootCAs: pool, ServerName: "example.com"}
}

// kinds of HTTP/2 runs f with a server of each kind, and what a client needs.
func kindsOfHTTP2(t *testing.T, f func(t *testing.T, k kindOfHTTP2)) {
	t.Helper()
	server, client := tlsForTests(t)
	for _, k := range []kindOfHTTP2{{"TLS", "https", server, client}, {"h2c", "http", nil, nil}} {
		t.Run(k.name, func(t *testing.T) { f(t, k) })
	}
}

type kindOfHTTP2 struct {
	name, scheme   string
	server, client *tls.Config
}

// serve makes a server; with configure it is changed before it serves.
func (k kindOfHTTP2) serve(t *testing.T, inv *inventory, handler http.Handler, configure func(*http.Server)) *httpGeneration {
	t.Helper()
	srv := &http.Server{Handler: handler, TLSConfig: k.server.Clone()}
	if k.server == nil {
		srv.Protocols = new(http.Protocols)
		srv.Protocols.SetHTTP1(true)
		srv.Protocols.SetUnencryptedHTTP2(true)
	}
	if configure != nil {
		configure(srv)
	}
	return newHTTPGeneration(t, inv, srv)
}

// transport speaks HTTP/2 only.
func (k kindOfHTTP2) transport(t *testing.T) *http.Transport {
	transport := &http.Transport{TLSClientConfig: k.client.Clone(), Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP2(k.client != nil)
	transport.Protocols.SetUnencryptedHTTP2(k.client == nil)
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

func (k kindOfHTTP2) dial(t *testing.T, addr net.Addr) *http2Client {
	t.Helper()
	conn, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	if k.client != nil {
		config := k.client.Clone()
		config.NextProtos = []string{"h2"}
		secure := tls.Client(conn, config)
		if err := secure.Handshake(); err != nil {
			t.Fatal(err)
		}
		conn = secure
	}
	return &http2Client{t: t, conn: conn, scheme: k.scheme, answers: map[uint32]string{}, ended: map[uint32]bool{}}
}

// http2Client is a connection whose client does what a test wants.
type http2Client struct {
	t      *testing.T
	conn   net.Conn
	scheme string
	silent bool // answers no PING

	answers map[uint32]string // bodies
	ended   map[uint32]bool
	resets  []uint32
	goAways []uint32 // last streams
	settled bool     // SETTINGS came
}

func (c *http2Client) write(b []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func (c *http2Client) hello() {
	c.t.Helper()
	c.write(appendFrame([]byte(clientPreface), 0x4, 0, 0, nil))
}

// ask begins POST / on a stream.
func (c *http2Client) ask(stream uint32) {
	c.t.Helper()
	block := []byte{0x83, 0x84, 0x86, 0x01, 7}
	if c.scheme == "https" {
		block[2] = 0x87
	}
	c.write(appendFrame(nil, frameHeaders, flagEndHeaders, stream, append(block, "example"...)))
}

func (c *http2Client) send(stream uint32, body string, end bool) {
	c.t.Helper()
	flags := byte(0)
	if end {
		flags = flagEndStream
	}
	c.write(appendFrame(nil, frameData, flags, stream, []byte(body)))
}

func (c *http2Client) post(stream uint32, body string) {
	c.t.Helper()
	c.ask(stream)
	c.send(stream, body, true)
}

// receive reads frames until it has seen what it waits for.
func (c *http2Client) receive(what string, seen func() bool) {
	c.t.Helper()
	for !seen() {
		if err := c.frame(); err != nil {
			c.t.Fatalf("waiting for %s: %v", what, err)
		}
	}
}

func (c *http2Client) frame() error {
	header := make([]byte, frameHeaderLen)
	if _, err := io.ReadFull(c.conn, header); err != nil {
		return err
	}
	f := frame{length: int(number(header[:3])), kind: header[3], flags: header[4], stream: number(header[5:])}
	payload := make([]byte, f.length)
	if _, err := io.ReadFull(c.conn, payload); err != nil {
		return err
	}
	switch f.kind {
	case frameData:
		c.answers[f.stream] += string(payload)
		c.ended[f.stream] = f.has(flagEndStream)
	case frameHeaders:
		c.ended[f.stream] = f.has(flagEndStream)
	case frameRSTStream:
		c.resets = append(c.resets, f.stream)
	case frameGoAway:
		c.goAways = append(c.goAways, number(payload[:4]))
	case framePing:
		if !f.has(flagAck) && !c.silent {
			_, err := c.conn.Write(appendFrame(nil, framePing, flagAck, 0, payload))
			return err
		}
	case 0x4: // SETTINGS
		c.settled = true
		if !f.has(flagAck) {
			_, err := c.conn.Write(appendFrame(nil, 0x4, flagAck, 0, nil))
			return err
		}
	}
	return nil
}

// mustAnswer reads until a stream is answered.
func (c *http2Client) mustAnswer(stream uint32, want string) {
	c.t.Helper()
	c.receive(fmt.Sprint("the answer on stream ", stream), func() bool { return c.ended[stream] })
	if got := c.answers[stream]; got != want {
		c.t.Errorf("stream %d is answered with %q, want %q", stream, got, want)
	}
}

// mustGoAway reads until the first GOAWAY, which asks for no more streams.
func (c *http2Client) mustGoAway() {
	c.t.Helper()
	c.receive("the first GOAWAY", func() bool { return len(c.goAways) > 0 })
	if c.goAways[0] != maxStreamID {
		c.t.Errorf("the first GOAWAY names stream %d", c.goAways[0])
	}
}

// mustEnd reads to the end, which must be an orderly one.
func (c *http2Client) mustEnd(last uint32) {
	c.t.Helper()
	for {
		err := c.frame()
		if err == nil {
			continue
		}
		if err != io.EOF {
			c.t.Errorf("the connection ends by %v", err)
		}
		break
	}
	if want := []uint32{maxStreamID, last}; !slices.Equal(c.goAways, want) {
		c.t.Errorf("GOAWAYs with the last streams %d, want %d", c.goAways, want)
	}
	_ = c.conn.Close()
}

// unrepeatable is a POST of which nothing is sent a second time. Go's client
// fails a request that it has not begun to send when a GOAWAY comes at that very
// moment, because it has closed the body by then (golang/go#62450); so another
// body is made as long as nothing was written.
func unrepeatable(t *testing.T, url, body string) *http.Request {
	var written atomic.Bool
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{WroteHeaderField: func(string, []string) { written.Store(true) }})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Error(err)
	}
	again := req.GetBody
	req.GetBody = func() (io.ReadCloser, error) {
		if written.Load() {
			return nil, errors.New("the request was sent before")
		}
		return again()
	}
	return req
}

// Clients 25 ms away, with requests that cannot be sent again, on connections
// with several streams, go from generation to generation and lose none.
func TestHTTP2LosesNothing(t *testing.T) {
	const generations, clients, streams = 8, 3, 4
	t.Parallel()
	kindsOfHTTP2(t, func(t *testing.T, k kindOfHTTP2) {
		t.Parallel()
		gen := k.serve(t, firstInventory(t), echo("0"), nil)
		gen.inv.accept()
		url := k.scheme + "://" + distant(t, gen.ln.Addr().String(), 25*time.Millisecond)
		var asked, dials atomic.Int64
		stop := make(chan struct{})
		var done sync.WaitGroup
		for range clients {
			transport := k.transport(t)
			transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				dials.Add(1)
				return new(net.Dialer).DialContext(ctx, network, address)
			}
			client := &http.Client{Transport: transport, Timeout: patience}
			for i := range streams {
				done.Go(func() {
					for n := 0; ; n++ {
						select {
						case <-stop:
							return
						default:
						}
						body := fmt.Sprintf("stream %d request %d", i, n)
						resp, err := client.Do(unrepeatable(t, url, body))
						if err != nil {
							t.Errorf("a client: %v", err)
							return
						}
						answer, err := io.ReadAll(resp.Body)
						_ = resp.Body.Close()
						if _, got, _ := strings.Cut(string(answer), ": "); err != nil || got != body || resp.ProtoMajor != 2 {
							t.Errorf("%s answers %q, %v", resp.Proto, answer, err)
							return
						}
						asked.Add(1)
					}
				})
			}
		}
		for i := range generations {
			for before := asked.Load(); asked.Load() < before+2*clients*streams && !t.Failed(); {
				time.Sleep(time.Millisecond)
			}
			next := k.serve(t, nextInventory(t, gen.inv), echo(fmt.Sprint(i+1)), nil)
			next.inv.accept()
			gen.inv.pause()
			gen.begin(successors)
			gen.mustEnd() // by itself
			gen = next
		}
		close(stop)
		done.Wait()
		t.Logf("%d requests on %d connections over %d generations", asked.Load(), dials.Load(), generations+1)
	})
}

// conversation is a handler that answers as a test says.
type conversation struct {
	entered chan struct{}
	say     chan string // closed at the end
}

func newConversation() *conversation {
	return &conversation{make(chan struct{}, 2000), make(chan string, 10)}
}

// within returns what comes.
func within[T any](t *testing.T, what string, comes <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-comes:
	case <-time.After(patience):
		t.Fatalf("waited %v for %s", patience, what)
	}
	return v
}

func (c *conversation) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.entered <- struct{}{}
	for {
		select {
		case text, ok := <-c.say:
			if !ok {
				return
			}
			_, _ = io.WriteString(w, text)
			_ = http.NewResponseController(w).Flush()
		case <-r.Context().Done():
			return
		}
	}
}

// An answer that takes long is sent to its end.
func TestHTTP2DrainWaitsForAnswers(t *testing.T) {
	kindsOfHTTP2(t, func(t *testing.T, k kindOfHTTP2) {
		talk := newConversation()
		g := k.serve(t, firstInventory(t), talk, nil)
		g.inv.accept()
		client := k.dial(t, g.ln.Addr())
		client.hello()
		client.post(1, "")
		within(t, "the request", talk.entered)
		talk.say <- "before, "
		g.begin(successors)
		client.mustGoAway()
		talk.say <- "during, "
		g.mustWait()
		g.drain.now()
		talk.say <- "after the stop"
		g.mustWait()
		close(talk.say)
		client.mustAnswer(1, "before, during, after the stop")
		client.mustEnd(1)
		g.mustEnd()
	})
}

// So is a request that is still being sent, and one that was on its way when
// the client was told.
func TestHTTP2DrainWaitsForRequests(t *testing.T) {
	kindsOfHTTP2(t, func(t *testing.T, k kindOfHTTP2) {
		g := k.serve(t, firstInventory(t), echo("A"), nil)
		g.inv.accept()
		client := k.dial(t, g.ln.Addr())
		client.hello()
		client.ask(1)
		client.send(1, "a long ", false)
		client.post(3, "short")
		client.mustAnswer(3, "A: short")
		g.begin(successors)
		client.ask(5) // before it reads that it should not
		client.mustGoAway()
		client.send(1, "upload", true)
		client.mustAnswer(1, "A: a long upload")
		g.mustWait()
		client.send(5, "late", true)
		client.mustAnswer(5, "A: late")
		client.mustEnd(5)
		g.mustEnd()
	})
}

// An idle connection ends, as does one that has not asked anything yet.
func TestHTTP2DrainEndsIdleConnections(t *testing.T) {
	kindsOfHTTP2(t, func(t *testing.T, k kindOfHTTP2) {
		for _, stop := range []bool{false, true} {
			g := k.serve(t, firstInventory(t), echo("A"), nil)
			g.inv.accept()
			idle, fresh, late := k.dial(t, g.ln.Addr()), k.dial(t, g.ln.Addr()), k.dial(t, g.ln.Addr())
			idle.hello()
			idle.post(1, "one")
			idle.mustAnswer(1, "A: one")
			fresh.hello()
			fresh.receive("SETTINGS", func() bool { return fresh.settled })
			waitOpen(t, g, 3)
			g.begin(successors)
			if stop {
				g.drain.now()
			}
			idle.mustEnd(1)
			fresh.mustEnd(0)
			// It becomes HTTP/2 only now, and is answered.
			late.hello()
			late.post(1, "late")
			late.mustAnswer(1, "A: late")
			late.mustEnd(1)
			g.mustEnd()
		}
	})
}

// waitOpen waits until so many connections were accepted.
func waitOpen(t *testing.T, g *httpGeneration, n int) {
	t.Helper()
	for deadline := time.Now().Add(patience); g.inv.openConnections() < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are open, want %d", g.inv.openConnections(), n)
		}
	}
}

// A client may go on asking although it was told not to. It is answered until
// it pauses.
func TestHTTP2ClientThatDoesNotGo(t *testing.T) {
	kindsOfHTTP2(t, func(t *testing.T, k kindOfHTTP2) {
		g := k.serve(t, firstInventory(t), echo("A"), nil)
		g.inv.accept()
		client := k.dial(t, g.ln.Addr())
		client.hello()
		client.post(1, "one")
		client.mustAnswer(1, "A: one")
		g.begin(successors)
		client.mustGoAway()
		for i := uint32(3); i <= 21; i += 2 {
			client.post(i, "more")
			client.mustAnswer(i, "A: more")
		}
		client.mustEnd(21)
		g.mustEnd()
	})
}

// A client that does not confirm is given the time that there is.
func TestHTTP2ClientThatDoesNotConfirm(t *testing.T) {
	kindsOfHTTP2(t, func(t *testing.T, k kindOfHTTP2) {
		for _, how := range []string{"stopped", "cut"} {
			g := k.serve(t, firstInventory(t), echo("A"), nil)
			g.inv.accept()
			client := k.dial(t, g.ln.Addr())
			client.silent = true
			client.hello()
			client.post(1, "one")
			client.mustAnswer(1, "A: one")
			g.begin(successors)
			client.mustGoAway()
			g.mustWait()
			client.post(3, "two")
			client.mustAnswer(3, "A: two")
			if how == "stopped" {
				g.drain.now()
				client.mustEnd(3)
			} else {
				g.drain.abandon()
			}
			g.mustEnd()
		}
	})
}

// What is no HTTP/2 ends as it does without a drain.
func TestHTTP2Garbage(t *testing.T) {
	t.Parallel()
	kindsOfHTTP2(t, func(t *testing.T, k kindOfHTTP2) {
		for name, garbage := range map[string][]byte{
			"no settings":    appendFrame([]byte(clientPreface), frameData, 0, 1, []byte("x")),
			"an even stream": appendFrame(appendFrame([]byte(clientPreface), 0x4, 0, 0, nil), frameHeaders, flagEndHeaders, 2, nil),
			"a huge frame":   append([]byte(clientPreface), slices.Repeat([]byte{0xff}, 100)...),
			"no preface":     []byte("GET / HTTP/1.1 and no end"),
		} {
			for _, draining := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, draining %t", name, draining), func(t *testing.T) {
					t.Parallel()
					g := k.serve(t, firstInventory(t), echo("A"), func(srv *http.Server) { srv.ErrorLog = log.New(io.Discard, "", 0) })
					g.inv.accept()
					client := k.dial(t, g.ln.Addr())
					waitOpen(t, g, 1)
					if draining {
						g.begin(successors)
					}
					client.write(garbage)
					if name == "no preface" {
						_ = client.conn.Close() // net/http waits for a request of HTTP/1
					}
					for client.frame() == nil {
					}
					_ = client.conn.Close()
					g.begin(successors)
					g.mustEnd()
					if !slices.IsSortedFunc(client.goAways, func(a, b uint32) int { return cmp.Compare(b, a) }) {
						t.Errorf("a later GOAWAY names a higher stream: %d", client.goAways)
					}
				})
			}
		}
	})
}

// A thousand streams of one connection.
func TestHTTP2ManyStreams(t *testing.T) {
	const streams = 1000
	kindsOfHTTP2(t, func(t *testing.T, k kindOfHTTP2) {
		talk := newConversation()
		g := k.serve(t, firstInventory(t), talk, func(srv *http.Server) {
			srv.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: streams}
		})
		g.inv.accept()
		client := k.dial(t, g.ln.Addr())
		client.hello()
		for i := range uint32(streams) {
			client.post(2*i+1, "")
		}
		for range streams {
			within(t, "a request", talk.entered)
		}
		g.begin(successors)
		client.mustGoAway()
		g.mustWait()
		close(talk.say)
		for i := range uint32(streams) {
			client.mustAnswer(2*i+1, "")
		}
		client.mustEnd(2*streams - 1)
		g.mustEnd()
	})
}

// The service sees of a connection what it would without us.
func TestHTTP2IsTransparent(t *testing.T) {
	type key struct{}
	type state struct {
		conn  net.Conn
		state http.ConnState
	}
	kindsOfHTTP2(t, func(t *testing.T, k kindOfHTTP2) {
		states := make(chan state, 100)
		var accepted net.Conn
		var server *http.Server
		requests := make(chan *http.Request, 1)
		g := k.serve(t, firstInventory(t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			requests <- r
		}), func(srv *http.Server) {
			server = srv
			srv.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
				accepted = conn
				return context.WithValue(ctx, key{}, "ours")
			}
			srv.ConnState = func(conn net.Conn, s http.ConnState) { states <- state{conn, s} }
		})
		g.inv.accept()
		client := k.dial(t, g.ln.Addr())
		client.hello()
		client.post(1, "x")
		client.mustAnswer(1, "")
		r := within(t, "the request", requests)
		if r.Context().Value(http.ServerContextKey) != server || r.Context().Value(key{}) != "ours" {
			t.Error("the context is not that of the server")
		}
		if got, want := fmt.Sprint(r.Context().Value(http.LocalAddrContextKey)), g.ln.Addr().String(); got != want {
			t.Errorf("the local address is %s, want %s", got, want)
		}
		if r.RemoteAddr != client.conn.LocalAddr().String() {
			t.Errorf("the remote address is %s, want %s", r.RemoteAddr, client.conn.LocalAddr())
		}
		if (r.TLS != nil) != (k.client != nil) || r.TLS != nil && r.TLS.NegotiatedProtocol != "h2" {
			t.Errorf("TLS: %+v", r.TLS)
		}
		g.begin(successors)
		client.mustEnd(1)
		g.mustEnd()
		want := []http.ConnState{http.StateNew, http.StateActive, http.StateIdle, http.StateActive, http.StateIdle, http.StateClosed}
		for i, w := range want {
			if s := within(t, "a state", states); s.state != w || s.conn != accepted {
				t.Errorf("state %d is %v of a %T, want %v of the %T that was accepted", i, s.state, s.conn, w, accepted)
			}
		}
	})
}

// What does not go through us is as net/http has it.
func TestInterpose(t *testing.T) {
	server, _ := tlsForTests(t)
	handle := func(*http.Server, *tls.Conn, http.Handler) {}
	only := func(set func(*http.Protocols, bool)) *http.Protocols {
		p := new(http.Protocols)
		set(p, true)
		return p
	}
	for _, c := range []struct {
		name  string
		srv   *http.Server
		debug string
		want  bool
	}{
		{"TLS", &http.Server{TLSConfig: server}, "", true},
		{"disabled by GODEBUG", &http.Server{TLSConfig: server}, "http2server=0", false},
		{"without TLS, which may yet come from the listener", &http.Server{}, "", true},
		{"h2c", &http.Server{Protocols: only((*http.Protocols).SetUnencryptedHTTP2)}, "", true},
		{"HTTP/1 only", &http.Server{TLSConfig: server, Protocols: only((*http.Protocols).SetHTTP1)}, "", false},
		{"disabled", &http.Server{TLSConfig: server, TLSNextProto: map[string]nextProto{}}, "", false},
		{"spoken by others", &http.Server{TLSConfig: server, TLSNextProto: map[string]nextProto{protoHTTP2: handle}}, "", false},
		{"spoken as golang.org/x/net does", &http.Server{TLSConfig: server, TLSNextProto: map[string]nextProto{protoHTTP2: handle, protoUnencryptedHTTP2: handle}}, "", true},
	} {
		c.srv.BaseContext = func(net.Listener) context.Context {
			t.Errorf("%s: BaseContext was called for a listener of ours", c.name)
			return t.Context()
		}
		t.Setenv("GODEBUG", c.debug)
		if got := interpose(c.srv); (got != nil) != c.want {
			t.Errorf("%s: interposed %t, want %t", c.name, got != nil, c.want)
		}
		if c.srv.BaseContext == nil {
			t.Errorf("%s: BaseContext is gone", c.name)
		}
	}
}

// Two listeners may have one server.
func TestHTTP2OnTwoListeners(t *testing.T) {
	kindsOfHTTP2(t, func(t *testing.T, k kindOfHTTP2) {
		g := k.serve(t, firstInventory(t), echo("A"), nil)
		other := mustListen(t, g.inv, "other", "tcp", "127.0.0.1:0")
		second := newHTTPServer(g.server.srv, other, g.drain.servers)
		g.drain.servers = append(g.drain.servers, second)
		served := make(chan error)
		go func() { served <- second.serve(second.prepare()) }()
		g.inv.accept()
		var clients []*http2Client
		for _, addr := range []net.Addr{g.ln.Addr(), other.Addr()} {
			client := k.dial(t, addr)
			client.hello()
			client.post(1, "x")
			client.mustAnswer(1, "A: x")
			clients = append(clients, client)
		}
		g.begin(successors)
		for _, client := range clients {
			client.mustEnd(1)
		}
		g.mustEnd()
		if err := within(t, "the end of the second server", served); err != nil {
			t.Error(err)
		}
	})
}

// A client that is not written in Go. (Without TLS curl 7.88 fails by itself at
// the second request of a connection.)
func TestHTTP2Curl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("curl is not installed")
	}
	const requests, generations = 40, 5
	server, client := tlsForTests(t)
	k := kindOfHTTP2{"TLS", "https", server, client}
	gen := k.serve(t, firstInventory(t), echo("0"), nil)
	gen.inv.accept()
	url := "https://" + distant(t, gen.ln.Addr().String(), 5*time.Millisecond)
	// One after the other on the connection that there is, each with a line when it
	// is answered.
	cmd := exec.CommandContext(t.Context(), curl, "-sS", "-k", "-m", "20", "--http2", "-d", "x", "-w", " %{http_version} %{num_connects}\n")
	for range requests {
		cmd.Args = append(cmd.Args, url)
	}
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	connections := 0
	lines := bufio.NewScanner(out)
	for n := 1; lines.Scan(); n++ {
		var by, version, connects int
		if _, err := fmt.Sscanf(lines.Text(), "%d: x %d %d", &by, &version, &connects); err != nil || version != 2 {
			t.Errorf("request %d is answered with %q", n, lines.Text())
		}
		connections += connects
		if i := n / (requests / generations); n%(requests/generations) == 0 && i < generations {
			next := k.serve(t, nextInventory(t, gen.inv), echo(fmt.Sprint(i)), nil)
			next.inv.accept()
			gen.inv.pause()
			gen.begin(successors)
			gen = next
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("curl: %v\n%s", err, complaints.String())
	}
	if connections != generations {
		t.Errorf("curl has made %d connections to %d generations", connections, generations)
	}
}
