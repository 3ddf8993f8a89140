// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
)

// A client whose connection is accepted last, in the moment in which the drain begins,
// is answered, by this version or the next.
func TestLastConnection(t *testing.T) {
	for range 100 {
		if err := lastConnection(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func lastConnection(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	file, err := ln.File()
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	copied, err := net.FileListener(file)
	if err := errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, ln.Close())
	}
	old, next := newServer(&lastListener{Listener: ln}), newServer(copied)
	served := make(chan error, 2)
	drained := make(chan error, 1)
	go func() { drained <- old.drain(context.Background()) }()
	go func() {
		served <- old.serve()
		served <- next.serve()
	}()
	c, err := newClient(ln.Addr().String(), (*client).check)
	if err == nil {
		err = errors.Join(c.Exchange(ctx), c.Close())
	}
	err = errors.Join(err, <-drained, <-served)
	next.Stop()
	if end := <-served; !errors.Is(end, grpc.ErrServerStopped) { // it may not have begun yet
		err = errors.Join(err, end)
	}
	return err
}

// lastListener accepts one connection, and is closed then.
type lastListener struct {
	net.Listener
	accepted atomic.Bool
}

func (l *lastListener) Accept() (net.Conn, error) {
	if l.accepted.Swap(true) {
		_ = l.Close()
	}
	return l.Listener.Accept()
}
