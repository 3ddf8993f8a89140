// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/reexectest"
)

func TestMain(m *testing.M) { reexectest.Main(m, main) }

func TestUpgrade(t *testing.T) {
	reexectest.TestUpgrade(t, reexectest.Service{
		Options: reexectest.Options{Units: "systemd", Files: map[string]string{
			"echo.service.d/test.conf": "[Service]\nExecStart=\nExecStart=/usr/bin/echo-server -probation=1us\nRestartSec=50ms\n",
		}},
		Clients: reexectest.Kind{Name: "datagrams", Dial: dial},
	})
}

// client has one socket, and asks for one echo at a time.
type client struct {
	net.Conn
	asked int
}

func dial(ctx context.Context, u *reexectest.Unit) (reexectest.Client, error) {
	conn, err := u.Dial(ctx, "echo")
	return &client{Conn: conn}, err
}

// Exchange does not send again what was lost: on the loopback nothing is, unless
// by the service.
func (c *client) Exchange(ctx context.Context) error {
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	c.asked++
	question := fmt.Sprintf("datagram %d", c.asked)
	if _, err := c.Write([]byte(question)); err != nil {
		return err
	}
	answer := make([]byte, 100)
	n, err := c.Read(answer)
	if err == nil && string(answer[:n]) != question {
		err = fmt.Errorf("answer %q to %q", answer[:n], question)
	}
	return err
}
