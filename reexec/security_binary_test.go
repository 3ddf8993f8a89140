// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// versionsOf makes a directory with two versions of this program, of which the
// second one has another size, and returns their paths.
func versionsOf(t *testing.T) (dir, one, two string) {
	t.Helper()
	dir = t.TempDir()
	one, two = filepath.Join(dir, "one"), filepath.Join(dir, "two")
	copyProgram(t, one)
	writeProgram(t, two, append(readProgram(t), 0))
	return dir, one, two
}

// sizeOfRunning is the size of the file that the process started by cmd runs.
func sizeOfRunning(t *testing.T, b *binary) int64 {
	t.Helper()
	st, err := os.Stat(fmt.Sprintf("/proc/%d/exe", execute(t, b)))
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

// execute starts b, which waits for its end until that of the test.
func execute(t *testing.T, b *binary) (pid int) {
	t.Helper()
	cmd := exec.Command(b.execPath())
	cmd.Env = append(os.Environ(), "HOLDFAST_TEST_ROLE=wait")
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = input.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return cmd.Process.Pid
}

// asUser runs f in a thread of another user's. Credentials are per thread in Linux.
func asUser(uid int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		keep := ^uintptr(0)
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
			done <- fmt.Errorf("setresuid %d: %w", uid, errno)
			return
		}
		done <- f()
	}()
	return <-done
}

