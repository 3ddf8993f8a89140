// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// withoutPrivilege has file permissions count for this test, also when it is run by root.
func withoutPrivilege(t *testing.T) {
	if os.Getuid() != 0 {
		return
	}
	const nobody = 65534
	runtime.LockOSThread()
	t.Cleanup(func() {
		if err := syscall.Setfsuid(0); err != nil {
			t.Error(err)
		}
		runtime.UnlockOSThread()
	})
	if err := syscall.Setfsuid(nobody); err != nil {
		t.Fatal(err)
	}
}

func openDir(t *testing.T) string {
	t.Helper()
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestRemoveAll(t *testing.T) {
	dir := openDir(t)
	withoutPrivilege(t)
	tree := filepath.Join(dir, "tree")
	if err := os.MkdirAll(filepath.Join(tree, "a/b/c"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"a/b/c", "a/b", "a"} {
		err := errors.Join(os.WriteFile(filepath.Join(tree, path, "file"), nil, 0), os.Chmod(filepath.Join(tree, path), 0))
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(tree); err == nil {
		t.Fatal("it could be removed anyway")
	}
	if err := RemoveAll(tree); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(tree); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is there still: %v", err)
	}
}

func TestCheckRoot(t *testing.T) {
	dir := openDir(t)
	file, sealed, spaces := filepath.Join(dir, "file"), filepath.Join(dir, "sealed"), filepath.Join(dir, "with spaces")
	if err := errors.Join(os.WriteFile(file, nil, 0o666), os.Mkdir(sealed, 0o555), os.Mkdir(spaces, 0o777)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir: "", file: "must be a directory", spaces: "must have no spaces", "tmp": "must be absolute",
		filepath.Join(dir, "none"):                       "no such file or directory",
		filepath.Join(dir, strings.Repeat("x", MaxRoot)): "leave room for paths of sockets",
	} {
		err := CheckRoot(path)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	withoutPrivilege(t)
	if err := CheckRoot(sealed); err == nil || !strings.Contains(err.Error(), sealed+": must be writable") {
		t.Errorf("%s: %v", sealed, err)
	}
}
