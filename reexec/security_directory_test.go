// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// A directory in which other users can replace files is none for the control socket
// and the PID file.
func TestRuntimeDirectoryOfOthers(t *testing.T) {
	const stranger = 4711
	for _, c := range []struct {
		name     string
		needRoot bool
		make     func(path string) error
		want     string // of the error, after the path; "": accepted
	}{
		{"ours", false, func(path string) error { return os.Mkdir(path, 0o755) }, ""},
		{"of our group", false, func(path string) error { return errors.Join(os.Mkdir(path, 0o755), os.Chmod(path, 0o775)) }, ""},
		{"a link to ours", false, func(path string) error { return errors.Join(os.Mkdir(path+".d", 0o755), os.Symlink(path+".d", path)) }, ""},
		{"missing", false, func(string) error { return nil }, ": no such file or directory: set RuntimeDirectory="},
		{"a file", false, func(path string) error { return os.WriteFile(path, nil, 0o644) }, " is a file"},
		{"a FIFO", false, func(path string) error { return unix.Mkfifo(path, 0o644) }, " is a FIFO"},
		{"everybody's", false, func(path string) error { return errors.Join(os.Mkdir(path, 0o755), os.Chmod(path, 0o777)) }, " has mode 0777: others could replace"},
		// As /tmp: whoever comes first has the name.
		{"everybody's and sticky", false, func(path string) error {
			return errors.Join(os.Mkdir(path, 0o755), os.Chmod(path, 0o777|os.ModeSticky))
		}, " has mode 1777: others could replace"},
		{"another user's", true, func(path string) error { return errors.Join(os.Mkdir(path, 0o755), os.Chown(path, stranger, 0)) }, " belongs to uid 4711, this is uid 0"},
		{"of another group", true, func(path string) error {
			return errors.Join(os.Mkdir(path, 0o755), os.Chown(path, 0, stranger), os.Chmod(path, 0o775))
		}, " has mode 0775: others could replace"},
		{"of another group that cannot write", true, func(path string) error {
			return errors.Join(os.Mkdir(path, 0o750), os.Chown(path, 0, stranger))
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.needRoot && os.Geteuid() != 0 {
				t.Skip("only root may give a directory to somebody else (chown(2))")
			}
			path := filepath.Join(t.TempDir(), "run")
			if err := c.make(path); err != nil {
				t.Fatal(err)
			}
			err := checkRuntimeDirectory(path)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), path+c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// A link or a FIFO in the place of the PID file, or of the file that will be it, is
// replaced: nothing is written through it, and nothing blocks.
func TestPIDFileIsNotWrittenThroughLinks(t *testing.T) {
	for _, name := range []string{pidFileName, fmt.Sprintf("%s.%d", pidFileName, os.Getpid())} {
		for _, c := range []struct {
			name string
			make func(victim, path string) error
		}{
			{"symbolic link", os.Symlink},
			{"hard link", os.Link},
			{"dangling link", func(victim, path string) error { return os.Symlink(victim+".missing", path) }},
			{"FIFO", func(_, path string) error { return unix.Mkfifo(path, 0o666) }},
			{"socket", func(_, path string) error {
				ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
				if err == nil {
					ln.SetUnlinkOnClose(false)
					err = ln.Close()
				}
				return err
			}},
		} {
			t.Run(name[:min(len(name), 9)]+" "+c.name, func(t *testing.T) {
				dir := openDirectory(t) // short, for the socket
				victim, path := filepath.Join(dir, "victim"), filepath.Join(dir, pidFileName)
				if err := errors.Join(os.WriteFile(victim, []byte("precious"), 0o644), c.make(victim, filepath.Join(dir, name))); err != nil {
					t.Fatal(err)
				}
				if err := writePIDFile(dir, 17); err != nil {
					t.Fatal(err)
				}
				if got, err := os.ReadFile(victim); string(got) != "precious" || err != nil {
					t.Errorf("the file behind the link holds %q, %v", got, err)
				}
				if _, err := os.Lstat(victim + ".missing"); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the file behind the dangling link: %v", err)
				}
				st, err := os.Lstat(path)
				if err != nil || !st.Mode().IsRegular() {
					t.Fatalf("%v, %v; want a regular file", st, err)
				}
				if got, err := os.ReadFile(path); string(got) != "17\n" || err != nil {
					t.Errorf("the PID file holds %q, %v", got, err)
				}
			})
		}
	}
}

// What has the name of the control socket and is no dead socket stays, and the
// service does not start without the name.
func TestControlSocketIsNotAnothers(t *testing.T) {
	living := func(path string) (*net.UnixListener, error) {
		return net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	}
	for _, c := range []struct {
		name string
		make func(t *testing.T, victim, path string) error
		want string
	}{
		{"link to a file", func(_ *testing.T, victim, path string) error { return os.Symlink(victim, path) }, "address already in use"},
		{"dangling link", func(_ *testing.T, victim, path string) error { return os.Symlink(victim+".missing", path) }, "address already in use"},
		{"a file", func(_ *testing.T, victim, path string) error { return os.Link(victim, path) }, "address already in use"},
		{"a directory", func(_ *testing.T, _, path string) error { return os.Mkdir(path, 0o755) }, "address already in use"},
		{"a living socket", func(t *testing.T, _, path string) error {
			ln, err := living(path)
			t.Cleanup(func() { _ = ln.Close() })
			return err
		}, "another process serves it"},
		{"link to a living socket", func(t *testing.T, _, path string) error {
			ln, err := living(path + ".other")
			t.Cleanup(func() { _ = ln.Close() })
			return errors.Join(err, os.Symlink(path+".other", path))
		}, "address already in use"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := openDirectory(t)
			victim, path := filepath.Join(dir, "victim"), filepath.Join(dir, control.SocketName)
			if err := errors.Join(os.WriteFile(victim, []byte("precious"), 0o644), c.make(t, victim, path)); err != nil {
				t.Fatal(err)
			}
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			s := &Service{opts: Options{RuntimeDirectory: dir}, log: slog.New(slog.DiscardHandler)}
			if err := s.openControl(nil); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if s.controlListener != nil {
				_ = s.controlListener.Close()
			}
			if now, err := os.Lstat(path); err != nil || !os.SameFile(before, now) {
				t.Errorf("what was there is no longer: %v", err)
			}
			if got, err := os.ReadFile(victim); string(got) != "precious" || err != nil {
				t.Errorf("the file behind the link holds %q, %v", got, err)
			}
		})
	}
}
