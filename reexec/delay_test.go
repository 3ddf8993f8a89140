// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// distant returns an address that is delay away from target, each way.
func distant(t *testing.T, target string, delay time.Duration) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var forwards sync.WaitGroup
	over := make(chan struct{})
	forwards.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			forwards.Go(func() { forward(conn.(*net.TCPConn), target, delay, over) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		close(over)
		forwards.Wait()
	})
	return ln.Addr().String()
}

func forward(near *net.TCPConn, target string, delay time.Duration, over <-chan struct{}) {
	defer near.Close()
	conn, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	far := conn.(*net.TCPConn)
	defer far.Close()
	ended := make(chan struct{})
	var ways sync.WaitGroup
	ways.Go(func() { carry(far, near, delay) })
	ways.Go(func() { carry(near, far, delay) })
	go func() { ways.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-over:
		_, _ = near.Close(), far.Close()
		<-ended
	}
}

// carry passes on what from says, and how it ends, after delay.
func carry(to, from *net.TCPConn, delay time.Duration) {
	type parcel struct {
		due  time.Time
		data []byte
		err  error
	}
	way := make(chan parcel, 4096)
	go func() {
		defer close(way)
		for {
			buf := make([]byte, 16<<10)
			n, err := from.Read(buf)
			way <- parcel{time.Now().Add(delay), buf[:n], err}
			if err != nil {
				return
			}
		}
	}()
	for p := range way {
		time.Sleep(time.Until(p.due))
		_, err := to.Write(p.data)
		switch {
		case err != nil:
			_ = from.SetLinger(0)
			_ = from.Close()
		case p.err == io.EOF:
			_ = to.CloseWrite()
		case p.err != nil:
			_ = to.SetLinger(0) // as the other end has done
			_ = to.Close()
		}
	}
}
