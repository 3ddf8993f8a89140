// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The kernel's table of a process's descriptors doubles when it is full. Threads
// share it, so that whoever needs the room waits until no processor reads the
// old one (synchronize_rcu in expand_fdtable, fs/file.c): 8 to 16 ms were seen
// each time, where an upgrade needs 6. So it grows before there is an upgrade,
// and a successor gets one of the same size: fork makes it as large as the
// highest descriptor asks for, and exec keeps it.

// lastNumbers is how many of the table's numbers are tried for the descriptor that
// makes a child's table as large.
const lastNumbers = 16

// tableSize is how many descriptors the table has room for, 0 if unknown.
func tableSize() int {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "FDSize:"); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(value)) // 0 on an error
			return n
		}
	}
	return 0
}

// makeRoom has the table grow so far that everything open now, and as many copies
// of it, fit in. A limit of open files that is lower stays as it is.
func makeRoom() {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	// The lowest free number, so about as many are open.
	want := 2*fd + 64
	if want <= tableSize() {
		return
	}
	if last, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, want-1); err == nil {
		_ = unix.Close(last)
	}
}
