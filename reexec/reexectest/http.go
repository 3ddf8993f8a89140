// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// HTTP are clients of an HTTP/1.1 service: one that connects for every
// request, and one that keeps its connection and sends POST requests, which nobody
// may send twice. They retry nothing, so nothing that is lost stays hidden. Any
// complete answer with a status below 500 will do: a wrong Path passes, too, unless
// Check sees it.
//
// A service that calls Shutdown of its http.Server as soon as the next version is
// ready loses requests: Shutdown closes idle connections, and drops a request that it
// reads after its begin. Before that, clients have to be led away by Connection: close.
//
// Both can have a request in flight: a POST whose body they hold back. That
// needs a handler at Path that reads the body; one that does not is asked for SlowPath.
type HTTP struct {
	// Socket is the name of the socket: FileDescriptorName= of the socket
	// unit, or one in Options.Addresses. Default: "http".
	Socket string
	// Path of the URL. Default: "/".
	Path string
	// SlowPath is a path whose answer takes a while, at least some hundred milliseconds,
	// and begins with its header at once. Default: none, see above. Without it, and
	// without a handler that reads the body, the case "in_flight" is skipped, and
	// "stop" is tried without a request in flight.
	SlowPath string
	// TLS is for https.
	TLS *tls.Config
	// Check looks at an answer.
	Check func(resp *http.Response, body []byte) error
}

// Kinds returns the kinds of clients.
func (h HTTP) Kinds() []Kind {
	if h.Socket == "" {
		h.Socket = "http"
	}
	if h.Path == "" {
		h.Path = "/"
	}
	return []Kind{
		{"new connections", func(_ context.Context, u *Unit) (Client, error) { return &httpClient{HTTP: h, unit: u}, nil }},
		{"keep-alive", func(_ context.Context, u *Unit) (Client, error) {
			return &httpClient{HTTP: h, unit: u, keep: true}, nil
		}},
	}
}

// httpClient is a client with one connection at most.
type httpClient struct {
	HTTP
	unit *Unit
	keep bool

	conn net.Conn // kept from the last exchange; nil if there is none
	raw  net.Conn // what conn is made of
	in   *bufio.Reader
	sent int
}

func (c *httpClient) Exchange(ctx context.Context) (err error) {
	if err := c.connect(ctx); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.raw.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() {
			err = errors.Join(context.Cause(ctx), err)
		}
		if !c.keep || err != nil {
			_ = c.Close()
		}
	}()
	c.sent++
	body := fmt.Sprintf("request %d", c.sent)
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n", c.Path)
	if c.keep {
		request = fmt.Sprintf("POST %s HTTP/1.1\r\nHost: service\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", c.Path, len(body), body)
	}
	if _, err := io.WriteString(c.conn, request); err != nil {
		return fmt.Errorf("send the request: %w", err)
	}
	return c.answer(http.MethodPost)
}

// connect makes sure that there is a connection that the service has not closed.
func (c *httpClient) connect(ctx context.Context) error {
	if c.conn != nil {
		if !closing(c.raw) {
			return nil
		}
		// The service said so while no request was on its way: nothing is lost.
		_ = c.Close()
	}
	conn, err := c.unit.Dial(ctx, c.Socket)
	if err != nil {
		return err
	}
	c.raw, c.conn = conn, conn
	if c.TLS != nil {
		config := c.TLS.Clone()
		if config.ServerName == "" {
			config.ServerName, _, _ = net.SplitHostPort(conn.RemoteAddr().String())
		}
		c.conn = tls.Client(conn, config)
	}
	c.in = bufio.NewReader(c.conn)
	return nil
}

// closing says whether the other end has closed a connection on which nothing
// is due. It does not wait.
func closing(conn net.Conn) bool {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	closed := true
	_ = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}}
		n, err := unix.Poll(poll, 0)
		closed = err == nil && n > 0
	})
	return closed
}

// answer reads a whole answer.
func (c *httpClient) answer(method string) error {
	resp, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		return fmt.Errorf("read the answer: %w", unexpected(err))
	}
	return c.take(resp)
}

func (c *httpClient) take(resp *http.Response) error {
	body, err := io.ReadAll(resp.Body)
	return c.took(resp, body, err)
}

func (c *httpClient) took(resp *http.Response, body []byte, err error) error {
	if err != nil {
		return fmt.Errorf("read the answer's body after %d bytes: %w", len(body), unexpected(err))
	}
	if resp.Close {
		_ = c.Close()
	}
	if resp.StatusCode >= http.StatusInternalServerError {
		return fmt.Errorf("answer %s: %s", resp.Status, strings.TrimSpace(string(body[:min(len(body), 200)])))
	}
	if c.Check != nil {
		return c.Check(resp, body)
	}
	return nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("the service closed the connection: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// slow is how long an answer must take for a request to be in flight for certain.
const slow = 100 * time.Millisecond

// errNotSlow says that a service cannot be made to have a request in flight.
var errNotSlow = errors.New("the handler answered without reading the request's body: name a path that takes its time in HTTP.SlowPath")

// Begin sends a request and returns when the handler is at it.
func (c *httpClient) Begin(ctx context.Context) (finish func(context.Context) error, err error) {
	if err := c.connect(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = c.Close()
		}
	}()
	stop := context.AfterFunc(ctx, func() { _ = c.raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if c.SlowPath != "" {
		if _, err := fmt.Fprintf(c.conn, "GET %s HTTP/1.1\r\nHost: service\r\n\r\n", c.SlowPath); err != nil {
			return nil, fmt.Errorf("send the request: %w", err)
		}
		resp, err := http.ReadResponse(c.in, nil)
		if err != nil {
			return nil, fmt.Errorf("read the answer: %w", unexpected(err))
		}
		type taken struct {
			body []byte
			err  error
		}
		rest := make(chan taken, 1)
		go func() {
			body, err := io.ReadAll(resp.Body)
			rest <- taken{body, err}
		}()
		select {
		case <-rest:
			return nil, fmt.Errorf("HTTP.SlowPath=%q: the answer (%s) was complete within %v: must be a path whose answer takes longer", c.SlowPath, resp.Status, slow)
		case <-time.After(slow):
		}
		return c.finish(func() error {
			t := <-rest
			return c.took(resp, t.body, t.err)
		}), nil
	}
	// The server asks for the body when the handler reads it, so it is known
	// that the handler is at it.
	const body = "held back"
	if _, err := fmt.Fprintf(c.conn, "POST %s HTTP/1.1\r\nHost: service\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n",
		c.Path, len(body)); err != nil {
		return nil, fmt.Errorf("send the request: %w", err)
	}
	resp, err := http.ReadResponse(c.in, &http.Request{Method: http.MethodPost})
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", unexpected(err))
	}
	if resp.StatusCode != http.StatusContinue {
		return nil, errNotSlow
	}
	return c.finish(func() error {
		if _, err := io.WriteString(c.conn, body); err != nil {
			return fmt.Errorf("send the request's body: %w", err)
		}
		return c.answer(http.MethodPost)
	}), nil
}

// finish returns a function that does the rest of an exchange within its context.
func (c *httpClient) finish(rest func() error) func(context.Context) error {
	return func(ctx context.Context) error {
		raw := c.raw
		stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
		err := rest()
		if !stop() {
			err = errors.Join(context.Cause(ctx), err)
		}
		_ = c.Close()
		return err
	}
}

func (c *httpClient) Close() error {
	if c.conn == nil {
		return nil
	}
	err := c.conn.Close()
	c.conn, c.raw, c.in = nil, nil, nil
	return err
}
