// SPDX-License-Identifier: Apache-2.0

package lastgood

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	recordName = "record.json"
	lockName   = "lock"
	copyPrefix = "good-"
	newPrefix  = ".new-" // of a file that is being written
)

// lockPatience bounds the wait for another process: a start must not hang on one
// that was stopped.
const lockPatience = time.Second

// Directory is where the record is, and the copies of the good program and of the
// one before.
type Directory struct{ path string }

// Open makes the directory if need be, and checks that nobody but root and this
// user can change what is in it.
func Open(path string) (Directory, error) {
	if !filepath.IsAbs(path) {
		return Directory{}, fmt.Errorf("directory %q: must be an absolute path", path)
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return Directory{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return Directory{}, err
	}
	if !info.IsDir() {
		return Directory{}, &fs.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
	}
	return Directory{path}, trusted(path, info)
}

// Existing is Open for who only looks after the directory of a service, which
// may belong to another user.
func Existing(path string) (Directory, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Directory{}, err
	}
	if !info.IsDir() {
		return Directory{}, &fs.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
	}
	return Directory{path}, nil
}

// trusted says whether only root and this user may write the file.
func trusted(path string, info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("%s has mode %04o: others than its owner may write it: chmod go-w", path, mode)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: no owner", path)
	}
	if euid := uint32(os.Geteuid()); st.Uid != 0 && st.Uid != euid {
		return fmt.Errorf("%s belongs to uid %d, who may change it: chown it to root, or to the service's user (uid %d)", path, st.Uid, euid)
	}
	return nil
}

// Path is that of the directory.
func (d Directory) Path() string { return d.path }

// CopyOf is the path of the copy of a program.
func (d Directory) CopyOf(id Identity) string {
	return filepath.Join(d.path, copyPrefix+id.Short())
}

// Read returns the record. A missing one is empty. With an error the record is
// empty, too: unless the error is [ErrFuture], it may be replaced.
func (d Directory) Read() (Record, error) {
	path := filepath.Join(d.path, recordName)
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, nil
	}
	if err != nil {
		return Record{}, fmt.Errorf("read the record: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err == nil && len(data) > maxRecord {
		err = fmt.Errorf("larger than %d bytes", maxRecord)
	}
	var r Record
	if err == nil {
		r, err = decode(data)
	}
	if err != nil {
		return Record{}, fmt.Errorf("read the record %s: %w", path, err)
	}
	return r, nil
}

// Write replaces the record at once and for good: after a loss of power there
// is the old one or the new one.
func (d Directory) Write(r Record) error {
	data, err := r.encode()
	if err == nil {
		err = d.replace(recordName, 0o644, func(f *os.File) error {
			_, err := f.Write(data)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	return nil
}

// Update reads the record, has it changed, and writes it, with nobody else in
// between. A record that cannot be read is begun anew, and warn gets the error;
// one of a later release is left alone, and the error is [ErrFuture]. The record
// that is returned is what is there now.
func (d Directory) Update(warn func(error), change func(*Record) error) (Record, error) {
	unlock, err := d.lock()
	if err != nil {
		// To wait longer helps nobody: what could be lost is one count.
		warn(err)
	}
	defer unlock()
	r, err := d.Read()
	if errors.Is(err, ErrFuture) {
		return r, err
	}
	if err != nil {
		warn(fmt.Errorf("%w: it is begun anew", err))
	}
	before, _ := r.encode()
	if err := change(&r); err != nil {
		return r, err
	}
	if after, err := r.encode(); err == nil && string(after) == string(before) {
		return r, nil
	}
	return r, d.Write(r)
}

// lock keeps other processes from changing the record. Unlock is never nil.
func (d Directory) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(d.path, lockName), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return func() {}, fmt.Errorf("lock the record: %w", err)
	}
	d.chown(f)
	unlock = func() { _ = f.Close() }
	deadline := time.Now().Add(lockPatience)
	for wait := time.Millisecond; ; wait = min(2*wait, 10*time.Millisecond) {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return unlock, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) || time.Now().After(deadline) {
			return unlock, fmt.Errorf("lock the record %s: %w: it goes on without", d.path, err)
		}
		time.Sleep(wait)
	}
}

