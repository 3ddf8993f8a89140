// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/json"
	"fmt"
	"net"
	"sync"
)

// Conn is one end of the connection between a test and its manager. Sending is
// safe for concurrent use, receiving is for one goroutine.
type Conn struct {
	conn net.Conn
	in   *json.Decoder

	mu  sync.Mutex
	out *json.Encoder
}

// NewConn speaks over conn, which it owns from then on.
func NewConn(conn net.Conn) *Conn {
	return &Conn{conn: conn, in: json.NewDecoder(conn), out: json.NewEncoder(conn)}
}

// Send writes v as one line.
func (c *Conn) Send(v any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.out.Encode(v); err != nil {
		return fmt.Errorf("send %T: %w", v, err)
	}
	return nil
}

// Receive reads the next line into v. The error is io.EOF if the other end has
// closed the connection between two lines.
func (c *Conn) Receive(v any) error { return c.in.Decode(v) }

// Close ends the connection; a Receive or Send that waits returns an error.
func (c *Conn) Close() error { return c.conn.Close() }
