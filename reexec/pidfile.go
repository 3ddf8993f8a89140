// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// pidFileName is the file that PIDFile= of the unit names. systemd reads it
// when main dies and when the reload command ends (service.c,
// service_load_pid_file).
const pidFileName = "main.pid"

// writePIDFile replaces the file by rename, so that systemd never reads half
// of it. Without a runtime directory it does nothing.
func writePIDFile(directory string, pid int) error {
	if directory == "" {
		return nil
	}
	path := filepath.Join(directory, pidFileName)
	next := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.WriteFile(next, []byte(strconv.Itoa(pid)+"\n"), 0o644); err != nil {
		_ = os.Remove(next)
		return fmt.Errorf("name PID %d in %s: %w", pid, path, err)
	}
	if err := os.Rename(next, path); err != nil {
		_ = os.Remove(next)
		return fmt.Errorf("name PID %d in %s: %w", pid, path, err)
	}
	return nil
}
