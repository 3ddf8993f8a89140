// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
)

// appendFrame appends a frame as a peer would send it.
func appendFrame(b []byte, kind, flags byte, stream uint32, payload []byte) []byte {
	n := len(payload)
	b = append(b, byte(n>>16), byte(n>>8), byte(n), kind, flags, byte(stream>>24), byte(stream>>16), byte(stream>>8), byte(stream))
	return append(b, payload...)
}

// Which streams are open, after each frame in turn.
func TestStreams(t *testing.T) {
	type step struct {
		sent  bool // by the server
		frame frame
		open  []uint32
	}
	client := func(kind, flags byte, stream uint32, open ...uint32) step {
		return step{false, frame{kind: kind, flags: flags, stream: stream}, open}
	}
	server := func(kind, flags byte, stream uint32, open ...uint32) step {
		return step{true, frame{kind: kind, flags: flags, stream: stream}, open}
	}
	const end, headersEnd = flagEndStream, flagEndHeaders
	for name, steps := range map[string][]step{
		"answered": {
			client(frameHeaders, end|headersEnd, 1, 1), server(frameHeaders, headersEnd, 1, 1),
			server(frameData, 0, 1, 1), server(frameData, end, 1),
		},
		"answered without a body": {client(frameHeaders, end|headersEnd, 1, 1), server(frameHeaders, end|headersEnd, 1)},
		"answered with trailers": {
			client(frameHeaders, end|headersEnd, 1, 1), server(frameHeaders, headersEnd, 1, 1), server(frameData, 0, 1, 1),
			server(frameHeaders, end|headersEnd, 1),
		},
		"with headers in many frames": {
			client(frameHeaders, end, 1, 1), client(frameContinuation, 0, 1, 1), client(frameContinuation, headersEnd, 1, 1),
			server(frameHeaders, end, 1, 1), server(frameContinuation, 0, 1, 1), server(frameContinuation, headersEnd, 1),
		},
		"headers in many frames before the body": {
			client(frameHeaders, end|headersEnd, 1, 1), server(frameHeaders, 0, 1, 1),
			server(frameContinuation, headersEnd, 1, 1), server(frameData, end, 1),
		},
		"upload": {
			client(frameHeaders, headersEnd, 1, 1), client(frameData, 0, 1, 1), client(frameData, end, 1, 1),
			server(frameHeaders, end|headersEnd, 1),
		},
		"trailers of a request open nothing": {
			client(frameHeaders, headersEnd, 1, 1), server(frameHeaders, end|headersEnd, 1), client(frameHeaders, end|headersEnd, 1),
		},
		"reset by the client": {client(frameHeaders, headersEnd, 1, 1), client(frameHeaders, headersEnd, 3, 1, 3), client(frameRSTStream, 0, 1, 3)},
		"reset by the server": {client(frameHeaders, headersEnd, 1, 1), server(frameRSTStream, 0, 1)},
		"several":             {client(frameHeaders, end, 1, 1), client(frameHeaders, end, 5, 1, 5), client(frameHeaders, end, 3, 1, 5), server(frameData, end, 1, 5)},
		"no stream of a client": {
			client(frameHeaders, end|headersEnd, 2), client(frameHeaders, end|headersEnd, 0), client(frameData, end, 7),
			server(frameHeaders, headersEnd, 2), server(frameData, end, 2), server(frameContinuation, headersEnd, 0),
		},
	} {
		var s streams
		for i, step := range steps {
			if step.sent {
				s.sent(step.frame)
			} else {
				s.received(step.frame)
			}
			if got := slices.Sorted(maps.Keys(s.open)); !slices.Equal(got, step.open) {
				t.Errorf("%s: after step %d %v are open, want %v", name, i, got, step.open)
			}
		}
	}
}

// A frame of ours comes where a frame may come, and nowhere else.
func TestGap(t *testing.T) {
	settings := appendFrame(nil, 0x4, 0, 0, make([]byte, 6))
	data := appendFrame(nil, frameData, 0, 1, []byte("some"))
	headers := appendFrame(nil, frameHeaders, 0, 1, []byte("block"))
	rest := appendFrame(nil, frameContinuation, flagEndHeaders, 1, nil)
	promise := appendFrame(nil, framePushPromise, 0, 1, []byte("block"))
	for _, c := range []struct {
		name   string
		before []byte
		p      []byte
		want   int
	}{
		{"not before the first frame", nil, settings, len(settings)},
		{"not in the first frame", settings[:5], settings[5:], len(settings) - 5},
		{"after one frame", settings, slices.Concat(data, data), len(data)},
		{"in the middle of one", slices.Concat(settings, data[:11]), slices.Concat(data[11:], data), len(data) - 11},
		{"not in a block of headers", settings, slices.Concat(headers, rest, data), len(headers) + len(rest)},
		{"nor between two writes of it", slices.Concat(settings, headers), slices.Concat(rest, data), len(rest)},
		{"nor in that of a promise", settings, slices.Concat(promise, rest, data), len(promise) + len(rest)},
		{"no place at all", settings, data[:12], 12},
		{"nothing to write", settings, nil, 0},
	} {
		var cutter frameCutter
		cutter.each(c.before, func(frame) {})
		was := cutter
		if got := cutter.gap(c.p); got != c.want {
			t.Errorf("%s: gap after %d bytes, want %d", c.name, got, c.want)
		}
		if cutter != was {
			t.Errorf("%s: looking has changed something", c.name)
		}
	}
}

