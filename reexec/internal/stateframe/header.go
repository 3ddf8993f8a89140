// SPDX-License-Identifier: Apache-2.0

package stateframe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
)

// The reasons why a frame is refused. Every error about one wraps one of them.
var (
	// ErrForeign: it is no frame of a state, or not one that this code can read.
	ErrForeign = errors.New("foreign")
	// ErrUnsealed: it could change while it is read.
	ErrUnsealed = errors.New("not sealed")
	// ErrTruncated: it is shorter or longer than it says.
	ErrTruncated = errors.New("truncated")
	// ErrTorn: it is not what was written.
	ErrTorn = errors.New("torn")
	// ErrOtherName: it is a frame of another state.
	ErrOtherName = errors.New("another state")
	// ErrFuture: it is of a newer version of the format.
	ErrFuture = errors.New("future format")
)

const (
	magic        = "HFST"
	headerFormat = 1
	// HeaderSize is where the payload begins.
	HeaderSize = 128
	nameAt     = 32
	// MaxName is how long the name of a state may be.
	MaxName = HeaderSize - nameAt
)

// Header describes a frame.
type Header struct {
	Name    string // of the state
	Version uint32 // of the payload's format
	Seq     uint64 // higher than that of every earlier frame of this state
	Length  uint64 // of the payload
}

// castagnoli is made when it is used, since not every process does.
var castagnoli = sync.OnceValue(func() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) })

// checksum goes on from that of the payload over the header, less the four
// bytes where it will be. The payload comes first because it is written first.
func checksum(payload uint32, header []byte) uint32 {
	table := castagnoli()
	return crc32.Update(crc32.Update(payload, table, header[:12]), table, header[16:HeaderSize])
}

// encode writes the header of a frame whose payload has this checksum.
func (h Header) encode(payload uint32) ([]byte, error) {
	if h.Name == "" || len(h.Name) > MaxName || bytes.IndexByte([]byte(h.Name), 0) >= 0 {
		return nil, fmt.Errorf("state frame: name %q: must have 1 to %d bytes, none of them 0", h.Name, MaxName)
	}
	b := make([]byte, HeaderSize)
	copy(b, magic)
	binary.BigEndian.PutUint16(b[4:], headerFormat)
	binary.BigEndian.PutUint16(b[6:], uint16(len(h.Name)))
	binary.BigEndian.PutUint32(b[8:], h.Version)
	binary.BigEndian.PutUint64(b[16:], h.Seq)
	binary.BigEndian.PutUint64(b[24:], h.Length)
	copy(b[nameAt:], h.Name)
	binary.BigEndian.PutUint32(b[12:], checksum(payload, b))
	return b, nil
}

// Parse checks a frame that fills b exactly; the payload aliases b. The layout,
// in network byte order:
//
//	offset  bytes
//	     0      4  magic "HFST"
//	     4      2  format of the header, always 1
//	     6      2  length of the name
//	     8      4  version of the payload's format
//	    12      4  CRC-32C of the payload, then of the header less this field
//	    16      8  sequence number
//	    24      8  length of the payload
//	    32     96  name, filled up with 0
//	   128         payload
func Parse(b []byte) (Header, []byte, error) {
	h, err := parseHeader(b)
	if err != nil {
		return Header{}, nil, err
	}
	payload := b[HeaderSize:]
	if h.Length != uint64(len(payload)) {
		return Header{}, nil, fmt.Errorf("%w: it announces %d bytes, and has %d", ErrTruncated, h.Length, len(payload))
	}
	want := checksum(crc32.Checksum(payload, castagnoli()), b)
	if got := binary.BigEndian.Uint32(b[12:]); got != want {
		return Header{}, nil, fmt.Errorf("%w: its checksum is %08x, that of its bytes %08x", ErrTorn, got, want)
	}
	return h, payload, nil
}

// parseHeader reads what is before the payload, and believes it.
func parseHeader(b []byte) (Header, error) {
	if len(b) < len(magic) || string(b[:len(magic)]) != magic {
		return Header{}, fmt.Errorf("%w: it starts with %q, not with %q", ErrForeign, b[:min(len(b), len(magic))], magic)
	}
	if len(b) < HeaderSize {
		return Header{}, fmt.Errorf("%w: %d bytes, a header has %d", ErrTruncated, len(b), HeaderSize)
	}
	if got := binary.BigEndian.Uint16(b[4:]); got != headerFormat {
		return Header{}, fmt.Errorf("%w: its header has format %d, not %d", ErrForeign, got, headerFormat)
	}
	name := bytes.TrimRight(b[nameAt:HeaderSize], "\x00")
	if got := int(binary.BigEndian.Uint16(b[6:])); got != len(name) || got == 0 || bytes.IndexByte(name, 0) >= 0 {
		return Header{}, fmt.Errorf("%w: its name %q should have %d bytes", ErrTorn, name, got)
	}
	return Header{
		Name:    string(name),
		Version: binary.BigEndian.Uint32(b[8:]),
		Seq:     binary.BigEndian.Uint64(b[16:]),
		Length:  binary.BigEndian.Uint64(b[24:]),
	}, nil
}
