// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/reexec/reexectest"
)

// client has one session at most, and knows what its total must be.
type client struct {
	unit  *reexectest.Unit
	name  string
	keep  bool
	conn  net.Conn // nil without a session
	in    *bufio.Reader
	total int
}

// kinds of clients: one that keeps its session, which nobody may cut, and one that
// has a new session each time.
func kinds() reexectest.Kinds {
	dial := func(keep bool) func(context.Context, *reexectest.Unit) (reexectest.Client, error) {
		return func(_ context.Context, u *reexectest.Unit) (reexectest.Client, error) {
			return &client{unit: u, name: "ada", keep: keep}, nil
		}
	}
	return reexectest.Kinds{{Name: "one session", Dial: dial(true)}, {Name: "new sessions", Dial: dial(false)}}
}

func (c *client) login(ctx context.Context) error {
	conn, err := c.unit.Dial(ctx, "tally")
	if err != nil {
		return err
	}
	c.conn, c.in, c.total = conn, bufio.NewReader(conn), 0
	return c.ask(ctx, "login "+c.name, "hello "+c.name)
}

// Exchange adds a number, and sees that none was lost or added twice.
func (c *client) Exchange(ctx context.Context) error {
	finish, err := c.Begin(ctx)
	if err != nil {
		return err
	}
	return finish(ctx)
}

// Begin leaves a line unfinished.
func (c *client) Begin(ctx context.Context) (finish func(context.Context) error, err error) {
	if c.conn == nil {
		if err := c.login(ctx); err != nil {
			return nil, err
		}
	}
	c.total += 7
	if _, err := io.WriteString(c.conn, "add"); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		err := c.ask(ctx, " 7", fmt.Sprintf("%s has %d", c.name, c.total))
		if err != nil || !c.keep {
			err = errors.Join(err, c.Close())
		}
		return err
	}, nil
}

// ask ends the line that was begun.
func (c *client) ask(ctx context.Context, rest, want string) error {
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(c.conn, rest+"\n"); err != nil {
		return err
	}
	answer, err := c.in.ReadString('\n')
	if err != nil {
		return fmt.Errorf("read the answer after %q: %w", answer, err)
	}
	if answer != want+"\n" {
		return fmt.Errorf("answer %q, want %q", answer, want)
	}
	return nil
}

// goodbye reads what the service says at the end of the session.
func (c *client) goodbye() (string, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	rest, err := io.ReadAll(c.in)
	return strings.TrimSuffix(string(rest), "\n"), err
}

func (c *client) Close() error {
	if c.conn == nil {
		return nil
	}
	err := c.conn.Close()
	c.conn = nil
	return err
}
