// SPDX-License-Identifier: Apache-2.0

// Package load makes the load of the benchmark and loses count of nothing. Its clients are raw: each
// request is made once, over a connection that is opened where a client must open one, so that a lost
// request cannot hide behind a retry.
//
// A request has failed when it was begun and not answered in full with what was sent. A reconnect is a
// connection that a client had to open because the server had ended the one before between two requests:
// announced by "Connection: close" or GOAWAY, or cut while it was idle. What follows a failed request is
// no reconnect: it has been counted.
package load

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/delay"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/stats"
)

// Modes of clients.
const (
	New       = "new"       // a connection for each POST
	KeepAlive = "keepalive" // POST after POST over one connection
	Idle      = "idle"      // connections that make a request when they are swept, and rest in between
	HTTP2     = "http2"     // POSTs as streams of one connection for each Streams clients
	Line      = "line"      // sessions of lines
	UDP       = "udp"       // datagrams

	// These need the service of package mixed.
	Slow   = "slow"   // POST after POST over one connection, answered after up to SlowLimit
	Upload = "upload" // the same, with a body that takes a while to send
	Events = "events" // streams of server-sent events, one after the other over one connection
	Halves = "halves" // sessions of lines that are sent in two parts
)

var modes = []string{New, KeepAlive, Idle, HTTP2, Line, UDP, Slow, Upload, Events, Halves}

// Streams is how many clients share a connection in mode HTTP2.
const Streams = 4

// Options say what load to make.
type Options struct {
	Mode string `json:"mode"`
	// Network is "unix", "unixgram" or "unixpacket". Empty means that of IP: UDP in mode UDP, else TCP.
	Network string        `json:"network,omitempty"`
	Address string        `json:"address"` // where to: a loopback address and a port, or the path of a socket
	Clients int           `json:"clients"`
	Think   time.Duration `json:"think"`   // pause of each client after a request
	Delay   time.Duration `json:"delay"`   // each way; TCP only
	Timeout time.Duration `json:"timeout"` // after which a request has failed; 0 means 10 s
	Body    int           `json:"body"`    // bytes of a request; 0 means 512
	CA      []byte        `json:"ca"`      // certificate of the server in PEM, for TLS; empty for none
	// Sum has the report sum requests up, for a run that is too long to keep a sample of each.
	Sum bool `json:"sum,omitempty"`
}

// A Sample is one request. Times are of CLOCK_MONOTONIC in nanoseconds, the same for all processes.
type Sample struct {
	Start int64  `json:"s"`
	End   int64  `json:"e"`
	Error string `json:"x,omitempty"` // empty for success
}

// Latency is how long the request took.
func (s Sample) Latency() time.Duration { return time.Duration(s.End - s.Start) }

// Connections counts how those that were ended by the server went on.
type Connections struct {
	Opened    int `json:"opened"`
	Announced int `json:"announced"` // reconnects that the server had asked for
	Cut       int `json:"cut"`       // reconnects after the end of an idle connection, without a word
	Resumed   int `json:"resumed"`   // reconnects that resumed a TLS session
	Moved     int `json:"moved"`     // how often another process than before answered on a connection
	// Duplicates are datagrams that answered what had been answered.
	Duplicates int `json:"duplicates"`
}

// Reconnects is how many connections clients had to open again.
func (c Connections) Reconnects() int { return c.Announced + c.Cut }

// A Report is what became of all requests.
type Report struct {
	Samples     []Sample    `json:"samples,omitempty"` // unless Options.Sum
	Sum         *Sum        `json:"sum,omitempty"`     // if Options.Sum
	Connections Connections `json:"connections"`
}

// A Sum is of all requests that are over.
type Sum struct {
	Requests int           `json:"requests"`
	Failed   int           `json:"failed"`
	Failures []Sample      `json:"failures,omitempty"` // the first ones
	Latency  stats.Summary `json:"latency"`            // of those that were answered
}

