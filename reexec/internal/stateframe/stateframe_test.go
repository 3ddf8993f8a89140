// SPDX-License-Identifier: Apache-2.0

package stateframe_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/internal/stateframe"
)

// write makes a frame of payload.
func write(t testing.TB, h stateframe.Header, payload []byte) *os.File {
	t.Helper()
	f, got, err := stateframe.Write(h, func(w io.Writer) error { _, err := w.Write(payload); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	h.Length = uint64(len(payload))
	if got != h {
		t.Fatalf("wrote %+v, want %+v", got, h)
	}
	return f
}

// contents are all bytes of a frame.
func contents(t testing.TB, f *os.File) []byte {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<40))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// memfd holds these bytes, with these seals.
func memfd(t testing.TB, b []byte, seals int) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "test")
	t.Cleanup(func() { _ = f.Close() })
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		t.Fatal(err)
	}
	return f
}

const allSeals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

var example = stateframe.Header{Name: "sessions", Version: 2, Seq: 7}

// Whatever was written is what is read, in whichever pieces it was written.
func TestFramesKeepWhatIsWritten(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		payload := make([]byte, random.IntN(1<<random.IntN(20)))
		for i := range payload {
			payload[i] = byte(random.Uint32())
		}
		h := stateframe.Header{
			Name: strings.Repeat("n", 1+random.IntN(stateframe.MaxName)), Version: random.Uint32(), Seq: random.Uint64(),
		}
		f, written, err := stateframe.Write(h, func(w io.Writer) error {
			for rest := payload; len(rest) > 0; {
				n := min(len(rest), 1+random.IntN(5000))
				if _, err := w.Write(rest[:n]); err != nil {
					return err
				}
				rest = rest[n:]
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		peeked, err := stateframe.Peek(f)
		if err != nil || peeked != written {
			t.Fatalf("round %d: peeked %+v, %v; want %+v", round, peeked, err, written)
		}
		v, err := stateframe.Open(f, h.Name, h.Version)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if err := f.Close(); err != nil { // a view outlives it
			t.Fatal(err)
		}
		if v.Header != written || written.Length != uint64(len(payload)) || !bytes.Equal(v.Payload, payload) {
			t.Fatalf("round %d: %+v with %d bytes, want %+v with %d", round, v.Header, len(v.Payload), written, len(payload))
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		if err := v.Close(); err != nil || v.Payload != nil {
			t.Fatalf("a second close: %v", err)
		}
	}
}

func TestNobodyChangesAFrame(t *testing.T) {
	f := write(t, example, []byte("payload"))
	if _, err := f.WriteAt([]byte("P"), stateframe.HeaderSize); !errors.Is(err, unix.EPERM) {
		t.Errorf("write: %v, want EPERM", err)
	}
	for _, size := range []int64{0, 1, 1 << 20} {
		if err := f.Truncate(size); !errors.Is(err, unix.EPERM) {
			t.Errorf("truncate to %d: %v, want EPERM", size, err)
		}
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_FUTURE_WRITE); !errors.Is(err, unix.EPERM) {
		t.Errorf("another seal: %v, want EPERM", err)
	}
	if _, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); !errors.Is(err, unix.EPERM) {
		t.Errorf("a mapping to write: %v, want EPERM", err)
	}
}

// What is wrong with a frame is said by the reason.
func TestRefusedFrames(t *testing.T) {
	payload := []byte("what was saved")
	good := contents(t, write(t, example, payload))
	changed := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	plain, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close()

	for _, c := range []struct {
		what string
		f    *os.File
		want error
	}{
		{"whole", memfd(t, good, allSeals), nil},
		{"with one seal more", memfd(t, good, allSeals|unix.F_SEAL_FUTURE_WRITE), nil},
		{"no seal", memfd(t, good, 0), stateframe.ErrUnsealed},
		{"may grow", memfd(t, good, allSeals&^unix.F_SEAL_GROW), stateframe.ErrUnsealed},
		{"may shrink", memfd(t, good, allSeals&^unix.F_SEAL_SHRINK), stateframe.ErrUnsealed},
		{"may be written", memfd(t, good, allSeals&^unix.F_SEAL_WRITE), stateframe.ErrUnsealed},
		{"may be sealed", memfd(t, good, allSeals&^unix.F_SEAL_SEAL), stateframe.ErrUnsealed},
		{"a file", plain, stateframe.ErrForeign},
		{"a pipe", reader, stateframe.ErrForeign},
		{"empty", memfd(t, nil, allSeals), stateframe.ErrForeign},
		{"other magic", memfd(t, changed(0, 'X'), allSeals), stateframe.ErrForeign},
		{"other header", memfd(t, changed(5, 2), allSeals), stateframe.ErrForeign},
		{"half a header", memfd(t, good[:stateframe.HeaderSize/2], allSeals), stateframe.ErrTruncated},
		{"no payload", memfd(t, good[:stateframe.HeaderSize], allSeals), stateframe.ErrTruncated},
		{"a byte short", memfd(t, good[:len(good)-1], allSeals), stateframe.ErrTruncated},
		{"a byte long", memfd(t, append(bytes.Clone(good), 0), allSeals), stateframe.ErrTruncated},
		{"a wrong byte", memfd(t, changed(stateframe.HeaderSize, 'W'), allSeals), stateframe.ErrTorn},
		{"a wrong sequence number", memfd(t, changed(23, 8), allSeals), stateframe.ErrTorn},
		{"a wrong checksum", memfd(t, changed(12, ^good[12]), allSeals), stateframe.ErrTorn},
		{"a name that is too long", memfd(t, changed(7, 9), allSeals), stateframe.ErrTorn},
		{"another state", write(t, stateframe.Header{Name: "ledger", Version: 2}, payload), stateframe.ErrOtherName},
		{"a newer format", write(t, stateframe.Header{Name: "sessions", Version: 4}, payload), stateframe.ErrFuture},
		{"the same format", write(t, stateframe.Header{Name: "sessions", Version: 3}, payload), nil},
		{"nothing in it", write(t, example, nil), nil},
	} {
		v, err := stateframe.Open(c.f, "sessions", 3)
		if !errors.Is(err, c.want) || err == nil && c.want != nil {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
		if v != nil {
			if err := v.Close(); err != nil {
				t.Errorf("%s: %v", c.what, err)
			}
		}
	}
}

func TestEveryBitOfAFrameCounts(t *testing.T) {
	good := contents(t, write(t, example, []byte("abc")))
	for i := range len(good) * 8 {
		bad := bytes.Clone(good)
		bad[i/8] ^= 1 << (i % 8)
		if h, _, err := stateframe.Parse(bad); err == nil {
			t.Errorf("bit %d flipped, and it parses: %+v", i, h)
		}
	}
	for n := range good {
		if _, _, err := stateframe.Parse(good[:n]); err == nil {
			t.Errorf("cut to %d bytes, and it parses", n)
		}
	}
}

// A frame that could not be finished is none.
func TestUnfinishedFrames(t *testing.T) {
	broken := errors.New("broken")
	if f, _, err := stateframe.Write(example, func(w io.Writer) error {
		_, _ = w.Write(make([]byte, 1<<20))
		return broken
	}); !errors.Is(err, broken) || f != nil {
		t.Errorf("Save failed: %v, %v", f, err)
	}
	for _, name := range []string{"", "a\x00b", strings.Repeat("n", stateframe.MaxName+1)} {
		if f, _, err := stateframe.Write(stateframe.Header{Name: name}, func(io.Writer) error { return nil }); err == nil {
			t.Errorf("name %q: %v, no error", name, f)
		}
	}
}

func FuzzParse(f *testing.F) {
	good := contents(f, write(f, example, []byte("payload")))
	f.Add(good)
	f.Add(good[:stateframe.HeaderSize])
	f.Add(good[:20])
	f.Add([]byte("HFST"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, payload, err := stateframe.Parse(b)
		if err != nil {
			for _, reason := range []error{stateframe.ErrForeign, stateframe.ErrTruncated, stateframe.ErrTorn} {
				if errors.Is(err, reason) {
					return
				}
			}
			t.Fatalf("no reason: %v", err)
		}
		again := write(t, stateframe.Header{Name: h.Name, Version: h.Version, Seq: h.Seq}, payload)
		if got := contents(t, again); !bytes.Equal(got, b) {
			t.Fatalf("parsed and written again:\n%x\n%x", b, got)
		}
	})
}

// Whatever is in a descriptor, opening it is safe.
func FuzzOpen(f *testing.F) {
	good := contents(f, write(f, example, []byte("payload")))
	f.Add(good, allSeals)
	f.Add(good[:len(good)-1], allSeals)
	f.Add([]byte{}, 0)
	f.Fuzz(func(t *testing.T, b []byte, seals int) {
		file := memfd(t, b, seals&(allSeals|unix.F_SEAL_FUTURE_WRITE))
		v, err := stateframe.Open(file, "sessions", 3)
		if err != nil {
			return
		}
		if h, payload, err := stateframe.Parse(b); err != nil || h != v.Header || !bytes.Equal(payload, v.Payload) {
			t.Errorf("opened %+v, parsed %+v, %v", v.Header, h, err)
		}
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
}
