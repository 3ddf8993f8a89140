// SPDX-License-Identifier: Apache-2.0

package stateframe_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/internal/stateframe"
)

const (
	mebibyte = 1 << 20
	gibibyte = 1 << 30
)

// kilobytes reads a line of a file such as /proc/self/status.
func kilobytes(t testing.TB, path, key string) (n int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		if rest, ok := strings.CutPrefix(in.Text(), key+":"); ok {
			if _, err := fmt.Sscan(rest, &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%s has no %s", path, key)
	return 0
}

// writeLarge makes a frame of a state that no buffer holds.
func writeLarge(t testing.TB, size int) *os.File {
	t.Helper()
	piece := make([]byte, mebibyte)
	for i := range piece {
		piece[i] = byte(i * 7)
	}
	f, _, err := stateframe.Write(example, func(w io.Writer) error {
		for range size / len(piece) {
			if _, err := w.Write(piece); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// ownMemory is what the process has of its own, in KiB: not what is in a memfd,
// whether it is mapped or not.
func ownMemory(t testing.TB) int {
	debug.FreeOSMemory()
	return kilobytes(t, "/proc/self/status", "RssAnon")
}

// A large state is neither written from a copy nor read into one: what grows is
// the mapping, which is the memfd itself. The benchmarks do so with 1 GiB.
func TestLargeStatesAreMapped(t *testing.T) {
	const size = 128 * mebibyte
	before := ownMemory(t)
	f := writeLarge(t, size)
	defer f.Close()
	v, err := stateframe.Open(f, example.Name, example.Version)
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Payload) != size {
		t.Fatalf("%d bytes", len(v.Payload))
	}
	mapped := kilobytes(t, "/proc/self/status", "RssShmem") << 10
	if mapped < size {
		t.Errorf("%d MiB are mapped, less than the state", mapped/mebibyte)
	}
	if grown := ownMemory(t) - before; grown > 16<<10 {
		t.Errorf("%d KiB of memory of its own for a state of %d MiB", grown, size/mebibyte)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if left := kilobytes(t, "/proc/self/status", "RssShmem") << 10; left > mapped-size/2 {
		t.Errorf("%d MiB are mapped after the end", left/mebibyte)
	}
}

func BenchmarkOpenGibibyte(b *testing.B) {
	f := writeLarge(b, gibibyte)
	defer f.Close()
	b.SetBytes(gibibyte)
	before := ownMemory(b)
	for b.Loop() {
		v, err := stateframe.Open(f, example.Name, example.Version)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		b.ReportMetric(float64(ownMemory(b)-before), "own-KiB")
		b.StartTimer()
		if err := v.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWriteGibibyte(b *testing.B) {
	b.SetBytes(gibibyte)
	before := ownMemory(b)
	for b.Loop() {
		f := writeLarge(b, gibibyte)
		b.StopTimer()
		b.ReportMetric(float64(ownMemory(b)-before), "own-KiB")
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkSmall is the price of one commit of a small state, less systemd's part.
func BenchmarkSmall(b *testing.B) {
	payload := make([]byte, 1<<10)
	for b.Loop() {
		f, _, err := stateframe.Write(example, func(w io.Writer) error { _, err := w.Write(payload); return err })
		if err != nil {
			b.Fatal(err)
		}
		v, err := stateframe.Open(f, example.Name, example.Version)
		if err != nil {
			b.Fatal(err)
		}
		if err := v.Close(); err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
