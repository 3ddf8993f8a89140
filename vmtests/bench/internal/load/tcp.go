// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/toy"
)

// An exchange sends body once and reads the answer, which must echo it. It returns who answered and whether
// the connection may carry another one.
type exchange func(conn net.Conn, answers *bufio.Reader, body []byte) (by process, again bool, err error)

// A process is what an answer says of who gave it.
type process struct{ version, pid string }

const (
	postHeader     = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
	lastPostHeader = "POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
)

func exchangeHTTP(conn net.Conn, answers *bufio.Reader, body []byte) (process, bool, error) {
	return post(conn, answers, postHeader, body)
}

// exchangeLastHTTP says that the client wants no other request on the connection.
func exchangeLastHTTP(conn net.Conn, answers *bufio.Reader, body []byte) (process, bool, error) {
	return post(conn, answers, lastPostHeader, body)
}

func post(conn net.Conn, answers *bufio.Reader, header string, body []byte) (by process, again bool, err error) {
	// One write, so that a request is sent or not, but never in part by our doing.
	if _, err := conn.Write(append(fmt.Appendf(nil, header, len(body)), body...)); err != nil {
		return by, false, fmt.Errorf("write request: %w", err)
	}
	response, err := http.ReadResponse(answers, nil)
	if err != nil {
		return by, false, fmt.Errorf("read answer: %w", err)
	}
	defer response.Body.Close()
	by, err = checkResponse(response, body)
	return by, err == nil && !response.Close, err
}

func checkResponse(response *http.Response, body []byte) (by process, err error) {
	echo, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return by, fmt.Errorf("read answer: %w", err)
	case response.StatusCode != http.StatusOK:
		return by, fmt.Errorf("status %s", response.Status)
	case !bytes.Equal(echo, body):
		return by, fmt.Errorf("the answer has %d bytes that are not the %d of the request", len(echo), len(body))
	}
	return process{response.Header.Get(toy.HeaderVersion), response.Header.Get(toy.HeaderPID)}, nil
}

func exchangeLine(conn net.Conn, answers *bufio.Reader, body []byte) (by process, again bool, err error) {
	line := string(body) + "\n"
	if _, err := io.WriteString(conn, line); err != nil {
		return by, false, fmt.Errorf("write line: %w", err)
	}
	return readEcho(answers, line)
}

// readEcho reads the answer to a line.
func readEcho(answers *bufio.Reader, line string) (by process, again bool, err error) {
	answer, err := answers.ReadString('\n')
	if err != nil {
		return by, false, fmt.Errorf("read answer: %w", err)
	}
	by, err = checkEcho(answer, line)
	return by, err == nil, err
}

// checkEcho takes apart "VERSION PID TEXT", as toy services answer where there are no headers.
func checkEcho(answer, sent string) (by process, err error) {
	version, rest, _ := strings.Cut(answer, " ")
	pid, echo, _ := strings.Cut(rest, " ")
	if echo != sent {
		return by, fmt.Errorf("answer %.40q: must be the version, the PID and %.40q", answer, sent)
	}
	return process{version, pid}, nil
}

// A tcpClient makes requests over one connection after the other, of TCP or what is like it.
type tcpClient struct {
	*Generator
	exchange exchange

	tcp     socket   // nil when there is none
	conn    net.Conn // over tcp; TLS perhaps
	answers *bufio.Reader
	by      process // who answered last on it
	why     end     // of the connection before
}

// end is why a connection is no more.
type end int

const (
	ownEnd    end = iota // there was none, or the client did not want it any longer
	announced            // the server had announced it
	cut                  // the server had not
	failed               // the request on it failed
)

func (c *tcpClient) ask(deadline time.Time) error {
	if c.tcp != nil && ended(c.tcp) {
		c.drop(cut)
	}
	if c.tcp == nil {
		if err := c.open(deadline); err != nil {
			c.drop(failed)
			return err
		}
	} else if err := c.tcp.SetDeadline(deadline); err != nil {
		c.drop(failed)
		return err
	}
	by, again, err := c.exchange(c.conn, c.answers, c.nextBody())
	if err == nil {
		c.by = c.movedTo(by, c.by)
	}
	switch {
	case err != nil:
		c.drop(failed)
	case !again && c.options.Mode == New:
		c.drop(ownEnd)
	case !again:
		c.drop(announced)
	}
	return err
}

// open opens a connection and counts why it had to.
func (c *tcpClient) open(deadline time.Time) error {
	tcp, err := c.dial(deadline)
	if err != nil {
		return err
	}
	c.tcp, c.conn = tcp, tcp
	resumed := false
	if c.tls != nil {
		over := tls.Client(tcp, c.tls)
		if err := over.Handshake(); err != nil {
			return fmt.Errorf("TLS handshake: %w", err)
		}
		c.conn, resumed = over, over.ConnectionState().DidResume
	}
	c.answers = bufio.NewReader(c.conn)
	c.countOpened(c.why, resumed)
	return nil
}

// countOpened counts a connection that was opened after the one before had ended by why.
func (g *Generator) countOpened(why end, resumed bool) {
	g.note(func(n *Connections) {
		n.Opened++
		switch why {
		case announced:
			n.Announced++
		case cut:
			n.Cut++
		}
		if resumed && (why == announced || why == cut) {
			n.Resumed++
		}
	})
}

// movedTo counts a connection as moved if another process answered on it before. It returns by.
func (g *Generator) movedTo(by, before process) process {
	if before.pid != "" && by.pid != before.pid {
		g.note(func(n *Connections) { n.Moved++ })
	}
	return by
}

func (c *tcpClient) drop(why end) {
	if c.tcp != nil {
		_ = c.tcp.Close() // the exchange is over
	}
	c.tcp, c.conn, c.answers, c.by, c.why = nil, nil, nil, process{}, why
}

func (c *tcpClient) close() { c.drop(ownEnd) }

// ended reports whether anything has arrived on a connection that awaits nothing: its end, a reset, or the
// alert or status that goes before. It reads nothing.
func ended(conn socket) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	quiet := false
	err = raw.Control(func(fd uintptr) {
		for {
			_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			quiet = errors.Is(err, unix.EAGAIN)
			return
		}
	})
	return err != nil || !quiet
}
