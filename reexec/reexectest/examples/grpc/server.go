// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// server is one of gRPC that leaves its clients to the next version.
type server struct {
	*grpc.Server
	listener *listener
	streams  *streams
	served   chan struct{} // closed when nothing is accepted any more
}

// handshakeTimeout is less than a drain. GracefulStop waits for handshakes before it
// tells any client; with the default of two minutes for one, somebody who connects and
// says nothing would have the calls of all others cut.
const handshakeTimeout = 5 * time.Second

func newServer(ln net.Listener) *server {
	s := &server{listener: &listener{Listener: ln}, streams: newStreams(), served: make(chan struct{})}
	s.Server = grpc.NewServer(grpc.StreamInterceptor(s.streams.intercept), grpc.ConnectionTimeout(handshakeTimeout))
	grpc_health_v1.RegisterHealthServer(s.Server, health.NewServer())
	s.RegisterService(&sums, nil)
	return s
}

// serve returns nil when Run has closed the listener. Connections live on.
func (s *server) serve() error {
	defer close(s.served)
	if err := s.Serve(s.listener); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// drain tells clients to make new calls on a new connection, which the next version
// accepts, and returns when the calls that they have made are answered. Streams that
// are open when ctx ends are ended.
func (s *server) drain(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.streams.end(context.Cause(ctx)) })
	defer stop()
	<-s.served
	s.listener.begun.Wait()
	s.GracefulStop()
	return nil
}
