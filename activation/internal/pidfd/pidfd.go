// SPDX-License-Identifier: Apache-2.0

// Package pidfd numbers processes the way LISTEN_PIDFDID does.
package pidfd

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Magic is the type of the file system of pidfds in statfs(2), since Linux 6.9.
const Magic = 0x50494446

// OwnID returns the inode number of a pidfd of this process, which no other process has until the next boot. ok
// is false before Linux 6.9, where all pidfds share one inode, and on 32-bit machines, where stat(2) does not
// give the whole number: like libsystemd, the caller then does without.
func OwnID() (id uint64, ok bool) {
	if strconv.IntSize < 64 {
		return 0, false
	}
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return 0, false
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil || int64(fs.Type) != Magic {
		return 0, false
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return 0, false
	}
	return stat.Ino, true
}
