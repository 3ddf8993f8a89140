// SPDX-License-Identifier: Apache-2.0

package versions

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// ErrExists is in the tree of the error of [Directory.Install] for a version that is
// there: a version does not change once it is installed.
var ErrExists = errors.New("it is installed already: remove it first, or choose another name")

// Install makes a version of one file, a program that gets the given name. It is
// there as a whole and for good when Install returns nil, and not at all before. What
// is current stays.
func (d *Directory) Install(file, version, name string) (err error) {
	if err := checkName(version); err != nil {
		return err
	}
	if name == "" || name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return fmt.Errorf("program name %q: must be the name of a file", name)
	}
	wrap := func(err error) error { return fmt.Errorf("install version %s from %s: %w", version, file, err) }
	target := path.Join(versionsDir, version)
	if _, err := d.root.Lstat(target); err == nil {
		return wrap(ErrExists)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return wrap(err)
	}
	// A FIFO must not hold us up.
	from, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return wrap(err)
	}
	defer from.Close()
	if info, err := from.Stat(); err != nil {
		return wrap(err)
	} else if !info.Mode().IsRegular() {
		return wrap(errors.New("it is not a regular file"))
	}
	if err := d.clean(); err != nil {
		return wrap(err)
	}
	half := path.Join(versionsDir, newPrefix+rand.Text())
	if err := d.root.Mkdir(half, 0o755); err != nil {
		return wrap(err)
	}
	defer func() {
		if err != nil {
			_ = d.root.RemoveAll(half)
		}
	}()
	to, err := d.root.OpenFile(path.Join(half, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return wrap(err)
	}
	_, err = io.Copy(to, from)
	// Whatever the umask is.
	if err := errors.Join(err, to.Chmod(0o755), to.Sync(), to.Close(), d.root.Chmod(half, 0o755), d.syncDir(half)); err != nil {
		return wrap(err)
	}
	if err := d.root.Rename(half, target); err != nil {
		return wrap(err)
	}
	return d.syncDir(versionsDir)
}

// Prune removes the oldest versions, so that keep are left. The current one, the
// previous one and those that run stay, whatever keep is.
func (d *Directory) Prune(keep int) (removed []string, err error) {
	if keep < 0 {
		return nil, fmt.Errorf("keep %d versions: must not be negative", keep)
	}
	if err := d.clean(); err != nil {
		return nil, err
	}
	all, err := d.List()
	if err != nil {
		return nil, err
	}
	left := len(all)
	for _, v := range slices.Backward(all) {
		if left <= keep {
			break
		}
		if v.Current || v.Previous || len(v.Running) > 0 {
			continue
		}
		// At once, or a crash would leave half a version.
		gone := path.Join(versionsDir, oldPrefix+rand.Text())
		if err := d.root.Rename(path.Join(versionsDir, v.Name), gone); err != nil {
			return removed, fmt.Errorf("remove version %s: %w", v.Name, err)
		}
		removed = append(removed, v.Name)
		left--
		if err := d.root.RemoveAll(gone); err != nil {
			return removed, fmt.Errorf("remove version %s: %w", v.Name, err)
		}
	}
	return removed, d.syncDir(versionsDir)
}

// clean removes what a crash has left half made or half removed.
func (d *Directory) clean() error {
	for _, in := range []string{".", versionsDir} {
		dir, err := d.root.Open(in)
		if err != nil {
			return err
		}
		names, err := dir.Readdirnames(-1)
		if err := errors.Join(err, dir.Close()); err != nil {
			return err
		}
		for _, name := range names {
			if strings.HasPrefix(name, newPrefix) || strings.HasPrefix(name, oldPrefix) {
				if err := d.root.RemoveAll(path.Join(in, name)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
