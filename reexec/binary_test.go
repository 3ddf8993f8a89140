// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"bytes"
	"debug/elf"
	encoding "encoding/binary"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// readProgram reads this test binary, which is a program that may follow
// itself.
func readProgram(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func copyProgram(t testing.TB, to string) { writeProgram(t, to, readProgram(t)) }

func writeProgram(t testing.TB, to string, data []byte) {
	t.Helper()
	if err := os.WriteFile(to, data, 0o755); err != nil {
		t.Fatal(err)
	}
}

// patched returns data with every from replaced by to, which is as long.
func patched(t testing.TB, data []byte, from, to string) []byte {
	t.Helper()
	if len(from) != len(to) || !bytes.Contains(data, []byte(from)) {
		t.Fatalf("cannot replace %q by %q", from, to)
	}
	return bytes.ReplaceAll(data, []byte(from), []byte(to))
}

// withMachine returns an ELF file for another processor.
func withMachine(t testing.TB, data []byte, m elf.Machine) []byte {
	t.Helper()
	data = bytes.Clone(data)
	order := encoding.ByteOrder(encoding.LittleEndian)
	if elf.Data(data[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order = encoding.BigEndian
	}
	const machineOffset = 18 // e_machine, see elf(5)
	order.PutUint16(data[machineOffset:], uint16(m))
	return data
}

// withoutSections returns an ELF file without the table of sections, which
// the kernel does not need.
func withoutSections(data []byte) []byte {
	data = bytes.Clone(data)
	// e_shoff, and e_shentsize to e_shstrndx, of a 64-bit file; see elf(5).
	clear(data[40:48])
	clear(data[58:64])
	return data
}

// foreignMachine is none that the tests run on.
func foreignMachine() elf.Machine { return elf.EM_SPARCV9 }

func TestOpenBinaryRefuses(t *testing.T) {
	program := readProgram(t)
	info, ok := debug.ReadBuildInfo()
	if !ok {
		t.Fatal("the test has no build information")
	}
	file := func(data []byte, mode os.FileMode) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			writeProgram(t, path, data)
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	other := info.Path[:len(info.Path)-1] + "X"
	for _, c := range []struct {
		name string
		make func(t *testing.T, path string)
		want string // after the path
	}{
		{"missing", func(*testing.T, string) {}, "no such file or directory"},
		{"dangling link", func(t *testing.T, path string) {
			if err := os.Symlink("nowhere", path); err != nil {
				t.Fatal(err)
			}
		}, "no such file or directory"},
		{"directory", func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
		}, "is not a regular file but a directory"},
		// Opening a FIFO waits for a writer, unless told otherwise.
		{"FIFO", func(t *testing.T, path string) {
			if err := unix.Mkfifo(path, 0o755); err != nil {
				t.Fatal(err)
			}
		}, "is not a regular file but a FIFO"},
		{"socket", func(t *testing.T, path string) {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
				t.Fatal(err)
			}
		}, "no such device or address"},
		{"device", func(t *testing.T, path string) {
			if err := os.Symlink("/dev/null", path); err != nil {
				t.Fatal(err)
			}
		}, "is not a regular file but a device"},
		{"not executable", file(program, 0o644), "is not executable (mode 0644)"},
		{"world-writable", file(program, 0o757), "has mode 0757: others than its owner may write it: chmod go-w"},
		{"text", file([]byte("#!/bin/sh\nexit 0\n"), 0o755), "is not an ELF executable"},
		{"empty", file(nil, 0o755), "is not an ELF executable"},
		{"truncated header", file(program[:40], 0o755), "is not an ELF executable"},
		// As a copy leaves it that is under way.
		{"truncated", file(program[:len(program)/2], 0o755), ""},
		{"truncated behind all headers", file(withoutSections(program)[:len(program)/2], 0o755), "is cut off"},
		{"another architecture", file(withMachine(t, program, foreignMachine()), 0o755), "is built for EM_SPARCV9, this machine is "},
		{"not Go", file(patched(t, program, "\xff Go buildinf:", "\xff No buildinf:"), 0o755), "it must be a Go binary with build information"},
		{"another program", file(patched(t, program, "path\t"+info.Path+"\n", "path\t"+other+"\n"), 0o755), "is the program " + other + ", the running one is " + info.Path},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "myapp")
			c.make(t, path)
			b, err := openBinary(path)
			if err == nil {
				_ = b.close()
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q, want it to name the path and to say %q", err, c.want)
			}
		})
	}
}

// A limit that is too low for an upgrade is named.
func TestOpenBinaryAtLowLimit(t *testing.T) {
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
			t.Error(err)
		}
	})
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: minExecFD, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	if _, err := openBinary("/bin/true"); err == nil || !strings.Contains(err.Error(), "raise LimitNOFILE=") {
		t.Errorf("error is %v", err)
	}
}

func TestOpenBinaryOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may give a file to somebody else (chown(2))")
	}
	path := filepath.Join(t.TempDir(), "myapp")
	copyProgram(t, path)
	if err := os.Chown(path, 4711, 0); err != nil {
		t.Fatal(err)
	}
	b, err := openBinary(path)
	if err == nil {
		_ = b.close()
		t.Fatal("accepted")
	}
	if want := path + " belongs to uid 4711, who may change it: chown it to root"; !strings.Contains(err.Error(), want) {
		t.Errorf("error %q, want %q", err, want)
	}
	// A group of root's cannot write it, another one can.
	if err := os.Chown(path, 0, 4711); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o775); err != nil {
		t.Fatal(err)
	}
	if b, err := openBinary(path); err == nil {
		_ = b.close()
		t.Error("a file that a group may write is accepted")
	}
}

func TestOpenBinaryAccepts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "myapp")
	copyProgram(t, path)
	b, err := openBinary(path)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	if flags, err := unix.FcntlInt(uintptr(minFD(b.file)), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %x, %v: the descriptor would be inherited", flags, err)
	}
}

func TestLinksHoldfast(t *testing.T) {
	module := func(path string) *debug.Module { return &debug.Module{Path: path} }
	for _, c := range []struct {
		name string
		info debug.BuildInfo
		want bool
	}{
		{"dependency", debug.BuildInfo{Path: "example.com/app", Deps: []*debug.Module{module("example.com/x"), module(modulePath)}}, true},
		{"none", debug.BuildInfo{Path: "example.com/app", Deps: []*debug.Module{module("example.com/x")}}, false},
		{"longer name", debug.BuildInfo{Path: "example.com/app", Deps: []*debug.Module{module(modulePath + "-fork")}}, false},
		{"main module", debug.BuildInfo{Path: modulePath + "/packaging/myapp", Main: *module(modulePath)}, true},
		{"test of this module", debug.BuildInfo{Path: modulePath + "/reexec.test"}, true},
		{"another module with the same beginning", debug.BuildInfo{Path: modulePath + "x/app"}, false},
	} {
		if got := linksHoldfast(&c.info); got != c.want {
			t.Errorf("%s: %t, want %t", c.name, got, c.want)
		}
	}
}

func TestProcessName(t *testing.T) {
	for argv0, want := range map[string]string{
		"/usr/bin/myapp": "myapp", "myapp": "myapp", "/opt/a-name-that-is-too-long": "a-name-that-is-",
	} {
		if got := processName(argv0); got != want {
			t.Errorf("processName(%q) = %q, want %q", argv0, got, want)
		}
	}
}