// chown gives a file of root's to whom the directory belongs: root may work on
// the directory of a service.
func (d Directory) chown(f *os.File) {
	if os.Geteuid() != 0 {
		return
	}
	// The service may have linked another file of root's to this name, where the kernel lets
	// it (fs.protected_hardlinks): that is not to become the service's.
	var have syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &have); err != nil || have.Nlink != 1 {
		return
	}
	if info, err := os.Stat(d.path); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
			_ = f.Chown(int(st.Uid), int(st.Gid)) // else it stays root's, which the service may replace
		}
	}
}

// replace puts a new file in the place of name.
func (d Directory) replace(name string, mode fs.FileMode, fill func(*os.File) error) (err error) {
	f, err := os.CreateTemp(d.path, newPrefix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	err = fill(f)
	d.chown(f)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(d.path, name)); err != nil {
		return err
	}
	return d.sync()
}

// sync makes a rename last.
func (d Directory) sync() error {
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// KeepCopy makes the copy of a program, unless it is there. The record may name
// it once this has returned the copy's stamp.
func (d Directory) KeepCopy(program *os.File, id Identity) (Stamp, error) {
	if f, err := d.openCopy(id); err == nil {
		defer f.Close()
		if have, err := Identify(f); err == nil && have == id && executable(f.Name()) == nil {
			return StampOf(f)
		}
	}
	err := d.replace(filepath.Base(d.CopyOf(id)), 0o755, func(f *os.File) error {
		// The kernel shares the blocks where the file system can, and else
		// copies without us (copy_file_range(2)).
		if _, err := program.Seek(0, io.SeekStart); err != nil {
			return err
		}
		n, err := io.Copy(f, program)
		if err == nil && n != id.Size {
			err = fmt.Errorf("%s has %d bytes, and had %d", program.Name(), n, id.Size)
		}
		return err
	})
	if err != nil {
		return Stamp{}, fmt.Errorf("copy the good program: %w", err)
	}
	f, err := d.openCopy(id)
	if err != nil {
		return Stamp{}, fmt.Errorf("copy the good program: %w", err)
	}
	defer f.Close()
	if err := executable(f.Name()); err != nil {
		return Stamp{}, fmt.Errorf("copy the good program: %w", err)
	}
	return StampOf(f)
}

// executable says so now if a file will not start. systemd mounts the state directory of
// a unit with DynamicUser= without execution from 257 on, where the file system can map
// users (systemd.exec(5), DynamicUser=), unless ExecPaths= names it.
func executable(path string) error {
	const execute = 1 // X_OK, access(2); the real and the effective user of a service are one
	if err := syscall.Access(path, execute); err != nil {
		return fmt.Errorf("%s cannot be executed (%w): allow %s in ExecPaths= of the unit, and mount it without noexec",
			path, err, filepath.Dir(path))
	}
	return nil
}

// RemoveOthers removes all copies that the record does not name, and what a crash
// has left half written. Call it after the record was written.
func (d Directory) RemoveOthers() error {
	unlock, err := d.lock() // nobody writes a file just now
	defer unlock()
	if err != nil {
		return err
	}
	r, err := d.Read()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	var keep []string
	for _, g := range []*Good{r.Good, r.Previous} {
		if g != nil {
			keep = append(keep, filepath.Base(d.CopyOf(g.Identity)))
		}
	}
	for _, e := range entries {
		if name := e.Name(); !slices.Contains(keep, name) && (strings.HasPrefix(name, copyPrefix) || strings.HasPrefix(name, newPrefix)) {
			err = errors.Join(err, os.Remove(filepath.Join(d.path, name)))
		}
	}
	return err
}

func (d Directory) openCopy(id Identity) (*os.File, error) {
	f, err := os.OpenFile(d.CopyOf(id), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", f.Name())
	}
	if err == nil {
		err = trusted(f.Name(), info)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// CheckCopy says why the copy of the good program cannot or must not start: it is gone,
// may not be executed there, or others may have changed it. The stamp saves the reading of it.
func (d Directory) CheckCopy(good *Good) error {
	if good == nil {
		return ErrNoGood
	}
	f, err := d.openCopy(good.Identity)
	if err != nil {
		return fmt.Errorf("the copy of the last good version: %w", err)
	}
	defer f.Close()
	if err := executable(f.Name()); err != nil {
		return fmt.Errorf("the copy of the last good version: %w", err)
	}
	if stamp, err := StampOf(f); err == nil && stamp == good.Copy {
		return nil
	}
	id, err := Identify(f)
	if err == nil && id != good.Identity {
		err = fmt.Errorf("%s is not what was copied", f.Name())
	}
	if err != nil {
		return fmt.Errorf("the copy of the last good version: %w", err)
	}
	return nil
}
