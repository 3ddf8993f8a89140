// SPDX-License-Identifier: Apache-2.0

package versions

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	versionsDir  = "versions"
	currentLink  = "current"
	previousLink = "previous"
	lockName     = ".lock"
	newPrefix    = ".new-"     // of what is being made
	oldPrefix    = ".removed-" // of what is being removed
)

// Previous may be given to [Directory.Resolve] in the place of a version: it is the
// one that the link of that name leads to.
const Previous = previousLink

// ErrNone is in the tree of errors that say that a link is not there: nothing was
// switched yet, or there is no version before.
var ErrNone = errors.New("no such link yet")

// ErrBusy says that another process is at work in the directory.
var ErrBusy = errors.New("another process is at work there: wait until it has ended")

// A NoVersionError says that a version is not installed.
type NoVersionError struct {
	Directory, Version string
}

func (e *NoVersionError) Error() string {
	return fmt.Sprintf("version %q is not in %s: install it first", e.Version, filepath.Join(e.Directory, versionsDir))
}

// Version is one that is installed.
type Version struct {
	Name string `json:"version"`
	// Installed is the time of its directory.
	Installed time.Time `json:"installed"`
	Current   bool      `json:"current,omitempty"`
	Previous  bool      `json:"previous,omitempty"`
	// Running are processes whose program is in it, as far as this user can see.
	Running []int `json:"running,omitempty"`
}

// Directory has versions side by side. Its methods never leave it, whatever links
// others have put there. Close it.
type Directory struct {
	path string
	root *os.Root
	lock *os.File // nil if it is only read
}

// Open opens a directory to look at it.
func Open(path string) (*Directory, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("directory %q: must be an absolute path", path)
	}
	// The links lead from here, and running programs are seen by their real paths.
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(real)
	if err != nil {
		return nil, err
	}
	return &Directory{path: real, root: root}, nil
}

// OpenToChange opens a directory, and keeps others from changing it by this package
// until it is closed: they get [ErrBusy]. It makes the directory of the versions.
func OpenToChange(path string) (*Directory, error) {
	d, err := Open(path)
	if err != nil {
		return nil, err
	}
	d.lock, err = d.openLock()
	if err == nil {
		err = syscall.Flock(int(d.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrBusy
	}
	if err == nil {
		if err = d.root.Mkdir(versionsDir, 0o755); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("change %s: %w", d.path, err), d.Close())
	}
	return d, nil
}

// openLock opens the file that is locked. Whoever may open a file can lock it, so that
// is for those who may change the directory, and the directory itself, which all may
// open, would not do.
func (d *Directory) openLock() (*os.File, error) {
	for {
		f, err := d.root.OpenFile(lockName, os.O_WRONLY|syscall.O_NOFOLLOW, 0)
		if !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
		if f, err = d.makeLock(); !errors.Is(err, fs.ErrExist) {
			return f, err
		}
	}
}

func (d *Directory) makeLock() (*os.File, error) {
	f, err := d.root.OpenFile(lockName, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	// Root does not keep the owner out.
	dir, err := d.root.Stat(".")
	if err == nil {
		if st := dir.Sys().(*syscall.Stat_t); os.Geteuid() == 0 {
			err = f.Chown(int(st.Uid), int(st.Gid))
		}
		err = errors.Join(err, f.Chmod(0o600|dir.Mode().Perm()&0o020))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Find finds the directory that the path of a program leads through, as
// /usr/lib/myapp/current/myapp does. Ok is false if it leads through none.
func Find(program string) (dir string, ok bool) {
	for at := filepath.Dir(program); at != "/" && at != "."; at = filepath.Dir(at) {
		if filepath.Base(at) != currentLink {
			continue
		}
		if target, err := os.Readlink(at); err == nil {
			if _, err := versionOf(target); err == nil {
				return filepath.Dir(at), true
			}
		}
	}
	return "", false
}

// Path is that of the directory, without links.
func (d *Directory) Path() string { return d.path }

// Close closes the directory, and lets others change it.
func (d *Directory) Close() error {
	err := d.root.Close()
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
	}
	return err
}

// Names are those of Debian's and RPM's versions; none begins with a dot.
var nameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+~:_^-]{0,127}$`)

func checkName(version string) error {
	if !nameRE.MatchString(version) || version == currentLink || version == previousLink {
		return fmt.Errorf("version %q: must be letters, digits and any of .+~:_^-, begin with a letter or a digit, and have 128 characters at most", version)
	}
	return nil
}

func versionOf(target string) (string, error) {
	dir, version := path.Split(target)
	if dir != versionsDir+"/" {
		return "", fmt.Errorf("it leads to %q and must lead to %s/VERSION", target, versionsDir)
	}
	return version, checkName(version)
}

func (d *Directory) link(name string) (string, error) {
	target, err := d.root.Readlink(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = ErrNone
	case err == nil:
		target, err = versionOf(target)
	}
	if err != nil {
		return "", fmt.Errorf("link %s: %w", filepath.Join(d.path, name), err)
	}
	return target, nil
}

// Current is the version that starts.
func (d *Directory) Current() (string, error) { return d.link(currentLink) }

// Previous is the version that was current before.
func (d *Directory) Previous() (string, error) { return d.link(previousLink) }

// Resolve returns the version, which must be installed, or what [Previous] stands for.
func (d *Directory) Resolve(version string) (string, error) {
	if version == Previous {
		var err error
		if version, err = d.Previous(); err != nil {
			return "", err
		}
	}
	if err := checkName(version); err != nil {
		return "", err
	}
	info, err := d.root.Lstat(path.Join(versionsDir, version))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return "", &NoVersionError{d.path, version}
	}
	return version, err
}

// List returns the versions, the newest first.
func (d *Directory) List() ([]Version, error) {
	current, err := d.Current()
	if err != nil && !errors.Is(err, ErrNone) {
		return nil, err
	}
	previous, err := d.Previous()
	if err != nil && !errors.Is(err, ErrNone) {
		return nil, err
	}
	dir, err := d.root.Open(versionsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	running := d.running()
	var all []Version
	for _, e := range entries {
		if !e.IsDir() || checkName(e.Name()) != nil {
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue // removed meanwhile
		}
		all = append(all, Version{
			Name: e.Name(), Installed: info.ModTime(),
			Current: e.Name() == current, Previous: e.Name() == previous, Running: running[e.Name()],
		})
	}
	slices.SortFunc(all, func(a, b Version) int {
		return cmp.Or(b.Installed.Compare(a.Installed), strings.Compare(b.Name, a.Name))
	})
	return all, nil
}

// running finds the processes of each version, as far as this user can see them.
func (d *Directory) running() map[string][]int {
	found := map[string][]int{}
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return nil // the pattern is right
	}
	for _, link := range links {
		exe, err := os.Readlink(link)
		if err != nil {
			continue
		}
		if version, ok := d.versionAt(exe); ok {
			var pid int
			if _, err := fmt.Sscanf(link, "/proc/%d/exe", &pid); err == nil {
				found[version] = append(found[version], pid)
			}
		}
	}
	return found
}

// versionAt is the version that a file without links on its path belongs to.
func (d *Directory) versionAt(file string) (string, bool) {
	rest, ok := strings.CutPrefix(file, filepath.Join(d.path, versionsDir)+"/")
	version, _, inside := strings.Cut(rest, "/")
	return version, ok && inside && checkName(version) == nil
}

// syncDir makes what was renamed in a directory last.
func (d *Directory) syncDir(name string) error {
	f, err := d.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
