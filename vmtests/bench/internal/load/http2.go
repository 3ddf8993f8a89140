// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// An http2Conn is one connection at a time, shared by several clients. It is made of [http2.ClientConn],
// which unlike [http2.Transport] sends nothing twice.
type http2Conn struct {
	*Generator
	transport *http2.Transport

	mu   sync.Mutex
	conn *http2.ClientConn // nil when there is none
	why  end
}

func newHTTP2Conn(g *Generator) *http2Conn {
	return &http2Conn{Generator: g, transport: new(http2.Transport)}
}

func (c *http2Conn) ask(deadline time.Time) error {
	sent := c.nextBody()
	for {
		conn, err := c.usable(deadline)
		if err != nil {
			return err
		}
		err = c.askOn(conn, sent, deadline)
		if isUnsent(err) && time.Now().Before(deadline) {
			continue // usable counts why
		}
		if err != nil {
			c.failed(conn, deadline)
		}
		return err
	}
}

// isUnsent reports whether nothing of a request was sent, because a GOAWAY or the end of the connection came
// after usable had looked at it. The error has no other name.
func isUnsent(err error) bool {
	return err != nil && strings.HasSuffix(err.Error(), "http2: client conn not usable")
}

// askOn makes one request.
func (c *http2Conn) askOn(conn *http2.ClientConn, sent []byte, deadline time.Time) error {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	// Without GetBody the request cannot be made again.
	body := struct{ io.Reader }{bytes.NewReader(sent)}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://localhost/", body)
	if err != nil {
		return err
	}
	request.ContentLength = int64(len(sent))
	response, err := conn.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = checkResponse(response, sent)
	return err
}

// usable returns a connection that takes a new stream.
func (c *http2Conn) usable(deadline time.Time) (*http2.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil && c.conn.CanTakeNewRequest() {
		return c.conn, nil
	}
	if c.conn != nil {
		c.why = announced
		if state := c.conn.State(); state.Closed && !state.Closing {
			c.why = cut // without GOAWAY
		}
		c.retire(deadline)
	}
	tcp, err := c.dial(deadline)
	if err != nil {
		c.why = failed
		return nil, err
	}
	over := tls.Client(tcp, c.tls)
	if err := over.Handshake(); err != nil {
		c.why = failed
		_ = tcp.Close()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	if err := tcp.SetDeadline(time.Time{}); err != nil {
		c.why = failed
		_ = tcp.Close()
		return nil, err
	}
	if c.conn, err = c.transport.NewClientConn(over); err != nil {
		c.why = failed
		_ = tcp.Close()
		return nil, err
	}
	c.countOpened(c.why, over.ConnectionState().DidResume)
	c.why = ownEnd
	return c.conn, nil
}

// failed gives up the connection that a request failed on, where it cannot take another.
func (c *http2Conn) failed(conn *http2.ClientConn, deadline time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == conn && !conn.CanTakeNewRequest() {
		c.why = failed
		c.retire(deadline)
	}
}

// retire gives up the connection. It closes when the streams of others on it are done. It needs mu.
func (c *http2Conn) retire(deadline time.Time) {
	conn := c.conn
	c.conn = nil
	c.done.Go(func() {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		defer cancel()
		_ = conn.Shutdown(ctx) // most have ended
		_ = conn.Close()
	})
}

func (c *http2Conn) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}