// maxFailures is how many failed requests a Sum tells of. They are needed to find the cause, the rest is
// counted.
const maxFailures = 100

// Now returns the time of CLOCK_MONOTONIC in nanoseconds.
func Now() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // every Linux has this clock
	}
	return ts.Nano()
}

// A Generator makes load.
type Generator struct {
	options   Options
	body      []byte
	bodies    atomic.Int64 // that were made
	tls       *tls.Config  // nil for none
	forwarder *delay.Forwarder
	address   string // the forwarder's, if there is one
	clients   []client

	stop context.CancelFunc
	done sync.WaitGroup

	mu      sync.Mutex
	samples []Sample
	sum     Sum
	latency stats.Histogram // of sum
	count   Connections
}

// A client makes one request after the other.
type client interface {
	// ask makes a request before the deadline, over a new connection if it must.
	ask(deadline time.Time) error
	close()
}

// Start starts the clients. In mode Idle it returns when all connections have made their first request.
func Start(options Options) (*Generator, error) {
	g := &Generator{options: options, address: options.Address}
	if err := g.prepare(); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	g.stop = stop
	if options.Mode == Idle {
		for range options.Clients {
			g.clients = append(g.clients, &tcpClient{Generator: g, exchange: exchangeHTTP})
		}
		return g, g.Sweep()
	}
	var shared *http2Conn
	for i := range options.Clients {
		var c client
		switch options.Mode {
		case New:
			c = &tcpClient{Generator: g, exchange: exchangeLastHTTP}
		case KeepAlive:
			c = &tcpClient{Generator: g, exchange: exchangeHTTP}
		case Line:
			c = &tcpClient{Generator: g, exchange: exchangeLine}
		case Slow:
			c = &tcpClient{Generator: g, exchange: exchangeSlow}
		case Upload:
			c = &tcpClient{Generator: g, exchange: exchangeUpload}
		case Events:
			c = &tcpClient{Generator: g, exchange: exchangeEvents}
		case Halves:
			c = &tcpClient{Generator: g, exchange: exchangeHalves}
		case HTTP2:
			if i%Streams == 0 {
				shared = newHTTP2Conn(g)
			}
			c = shared
		case UDP:
			c = &udpClient{Generator: g}
		}
		g.clients = append(g.clients, c)
		g.done.Go(func() { g.work(ctx, c) })
	}
	return g, nil
}

func (g *Generator) prepare() error {
	o := &g.options
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Body == 0 {
		o.Body = 512
	}
	if !slices.Contains(modes, o.Mode) {
		return fmt.Errorf("load: mode %q: must be of %s", o.Mode, strings.Join(modes, ", "))
	}
	if o.Clients <= 0 || o.Body < 0 || o.Think < 0 || o.Delay < 0 || o.Timeout < 0 {
		return fmt.Errorf("load: options %+v: numbers must not be negative, and there must be clients", *o)
	}
	if err := o.checkAddress(); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	g.body = bytes.Repeat([]byte("x"), o.Body)
	if len(o.CA) > 0 {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(o.CA) {
			return errors.New("load: no certificate in Options.CA")
		}
		g.tls = &tls.Config{
			RootCAs: roots, ServerName: "localhost", NextProtos: []string{"http/1.1"},
			ClientSessionCache: tls.NewLRUClientSessionCache(o.Clients),
		}
		if o.Mode == HTTP2 {
			g.tls.NextProtos = []string{"h2"}
		}
	}
	if o.Delay > 0 {
		var err error
		if g.forwarder, err = delay.Listen(o.Address, o.Delay); err != nil {
			return fmt.Errorf("load: %w", err)
		}
		g.address = g.forwarder.Addr()
	}
	return nil
}

