// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Client is the test's end of the connection. It is safe for concurrent use.
type Client struct {
	conn  *Conn
	event func(*Event)
	done  chan struct{} // closed when nothing more arrives

	sending sync.Mutex // requests are sent in the order of their IDs

	mu      sync.Mutex
	last    int64                   // ID of the last request
	waiting map[int64]chan<- Answer // with room for the answer; by ID
	err     error                   // why nothing more arrives; set before done is closed
}

// NewClient sends config over conn and waits for the manager's answer to it,
// which it returns. event is called with each event, one at a time and in order, also
// before NewClient returns; an answer that comes after an event is returned after event
// has. The error wraps the manager's [*Error] if the manager refused the config. conn is
// closed on an error; otherwise the caller closes the Client.
func NewClient(ctx context.Context, conn net.Conn, config *Config, event func(*Event)) (*Client, *Answer, error) {
	c := &Client{
		conn:    NewConn(conn),
		event:   event,
		done:    make(chan struct{}),
		waiting: make(map[int64]chan<- Answer),
	}
	answer := make(chan Answer, 1)
	c.waiting[0] = answer
	go c.receive()
	err := c.conn.Send(config)
	var loaded *Answer
	if err == nil {
		loaded, err = c.wait(ctx, 0, answer)
	}
	if err != nil {
		_ = c.Close()
		<-c.done
		return nil, nil, fmt.Errorf("start the manager process: %w", err)
	}
	return c, loaded, nil
}

func (c *Client) receive() {
	defer close(c.done)
	for {
		var m Message
		if err := c.conn.Receive(&m); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			c.mu.Lock()
			c.err = err
			c.mu.Unlock()
			return
		}
		if m.Event != nil {
			c.event(m.Event)
		}
		if m.Answer != nil {
			c.mu.Lock()
			answer := c.waiting[m.Answer.ID]
			delete(c.waiting, m.Answer.ID)
			c.mu.Unlock()
			if answer != nil {
				answer <- *m.Answer
			}
		}
	}
}

// Begin sends a request, whose ID it sets, and returns a function that waits
// for the answer. Requests are handled in the order of their Begin. That
// function is called once.
func (c *Client) Begin(request *Request) (id int64, wait func(context.Context) (*Answer, error)) {
	answer := make(chan Answer, 1)
	c.sending.Lock()
	c.mu.Lock()
	c.last++
	id = c.last
	c.waiting[id] = answer
	c.mu.Unlock()
	request.ID = id
	err := c.conn.Send(request)
	c.sending.Unlock()
	verb := request.Verb
	return id, func(ctx context.Context) (*Answer, error) {
		if err != nil {
			// The connection has ended; why is what the manager said last.
			c.forget(id)
			return nil, fmt.Errorf("%s: %w", verb, err)
		}
		a, err := c.wait(ctx, id, answer)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", verb, err)
		}
		return a, nil
	}
}

// Call sends a request and waits for the answer. An error of the manager's is
// wrapped and found with errors.As as [*Error]; a job that ended badly is no error
// of Call but a Result. When ctx is done first, the error wraps its cause, and the
// request goes on.
func (c *Client) Call(ctx context.Context, request Request) (*Answer, error) {
	_, wait := c.Begin(&request)
	return wait(ctx)
}

func (c *Client) wait(ctx context.Context, id int64, answer <-chan Answer) (*Answer, error) {
	select {
	case a := <-answer:
		return opened(&a)
	case <-ctx.Done():
		c.forget(id)
		return nil, context.Cause(ctx)
	case <-c.done:
	}
	// The answer may have been the last thing that arrived.
	select {
	case a := <-answer:
		return opened(&a)
	default:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
	return nil, fmt.Errorf("the manager process hung up: %w", c.err)
}

func opened(a *Answer) (*Answer, error) {
	if a.Error != nil {
		return a, a.Error
	}
	return a, nil
}

func (c *Client) forget(id int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

// Done is closed when the connection has ended and the last event was handled.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection, and with it the manager and every process of the
// unit. It does not wait for that: see End.
func (c *Client) Close() error { return c.conn.Close() }
