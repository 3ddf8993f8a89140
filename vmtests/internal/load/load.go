// SPDX-License-Identifier: Apache-2.0

// Package load is a load generator that loses count of nothing: each request is made once, never again,
// and is either answered in full or a failure with its time, connection and reason. It is what decides
// whether an upgrade lost something, so it is stricter than clients are: net/http opens a new connection
// when it finds the old one closed in time, while [Options.KeepAlive] counts the next request as lost
// unless the server announced the end with "Connection: close".
package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Response headers by which a server says who answered.
const (
	HeaderPID     = "X-Myapp-Pid"
	HeaderVersion = "X-Myapp-Version"
)

// Modes of workers.
const (
	ModeNew       = "new"       // a connection for each request
	ModeKeepAlive = "keepalive" // POST after POST over one connection
	ModeTransport = "transport" // the same by net/http's client
	ModeConnect   = "connect"   // connections without a request
)

// Options say what load to make.
type Options struct {
	URL string // where to, on an address of loopback or TestNetwork: "http://127.0.0.1:8080/"

	// How many workers of each mode go at once.
	New, KeepAlive, Transport, Connect int

	Think    time.Duration // pause of each worker after a request; 0 for none
	Timeout  time.Duration // after which a request has failed; 0 means 10 s
	BodySize int           // bytes of each POST; 0 means 512

	// Redial has a keep-alive worker that finds its connection closed before it sends open another, as
	// clients do. [Result.ClosedIdle] tells. Without it the request counts as lost.
	Redial bool
	// Results has [Stream] tell every result, not only failures.
	Results bool

	// For a generator in the process of whoever looks at it. Both may be nil, and are called by all workers
	// at once. Dial connects where the service is another's network namespace or no TCP; OnResult is told
	// every result.
	Dial     func(ctx context.Context, network, address string) (net.Conn, error)
	OnResult func(Result)
}

// TestNetwork has the addresses that RFC 2544 sets aside for tests of networks: no route leads there.
var TestNetwork = netip.MustParsePrefix("198.18.0.0/15")

// A Result is what became of one request. Times are of CLOCK_MONOTONIC in nanoseconds, the clock of the
// journal's __MONOTONIC_TIMESTAMP and of systemd's properties that end in Monotonic.
type Result struct {
	Mode      string `json:"mode"`
	Start     int64  `json:"start"`
	End       int64  `json:"end"`
	LocalPort int    `json:"local_port,omitempty"` // 0 when there was no connection
	Reused    bool   `json:"reused,omitempty"`     // the connection had carried a request before
	PID       int    `json:"pid,omitempty"`        // who answered, as far as it said so
	Version   string `json:"version,omitempty"`
	Error     string `json:"error,omitempty"` // empty for success
	// Broken says that the connection ended before the answer did. Other failures are a refused
	// connection, an answer that says so, and one that does not come in time.
	Broken bool `json:"broken,omitempty"`
	// ClosedIdle is the local port of the connection that the server had closed without announcing it,
	// so that this request went over a new one; see [Options.Redial].
	ClosedIdle int `json:"closed_idle,omitempty"`
}

// A Generator makes load.
type Generator struct {
	options Options
	target  *url.URL
	body    string
	record  *recorder
}

