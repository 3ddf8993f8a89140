// SPDX-License-Identifier: Apache-2.0

package handover_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/activation/activationtest"
	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

func TestMain(m *testing.M) { activationtest.Main(m) }

func pair(t *testing.T) (a, b *handover.Conn) {
	t.Helper()
	a, file, err := handover.Pair()
	if err != nil {
		t.Fatal(err)
	}
	b, err = handover.New(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestDescriptorsArriveInOrder(t *testing.T) {
	a, b := pair(t)
	var fds []int
	for i := range 150 {
		f, err := os.Create(filepath.Join(t.TempDir(), "f"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(strings.Repeat("x", i)); err != nil {
			t.Fatal(err)
		}
		fds = append(fds, int(f.Fd()))
	}
	if err := a.Send(handover.KindDescriptors, handover.Complete{Count: len(fds)}, fds...); err != nil {
		t.Fatal(err)
	}
	f, files, err := b.Receive()
	if err != nil {
		t.Fatal(err)
	}
	var c handover.Complete
	if err := f.Decode(&c); err != nil || c.Count != 150 || len(files) != 150 {
		t.Fatalf("count %d, files %d, err %v", c.Count, len(files), err)
	}
	for i, file := range files {
		st, err := file.Stat()
		if err != nil || st.Size() != int64(i) {
			t.Fatalf("file %d: size %d, %v", i, st.Size(), err)
		}
		flags, err := unix.FcntlInt(file.Fd(), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("file %d: not close-on-exec", i)
		}
		file.Close()
	}
}

func TestLastWordsComeBeforeTheEnd(t *testing.T) {
	a, b := pair(t)
	// The peer dies with unread data from us: recvmsg gives ECONNRESET first.
	if err := a.Send(handover.KindServe, nil); err != nil {
		t.Fatal(err)
	}
	if err := b.Send(handover.KindLeaving, handover.Reason{Reason: "no"}); err != nil {
		t.Fatal(err)
	}
	b.Close()
	f, _, err := a.Receive()
	if err != nil || f.Kind != handover.KindLeaving {
		t.Fatalf("got %v, %v; want leaving", f.Kind, err)
	}
	if _, _, err := a.Receive(); !errors.Is(err, io.EOF) {
		t.Fatalf("got %v, want io.EOF", err)
	}
}

func TestDescriptorLimit(t *testing.T) {
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	a, b := pair(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fds := make([]int, 100)
	for i := range fds {
		fds[i] = int(null.Fd())
	}
	receive := func(k handover.Kind) (handover.Frame, []*os.File, error) {
		t.Helper()
		if err := a.Send(k, nil, fds...); err != nil {
			t.Fatal(err)
		}
		low := old
		low.Cur = 40
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
			t.Fatal(err)
		}
		f, files, err := b.Receive()
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Fatal(err)
		}
		return f, files, err
	}
	// The answer to this kind says which have arrived: the first ones.
	f, files, err := receive(handover.KindConnections)
	if err != nil || f.Kind != handover.KindConnections || len(files) == 0 || len(files) >= 40 {
		t.Errorf("got %v with %d files, %v; want some", f.Kind, len(files), err)
	}
	for _, file := range files {
		_ = file.Close()
	}
	if _, files, err = receive(handover.KindDescriptors); !errors.Is(err, handover.ErrTruncated) || files != nil {
		t.Fatalf("got %d files, %v; want ErrTruncated and nothing", len(files), err)
	}
}

func TestForeignEnd(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := handover.New(r); err == nil {
		t.Fatal("a pipe was taken for a handover socket")
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	if _, err := handover.New(os.NewFile(uintptr(fds[0]), "stream")); err == nil || !strings.Contains(err.Error(), "seqpacket") {
		t.Fatalf("a stream socket: %v", err)
	}
}

func TestNegotiate(t *testing.T) {
	for _, c := range []struct {
		ours, theirs handover.Range
		want         int
	}{
		{handover.Range{1, 1}, handover.Range{1, 1}, 1},
		{handover.Range{1, 2}, handover.Range{1, 1}, 1},
		{handover.Range{1, 2}, handover.Range{2, 3}, 2},
		{handover.Range{2, 3}, handover.Range{1, 2}, 2},
		{handover.Range{1, 1}, handover.Range{2, 3}, 0},
		{handover.Range{3, 4}, handover.Range{1, 2}, 0},
		{handover.Range{1, 2}, handover.Range{}, 0},
		{handover.Range{1, 2}, handover.Range{2, 1}, 0},
		{handover.Range{1, 2}, handover.Range{-5, 2}, 0},
	} {
		got, err := handover.Negotiate(c.ours, c.theirs)
		if got != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("Negotiate(%v, %v) = %d, %v; want %d", c.ours, c.theirs, got, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	good, err := handover.Frame{Kind: handover.KindHello, Seq: 1, Payload: []byte(`{"pid":1}`)}.Append(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:19])
	f.Add([]byte("HFHO"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := handover.Parse(b)
		if err != nil {
			if !errors.Is(err, handover.ErrFrame) {
				t.Fatalf("not an ErrFrame: %v", err)
			}
			return
		}
		again, err := frame.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again, b) {
			t.Fatalf("parsed and encoded again:\n%x\n%x", b, again)
		}
		var h handover.Hello
		_ = frame.Decode(&h)
	})
}

func TestEveryBitCounts(t *testing.T) {
	good, err := handover.Frame{Kind: handover.KindBeat, Seq: 7, Payload: []byte(`{"ill":"x"}`)}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(good) * 8 {
		bad := bytes.Clone(good)
		bad[i/8] ^= 1 << (i % 8)
		if f, err := handover.Parse(bad); err == nil {
			t.Errorf("bit %d flipped, and it parses: %+v", i, f)
		}
	}
	for n := range good {
		if _, err := handover.Parse(good[:n]); err == nil {
			t.Errorf("cut to %d bytes, and it parses", n)
		}
	}
}

// Whatever is in a connection's description, Size is no less than what it takes.
func FuzzConnectionSize(f *testing.F) {
	f.Add("http", "", []byte(nil), int64(0))
	f.Add("", "lines", []byte("state"), int64(-1))
	f.Add("<>&\x00\xff", "\u2028\"\\", []byte{0}, int64(-1)<<63)
	f.Fuzz(func(t *testing.T, listener, kind string, state []byte, left int64) {
		c := handover.Connection{Listener: listener, Session: kind, State: state, Left: time.Duration(left)}
		text, err := json.Marshal(handover.Connections{List: []handover.Connection{c}})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(text) + len(",") - len(`{"list":[]}`); got > c.Size() {
			t.Errorf("%d bytes, Size says %d", got, c.Size())
		}
	})
}
