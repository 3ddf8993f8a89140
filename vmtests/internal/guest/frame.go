// SPDX-License-Identifier: Apache-2.0

// Package guest runs commands inside a virtual machine over one byte stream, a virtio-serial port. The
// host has a [Client], the machine a [Server]. Commands run side by side: each has a number, and its
// streams have a window, so that a command whose output nobody reads holds up no other.
package guest

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/holdfast-go/holdfast/vmtests/internal/command"
)

// A frame is what the two ends exchange: 4 bytes number of the command, 1 byte kind, 4 bytes length, all
// big-endian, and the payload.
type frame struct {
	id      uint32
	kind    kind
	payload []byte
}

type kind uint8

const (
	// From the server, once, when it is there; number 0, payload [greeting].
	kindHello kind = iota + 1

	// From the client.
	kindStart    // payload startRequest, JSON; begins a command
	kindStdin    // bytes of standard input
	kindStdinEnd // its end
	kindKill     // end the command and all that it started

	// From the server.
	kindStarted // payload startReply, JSON; answers kindStart
	kindStdout
	kindStderr
	kindExit // payload exitReply, JSON; the last of a command

	// From both: so many more bytes of a stream may come; payload kind of the stream and 4 bytes.
	kindCredit
)

// greeting is the first payload, and tells apart versions of the two programs that do not fit.
const greeting = "holdfast guest 1"

const (
	maxPayload = 64 << 10
	window     = 256 << 10 // bytes of one stream that may be under way
	headerSize = 9
)

type startRequest struct {
	Args  []string `json:"args"`
	Env   []string `json:"env"`
	Stdin bool     `json:"stdin"` // kindStdin will come
}

type startReply struct {
	PID   int    `json:"pid,omitempty"`
	Error string `json:"error,omitempty"`
}

type exitReply struct {
	command.Status
	Error string `json:"error,omitempty"` // it is not known how the command ended
}

func readFrame(r io.Reader) (frame, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return frame{}, err
	}
	f := frame{id: binary.BigEndian.Uint32(header[:4]), kind: kind(header[4])}
	size := binary.BigEndian.Uint32(header[5:])
	if size > maxPayload {
		return frame{}, fmt.Errorf("frame of kind %d: got %d bytes, want %d at most", f.kind, size, maxPayload)
	}
	f.payload = make([]byte, size)
	if _, err := io.ReadFull(r, f.payload); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	return f, nil
}

// A frameWriter writes whole frames from several goroutines.
type frameWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (w *frameWriter) write(f frame) error {
	if len(f.payload) > maxPayload {
		return fmt.Errorf("frame of kind %d: %d bytes are more than %d", f.kind, len(f.payload), maxPayload)
	}
	buffer := make([]byte, headerSize, headerSize+len(f.payload))
	binary.BigEndian.PutUint32(buffer, f.id)
	buffer[4] = byte(f.kind)
	binary.BigEndian.PutUint32(buffer[5:], uint32(len(f.payload)))
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.w.Write(append(buffer, f.payload...))
	return err
}

func (w *frameWriter) writeJSON(id uint32, k kind, value any) error {
	payload, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return w.write(frame{id, k, payload})
}

func (w *frameWriter) writeCredit(id uint32, stream kind, n int) error {
	payload := binary.BigEndian.AppendUint32([]byte{byte(stream)}, uint32(n))
	return w.write(frame{id, kindCredit, payload})
}

func (f frame) credit() (stream kind, n int, err error) {
	if len(f.payload) != 5 {
		return 0, 0, fmt.Errorf("credit of %d bytes, want 5", len(f.payload))
	}
	return kind(f.payload[0]), int(binary.BigEndian.Uint32(f.payload[1:])), nil
}
