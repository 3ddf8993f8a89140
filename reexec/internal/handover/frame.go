// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
)

// Kind says what a frame's payload is.
type Kind uint16

// The kinds. The numbers are part of the protocol.
const (
	KindHello       Kind = 1 // both ways, first
	KindDescriptors Kind = 2 // predecessor: some descriptors
	KindReceived    Kind = 3 // successor: counted acknowledgement
	KindComplete    Kind = 4 // predecessor: no more descriptors
	KindReady       Kind = 5 // successor: built, waits to be told to serve
	KindBeat        Kind = 6 // successor: alive, and how it feels
	KindLeaving     Kind = 7 // successor: cannot serve, and why
	KindServe       Kind = 8 // predecessor: accept connections
	KindPromote     Kind = 9 // predecessor: you are main
	KindUndo        Kind = 10
	KindStop        Kind = 11
	// Since version 2.
	KindConnections Kind = 12 // who drains: idle connections and sessions
	KindTaken       Kind = 13 // who serves: which of them it has
	KindDrained     Kind = 14 // predecessor: what it had left to do
	KindUpdate      Kind = 15 // both ways: a change to what was handed over
)

var kindNames = map[Kind]string{
	KindHello: "hello", KindDescriptors: "descriptors", KindReceived: "received",
	KindComplete: "complete", KindReady: "ready", KindBeat: "beat", KindLeaving: "leaving",
	KindServe: "serve", KindPromote: "promote", KindUndo: "undo", KindStop: "stop",
	KindConnections: "connections", KindTaken: "taken",
	KindDrained: "drained", KindUpdate: "update",
}

func (k Kind) String() string {
	if name, ok := kindNames[k]; ok {
		return name
	}
	return fmt.Sprintf("kind %d", uint16(k))
}

const (
	magic      = "HFHO"
	headerSize = 20
	// MaxPayload bounds one frame. It is well below the default socket buffer
	// of 208 KiB, so that a frame always fits.
	MaxPayload = 128 << 10
)

// ErrFrame is wrapped by every error about a frame that is torn, foreign or
// too large.
var ErrFrame = errors.New("handover: bad frame")

// castagnoli is made when it is used, since a pre-check does not need it.
var castagnoli = sync.OnceValue(func() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) })

// checksum is that of a frame whose header, less the checksum, is head.
func checksum(head, payload []byte) uint32 {
	table := castagnoli()
	return crc32.Update(crc32.Checksum(head, table), table, payload)
}

// Frame is one message. Descriptors travel beside it.
type Frame struct {
	Kind    Kind
	Seq     uint32
	Payload []byte
}

// Append encodes f at the end of dst. The layout, in network byte order:
// magic (4), frame format (2, always 1), kind (2), sequence number (4), length
// of the payload (4), CRC-32C of all before it and of the payload (4).
func (f Frame) Append(dst []byte) ([]byte, error) {
	if len(f.Payload) > MaxPayload {
		return dst, fmt.Errorf("%w: %v of %d bytes: at most %d", ErrFrame, f.Kind, len(f.Payload), MaxPayload)
	}
	start := len(dst)
	dst = append(dst, magic...)
	dst = binary.BigEndian.AppendUint16(dst, 1)
	dst = binary.BigEndian.AppendUint16(dst, uint16(f.Kind))
	dst = binary.BigEndian.AppendUint32(dst, f.Seq)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(f.Payload)))
	dst = binary.BigEndian.AppendUint32(dst, checksum(dst[start:], f.Payload))
	return append(dst, f.Payload...), nil
}

// Parse decodes one frame that fills b exactly. The payload aliases b.
func Parse(b []byte) (Frame, error) {
	if len(b) < headerSize {
		return Frame{}, fmt.Errorf("%w: %d bytes, a header has %d", ErrFrame, len(b), headerSize)
	}
	if got := string(b[:4]); got != magic {
		return Frame{}, fmt.Errorf("%w: starts with %q, want %q", ErrFrame, got, magic)
	}
	if got := binary.BigEndian.Uint16(b[4:]); got != 1 {
		return Frame{}, fmt.Errorf("%w: frame format %d, want 1", ErrFrame, got)
	}
	f := Frame{
		Kind:    Kind(binary.BigEndian.Uint16(b[6:])),
		Seq:     binary.BigEndian.Uint32(b[8:]),
		Payload: b[headerSize:],
	}
	if got := binary.BigEndian.Uint32(b[12:]); uint64(got) != uint64(len(f.Payload)) || got > MaxPayload {
		return Frame{}, fmt.Errorf("%w: %v announces %d bytes of payload, has %d", ErrFrame, f.Kind, got, len(f.Payload))
	}
	crc := checksum(b[:headerSize-4], f.Payload)
	if got := binary.BigEndian.Uint32(b[16:]); got != crc {
		return Frame{}, fmt.Errorf("%w: %v has checksum %08x, want %08x", ErrFrame, f.Kind, got, crc)
	}
	return f, nil
}

// Decode unpacks the payload into v.
func (f Frame) Decode(v any) error {
	if err := json.Unmarshal(f.Payload, v); err != nil {
		return fmt.Errorf("%w: %v: %w", ErrFrame, f.Kind, err)
	}
	return nil
}
