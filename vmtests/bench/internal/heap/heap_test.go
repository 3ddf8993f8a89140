// SPDX-License-Identifier: Apache-2.0

package heap_test

import (
	"runtime"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/heap"
)

func TestFill(t *testing.T) {
	for _, bytes := range []int64{0, 1, heap.NodeSize, 3*heap.NodeSize + 1, 1 << 20} {
		if got, want := heap.Fill(bytes).Bytes(), bytes-bytes%heap.NodeSize; got != want {
			t.Errorf("Fill(%d) makes %d bytes, want %d", bytes, got, want)
		}
	}
}

// What the garbage collector finds is what was asked for.
func TestFillIsAlive(t *testing.T) {
	var before, during runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const bytes = 8 << 20
	h := heap.Fill(bytes)
	runtime.GC()
	runtime.ReadMemStats(&during)
	runtime.KeepAlive(h)
	if grown := int64(during.HeapAlloc) - int64(before.HeapAlloc); grown < bytes*9/10 || grown > bytes*3/2 {
		t.Errorf("the heap has grown by %d bytes, want about %d", grown, bytes)
	}
}
