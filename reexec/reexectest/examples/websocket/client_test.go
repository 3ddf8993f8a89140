// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/holdfast-go/holdfast/reexec/reexectest"
)

// client has one session at most, and knows how many messages it has sent there.
type client struct {
	unit  *reexectest.Unit
	keep  bool
	ws    *websocket.Conn // nil without a session
	sent  int
	pongs int
}

// kinds of clients: one that keeps its session, which nobody may cut, and one that
// has a new session each time.
func kinds() reexectest.Kinds {
	dial := func(keep bool) func(context.Context, *reexectest.Unit) (reexectest.Client, error) {
		return func(_ context.Context, u *reexectest.Unit) (reexectest.Client, error) {
			return &client{unit: u, keep: keep}, nil
		}
	}
	return reexectest.Kinds{{Name: "one session", Dial: dial(true)}, {Name: "new sessions", Dial: dial(false)}}
}

func (c *client) connect(ctx context.Context) error {
	dialer := websocket.Dialer{
		NetDialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.unit.Dial(ctx, "http") },
		// A longer message is sent in more than one frame.
		WriteBufferSize: fragment,
	}
	ws, _, err := dialer.DialContext(ctx, "ws://service/", http.Header{"Origin": {"http://service"}})
	if err != nil {
		return err
	}
	c.ws, c.sent, c.pongs = ws, 0, 0
	ws.SetPongHandler(func(string) error { c.pongs++; return nil })
	return nil
}

// fragment is the size of the first frame of a longer message.
const fragment = 256

// Exchange sends a message and sees that its number is the next.
func (c *client) Exchange(ctx context.Context) error {
	finish, err := c.Begin(ctx)
	if err != nil {
		return err
	}
	return finish(ctx)
}

// Begin sends the first frame of a message, and a ping after it.
func (c *client) Begin(ctx context.Context) (finish func(context.Context) error, err error) {
	if c.ws == nil {
		if err := c.connect(ctx); err != nil {
			return nil, err
		}
	}
	message := strings.Repeat("x", 2*fragment)
	w, err := c.ws.NextWriter(websocket.TextMessage)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write([]byte(message)); err != nil {
		return nil, err
	}
	pongs := c.pongs
	if err := c.ws.WriteControl(websocket.PingMessage, []byte("there?"), time.Time{}); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		err := w.Close()
		if err == nil {
			err = c.answer(ctx, message)
		}
		if err == nil && c.pongs != pongs+1 {
			err = fmt.Errorf("%d pongs to one ping", c.pongs-pongs)
		}
		if err != nil || !c.keep {
			err = errors.Join(err, c.Close())
		}
		return err
	}, nil
}

// answer reads the answer to the next message.
func (c *client) answer(ctx context.Context, message string) error {
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.ws.SetReadDeadline(deadline); err != nil {
			return err
		}
	}
	c.sent++
	_, answer, err := c.ws.ReadMessage()
	if err != nil {
		return fmt.Errorf("read answer %d: %w", c.sent, err)
	}
	if want := fmt.Sprintf("%d %s", c.sent, message); string(answer) != want {
		return fmt.Errorf("answer %.20q…, want %.20q…", answer, want)
	}
	return nil
}

// closed is what a close frame says.
func closed(err error) (code int, reason string) {
	if e := (*websocket.CloseError)(nil); errors.As(err, &e) {
		return e.Code, e.Text
	}
	return 0, ""
}

func (c *client) Close() error {
	if c.ws == nil {
		return nil
	}
	err := c.ws.Close()
	c.ws = nil
	return err
}
