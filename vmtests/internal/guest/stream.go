// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"errors"
	"io"
	"sync"
)

// An outbound stream sends bytes as frames, no more than the other end has room for.
type outbound struct {
	frames *frameWriter
	id     uint32
	kind   kind

	mu     sync.Mutex
	wake   sync.Cond
	credit int
	closed bool
}

var errStreamClosed = errors.New("the command has ended")

func newOutbound(frames *frameWriter, id uint32, k kind) *outbound {
	s := &outbound{frames: frames, id: id, kind: k, credit: window}
	s.wake.L = &s.mu
	return s
}

// Write sends p, and blocks while there is no room.
func (s *outbound) Write(p []byte) (int, error) {
	sent := 0
	for sent < len(p) {
		s.mu.Lock()
		for s.credit == 0 && !s.closed {
			s.wake.Wait()
		}
		if s.closed {
			s.mu.Unlock()
			return sent, errStreamClosed
		}
		n := min(len(p)-sent, s.credit, maxPayload)
		s.credit -= n
		s.mu.Unlock()
		if err := s.frames.write(frame{s.id, s.kind, p[sent : sent+n]}); err != nil {
			return sent, err
		}
		sent += n
	}
	return sent, nil
}

func (s *outbound) addCredit(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.credit += n
	s.wake.Broadcast()
}

// close ends a Write that waits for room.
func (s *outbound) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.wake.Broadcast()
}

// An inbound stream takes bytes in without ever blocking, for a reader that gives the sender room again.
type inbound struct {
	frames *frameWriter
	id     uint32
	kind   kind

	mu     sync.Mutex
	wake   sync.Cond
	buffer []byte
	err    error // after the buffer
}

func newInbound(frames *frameWriter, id uint32, k kind) *inbound {
	s := &inbound{frames: frames, id: id, kind: k}
	s.wake.L = &s.mu
	return s
}

var errOverrun = errors.New("the other end sent more than there is room for")

// put takes in what a frame brought.
func (s *inbound) put(p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.buffer)+len(p) > window {
		return errOverrun
	}
	s.buffer = append(s.buffer, p...)
	s.wake.Broadcast()
	return nil
}

// end says that nothing more comes; err is what the reader gets then.
func (s *inbound) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.wake.Broadcast()
}

// WriteTo copies the stream to w until its end. When w fails, the rest is taken in and dropped.
func (s *inbound) WriteTo(w io.Writer) (int64, error) {
	var written int64
	var failed error
	for {
		s.mu.Lock()
		for len(s.buffer) == 0 && s.err == nil {
			s.wake.Wait()
		}
		chunk, err := s.buffer, s.err
		s.buffer = nil
		s.mu.Unlock()
		if len(chunk) == 0 {
			if err == io.EOF {
				err = nil
			}
			return written, errors.Join(failed, err)
		}
		if failed == nil {
			n, err := w.Write(chunk)
			written += int64(n)
			failed = err
		}
		if err := s.frames.writeCredit(s.id, s.kind, len(chunk)); err != nil {
			return written, err
		}
	}
}
