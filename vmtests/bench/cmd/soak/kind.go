// SPDX-License-Identifier: Apache-2.0

package main

import (
	"time"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/load"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/mixed"
)

// A kind of clients.
type kind struct {
	name    string
	title   string
	socket  mixed.Socket
	mode    string // of package load
	clients int
	think   time.Duration
	delay   time.Duration // each way
	fate    fate
}

// A fate is what becomes of connections when the version changes.
type fate int

const (
	ends  fate = iota // the client opens another, as it does for each request or when it is told to
	stays             // they move, so no client opens a second one
	// mostly is the same, but for a connection that is busy for so long that the next version is replaced,
	// too. Nobody may take it then, and it is led away.
	mostly
)

// The clients pause so long that they are busy less than half of the time on two processors, and that
// changes, not they, decide how long anything takes.
var kinds = []kind{
	{name: "new", title: "a connection for each POST", socket: mixed.HTTP, mode: load.New, clients: 4, think: 20 * time.Millisecond},
	{name: "keep-alive", title: "POST after POST", socket: mixed.HTTP, mode: load.KeepAlive, clients: 4, think: 10 * time.Millisecond, fate: stays},
	{name: "idle", title: "a POST every second", socket: mixed.HTTP, mode: load.KeepAlive, clients: 150, think: time.Second, fate: stays},
	{name: "slow", title: "answers that take up to 1.5 s", socket: mixed.HTTP, mode: load.Slow, clients: 6, think: 50 * time.Millisecond, fate: mostly},
	{name: "upload", title: "bodies that take 0.8 s", socket: mixed.HTTP, mode: load.Upload, clients: 3, think: 50 * time.Millisecond, fate: mostly},
	{name: "events", title: "server-sent events, 20 in 1 s", socket: mixed.HTTP, mode: load.Events, clients: 6, think: 50 * time.Millisecond, fate: mostly},
	{name: "tls", title: "POST after POST over TLS", socket: mixed.HTTPS, mode: load.KeepAlive, clients: 4, think: 20 * time.Millisecond},
	{name: "http2", title: "HTTP/2 streams", socket: mixed.HTTPS, mode: load.HTTP2, clients: 2 * load.Streams, think: 20 * time.Millisecond},
	{name: "http2-distant", title: "HTTP/2 streams, 25 ms away each way", socket: mixed.HTTPS, mode: load.HTTP2, clients: 2 * load.Streams, think: 20 * time.Millisecond, delay: 25 * time.Millisecond},
	{name: "session", title: "lines over TCP, in two parts", socket: mixed.Lines, mode: load.Halves, clients: 8, think: 20 * time.Millisecond, fate: stays},
	{name: "udp", title: "datagrams", socket: mixed.UDP, mode: load.UDP, clients: 4, think: 10 * time.Millisecond, fate: stays},
	{name: "unix", title: "POST after POST over a Unix socket", socket: mixed.UnixHTTP, mode: load.KeepAlive, clients: 4, think: 10 * time.Millisecond, fate: stays},
	{name: "unixgram", title: "datagrams over a Unix socket", socket: mixed.Datagrams, mode: load.UDP, clients: 4, think: 10 * time.Millisecond, fate: stays},
	{name: "unixpacket", title: "packets over a Unix socket", socket: mixed.Packets, mode: load.Line, clients: 4, think: 20 * time.Millisecond, fate: stays},
}

// options are those of the load generator, if clients find the socket at address.
func (k kind) options(address string, ca []byte) load.Options {
	o := load.Options{Mode: k.mode, Address: address, Clients: k.clients, Think: k.think, Delay: k.delay, Sum: true}
	switch k.socket.Network {
	case "tcp", "udp":
	default:
		o.Network = k.socket.Network
	}
	if k.socket == mixed.HTTPS {
		o.CA = ca
	}
	return o
}

func (k kind) tls() bool { return k.socket == mixed.HTTPS }
