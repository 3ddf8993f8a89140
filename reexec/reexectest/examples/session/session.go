// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/reexec"
)

// kind of sessions, the same in all versions.
const kind = "tally"

// maxLine is far less than reexec.MaxSessionState, so that every state has room.
const maxLine = 1 << 10

// session is a client's connection. One goroutine reads, answers and moves it.
type session struct {
	conn  net.Conn
	state state
	last  error // why it ends with the line that is under way
}

// state is what the next version has to know of a session. The two are different
// programs: fields may be added, but not change their meaning.
type state struct {
	Name  string `json:"name,omitempty"` // who has logged in
	Total int    `json:"total,omitempty"`
	Input []byte `json:"input,omitempty"` // was read, and is not answered yet
}

// resume goes on with a session of another version.
func (s *sessions) resume(conn net.Conn, encoded []byte) {
	c := &session{conn: conn}
	if err := json.Unmarshal(encoded, &c.state); err != nil {
		log.Printf("session of %v: state %q: %v", conn.RemoteAddr(), encoded, err)
		_ = conn.Close()
		return
	}
	s.serve(c)
}

// serve answers lines until the session ends, or has moved.
func (s *sessions) serve(c *session) {
	defer c.conn.Close()
	s.add(c)
	defer s.remove(c)
	for {
		line, err := c.line()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if s.leave(c) {
				return
			}
			continue
		case err != nil: // the client is gone
			return
		}
		answer, more := c.state.answer(line)
		if _, err := io.WriteString(c.conn, answer); err != nil || !more {
			return
		}
		if c.last != nil && len(c.state.Input) == 0 {
			c.goodbye(c.last)
			return
		}
	}
}

// leave is called when a deadline has ended a read. It returns true if the session is
// over here.
func (s *sessions) leave(c *session) bool {
	// First, so that the end of the drain, which comes later, still ends a read.
	_ = c.conn.SetReadDeadline(time.Time{})
	if err := s.ended(); err != nil {
		c.goodbye(err)
		return true
	}
	if c.last != nil {
		// What the client has begun to ask is answered.
		if len(c.state.Input) > 0 {
			return false
		}
		c.goodbye(c.last)
		return true
	}
	encoded, err := json.Marshal(c.state)
	if err == nil {
		err = s.service.MoveSession(kind, c.conn, encoded)
	}
	if err == nil {
		return true
	}
	if errors.Is(err, reexec.ErrNoSuccessor) {
		// Something may be there to be read, or on its way.
		c.last = errStops
		_ = c.conn.SetReadDeadline(time.Now().Add(lastLook))
		return false
	}
	log.Print(err)
	return false // it goes on here until the client has enough, or the drain ends
}

const lastLook = 100 * time.Millisecond

var errStops = errors.New("the service stops")

// line returns the next one. If it fails, what there is of it stays in the state.
func (c *session) line() (string, error) {
	var buf [512]byte
	for {
		if line, rest, found := bytes.Cut(c.state.Input, []byte{'\n'}); found {
			c.state.Input = rest
			return string(line), nil
		}
		if len(c.state.Input) > maxLine {
			return "", fmt.Errorf("a line of more than %d bytes", maxLine)
		}
		n, err := c.conn.Read(buf[:])
		c.state.Input = append(c.state.Input, buf[:n]...)
		if err != nil {
			return "", err
		}
	}
}

// answer is what the protocol says to a line, and whether the session goes on.
func (s *state) answer(line string) (text string, more bool) {
	word, argument, _ := strings.Cut(line, " ")
	switch word {
	case "login":
		s.Name, s.Total = argument, 0
		return fmt.Sprintf("hello %s\n", s.Name), true
	case "add":
		n, err := strconv.Atoi(argument)
		if err != nil {
			return fmt.Sprintf("error: add %q: want a number\n", argument), true
		}
		if s.Name == "" {
			return "error: log in first\n", true
		}
		s.Total += n
		return fmt.Sprintf("%s has %d\n", s.Name, s.Total), true
	case "quit":
		return "bye\n", false
	}
	return fmt.Sprintf("error: %q: want login, add or quit\n", word), true
}

// goodbye tells the client why the session ends. It waits a moment for the client
// to close its end: if something of it was unread, the kernel would reset the
// connection and drop what was said.
func (c *session) goodbye(why error) {
	_ = c.conn.SetDeadline(time.Now().Add(time.Second))
	fmt.Fprintf(c.conn, "bye: %v\n", why)
	if half, ok := c.conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, c.conn)
	}
}