// It does not matter how the bytes are divided.
func TestFramesInChunks(t *testing.T) {
	var all []byte
	var want []frame
	for i := range 300 {
		payload := make([]byte, rand.IntN(40))
		for j := range payload {
			payload[j] = byte(rand.Uint32())
		}
		f := frame{length: len(payload), kind: byte(rand.IntN(12)), flags: byte(rand.Uint32()), stream: rand.Uint32() & maxStreamID}
		copy(f.begin[:], payload)
		reserved := uint32(i%2) << 31 // the bit that is to be ignored
		all = appendFrame(all, f.kind, f.flags, f.stream|reserved, payload)
		want = append(want, f)
	}
	for _, limit := range []int{1, 2, 9, 10, 64, len(all)} {
		var got []frame
		var cutter frameCutter
		for rest := all; len(rest) > 0; {
			n := 1 + rand.IntN(min(limit, len(rest)))
			cutter.each(rest[:n], func(f frame) { got = append(got, f) })
			rest = rest[n:]
		}
		if !slices.Equal(got, want) {
			t.Errorf("in chunks of up to %d: %d frames, want %d", limit, len(got), len(want))
		}
	}
}

// tape is a connection that records what is written, a piece at a time if that
// is asked, and reads from a list of chunks.
type tape struct {
	net.Conn
	reads   [][]byte
	written bytes.Buffer
}

func (t *tape) Read(p []byte) (int, error) {
	if len(t.reads) == 0 {
		return 0, net.ErrClosed
	}
	n := copy(p, t.reads[0])
	if t.reads[0] = t.reads[0][n:]; len(t.reads[0]) == 0 {
		t.reads = t.reads[1:]
	}
	return n, nil
}

func (t *tape) Write(p []byte) (int, error) { return t.written.Write(p) }

// Whatever either side sends, in whatever pieces: it passes through unchanged,
// and frames of ours are added between frames only.
func FuzzHTTP2Conn(f *testing.F) {
	settings := appendFrame(nil, 0x4, 0, 0, nil)
	answer := slices.Concat(settings, appendFrame(nil, frameHeaders, 0, 1, []byte("xy")),
		appendFrame(nil, frameContinuation, flagEndHeaders, 1, nil), appendFrame(nil, frameData, flagEndStream, 1, []byte("answer")))
	request := slices.Concat(settings, appendFrame(nil, frameHeaders, flagEndHeaders|flagEndStream, 1, []byte("x")))
	f.Add(request, answer, []byte{3, 200, 1}, uint8(1))
	f.Add(request, answer, []byte{255}, uint8(0))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), []byte("HTTP/1.1 200 OK\r\n\r\n"), []byte{1}, uint8(3))
	f.Add(appendGoAway(nil, 7), slices.Concat(settings, appendGoAway(nil, 5), settings), []byte{9}, uint8(2))
	f.Fuzz(func(t *testing.T, in, out, sizes []byte, when uint8) {
		chunk := func(p []byte, i int) int {
			n := 1
			if len(sizes) > 0 {
				n += int(sizes[i%len(sizes)])
			}
			return min(n, len(p))
		}
		wire := &tape{}
		for i, rest := 0, in; len(rest) > 0; i++ {
			n := chunk(rest, i)
			wire.reads, rest = append(wire.reads, rest[:n]), rest[n:]
		}
		c := newHTTP2Conns().add(wire)
		var read []byte
		buf := make([]byte, 50)
		for i, rest := 0, out; len(rest) > 0; i++ {
			if i == int(when) {
				c.begin()
			}
			n := chunk(rest, i)
			if m, err := c.Write(rest[:n]); m != n || err != nil {
				t.Fatalf("write: %d of %d, %v", m, n, err)
			}
			rest = rest[n:]
			if m, err := c.Read(buf); err == nil {
				read = append(read, buf[:m]...)
			}
		}
		for {
			n, err := c.Read(buf)
			if err != nil {
				break
			}
			read = append(read, buf[:n]...)
		}
		if !bytes.Equal(read, in) {
			t.Fatalf("net/http reads %q, the client has sent %q", read, in)
		}
		ours := appendPing(appendGoAway(nil, maxStreamID), c.nonce)
		at := bytes.Index(wire.written.Bytes(), ours)
		if at < 0 || c.nonce == [pingLen]byte{} {
			if !bytes.Equal(wire.written.Bytes(), out) {
				t.Fatalf("the client gets %q, net/http has sent %q", wire.written.Bytes(), out)
			}
			return
		}
		if got := slices.Concat(wire.written.Bytes()[:at], wire.written.Bytes()[at+len(ours):]); !bytes.Equal(got, out) {
			t.Fatalf("the client gets %q besides our frames, net/http has sent %q", got, out)
		}
		var cutter frameCutter
		cutter.each(out[:at], func(frame) {})
		if !cutter.between() {
			t.Fatalf("our frames come at %d of %q, in the middle of something", at, out)
		}
	})
}
