// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"os"
	"testing"
)

func TestMakeRoom(t *testing.T) {
	var open []*os.File
	defer func() { closeFiles(open) }()
	for size := tableSize(); len(open) < size*3/4; {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, f)
	}
	before := tableSize()
	if before == 0 {
		t.Fatal("/proc/self/status does not say how large the table is")
	}
	makeRoom()
	after := tableSize()
	if after < 2*len(open) {
		t.Errorf("room for %d descriptors with %d open, want for twice as many", after, len(open))
	}
	makeRoom()
	if again := tableSize(); again != after {
		t.Errorf("room for %d descriptors, and then for %d: want no change", after, again)
	}
}

// A wish beyond the limit of open files must not keep a service from its upgrade.
func TestAbove(t *testing.T) {
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	b := &binary{path: os.DevNull, file: file}
	defer b.close()
	for wish, want := range map[int]int{0: minFD(file) + 1, 200: 200, 1 << 30: minFD(file) + 1} {
		high, err := b.above(file, wish)
		if err != nil {
			t.Fatalf("wish %d: %v", wish, err)
		}
		if got := minFD(high); got < want || wish > 1<<20 && got >= wish {
			t.Errorf("wish %d: descriptor %d, want %d or a bit more", wish, got, want)
		}
		_ = high.Close()
	}
}
