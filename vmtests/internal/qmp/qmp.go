// SPDX-License-Identifier: Apache-2.0

// Package qmp speaks the QEMU Machine Protocol, by which QEMU takes commands and tells of events: JSON
// objects over a stream, see docs/interop/qmp-spec in QEMU.
package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// A Client is the one user of a QEMU's monitor. Its methods may be called from several goroutines at once.
type Client struct {
	conn io.ReadWriteCloser
	done chan struct{}

	commands sync.Mutex // one at a time: answers have no other order

	mu      sync.Mutex
	answer  chan reply // of the command under way, nil without one
	events  []Event
	changed chan struct{} // closed and replaced with each event
	err     error         // why there is no connection any more
}

// An Event is something that happened in the machine, such as RESET.
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

type reply struct {
	Return json.RawMessage `json:"return"`
	Error  *Error          `json:"error"`
}

// message is whatever QEMU sends.
type message struct {
	Greeting json.RawMessage `json:"QMP"`
	Event
	reply
}

// An Error is QEMU's refusal of a command.
type Error struct {
	Class       string `json:"class"`
	Description string `json:"desc"`
}

func (e *Error) Error() string { return e.Class + ": " + e.Description }

// New waits for QEMU's greeting on conn and makes it ready for commands. The client owns conn, also when New
// fails. Closing conn unblocks New.
func New(conn io.ReadWriteCloser) (*Client, error) {
	from := json.NewDecoder(conn)
	var hello message
	err := from.Decode(&hello)
	if err == nil && hello.Greeting == nil {
		err = errors.New("what is at the other end does not greet as QEMU does")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wait for QEMU's greeting: %w", err), conn.Close())
	}
	c := &Client{conn: conn, done: make(chan struct{}), changed: make(chan struct{})}
	go c.read(from)
	if err := c.Execute(context.Background(), "qmp_capabilities", nil); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Close breaks the connection. Calls that wait return an error.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	return err
}

// read takes in what QEMU sends until the connection ends.
func (c *Client) read(from *json.Decoder) {
	defer close(c.done)
	for {
		var m message
		err := from.Decode(&m)
		c.mu.Lock()
		switch {
		case err != nil:
			c.err = fmt.Errorf("connection to QEMU: %w", err)
		case m.Name != "":
			c.events = append(c.events, m.Event)
		case c.answer != nil:
			c.answer <- m.reply
			c.answer = nil
		}
		close(c.changed)
		c.changed = make(chan struct{})
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Execute executes a command and waits for the answer. A refusal is an [*Error]. After ctx has ended no more
// commands may be executed: the answer to this one would be taken for theirs.
func (c *Client) Execute(ctx context.Context, command string, arguments map[string]any) error {
	c.commands.Lock()
	defer c.commands.Unlock()
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	text, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("QEMU command %s: %w", command, err)
	}
	answer := make(chan reply, 1)
	c.mu.Lock()
	c.answer = answer
	c.mu.Unlock()
	if _, err := c.conn.Write(append(text, '\n')); err != nil {
		return fmt.Errorf("QEMU command %s: %w", command, err)
	}
	select {
	case r := <-answer:
		if r.Error != nil {
			return fmt.Errorf("QEMU command %s: %w", command, r.Error)
		}
		return nil
	case <-c.done:
		return fmt.Errorf("QEMU command %s: %w", command, c.err)
	case <-ctx.Done():
		return fmt.Errorf("QEMU command %s: %w", command, context.Cause(ctx))
	}
}

// Seen returns how many events have come: the number from which [Client.Wait] looks at what comes next.
func (c *Client) Seen() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.events)
}

// Wait waits for an event that is like reports true for, among those numbered from and later.
func (c *Client) Wait(ctx context.Context, from int, like func(Event) bool) (Event, error) {
	for {
		c.mu.Lock()
		events, err, changed := c.events[from:], c.err, c.changed
		c.mu.Unlock()
		for _, e := range events {
			if like(e) {
				return e, nil
			}
		}
		from += len(events)
		if err != nil {
			return Event{}, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Event{}, context.Cause(ctx)
		}
	}
}
