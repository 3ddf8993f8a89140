// SPDX-License-Identifier: Apache-2.0

package handover_test

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// rawPair is a Conn and the bare socket at its other end, whose owner keeps to no
// rules.
func rawPair(t *testing.T) (c *handover.Conn, hostile int) {
	t.Helper()
	c, file, err := handover.Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = c.Close(), file.Close() })
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	return c, int(file.Fd())
}

// sendEmpty sends a message without a byte, with descriptors if there are any. Package
// unix would add a byte.
func sendEmpty(fd int, fds ...int) error {
	var header unix.Msghdr
	if len(fds) > 0 {
		rights := unix.UnixRights(fds...)
		header.Control = &rights[0]
		header.SetControllen(len(rights))
	}
	if _, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&header)), 0); errno != 0 {
		return errno
	}
	return nil
}

// witness is the reading end of a pipe. It ends when all copies of the writing end
// are closed, those on their way and those that have arrived.
type witness struct {
	*os.File
	other *os.File
}

func newWitness(t *testing.T) witness {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	return witness{r, w}
}

func (w witness) mustEnd(t *testing.T) {
	t.Helper()
	_ = w.other.Close()
	_ = w.SetReadDeadline(time.Now().Add(20 * time.Second))
	if n, err := w.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("a descriptor that was refused is still open: %d, %v", n, err)
	}
}

// Whatever comes with a message that is refused is closed, and an empty one is not
// the end of whoever has sent it.
func TestHostileMessages(t *testing.T) {
	good, err := handover.Frame{Kind: handover.KindBeat, Seq: 1, Payload: []byte("{}")}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	largest, err := handover.Frame{Kind: handover.KindBeat, Seq: 1, Payload: make([]byte, handover.MaxPayload)}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	again, err := handover.Frame{Kind: handover.KindBeat, Seq: 7, Payload: []byte("{}")}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name        string
		message     []byte
		descriptors int
		want        error
	}{
		{"empty", nil, 0, handover.ErrFrame},
		{"empty with descriptors", nil, 3, handover.ErrFrame},
		{"no frame, with descriptors", []byte("x"), 3, handover.ErrFrame},
		{"more descriptors than a frame may have", good, 253, handover.ErrTruncated},
		{"too long", append(largest, 0), 3, handover.ErrFrame},
		{"far too long", append(largest, make([]byte, 32<<10)...), 3, handover.ErrFrame},
		{"out of order", again, 3, handover.ErrFrame},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, hostile := rawPair(t)
			w := newWitness(t)
			fds := slices.Repeat([]int{int(w.other.Fd())}, c.descriptors)
			send := func() error { return unix.Sendmsg(hostile, c.message, unix.UnixRights(fds...), nil, 0) }
			if len(c.message) == 0 {
				send = func() error { return sendEmpty(hostile, fds...) }
			}
			if err := send(); err != nil {
				t.Fatal(err)
			}
			_, files, err := conn.Receive()
			if !errors.Is(err, c.want) || errors.Is(err, io.EOF) || files != nil {
				t.Errorf("%d files, %v; want none, and %v", len(files), err, c.want)
			}
			w.mustEnd(t)
		})
	}
	t.Run("the largest frame", func(t *testing.T) {
		conn, hostile := rawPair(t)
		if err := unix.Sendmsg(hostile, largest, nil, nil, 0); err != nil {
			t.Fatal(err)
		}
		if f, _, err := conn.Receive(); err != nil || len(f.Payload) != handover.MaxPayload {
			t.Errorf("%d bytes, %v", len(f.Payload), err)
		}
	})
	t.Run("empty and gone", func(t *testing.T) {
		conn, file, err := handover.Pair()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		err = sendEmpty(int(file.Fd()))
		_ = file.Close()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := conn.Receive(); !errors.Is(err, io.EOF) {
			t.Errorf("%v, want the end", err)
		}
	})
}

// Who never reads holds a sender up for a second, not for good.
func TestSendToOneWhoNeverReads(t *testing.T) {
	conn, _ := rawPair(t)
	reason := handover.Reason{Reason: strings.Repeat("x", handover.MaxPayload/2)}
	deadline := time.Now().Add(20 * time.Second)
	for {
		began := time.Now()
		err := conn.Send(handover.KindUndo, reason)
		if took := time.Since(began); errors.Is(err, os.ErrDeadlineExceeded) {
			if took > handover.SendTimeout+10*time.Second {
				t.Errorf("it took %v to give up, want about %v", took, handover.SendTimeout)
			}
			return
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%v; want the socket to be full", err)
		}
	}
}
