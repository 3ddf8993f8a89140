// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/gorilla/websocket"

	"github.com/holdfast-go/holdfast/reexec"
)

// wire is the connection below the library. It records what the library has read of
// a message that has not ended yet, so that the next version's library can read it
// again: a session can move at any byte. The library has no way to resume a session,
// but it takes a connection, and the buffer that it reads it with, from whoever is
// hijacked.
//
// Once a read of the library has failed, it reads no more. So it is not told of the
// deadlines that a drain sets, unless the session is over here.
type wire struct {
	net.Conn               // as it was hijacked
	ahead    []byte        // was read by others, and comes first
	buffer   *bufio.Reader // the library's
	mute     bool          // what is written is dropped

	record []byte // of the message under way, and after it what is in the buffer
	long   bool   // the message is too long: nothing is recorded until it ends
	late   bool   // woken meanwhile

	// woken is called when a read was ended by wake. Nil lets the read go on; the
	// library gets an error.
	woken func() error
}

// maxRecord leaves room in a session's state, where three bytes are written as four.
const maxRecord = reexec.MaxSessionState / 2

func newWire(conn net.Conn, ahead []byte) *wire {
	w := &wire{Conn: conn, ahead: ahead}
	w.buffer = bufio.NewReader(w)
	return w
}

// Read is for the library.
func (w *wire) Read(p []byte) (n int, err error) {
	if len(w.ahead) > 0 {
		n = copy(p, w.ahead)
		w.ahead = w.ahead[n:]
	}
	for n == 0 && err == nil {
		n, err = w.Conn.Read(p)
		if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			// First, so that a later wake still ends a read.
			_ = w.Conn.SetReadDeadline(time.Time{})
			err = w.woken()
		}
	}
	if w.long = w.long || len(w.record)+n > maxRecord; w.long {
		w.record = nil
	} else {
		w.record = append(w.record, p[:n]...)
	}
	return n, err
}

// Write is for the library.
func (w *wire) Write(p []byte) (int, error) {
	if w.mute {
		return len(p), nil
	}
	return w.Conn.Write(p)
}

// wake ends a read that waits, or else the next one.
func (w *wire) wake() { _ = w.Conn.SetReadDeadline(time.Unix(1, 0)) }

// ended is called between two messages: what is left belongs to the next.
func (w *wire) ended() {
	left, _ := w.buffer.Peek(w.buffer.Buffered())
	w.record = append(w.record[:0], left...)
	if w.long = false; w.late {
		w.late = false
		w.wake()
	}
}

// answered is called when the library has read a control frame, which can be in the
// middle of a message, and is not to be read again. A client's frames have a header
// of two bytes and a mask of four.
func (w *wire) answered(payload string) {
	if end := len(w.record) - w.buffer.Buffered(); !w.long {
		w.record = slices.Delete(w.record, end-len(payload)-2-4, end)
	}
}

// farewell closes the session. As RFC 6455 has it in section 7.1.1, the client's end
// is waited for: if something of it was unread, the kernel would reset the connection
// and drop the close frame.
func (w *wire) farewell(ws *websocket.Conn, code int, why error) {
	deadline := time.Now().Add(time.Second)
	_ = w.SetDeadline(deadline)
	_ = ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, why.Error()), deadline)
	if half, ok := w.Conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, w.Conn)
	}
}

// upgrader has no buffers of its own, so that the library reads with the wire's.
// Compressed messages could move as well if the state said that they are.
var upgrader websocket.Upgrader

// accept answers the handshake of a new session.
func accept(rw http.ResponseWriter, r *http.Request) (*websocket.Conn, *wire, error) {
	h := &hijacker{ResponseWriter: rw}
	ws, err := upgrader.Upgrade(h, r, nil)
	return ws, h.wire, err
}

// resume makes a session of a connection whose handshake was in another version. For
// the library it is a new one, whose answer nobody sees.
func resume(conn net.Conn, record []byte) (*websocket.Conn, *wire, error) {
	h := &hijacker{wire: newWire(conn, record)}
	h.wire.mute = true
	ws, err := upgrader.Upgrade(h, &http.Request{Method: http.MethodGet, Header: http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"bm90IHNlZW4gYnkgYW55Lg=="},
	}}, nil)
	h.wire.mute = false
	return ws, h.wire, err
}

// hijacker gives the library a wire.
type hijacker struct {
	http.ResponseWriter // nil if there is a wire already
	wire                *wire
}

// Hijack is called by the library.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if h.wire == nil {
		conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
		if err != nil {
			return nil, nil, err
		}
		ahead, _ := rw.Reader.Peek(rw.Reader.Buffered())
		h.wire = newWire(conn, bytes.Clone(ahead))
	}
	return h.wire, bufio.NewReadWriter(h.wire.buffer, bufio.NewWriter(h.wire)), nil
}
