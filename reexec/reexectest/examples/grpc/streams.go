// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// streams ends those that would live longer than the drain, such as a Watch of the
// health protocol.
type streams struct {
	ctx context.Context
	end context.CancelCauseFunc
}

func newStreams() *streams {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &streams{ctx, cancel}
}

// intercept gives a stream that is open at the end the status UNAVAILABLE, on which
// clients begin again; without it the connection would be cut, with an error of the
// transport. The handler may wait for the client, and learns it from that: the
// stream's context ends when intercept returns.
func (s *streams) intercept(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	over := make(chan error, 1)
	go func() { over <- handler(srv, stream) }()
	select {
	case err := <-over:
		return err
	case <-s.ctx.Done():
		return status.Errorf(codes.Unavailable, "another version of the service goes on: %v", context.Cause(s.ctx))
	}
}
