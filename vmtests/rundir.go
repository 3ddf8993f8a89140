// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// runDirs holds one directory for each machine: its lock, its sockets, and the name of its control
// group. A machine whose lock nobody holds has lost its owner.
const runDirs = "/run/holdfast-vmtests"

// cgroupPrefix begins the names of the control groups of machines.
const cgroupPrefix = "holdfast-vmtests-"

// A runDir is the directory of one machine of this process.
type runDir struct {
	name string // of the machine
	path string
	lock *os.File
}

// newRunDir makes the directory for a machine that gets a name of its own beginning with kind.
func newRunDir(ctx context.Context, kind string) (*runDir, error) {
	all, err := lockRunDirs(ctx)
	if err != nil {
		return nil, err
	}
	defer all.Close()
	random := make([]byte, 4)
	_, _ = rand.Read(random) // never fails
	d := &runDir{name: kind + "-" + hex.EncodeToString(random)}
	d.path = filepath.Join(runDirs, d.name)
	if err := os.Mkdir(d.path, 0o700); err != nil {
		return nil, err
	}
	d.lock, err = lockFile(ctx, filepath.Join(d.path, "lock"), unix.LOCK_EX)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(d.path))
	}
	// For people who look: the lock itself says whether the owner lives.
	if _, err := fmt.Fprintln(d.lock, os.Getpid()); err != nil {
		return nil, errors.Join(err, d.remove())
	}
	return d, nil
}

// lockRunDirs keeps other processes from making and sweeping directories until the file is closed.
func lockRunDirs(ctx context.Context) (*os.File, error) {
	if err := os.MkdirAll(runDirs, 0o700); err != nil {
		return nil, err
	}
	return lockFile(ctx, filepath.Join(runDirs, ".lock"), unix.LOCK_EX)
}

// cgroupDir returns where the control group of the machine is, below the hierarchy mounted at root.
func cgroupDir(root, name string) string { return filepath.Join(root, cgroupPrefix+name) }

// remove removes the directory and lets go of the lock.
func (d *runDir) remove() error {
	err := os.RemoveAll(d.path)
	return errors.Join(err, d.lock.Close())
}

// Sweep removes what is left of machines whose process died before it could close them. The kernel ends
// such machines by itself; their control groups and directories stay. Machines of living processes are
// not touched. [Boot] and [BootVM] sweep too.
func Sweep(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return ErrNotRoot
	}
	all, err := lockRunDirs(ctx)
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	defer all.Close()
	entries, err := os.ReadDir(runDirs)
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		if entry.IsDir() {
			errs = append(errs, sweepOne(ctx, entry.Name()))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	return nil
}

func sweepOne(ctx context.Context, name string) error {
	dir := filepath.Join(runDirs, name)
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // its owner has just closed it
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if flock(lock, unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil // in use
	}
	if root, err := cgroup2Mount(); err == nil {
		if err := endCgroup(ctx, cgroup(cgroupDir(root, name))); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}

// endCgroup kills all processes of a machine's control group and removes the group.
func endCgroup(ctx context.Context, c cgroup) error {
	if !strings.HasPrefix(filepath.Base(string(c)), cgroupPrefix) {
		panic("not the control group of a machine: " + string(c))
	}
	if !c.exists() {
		return nil
	}
	if err := c.kill(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if err := c.waitEmpty(ctx); err != nil {
		return err
	}
	return c.remove()
}
