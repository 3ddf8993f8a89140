// SPDX-License-Identifier: Apache-2.0

package reexec

// What a drain has to know of HTTP/2's frames (RFC 9113, sections 4.1 and 6).
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	frameRSTStream    = 0x3
	framePushPromise  = 0x5
	framePing         = 0x6
	frameGoAway       = 0x7
	frameContinuation = 0x9

	flagAck        = 0x1 // of PING
	flagEndStream  = 0x1 // of DATA and HEADERS
	flagEndHeaders = 0x4

	frameHeaderLen = 9
	pingLen        = 8
	maxStreamID    = 1<<31 - 1
)

// frame is the header of one frame, and how its payload begins.
type frame struct {
	length int
	kind   byte
	flags  byte
	stream uint32
	begin  [pingLen]byte
}

func (f frame) has(flag byte) bool { return f.flags&flag != 0 }

// frameCutter follows one direction of a connection from frame to frame. It
// does not judge them: whatever comes is a frame of the length that it says.
type frameCutter struct {
	header [frameHeaderLen]byte
	seen   int // bytes of the current frame, with its header
	frame  frame
	begun  bool // the first frame is complete
	block  bool // of headers, which nothing may interrupt (RFC 9113, section 4.3)
}

// number is in network byte order.
func number(b []byte) (n uint32) {
	for _, v := range b {
		n = n<<8 | uint32(v)
	}
	return n
}

// next takes the rest of the current frame from p, or all of p if that is not
// enough. With ended the frame is complete, and c.frame says which.
func (c *frameCutter) next(p []byte) (n int, ended bool) {
	if c.seen < frameHeaderLen {
		n = copy(c.header[c.seen:], p)
		c.seen += n
		if c.seen < frameHeaderLen {
			return n, false
		}
		c.frame = frame{
			length: int(number(c.header[:3])),
			kind:   c.header[3],
			flags:  c.header[4],
			stream: number(c.header[5:]) & maxStreamID,
		}
	}
	at := c.seen - frameHeaderLen
	payload := p[n : n+min(len(p)-n, c.frame.length-at)]
	if at < pingLen {
		copy(c.frame.begin[at:], payload)
	}
	c.seen += len(payload)
	n += len(payload)
	if c.seen < frameHeaderLen+c.frame.length {
		return n, false
	}
	c.seen, c.begun = 0, true
	switch c.frame.kind {
	case frameHeaders, framePushPromise, frameContinuation:
		c.block = !c.frame.has(flagEndHeaders)
	}
	return n, true
}

// each calls do for every frame that ends in p.
func (c *frameCutter) each(p []byte, do func(frame)) {
	for len(p) > 0 {
		n, ended := c.next(p)
		p = p[n:]
		if ended {
			do(c.frame)
		}
	}
}

// between says whether another frame may come here. The first one is not ours:
// it must be SETTINGS.
func (c *frameCutter) between() bool { return c.begun && c.seen == 0 && !c.block }

// gap returns how much of p comes before the next such place: all of it if
// there is none. It changes nothing.
func (c frameCutter) gap(p []byte) (n int) {
	for n < len(p) {
		taken, _ := c.next(p[n:])
		if n += taken; c.between() {
			break
		}
	}
	return n
}

// streams are those that the client has opened and the server has not yet
// answered to the end. Pushed ones, which the server opens, do not count.
type streams struct {
	open   map[uint32]struct{}
	last   uint32 // the highest
	ending uint32 // its last frame was sent, but not all of that frame's headers; 0 is none
}

// received takes a frame of the client. A request counts from its first frame
// on, however many headers are still to come.
func (s *streams) received(f frame) {
	switch {
	case f.kind == frameRSTStream:
		delete(s.open, f.stream)
	case f.kind == frameHeaders && f.stream%2 == 1 && f.stream > s.last:
		s.last = f.stream
		if s.open == nil {
			s.open = map[uint32]struct{}{}
		}
		s.open[f.stream] = struct{}{}
	}
}

// sent takes a frame that is out.
func (s *streams) sent(f frame) {
	switch f.kind {
	case frameHeaders:
		if !f.has(flagEndStream) {
			return
		}
		if !f.has(flagEndHeaders) {
			s.ending = f.stream
			return
		}
	case frameContinuation:
		if !f.has(flagEndHeaders) || f.stream != s.ending {
			return
		}
		s.ending = 0
	case frameData:
		if !f.has(flagEndStream) {
			return
		}
	case frameRSTStream:
	default:
		return
	}
	delete(s.open, f.stream)
}

// appendGoAway appends a GOAWAY without an error: streams above last are not
// answered on this connection.
func appendGoAway(b []byte, last uint32) []byte {
	b = append(b, 0, 0, 8, frameGoAway, 0, 0, 0, 0, 0)
	b = append(b, byte(last>>24), byte(last>>16), byte(last>>8), byte(last))
	return append(b, 0, 0, 0, 0) // NO_ERROR
}

func appendPing(b []byte, data [pingLen]byte) []byte {
	b = append(b, 0, 0, pingLen, framePing, 0, 0, 0, 0, 0)
	return append(b, data[:]...)
}
