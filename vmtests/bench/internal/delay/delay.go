// SPDX-License-Identifier: Apache-2.0

// Package delay forwards TCP connections and holds every byte, end and reset back for a fixed time, as a
// long way would. It limits no rate. Many kernels lack netem, which would do the same.
package delay

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// A Forwarder listens on a loopback address and forwards to another one.
type Forwarder struct {
	target string
	delay  time.Duration
	ln     net.Listener

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Listen starts a forwarder to target that holds back everything for delay, each way. The connection
// itself is accepted at once, and opened to target a delay later.
func Listen(target string, delay time.Duration) (*Forwarder, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f := &Forwarder{target: target, delay: delay, ln: ln}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.wg.Go(f.accept)
	return f, nil
}

// Addr is the address to connect to instead of the target's.
func (f *Forwarder) Addr() string { return f.ln.Addr().String() }

// Close cuts all connections and returns when nothing of the forwarder is left.
func (f *Forwarder) Close() error {
	f.cancel()
	err := f.ln.Close()
	f.wg.Wait()
	return err
}

func (f *Forwarder) accept() {
	for {
		conn, err := f.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no descriptor is left: until one is
			f.sleepUntil(time.Now().Add(f.delay))
			continue
		}
		f.wg.Go(func() { f.forward(conn.(*net.TCPConn)) })
	}
}

func (f *Forwarder) forward(client *net.TCPConn) {
	defer client.Close()
	defer context.AfterFunc(f.ctx, func() { client.Close() })()
	f.sleepUntil(time.Now().Add(f.delay))
	var dialer net.Dialer
	conn, err := dialer.DialContext(f.ctx, "tcp", f.target)
	if err != nil {
		f.sleepUntil(time.Now().Add(f.delay))
		reset(client)
		return
	}
	server := conn.(*net.TCPConn)
	defer server.Close()
	defer context.AfterFunc(f.ctx, func() { server.Close() })()
	var directions sync.WaitGroup
	directions.Go(func() { f.carry(server, client) })
	directions.Go(func() { f.carry(client, server) })
	directions.Wait()
}

// A parcel is what was read at once: bytes, or the end of them, which err tells.
type parcel struct {
	due   time.Time
	bytes []byte
	err   error
}

// maxParcels is how many parcels may be on their way, far more than the benchmark sends in one delay.
const maxParcels = 4096

// carry reads from from, and writes to to a delay later.
func (f *Forwarder) carry(to, from *net.TCPConn) {
	way := make(chan parcel, maxParcels)
	f.wg.Go(func() {
		defer close(way)
		buf := make([]byte, 64<<10)
		for {
			n, err := from.Read(buf)
			p := parcel{due: time.Now().Add(f.delay), err: err}
			p.bytes = append(p.bytes, buf[:n]...)
			way <- p
			if err != nil {
				return
			}
		}
	})
	for p := range way {
		f.sleepUntil(p.due)
		if len(p.bytes) > 0 {
			if _, err := to.Write(p.bytes); err != nil {
				// The receiver is gone. The sender learns so when it is told, a delay later.
				f.sleepUntil(time.Now().Add(f.delay))
				reset(from)
				for range way { // the reader must not wait
				}
				return
			}
		}
		switch {
		case p.err == nil:
		case errors.Is(p.err, io.EOF):
			_ = to.CloseWrite() // fails on connections that have ended
		default:
			reset(to)
		}
	}
}

// reset closes a connection so that the other end sees it cut.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0) // fails on connections that have ended
	_ = conn.Close()
}

func (f *Forwarder) sleepUntil(due time.Time) {
	left := time.Until(due)
	if left <= 0 {
		return
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-f.ctx.Done():
	}
}
