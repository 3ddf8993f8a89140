// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// CacheDir returns the directory that images are kept in: $HOLDFAST_CACHE, else /var/cache/holdfast for
// root and holdfast in the user's cache directory for others. It need not exist yet.
func CacheDir() (string, error) {
	if dir := os.Getenv("HOLDFAST_CACHE"); dir != "" {
		if !filepath.IsAbs(dir) {
			return "", fmt.Errorf("HOLDFAST_CACHE=%q: must be an absolute path", dir)
		}
		return dir, nil
	}
	if os.Geteuid() == 0 {
		return "/var/cache/holdfast", nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache directory: %w; set HOLDFAST_CACHE", err)
	}
	return filepath.Join(dir, "holdfast"), nil
}

// lockFile opens name, creates it if need be, and takes a flock(2) lock of the given kind (LOCK_SH or
// LOCK_EX) on it. Closing the file releases the lock; so does the death of the process.
func lockFile(ctx context.Context, name string, kind int) (*os.File, error) {
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = flock(file, kind|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		// Wait for it on a goroutine, because nothing ends a blocked flock early: when ctx ends first,
		// the goroutine stays until the present holder lets go.
		locked := make(chan error, 1)
		go func() { locked <- flock(file, kind) }()
		select {
		case err = <-locked:
		case <-ctx.Done():
			go func() {
				<-locked
				file.Close()
			}()
			return nil, fmt.Errorf("lock %s: %w", name, context.Cause(ctx))
		}
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return file, nil
}

func flock(file *os.File, how int) error {
	for {
		if err := unix.Flock(int(file.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}