// checkAddress keeps the load on this machine.
func (o *Options) checkAddress() error {
	switch o.Network {
	case "":
		if to, err := netip.ParseAddrPort(o.Address); err != nil || !to.Addr().IsLoopback() {
			return fmt.Errorf("address %q: must be a loopback address and a port, such as 127.0.0.1:8080", o.Address)
		}
		return nil
	case "unix", "unixpacket", "unixgram":
		if (o.Network == "unixgram") != (o.Mode == UDP) {
			return fmt.Errorf("network %s: mode must be %s for unixgram and for nothing else, it is %s", o.Network, UDP, o.Mode)
		}
		if !filepath.IsAbs(o.Address) {
			return fmt.Errorf("address %q: must be the absolute path of a socket", o.Address)
		}
		if o.Delay > 0 {
			return fmt.Errorf("network %s: cannot be delayed", o.Network)
		}
		return nil
	}
	return fmt.Errorf("network %q: must be unix, unixgram, unixpacket, or empty for IP", o.Network)
}

func (g *Generator) work(ctx context.Context, c client) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	<-pause.C
	for ctx.Err() == nil {
		wait := g.options.Think
		if err := g.ask(c); err != nil {
			wait = max(wait, 5*time.Millisecond) // a service that is gone is asked no faster
		}
		if wait == 0 {
			continue
		}
		pause.Reset(wait)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
}

// ask has c make a request, and notes what became of it.
func (g *Generator) ask(c client) error {
	s := Sample{Start: Now()}
	err := c.ask(time.Now().Add(g.options.Timeout))
	s.End = Now()
	if err != nil {
		s.Error = err.Error()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.options.Sum {
		g.add(s)
	} else {
		g.samples = append(g.samples, s)
	}
	return err
}

// nextBody returns a body that no other request has, so that no other answer will do. A short one has room
// for the last digits of its number only.
func (g *Generator) nextBody() []byte {
	body := bytes.Clone(g.body)
	number := fmt.Sprintf("%020d", g.bodies.Add(1))
	copy(body, number[max(len(number)-len(body), 0):])
	return body
}

// add adds a sample to the sum. It needs mu.
func (g *Generator) add(s Sample) {
	g.sum.Requests++
	if s.Error == "" {
		g.latency.Add(s.Latency())
		return
	}
	g.sum.Failed++
	if len(g.sum.Failures) < maxFailures {
		g.sum.Failures = append(g.sum.Failures, s)
	}
}

// sweepers bounds how many idle connections are asked at once.
const sweepers = 16

// Sweep has every client of mode Idle make a request.
func (g *Generator) Sweep() error {
	if g.options.Mode != Idle {
		return fmt.Errorf("load: sweep: mode is %s, must be %s", g.options.Mode, Idle)
	}
	next := make(chan client)
	var sweeping sync.WaitGroup
	for range sweepers {
		sweeping.Go(func() {
			for c := range next {
				_ = g.ask(c) // the sample tells
			}
		})
	}
	for _, c := range g.clients {
		next <- c
	}
	close(next)
	sweeping.Wait()
	return nil
}

// Stop lets the requests under way finish and returns what became of all.
func (g *Generator) Stop() (Report, error) {
	g.stop()
	g.done.Wait()
	for _, c := range g.clients {
		c.close()
	}
	var err error
	if g.forwarder != nil {
		err = g.forwarder.Close()
	}
	return g.Look(), err
}

// Look returns what has become of the requests so far.
func (g *Generator) Look() Report {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := Report{Samples: slices.Clone(g.samples), Connections: g.count}
	if g.options.Sum {
		sum := g.sum
		sum.Failures = slices.Clone(sum.Failures)
		sum.Latency = g.latency.Summary()
		r.Sum = &sum
	}
	return r
}

// note changes the counts of connections.
func (g *Generator) note(change func(*Connections)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(&g.count)
}

// A socket is a stream, or a sequence of packets, that can be looked at.
type socket interface {
	net.Conn
	syscall.Conn
}

func (g *Generator) dial(deadline time.Time) (socket, error) {
	dialer := net.Dialer{Deadline: deadline}
	conn, err := dialer.Dial(cmp.Or(g.options.Network, "tcp"), g.address)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return conn.(socket), conn.SetDeadline(deadline)
}
