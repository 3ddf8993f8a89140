// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-go/holdfast/reexec/reexectest"
)

// client is a connection that gRPC renews when it is told to go elsewhere. It waits
// for no connection and repeats no call, so nothing that is lost stays hidden.
type client struct {
	*grpc.ClientConn
	health   grpc_health_v1.HealthClient
	exchange func(*client, context.Context) error
	again    atomic.Int64 // calls that no server has seen, which gRPC always repeats
}

func newClient(addr string, exchange func(*client, context.Context) error) (*client, error) {
	c := &client{exchange: exchange}
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableRetry(),
		grpc.WithStatsHandler(c))
	if err != nil {
		return nil, err
	}
	c.ClientConn, c.health = conn, grpc_health_v1.NewHealthClient(conn)
	return c, nil
}

// kinds of clients. The last one has a new connection for each call.
func kinds() reexectest.Kinds {
	dial := func(exchange func(*client, context.Context) error) func(context.Context, *reexectest.Unit) (reexectest.Client, error) {
		return func(_ context.Context, u *reexectest.Unit) (reexectest.Client, error) {
			return newClient(u.Addr("grpc"), exchange)
		}
	}
	return reexectest.Kinds{
		{Name: "unary calls", Dial: dial((*client).check)},
		{Name: "streams", Dial: dial((*client).streams)},
		{Name: "new connections", Dial: func(_ context.Context, u *reexectest.Unit) (reexectest.Client, error) {
			return fresh{u}, nil
		}},
	}
}

// Exchange is of the kind that the client was made for.
func (c *client) Exchange(ctx context.Context) error { return c.exchange(c, ctx) }

func (c *client) check(ctx context.Context) error {
	answer, err := c.health.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err == nil && answer.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		err = fmt.Errorf("the service is %v", answer.Status)
	}
	return err
}

// streams has a stream of each kind.
func (c *client) streams(ctx context.Context) error {
	return errors.Join(c.total(ctx), c.count(ctx), c.add(ctx))
}

func (c *client) total(ctx context.Context) error {
	s, err := c.open(ctx, "Total")
	if err != nil {
		return err
	}
	return errors.Join(s.send(1, 2, 3), s.CloseSend(), s.want(6), s.wantEnd())
}

func (c *client) count(ctx context.Context) error {
	s, err := c.open(ctx, "Count")
	if err != nil {
		return err
	}
	return errors.Join(s.send(3), s.CloseSend(), s.want(1, 2, 3), s.wantEnd())
}

func (c *client) add(ctx context.Context) error {
	finish, err := c.Begin(ctx)
	if err != nil {
		return err
	}
	return finish(ctx)
}

// Begin opens a stream in both directions.
func (c *client) Begin(ctx context.Context) (finish func(context.Context) error, err error) {
	// Finish has a context of its own.
	s, err := c.open(context.WithoutCancel(ctx), "Add")
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, s.cancel)
	defer stop()
	if err := errors.Join(s.send(1), s.want(1)); err != nil {
		s.cancel()
		return nil, err
	}
	return func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, s.cancel)
		defer stop()
		defer s.cancel()
		return errors.Join(s.send(2), s.want(3), s.send(4), s.want(7), s.CloseSend(), s.wantEnd())
	}, nil
}

// stream is one of the service sums.
type stream struct {
	grpc.ClientStream
	method string
	cancel context.CancelFunc
}

func (c *client) open(ctx context.Context, method string) (*stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	for _, d := range sums.Streams {
		if d.StreamName != method {
			continue
		}
		d.Handler = nil
		s, err := c.NewStream(ctx, &d, "/"+sums.ServiceName+"/"+method)
		if err != nil {
			cancel()
			return nil, fmt.Errorf("%s: open: %w", method, err)
		}
		return &stream{s, method, cancel}, nil
	}
	cancel()
	return nil, fmt.Errorf("%s: no such method", method)
}

func (s *stream) send(numbers ...int64) error {
	for _, n := range numbers {
		// EOF says that the stream is over; reading tells why.
		if err := s.SendMsg(wrapperspb.Int64(n)); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("%s: send %d: %w", s.method, n, err)
		}
	}
	return nil
}

func (s *stream) want(numbers ...int64) error {
	for _, n := range numbers {
		var m wrapperspb.Int64Value
		if err := s.RecvMsg(&m); err != nil {
			return fmt.Errorf("%s: receive %d: %w", s.method, n, err)
		}
		if m.Value != n {
			return fmt.Errorf("%s: received %d, want %d", s.method, m.Value, n)
		}
	}
	return nil
}

func (s *stream) wantEnd() error {
	defer s.cancel()
	if err := s.RecvMsg(&wrapperspb.Int64Value{}); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: the end: %w", s.method, err)
	}
	return nil
}

// fresh connects for each call.
type fresh struct{ unit *reexectest.Unit }

func (f fresh) Exchange(ctx context.Context) error {
	c, err := newClient(f.unit.Addr("grpc"), (*client).check)
	if err != nil {
		return err
	}
	return errors.Join(c.Exchange(ctx), c.Close())
}

func (f fresh) Close() error { return nil }

// HandleRPC counts.
func (c *client) HandleRPC(_ context.Context, s stats.RPCStats) {
	if begin, ok := s.(*stats.Begin); ok && begin.IsTransparentRetryAttempt {
		c.again.Add(1)
	}
}

// What else a stats.Handler has.
func (c *client) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (c *client) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (c *client) HandleConn(context.Context, stats.ConnStats)                       {}
