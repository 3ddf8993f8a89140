// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// pidFileName is the file that PIDFile= of the unit names. systemd reads it
// when main dies and when the reload command ends (service.c,
// service_load_pid_file).
const pidFileName = "main.pid"

// writePIDFile replaces the file by rename, so that systemd never reads half
// of it. Without a runtime directory it does nothing. If the file cannot be
// written, on a full disk, there is none after it: systemd keeps the main process
// that it knows then, while an old name would make it take the predecessor for
// main again, when the reload command ends, and stop the service with that.
func writePIDFile(directory string, pid int) error {
	if directory == "" {
		return nil
	}
	path := filepath.Join(directory, pidFileName)
	next := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := writeNew(next, strconv.Itoa(pid)+"\n"); err != nil {
		_ = os.Remove(path)
		return fmt.Errorf("name PID %d in %s: %w", pid, path, err)
	}
	if err := os.Rename(next, path); err != nil {
		_, _ = os.Remove(next), os.Remove(path)
		return fmt.Errorf("name PID %d in %s: %w", pid, path, err)
	}
	return nil
}

// writeNew makes a file: what has the name, such as a link to another file, is
// removed and not written.
func writeNew(path, text string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(path)
	}
	return err
}

// checkRuntimeDirectory refuses a directory in which another user can replace the
// control socket, whose client root may be, and the PID file, which systemd
// believes. The service's own group may write it.
func checkRuntimeDirectory(directory string) error {
	var st unix.Stat_t
	if err := unix.Stat(directory, &st); err != nil {
		return fmt.Errorf("reexec: runtime directory %s: %w: set RuntimeDirectory= in the unit", directory, err)
	}
	euid, egid := uint32(os.Geteuid()), uint32(os.Getegid())
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("reexec: runtime directory %s is %s: set RuntimeDirectory= in the unit", directory, fileType(st.Mode&unix.S_IFMT))
	case st.Uid != 0 && st.Uid != euid:
		return fmt.Errorf("reexec: runtime directory %s belongs to uid %d, this is uid %d: set RuntimeDirectory= in the unit", directory, st.Uid, euid)
	case st.Mode&0o002 != 0 || st.Mode&0o020 != 0 && st.Gid != 0 && st.Gid != egid:
		return fmt.Errorf("reexec: runtime directory %s has mode %04o: others could replace the control socket and the PID file: set RuntimeDirectoryMode=0755", directory, st.Mode&0o7777)
	}
	return nil
}