// New checks the options.
func New(options Options) (*Generator, error) {
	if options.Timeout == 0 {
		options.Timeout = 10 * time.Second
	}
	if options.BodySize == 0 {
		options.BodySize = 512
	}
	if options.Dial == nil {
		options.Dial = new(net.Dialer).DialContext
	}
	if options.New < 0 || options.KeepAlive < 0 || options.Transport < 0 || options.Connect < 0 ||
		options.Think < 0 || options.Timeout < 0 || options.BodySize < 0 {
		return nil, fmt.Errorf("load options: numbers must not be negative: %d new, %d keep-alive, %d transport, %d connect, think %v, timeout %v, body %d",
			options.New, options.KeepAlive, options.Transport, options.Connect, options.Think, options.Timeout, options.BodySize)
	}
	if options.New+options.KeepAlive+options.Transport+options.Connect == 0 {
		return nil, errors.New("load options: no workers in any mode")
	}
	target, err := url.Parse(options.URL)
	if err != nil {
		return nil, fmt.Errorf("load options: %w", err)
	}
	if target.Scheme != "http" {
		return nil, fmt.Errorf("URL %q: scheme must be http", options.URL)
	}
	// Load goes to this machine, or to machines that are there for tests.
	if ip, err := netip.ParseAddr(target.Hostname()); err != nil || !ip.IsLoopback() && !TestNetwork.Contains(ip) {
		return nil, fmt.Errorf("URL %q: host must be a loopback address such as 127.0.0.1, or one of %s", options.URL, TestNetwork)
	}
	if target.Port() == "" {
		return nil, fmt.Errorf("URL %q: must name the port", options.URL)
	}
	return &Generator{
		options: options,
		target:  target,
		body:    strings.Repeat("x", options.BodySize),
		record:  newRecorder(now()),
	}, nil
}

// Run makes load until ctx ends, lets the requests under way finish, and returns the summary. It may be
// called once.
func (g *Generator) Run(ctx context.Context) Summary {
	var workers sync.WaitGroup
	for _, mode := range []struct {
		name  string
		count int
		make  func() worker
	}{
		{ModeNew, g.options.New, func() worker { return &newWorker{g} }},
		{ModeKeepAlive, g.options.KeepAlive, func() worker { return &keepAliveWorker{Generator: g} }},
		{ModeTransport, g.options.Transport, func() worker { return newTransportWorker(g) }},
		{ModeConnect, g.options.Connect, func() worker { return &connectWorker{g} }},
	} {
		g.record.setWorkers(mode.name, mode.count)
		for range mode.count {
			workers.Go(func() { g.work(ctx, mode.name, mode.make()) })
		}
	}
	workers.Wait()
	return g.record.summary(now())
}

// Progress tells how many requests were made so far.
func (g *Generator) Progress() Progress { return g.record.progress(now()) }

// Mark notes the present time and counts under a name.
func (g *Generator) Mark(name string) Mark { return g.record.mark(name, now()) }

// A worker makes one request after the other.
type worker interface {
	// request makes one and fills r but for its mode and times.
	request(ctx context.Context, r *Result) error
	close()
}

func (g *Generator) work(ctx context.Context, mode string, w worker) {
	defer w.close()
	pause := time.NewTimer(0)
	defer pause.Stop()
	<-pause.C
	for ctx.Err() == nil {
		// The end of the load is no reason to break off a request.
		requestCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.options.Timeout)
		r := Result{Mode: mode, Start: now()}
		err := w.request(requestCtx, &r)
		r.End = now()
		cancel()
		if err != nil {
			r.Error, r.Broken = err.Error(), r.LocalPort != 0 && connectionEnded(err)
		}
		g.record.add(r)
		if g.options.OnResult != nil {
			g.options.OnResult(r)
		}
		if g.options.Think == 0 {
			continue
		}
		pause.Reset(g.options.Think)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
}

func (g *Generator) dial(ctx context.Context, r *Result) (net.Conn, error) {
	conn, err := g.options.Dial(ctx, "tcp", g.target.Host)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline) // fails on closed connections only
	}
	r.LocalPort = localPort(conn.LocalAddr())
	return conn, nil
}

func localPort(addr net.Addr) int {
	if tcp, ok := addr.(*net.TCPAddr); ok {
		return tcp.Port
	}
	return 0
}

