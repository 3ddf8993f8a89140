// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// PidfdInode returns the inode number of a pidfd for [MainPIDFDID], which no
// other process of this boot has or will have. The error wraps
// [errors.ErrUnsupported] on a kernel before 6.9, where all pidfds share one
// inode, and for a descriptor that is not a pidfd. See
// sd_pidfd_get_inode_id(3).
func PidfdInode(pidfd syscall.Conn) (uint64, error) {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("get inode of pidfd: %w", err)
	}
	var filesystem unix.Statfs_t
	var file unix.Stat_t
	var statErr error
	err = raw.Control(func(fd uintptr) {
		statErr = errors.Join(
			os.NewSyscallError("fstatfs", unix.Fstatfs(int(fd), &filesystem)),
			os.NewSyscallError("fstat", unix.Fstat(int(fd), &file)),
		)
	})
	if err := errors.Join(err, statErr); err != nil {
		return 0, fmt.Errorf("get inode of pidfd: %w", err)
	}
	if uint32(filesystem.Type) != unix.PID_FS_MAGIC {
		return 0, fmt.Errorf("get inode of pidfd: descriptor is not on pidfs: %w", errors.ErrUnsupported)
	}
	return file.Ino, nil
}
