// SPDX-License-Identifier: Apache-2.0

package load

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// A udpClient sends numbered datagrams and waits for the answer to each.
type udpClient struct {
	*Generator
	conn net.Conn // nil when there is none
	sent int
	by   process // who answered last
}

// unixClients counts the addresses that were made up.
var unixClients atomic.Int64

// dialDatagrams returns a socket that answers can be sent to.
func (g *Generator) dialDatagrams() (net.Conn, error) {
	if g.options.Network == "" {
		return net.Dial("udp", g.address)
	}
	// Of its own, where a client of UDP gets a port. Abstract, so that nothing is left behind.
	own := fmt.Sprintf("@holdfast-load-%d-%d", os.Getpid(), unixClients.Add(1))
	return net.DialUnix("unixgram", &net.UnixAddr{Name: own, Net: "unixgram"}, &net.UnixAddr{Name: g.address, Net: "unixgram"})
}

func (c *udpClient) ask(deadline time.Time) error {
	if c.conn == nil {
		conn, err := c.dialDatagrams()
		if err != nil {
			return err
		}
		c.conn = conn
		c.note(func(n *Connections) { n.Opened++ })
	}
	if err := c.conn.SetDeadline(deadline); err != nil {
		return err
	}
	c.sent++
	by, err := c.exchange(strconv.Itoa(c.sent) + " " + string(c.body))
	if err == nil {
		c.by = c.movedTo(by, c.by)
	}
	return err
}

func (c *udpClient) exchange(text string) (by process, err error) {
	if _, err := c.conn.Write([]byte(text)); err != nil {
		return by, fmt.Errorf("send: %w", err)
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := c.conn.Read(buf)
		if err != nil {
			return by, fmt.Errorf("receive: %w", err)
		}
		by, err := checkEcho(string(buf[:n]), text)
		if err == nil {
			return by, nil
		}
		if !c.isLate(string(buf[:n])) {
			return by, err
		}
		// Of a datagram that was answered, or given up as lost.
		c.note(func(n *Connections) { n.Duplicates++ })
	}
}

// isLate reports whether an answer is to an earlier datagram.
func (c *udpClient) isLate(answer string) bool {
	fields := strings.SplitN(answer, " ", 4)
	if len(fields) < 4 {
		return false
	}
	number, err := strconv.Atoi(fields[2])
	return err == nil && number > 0 && number < c.sent
}

func (c *udpClient) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}
