// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/gorilla/websocket"

	"github.com/holdfast-go/holdfast/reexec"
)

// kind of sessions, the same in all versions.
const kind = "websocket"

const maxMessage = 1 << 20

// session is a client's. One goroutine reads, answers and moves it. A service that
// also writes from others has to hold them back while the session moves.
type session struct {
	ws    *websocket.Conn
	wire  *wire
	count int  // messages that were answered
	last  bool // it ends with the message that is under way
}

// state is what the next version has to know of a session. The two are different
// programs: fields may be added, but not change their meaning.
type state struct {
	Count  int    `json:"count"`
	Record []byte `json:"record,omitempty"` // see wire
}

// accept is for net/http.
func (s *sessions) accept(w http.ResponseWriter, r *http.Request) {
	ws, wire, err := accept(w, r)
	if err != nil {
		log.Printf("handshake with %v: %v", r.RemoteAddr, err) // the client was told
		return
	}
	s.serve(&session{ws: ws, wire: wire})
}

// resume goes on with a session of another version.
func (s *sessions) resume(conn net.Conn, encoded []byte) {
	var st state
	err := json.Unmarshal(encoded, &st)
	var c session
	if err == nil {
		c.count = st.Count
		c.ws, c.wire, err = resume(conn, st.Record)
	}
	if err != nil {
		log.Printf("session of %v: state %q: %v", conn.RemoteAddr(), encoded, err)
		_ = conn.Close()
		return
	}
	s.serve(&c)
}

// serve answers messages until the session ends, or has moved.
func (s *sessions) serve(c *session) {
	defer c.ws.Close()
	c.wire.woken = func() error { return s.leave(c) }
	pong := c.ws.PingHandler()
	c.ws.SetPingHandler(func(data string) error {
		c.wire.answered(data)
		return pong(data)
	})
	c.ws.SetPongHandler(func(data string) error {
		c.wire.answered(data)
		return nil
	})
	s.add(c)
	defer s.remove(c)
	c.ws.SetReadLimit(maxMessage)
	for {
		kind, message, err := c.ws.ReadMessage()
		if err != nil { // it has moved, was closed, or the client is gone
			return
		}
		c.count++
		if err := c.ws.WriteMessage(kind, fmt.Appendf(nil, "%d %s", c.count, message)); err != nil {
			return
		}
		if c.wire.ended(); c.last && len(c.wire.record) == 0 {
			c.wire.farewell(c.ws, websocket.CloseGoingAway, errStops)
			return
		}
	}
}

const lastLook = 100 * time.Millisecond

var (
	errOver  = errors.New("the session is over here")
	errStops = errors.New("the service stops")
)

// leave is called when a deadline has ended a read. It returns errOver if the session
// has moved or was closed.
func (s *sessions) leave(c *session) error {
	why := s.ended()
	switch {
	case why != nil && c.last:
		c.wire.farewell(c.ws, websocket.CloseGoingAway, why)
		return errOver
	case why != nil: // the client may connect again at once
		c.wire.farewell(c.ws, websocket.CloseServiceRestart, why)
		return errOver
	case c.wire.long:
		c.wire.late = true // it moves when the message has ended
		return nil
	case c.last && len(c.wire.record) > 0: // what the client has begun to say is answered
		return nil
	case c.last:
		c.wire.farewell(c.ws, websocket.CloseGoingAway, errStops)
		return errOver
	}
	encoded, err := json.Marshal(state{c.count, c.wire.record})
	if err == nil {
		err = s.service.MoveSession(kind, c.wire.Conn, encoded)
	}
	if err == nil {
		return errOver
	}
	if errors.Is(err, reexec.ErrNoSuccessor) {
		// Something may be there to be read, or on its way.
		c.last = true
		_ = c.wire.Conn.SetReadDeadline(time.Now().Add(lastLook))
		return nil
	}
	log.Print(err)
	return nil // it goes on here until the client has enough, or the drain ends
}
