// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/holdfast-go/holdfast/reexec/reexectest"
)

func TestMain(m *testing.M) { reexectest.Main(m, main) }

func TestUpgrade(t *testing.T) {
	reexectest.TestUpgrade(t, reexectest.Service{
		Options: reexectest.Options{Units: "systemd", Files: dropIn("1us")},
		OnTrial: dropIn("1s"),
		Clients: reexectest.Kinds{
			{Name: "one connection", Dial: dial},
			{Name: "new connections", Dial: func(_ context.Context, u *reexectest.Unit) (reexectest.Client, error) {
				return fresh{u}, nil
			}},
		},
	})
}

// dropIn has new versions be on trial for so long.
func dropIn(probation string) map[string]string {
	return map[string]string{
		"health.service.d/test.conf": "[Service]\nExecStart=\nExecStart=/usr/bin/health -probation=" + probation + "\nRestartSec=50ms\n",
	}
}

// client is a connection that gRPC renews when it is told to go elsewhere.
type client struct {
	*grpc.ClientConn
	health grpc_health_v1.HealthClient
}

func dial(_ context.Context, u *reexectest.Unit) (reexectest.Client, error) {
	conn, err := grpc.NewClient("passthrough:///"+u.Addr("grpc"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableRetry())
	if err != nil {
		return nil, err
	}
	return &client{conn, grpc_health_v1.NewHealthClient(conn)}, nil
}

func (c *client) Exchange(ctx context.Context) error {
	_, err := c.health.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	return err
}

// fresh connects for each request.
type fresh struct{ unit *reexectest.Unit }

func (f fresh) Exchange(ctx context.Context) error {
	c, err := dial(ctx, f.unit)
	if err != nil {
		return err
	}
	return errors.Join(c.Exchange(ctx), c.Close())
}

func (f fresh) Close() error { return nil }