// exchange makes one request over conn and reports whether the connection may carry another.
func (g *Generator) exchange(conn net.Conn, buffered *bufio.Reader, header string, body string, r *Result) (again bool, err error) {
	// One write, so that a request is sent or not, but never in part by our doing.
	if _, err := io.WriteString(conn, header+body); err != nil {
		return false, fmt.Errorf("write request: %w", err)
	}
	response, err := http.ReadResponse(buffered, nil)
	if err != nil {
		return false, fmt.Errorf("read response: %w", err)
	}
	defer response.Body.Close()
	if err := readAnswer(response, r); err != nil {
		return false, err
	}
	return !response.Close, nil
}

// readAnswer reads a response to its end and notes who answered.
func readAnswer(response *http.Response, r *Result) error {
	r.Version = response.Header.Get(HeaderVersion)
	r.PID, _ = strconv.Atoi(response.Header.Get(HeaderPID)) // 0 when it does not say
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return fmt.Errorf("read response body: %w", err)
	}
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return fmt.Errorf("status %s", response.Status)
	}
	return nil
}

// A newWorker opens a connection for each request.
type newWorker struct{ *Generator }

func (w *newWorker) close() {}

func (w *newWorker) request(ctx context.Context, r *Result) error {
	conn, err := w.dial(ctx, r)
	if err != nil {
		return err
	}
	defer conn.Close()
	header := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", w.target.RequestURI(), w.target.Host)
	_, err = w.exchange(conn, bufio.NewReader(conn), header, "", r)
	return err
}

// A keepAliveWorker uses one connection as long as it lasts.
type keepAliveWorker struct {
	*Generator
	conn     net.Conn // nil when there is none
	buffered *bufio.Reader
}

func (w *keepAliveWorker) close() {
	if w.conn != nil {
		w.conn.Close()
		w.conn = nil
	}
}

func (w *keepAliveWorker) request(ctx context.Context, r *Result) error {
	if w.conn != nil && w.options.Redial && closedByPeer(w.conn) {
		r.ClosedIdle = localPort(w.conn.LocalAddr())
		w.close()
	}
	if w.conn == nil {
		conn, err := w.dial(ctx, r)
		if err != nil {
			return err
		}
		w.conn, w.buffered = conn, bufio.NewReader(conn)
	} else {
		r.Reused, r.LocalPort = true, localPort(w.conn.LocalAddr())
		if deadline, ok := ctx.Deadline(); ok {
			_ = w.conn.SetDeadline(deadline) // fails on closed connections only
		}
	}
	header := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", w.target.RequestURI(), w.target.Host, len(w.body))
	again, err := w.exchange(w.conn, w.buffered, header, w.body, r)
	if !again {
		w.close()
	}
	return err
}

// A transportWorker posts with net/http's client, over one connection at a time.
type transportWorker struct {
	*Generator
	transport *http.Transport
}

func newTransportWorker(g *Generator) *transportWorker {
	return &transportWorker{g, &http.Transport{MaxConnsPerHost: 1, DialContext: g.options.Dial}}
}

// WithPort has a request of net/http's client note in r by which connection it goes.
func WithPort(ctx context.Context, r *Result) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			r.Reused, r.LocalPort = info.Reused, localPort(info.Conn.LocalAddr())
		},
	})
}

func (w *transportWorker) close() { w.transport.CloseIdleConnections() }

func (w *transportWorker) request(ctx context.Context, r *Result) error {
	ctx = WithPort(ctx, r)
	// A plain reader, of which net/http cannot make a second copy: GetBody stays nil, and so the
	// request cannot be sent again behind our back.
	body := struct{ io.Reader }{strings.NewReader(w.body)}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, w.options.URL, body)
	if err != nil {
		return err
	}
	request.ContentLength = int64(len(w.body))
	if request.GetBody != nil {
		panic("net/http could replay the request")
	}
	response, err := w.transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return readAnswer(response, r)
}

// A connectWorker opens and closes connections.
type connectWorker struct{ *Generator }

func (w *connectWorker) close() {}

func (w *connectWorker) request(ctx context.Context, r *Result) error {
	conn, err := w.dial(ctx, r)
	if err != nil {
		return err
	}
	return conn.Close()
}
