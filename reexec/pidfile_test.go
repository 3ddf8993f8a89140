// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

func TestWritePIDFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, pidFileName)
	for _, pid := range []int{1, 4194304, 17} {
		if err := writePIDFile(dir, pid); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != strconv.Itoa(pid)+"\n" {
			t.Errorf("file holds %q, %v; want %d", got, err, pid)
		}
	}
	// systemd takes a file only if nobody else can write it.
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm()&0o022 != 0 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v; want the file alone", entries, err)
	}
	if err := writePIDFile("", 1); err != nil {
		t.Errorf("without a directory: %v", err)
	}
	missing := filepath.Join(dir, "missing")
	if err := writePIDFile(missing, 17); err == nil || !strings.Contains(err.Error(), "name PID 17 in "+missing) {
		t.Errorf("error %v, want it to name PID and path", err)
	}
}

// An old name is worse than none.
func TestPIDFileThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	if err := writePIDFile(dir, 1); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, pidFileName)
	// In the way of the next one, as a full disk is.
	if err := os.MkdirAll(filepath.Join(path+"."+strconv.Itoa(os.Getpid()), "in the way"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writePIDFile(dir, 17); err == nil {
		t.Error("written over a directory")
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old file: %v, want none", err)
	}
}

// Whoever reads the file finds one PID or the other, never a part.
func TestPIDFileIsNeverHalfWritten(t *testing.T) {
	dir := t.TempDir()
	if err := writePIDFile(dir, 1); err != nil {
		t.Fatal(err)
	}
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := range 2000 {
			if err := writePIDFile(dir, []int{1, 4194304}[i%2]); err != nil {
				t.Error(err)
				return
			}
		}
	})
	done := make(chan struct{})
	go func() { writer.Wait(); close(done) }()
	for {
		got, err := os.ReadFile(filepath.Join(dir, pidFileName))
		if err != nil || string(got) != "1\n" && string(got) != "4194304\n" {
			t.Errorf("read %q, %v", got, err)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}
