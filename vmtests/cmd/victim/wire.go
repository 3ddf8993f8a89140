// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A successor that misbehaves on the wire is a sound one whose frames go through a relay, which knows the
// protocol from its description (reexec/PROTOCOL.md and reexec/internal/handover) and not from its code.

// handoverVariable tells a process that it is a successor: "socket,stderr,PID of the predecessor".
const handoverVariable = "HOLDFAST_HANDOVER"

// Kinds of frames that a successor sends.
const (
	kindReady = 5
	kindBeat  = 6
)

// Where the fields of a frame's header are. The checksum is of all before it and of the payload.
const (
	atKind, atSeq, atChecksum, headerSize = 6, 8, 16, 20
	maxFrame                              = 1 << 18
)

// A relay stands between a successor and its predecessor.
type relay struct {
	inner, outer int // its ends of the two socket pairs
	hooks        []hook

	mu     sync.Mutex
	frame  []byte // the one that comes from the successor now
	seen   map[uint16]int
	seq    uint32 // of the last one that was sent to the predecessor
	silent bool   // nothing is passed on any more, either way
	closed bool   // outer is closed
}

type hook struct {
	kind uint16
	nth  int
	do   func()
}

// on has do called in place of passing on the nth frame of a kind.
func (r *relay) on(kind uint16, nth int, do func()) { r.hooks = append(r.hooks, hook{kind, nth, do}) }

// interpose puts a relay between this process and its predecessor.
func interpose(set func(*relay)) error {
	socket, rest, ok := strings.Cut(os.Getenv(handoverVariable), ",")
	stderr, _, ok2 := strings.Cut(rest, ",")
	outer, err := strconv.Atoi(socket)
	if !ok || !ok2 || err != nil {
		return fmt.Errorf("%s=%q: must be three numbers", handoverVariable, os.Getenv(handoverVariable))
	}
	unix.CloseOnExec(outer)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	r := &relay{inner: pair[0], outer: outer, seen: make(map[uint16]int)}
	set(r)
	go r.down()
	go r.up()
	// The predecessor of the new socket is this process.
	return os.Setenv(handoverVariable, fmt.Sprintf("%d,%s,%d", pair[1], stderr, os.Getpid()))
}

// receive returns the next message with its descriptors, and false at the end.
func receive(fd int) (data, rights []byte, ok bool) {
	data, rights = make([]byte, maxFrame), make([]byte, unix.CmsgSpace(4*256))
	for {
		n, oobn, _, _, err := unix.Recvmsg(fd, data, rights, unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EINTR || err == unix.ECONNRESET: // after it come the last words
			continue
		case err != nil || n == 0:
			return nil, nil, false
		}
		return data[:n], rights[:oobn], true
	}
}

// closeRights closes what came with a message: the receiver has copies.
func closeRights(rights []byte) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return
	}
	for _, m := range messages {
		fds, _ := unix.ParseUnixRights(&m) // of another type: none
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}
}

// down passes on what the predecessor says.
func (r *relay) down() {
	for {
		data, rights, ok := receive(r.outer)
		r.mu.Lock()
		silent := r.silent
		r.mu.Unlock()
		switch {
		case silent: // the successor hears nothing, not even the end
			if !ok {
				return
			}
		case !ok:
			_ = unix.Shutdown(r.inner, unix.SHUT_RDWR)
			return
		default:
			if err := unix.Sendmsg(r.inner, data, rights, nil, unix.MSG_NOSIGNAL); err != nil {
				slog.Warn("relay to the successor", "error", err)
			}
		}
		closeRights(rights)
	}
}

// up passes on what the successor says, or does what its fault is.
func (r *relay) up() {
	for {
		data, rights, ok := receive(r.inner)
		if !ok {
			r.mu.Lock()
			if !r.silent {
				r.closeOuter()
			}
			r.mu.Unlock()
			return
		}
		r.mu.Lock()
		r.frame = data
		kind := binary.BigEndian.Uint16(data[atKind:])
		r.seen[kind]++
		hooked := false
		for _, h := range r.hooks {
			if h.kind == kind && h.nth == r.seen[kind] {
				hooked = true
				h.do()
			}
		}
		if !hooked && !r.silent {
			r.send(data, rights)
		}
		r.mu.Unlock()
		closeRights(rights)
	}
}

// send sends a frame under the next number.
func (r *relay) send(frame, rights []byte) {
	r.seq++
	binary.BigEndian.PutUint32(frame[atSeq:], r.seq)
	sum := crc32.MakeTable(crc32.Castagnoli)
	binary.BigEndian.PutUint32(frame[atChecksum:], crc32.Update(crc32.Checksum(frame[:atChecksum], sum), sum, frame[headerSize:]))
	r.raw(frame, rights)
}

func (r *relay) raw(message, rights []byte) {
	if err := unix.Sendmsg(r.outer, message, rights, nil, unix.MSG_NOSIGNAL); err != nil {
		r.silent = true // the predecessor has given us up
	}
}

// sendAgain sends the frame twice.
func (r *relay) sendAgain() {
	r.send(r.frame, nil)
	r.send(r.frame, nil)
}

// sendRaw sends what is no frame.
func (r *relay) sendRaw(message []byte) { r.raw(message, nil) }

// sendTorn sends the frame without its last byte.
func (r *relay) sendTorn() { r.raw(r.frame[:len(r.frame)-1], nil) }

// sendKind sends the frame as one of another kind.
func (r *relay) sendKind(kind uint16) {
	binary.BigEndian.PutUint16(r.frame[atKind:], kind)
	r.send(r.frame, nil)
}

// flood sends the frame n times.
func (r *relay) flood(n int) {
	for range n {
		if r.silent {
			return
		}
		r.send(r.frame, nil)
	}
}

// sendDescriptors sends the frame with n descriptors that nobody has asked for.
func (r *relay) sendDescriptors(n int) {
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		slog.Warn("relay", "error", err)
		return
	}
	defer unix.Close(null)
	fds := make([]int, n)
	for i := range fds {
		fds[i] = null
	}
	r.send(r.frame, unix.UnixRights(fds...))
}

// hangUp closes the socket and lives on.
func (r *relay) hangUp() {
	r.silent = true
	r.closeOuter()
}

func (r *relay) closeOuter() {
	if !r.closed {
		r.closed = true
		// Whoever reads from it is woken, and the number is not used again.
		_ = unix.Shutdown(r.outer, unix.SHUT_RDWR)
	}
}
