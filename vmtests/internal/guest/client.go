// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/holdfast-go/holdfast/vmtests/internal/command"
)

// A Client runs commands at a [Server].
type Client struct {
	conn   io.ReadWriteCloser
	frames *frameWriter

	mu       sync.Mutex
	next     uint32
	commands map[uint32]*Process
	err      error // why there is no connection any more
	done     chan struct{}
}

// Dial waits for the greeting of the server at the other end of conn. The client closes conn.
func Dial(conn io.ReadWriteCloser) (*Client, error) {
	hello, err := readFrame(conn)
	if err == nil && (hello.kind != kindHello || string(hello.payload) != greeting) {
		err = fmt.Errorf("got greeting %q, want %q", hello.payload, greeting)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wait for the guest: %w", err), conn.Close())
	}
	c := &Client{
		conn: conn, frames: &frameWriter{w: conn},
		commands: make(map[uint32]*Process), done: make(chan struct{}),
	}
	go c.read()
	return c, nil
}

// Close breaks the connection. Waiting for commands ends with an error; what they do is their business.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	return err
}

// A Command is a program to run. It starts in "/".
type Command struct {
	Args []string
	Env  []string
	command.Streams
}

// A Process is a command that runs.
type Process struct {
	PID int

	client         *Client
	id             uint32
	started        chan error
	stdin          *outbound
	stdout, stderr *inbound
	copying        sync.WaitGroup
	ended          chan struct{} // closed once exit and err are set
	exit           exitReply
	err            error
}

// Start starts a command and returns once it runs.
func (c *Client) Start(cmd Command) (*Process, error) {
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return nil, c.err
	}
	c.next++
	p := &Process{
		client: c, id: c.next, started: make(chan error, 1), ended: make(chan struct{}),
		stdin:  newOutbound(c.frames, c.next, kindStdin),
		stdout: newInbound(c.frames, c.next, kindStdout),
		stderr: newInbound(c.frames, c.next, kindStderr),
	}
	c.commands[p.id] = p
	c.mu.Unlock()

	request := startRequest{Args: cmd.Args, Env: cmd.Env, Stdin: cmd.Stdin != nil}
	if err := c.frames.writeJSON(p.id, kindStart, request); err != nil {
		c.forget(p)
		return nil, err
	}
	if err := <-p.started; err != nil {
		return nil, err
	}
	p.copying.Go(func() { _, _ = p.stdout.WriteTo(orDiscard(cmd.Stdout)) }) // its errors are the writer's business
	p.copying.Go(func() { _, _ = p.stderr.WriteTo(orDiscard(cmd.Stderr)) })
	if cmd.Stdin != nil {
		go func() { // not waited for: its reader may never end
			_, err := io.Copy(p.stdin, cmd.Stdin)
			if !errors.Is(err, errStreamClosed) {
				_ = c.frames.write(frame{p.id, kindStdinEnd, nil}) // fails with the connection only
			}
		}()
	}
	return p, nil
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// Wait waits for the end of the command and of its output.
func (p *Process) Wait() (command.Status, error) {
	<-p.ended
	p.copying.Wait()
	switch {
	case p.err != nil:
		return command.Status{}, p.err
	case p.exit.Error != "":
		return command.Status{}, errors.New(p.exit.Error)
	}
	return p.exit.Status, nil
}

// Kill ends the command and all that it started. It may have ended before.
func (p *Process) Kill() error { return p.client.frames.write(frame{p.id, kindKill, nil}) }

// read handles what comes from the server, until the connection ends.
func (c *Client) read() {
	err := c.handleAll()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	err = fmt.Errorf("connection to the guest: %w", err)
	c.mu.Lock()
	c.err = err
	commands := c.commands
	c.commands = nil
	c.mu.Unlock()
	for _, p := range commands {
		p.end(exitReply{}, err)
	}
	close(c.done)
}

func (c *Client) handleAll() error {
	for {
		f, err := readFrame(c.conn)
		if err != nil {
			return err
		}
		c.mu.Lock()
		p := c.commands[f.id]
		c.mu.Unlock()
		if p == nil {
			continue // of a command that has ended
		}
		if err := c.handle(p, f); err != nil {
			return errors.Join(err, c.conn.Close())
		}
	}
}

func (c *Client) handle(p *Process, f frame) error {
	switch f.kind {
	case kindStarted:
		var reply startReply
		if err := json.Unmarshal(f.payload, &reply); err != nil {
			return err
		}
		if reply.Error != "" {
			c.forget(p)
			p.started <- errors.New(reply.Error)
			return nil
		}
		p.PID = reply.PID
		p.started <- nil
	case kindStdout:
		return p.stdout.put(f.payload)
	case kindStderr:
		return p.stderr.put(f.payload)
	case kindCredit:
		stream, n, err := f.credit()
		if err != nil || stream != kindStdin {
			return fmt.Errorf("credit for stream %d: %w", stream, err)
		}
		p.stdin.addCredit(n)
	case kindExit:
		var reply exitReply
		if err := json.Unmarshal(f.payload, &reply); err != nil {
			return err
		}
		c.forget(p)
		p.end(reply, nil)
	default:
		return fmt.Errorf("unexpected frame of kind %d", f.kind)
	}
	return nil
}

func (c *Client) forget(p *Process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.commands, p.id)
}

// end is called once for each process.
func (p *Process) end(exit exitReply, err error) {
	p.exit, p.err = exit, err
	select {
	case p.started <- err: // the connection ended first
	default:
	}
	p.stdin.close()
	p.stdout.end(io.EOF)
	p.stderr.end(io.EOF)
	close(p.ended)
}
