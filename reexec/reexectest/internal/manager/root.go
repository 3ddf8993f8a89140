// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"
)

// MaxRoot leaves room for a path such as /run/myapp/control.sock in the 107
// bytes of the address of a Unix socket.
const MaxRoot = 48

// CheckRoot says whether a unit can live below a directory, whose path has no
// symbolic links.
func CheckRoot(dir string) error {
	switch {
	case !filepath.IsAbs(dir):
		return fmt.Errorf("directory %s: must be absolute", dir)
	case len(dir) > MaxRoot:
		return fmt.Errorf("directory %s: has %d bytes, at most %d leave room for paths of sockets", dir, len(dir), MaxRoot)
	case strings.ContainsFunc(dir, unicode.IsSpace):
		// The kernel splits the first line of a script at spaces.
		return fmt.Errorf("directory %q: must have no spaces", dir)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s: must be a directory", dir)
	}
	if err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		return fmt.Errorf("directory %s: must be writable: %w", dir, err)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err == nil && stat.Flags&unix.ST_NOEXEC != 0 {
		return fmt.Errorf("directory %s: its file system is mounted noexec, and the unit's programs are installed below it", dir)
	}
	return nil
}

// makeRoot makes the directory below which a unit lives.
func makeRoot() (string, error) {
	var errs []error
	for _, dir := range []string{os.TempDir(), "/tmp", "/var/tmp"} {
		dir, err := filepath.EvalSymlinks(dir)
		if err == nil {
			err = CheckRoot(dir)
		}
		if err == nil {
			var root string
			if root, err = os.MkdirTemp(dir, "unit"); err == nil {
				return root, nil
			}
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("no place for the unit's directory: set TMPDIR: %w", errors.Join(errs...))
}

// RemoveAll removes a directory with what is in it, also when a service took itself the
// permission to do so.
func RemoveAll(path string) error {
	err := os.RemoveAll(path)
	if err == nil {
		return nil
	}
	_ = filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		if entry != nil && entry.IsDir() && err == nil {
			_ = os.Chmod(path, 0o700) // before it is read
		}
		return nil
	})
	return os.RemoveAll(path)
}