// openDirectory is one that every user can enter, unlike t.TempDir.
func openDirectory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "reexec")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What was checked is what runs, whatever is at its path by then.
func TestCheckedFileRuns(t *testing.T) {
	for _, c := range []struct {
		name    string
		replace func(t *testing.T, path, other string)
	}{
		{"link switched", func(t *testing.T, path, other string) {
			if err := errors.Join(os.Symlink(other, path+".new"), os.Rename(path+".new", path)); err != nil {
				t.Fatal(err)
			}
		}},
		{"file renamed over it", func(t *testing.T, path, other string) {
			if err := os.Rename(other, path); err != nil {
				t.Fatal(err)
			}
		}},
		{"removed", func(t *testing.T, path, _ string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}},
		{"directory exchanged", func(t *testing.T, path, other string) {
			dir := filepath.Dir(path)
			if err := errors.Join(os.Rename(dir, dir+".old"), os.Mkdir(dir, 0o755), os.Rename(filepath.Join(dir+".old", "two"), path)); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, one, two := versionsOf(t)
			path := one
			if c.name == "link switched" {
				path = filepath.Join(dir, "current")
				if err := os.Symlink(one, path); err != nil {
					t.Fatal(err)
				}
			}
			b, err := openBinary(path)
			if err != nil {
				t.Fatal(err)
			}
			defer b.close()
			c.replace(t, path, two)
			if got := sizeOfRunning(t, b); got != b.was.Size {
				t.Errorf("a file of %d bytes runs, one of %d bytes was checked", got, b.was.Size)
			}
			if err := b.unchanged(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A file that is written in place after the check is not what was checked. Its
// owner alone can do it, as cp(1) does.
func TestFileWrittenInPlaceIsRefused(t *testing.T) {
	_, one, two := versionsOf(t)
	b, err := openBinary(one)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	if err := b.unchanged(); err != nil {
		t.Error(err)
	}
	writeProgram(t, one, append(readProgram(t), 0))
	if err := b.unchanged(); err == nil || !strings.Contains(err.Error(), one+" was written after it was checked: put new versions in place by rename") {
		t.Errorf("written with another size: %v", err)
	}
	same, err := openBinary(two)
	if err != nil {
		t.Fatal(err)
	}
	defer same.close()
	writeProgram(t, two, append(readProgram(t), 0))
	if err := same.unchanged(); err == nil {
		t.Error("written with the same size: accepted")
	}
}

// Another user who links to the file, which changes its time of change, does not
// keep upgrades from going on; and what runs cannot be written.
func TestHardLinkChangesNothing(t *testing.T) {
	dir, one, _ := versionsOf(t)
	b, err := openBinary(one)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	if err := os.Link(one, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := b.unchanged(); err != nil {
		t.Error(err)
	}
}

// Each directory on the path, also by way of links, must be one in which no other
// user can put a file in place.
func TestDirectoriesOfOthers(t *testing.T) {
	const stranger = 4711
	root := os.Geteuid() == 0
	for _, c := range []struct {
		name     string
		needRoot bool
		make     func(dir, program string) (path string, err error)
		want     string // of the error; "": accepted
	}{
		{"a plain directory", false, func(dir, program string) (string, error) {
			return dir + "/p/myapp", errors.Join(os.Mkdir(dir+"/p", 0o755), os.Rename(program, dir+"/p/myapp"))
		}, ""},
		{"world-writable", false, func(dir, program string) (string, error) {
			return dir + "/w/myapp", errors.Join(os.Mkdir(dir+"/w", 0o755), os.Rename(program, dir+"/w/myapp"), os.Chmod(dir+"/w", 0o777))
		}, "/w has mode 0777, so that anybody may put another file in place: chmod o-w"},
		{"world-writable and sticky", false, func(dir, program string) (string, error) {
			return dir + "/w/myapp", errors.Join(os.Mkdir(dir+"/w", 0o755), os.Rename(program, dir+"/w/myapp"), os.Chmod(dir+"/w", 0o777|os.ModeSticky))
		}, ""},
		{"group-writable", false, func(dir, program string) (string, error) {
			return dir + "/g/myapp", errors.Join(os.Mkdir(dir+"/g", 0o755), os.Rename(program, dir+"/g/myapp"), os.Chmod(dir+"/g", 0o775))
		}, ""},
		{"a world-writable one further up", false, func(dir, program string) (string, error) {
			return dir + "/w/in/myapp", errors.Join(os.MkdirAll(dir+"/w/in", 0o755), os.Rename(program, dir+"/w/in/myapp"), os.Chmod(dir+"/w", 0o777))
		}, "/w has mode 0777"},
		{"a link in a world-writable one", false, func(dir, program string) (string, error) {
			return dir + "/w/myapp", errors.Join(os.Mkdir(dir+"/w", 0o755), os.Symlink(program, dir+"/w/myapp"), os.Chmod(dir+"/w", 0o777))
		}, "/w has mode 0777"},
		{"a link through a world-writable one", false, func(dir, program string) (string, error) {
			return dir + "/current/myapp", errors.Join(os.MkdirAll(dir+"/w/v1", 0o755), os.Rename(program, dir+"/w/v1/myapp"), os.Chmod(dir+"/w", 0o777),
				os.Symlink("w/../w/./v1", dir+"/current"))
		}, "/w has mode 0777"},
		{"links that lead out of a world-writable one by ..", false, func(dir, program string) (string, error) {
			return dir + "/current/../../myapp", errors.Join(os.MkdirAll(dir+"/w/v1", 0o755), os.Rename(program, dir+"/myapp"), os.Chmod(dir+"/w", 0o777),
				os.Symlink("w/v1", dir+"/current"))
		}, "/w has mode 0777"},
		{"by way of /proc/self/cwd", false, func(dir, program string) (string, error) {
			return "/proc/self/cwd/w/myapp", errors.Join(os.Mkdir(dir+"/w", 0o755), os.Rename(program, dir+"/w/myapp"), os.Chmod(dir+"/w", 0o777))
		}, "/w has mode 0777"},
		{"links of the administrator", false, func(dir, program string) (string, error) {
			return dir + "/bin/myapp", errors.Join(os.MkdirAll(dir+"/releases/v1", 0o755), os.Rename(program, dir+"/releases/v1/myapp-1"),
				os.Symlink(dir+"/releases/v1", dir+"/current"), os.Mkdir(dir+"/bin", 0o755), os.Symlink("../current/myapp-1", dir+"/bin/myapp"))
		}, ""},
		{"another user's", true, func(dir, program string) (string, error) {
			return dir + "/o/myapp", errors.Join(os.Mkdir(dir+"/o", 0o755), os.Rename(program, dir+"/o/myapp"), os.Chown(dir+"/o", stranger, 0))
		}, "/o belongs to uid 4711, who may put another file in place: chown it to root"},
		{"another user's link in a sticky one", true, func(dir, program string) (string, error) {
			return dir + "/t/myapp", errors.Join(os.Mkdir(dir+"/t", 0o755), os.Symlink(program, dir+"/t/myapp"), os.Lchown(dir+"/t/myapp", stranger, stranger),
				os.Chmod(dir+"/t", 0o755))
		}, "link "},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.needRoot && !root {
				t.Skip("only root may give a file to somebody else (chown(2))")
			}
			dir := t.TempDir()
			t.Chdir(dir)
			program := filepath.Join(dir, "program")
			copyProgram(t, program)
			path, err := c.make(dir, program)
			if err != nil {
				t.Fatal(err)
			}
			b, err := openBinary(path)
			if err == nil {
				_ = b.close()
			}
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error %v, want it to name %s and to say %q", err, path, c.want)
			}
		})
	}
}

// A file that would change the user or the group of the service is refused.
func TestFileThatChangesTheUser(t *testing.T) {
	const stranger = 4711
	if os.Geteuid() != 0 {
		t.Skip("only root may give a file to somebody else (chown(2))")
	}
	for _, c := range []struct {
		name     string
		uid, gid int
		mode     uint32
		refused  bool
	}{
		{"setuid of root, as root", 0, 0, 0o4755, false},
		{"setgid of our group", 0, 0, 0o2755, false},
		{"setgid of another group", 0, stranger, 0o2755, true},
		{"a mark for locks", 0, stranger, 0o2745, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "myapp")
			copyProgram(t, path)
			if err := errors.Join(os.Chown(path, c.uid, c.gid), unix.Chmod(path, c.mode)); err != nil {
				t.Fatal(err)
			}
			b, err := openBinary(path)
			if err == nil {
				_ = b.close()
			}
			if refused := err != nil; refused != c.refused {
				t.Errorf("%v, want it refused: %t", err, c.refused)
			}
			if want := fmt.Sprintf("%s has mode %04o: it would run as uid", path, c.mode); c.refused && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("error %v, want %q", err, want)
			}
		})
	}
	// The same for an ordinary user, to whom a setuid bit of root's gives everything.
	path := filepath.Join(openDirectory(t), "myapp")
	copyProgram(t, path)
	if err := unix.Chmod(path, 0o4755); err != nil {
		t.Fatal(err)
	}
	if err := asUser(stranger, func() error {
		b, err := openBinary(path)
		if err == nil {
			_ = b.close()
		}
		return err
	}); err == nil || !strings.Contains(err.Error(), "it would run as uid 0") {
		t.Errorf("setuid of root, as an ordinary user: %v", err)
	}
}

// ETXTBSY protects what runs from its owner, so that unchanged holds once it does.
func TestRunningFileCannotBeWritten(t *testing.T) {
	_, one, _ := versionsOf(t)
	b, err := openBinary(one)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	execute(t, b)
	f, err := os.OpenFile(one, os.O_WRONLY, 0)
	if err == nil {
		_ = f.Close()
	}
	if !errors.Is(err, syscall.ETXTBSY) {
		t.Errorf("open for writing: %v, want ETXTBSY", err)
	}
}
