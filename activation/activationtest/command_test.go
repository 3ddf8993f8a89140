// SPDX-License-Identifier: Apache-2.0

package activationtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// report is what a child found when it started.
type report struct {
	PID         int
	Args        []string
	Dir         string
	Listen      map[string]string // variables
	Descriptors []foundDescriptor // those that survived exec, from 3 on
}

type foundDescriptor struct {
	Number   int
	Inode    uint64
	Blocking bool
}

func writeReport(w io.Writer) {
	found := report{PID: os.Getpid(), Args: os.Args, Listen: map[string]string{}}
	found.Dir, _ = os.Getwd()
	for _, variable := range os.Environ() {
		if name, value, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "LISTEN_") {
			found.Listen[name] = value
		}
	}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, entry := range entries {
		fd, _ := strconv.Atoi(entry.Name())
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		// The runtime's own descriptors are close-on-exec; what came through exec cannot be.
		if fd < 3 || err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue
		}
		var stat unix.Stat_t
		_ = unix.Fstat(fd, &stat)
		mode, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		found.Descriptors = append(found.Descriptors, foundDescriptor{fd, stat.Ino, mode&unix.O_NONBLOCK == 0})
	}
	_ = json.NewEncoder(w).Encode(found)
}

func startReport(t *testing.T, options Options, change func(*exec.Cmd)) report {
	t.Helper()
	cmd := Command(t, options, "/proc/self/exe", "first", "second")
	cmd.Env = append(os.Environ(), roleVar+"=report")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if change != nil {
		change(cmd)
	}
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var found report
	if err := json.Unmarshal(stdout.Bytes(), &found); err != nil {
		t.Fatalf("%v: %s", err, stdout.String())
	}
	if found.PID != cmd.Process.Pid {
		t.Errorf("the program runs as process %d, the command is process %d", found.PID, cmd.Process.Pid)
	}
	return found
}

func listen(t *testing.T) *net.TCPListener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln.(*net.TCPListener)
}

func inode(t *testing.T, conn syscall.Conn) uint64 {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	if err := raw.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &stat) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return stat.Ino
}

func TestCommandPassesInOrder(t *testing.T) {
	// An inherited descriptor without close-on-exec, as a careless shell leaves them, must stay behind.
	leaked, err := unix.Open(os.DevNull, unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leaked)

	first, second, stored := listen(t), listen(t), listen(t)
	found := startReport(t, Options{Descriptors: []Descriptor{
		{Name: "web", Conn: first},
		{Name: "", Conn: second},
		{Name: "kept@1", Conn: stored, Stored: true},
	}}, func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Env, "LISTEN_FDS=9", "LISTEN_PIDFDID=9", "LISTEN_PID=9", "LISTEN_FDNAMES=stale")
		cmd.Dir = "/"
		cmd.Args = append(cmd.Args, "third")
	})

	want := []foundDescriptor{
		{3, inode(t, first), true},
		{4, inode(t, second), true},
		{5, inode(t, stored), false}, // the store's blocking mode is left as it was
	}
	if !slices.Equal(found.Descriptors, want) {
		t.Errorf("descriptors %+v, want %+v", found.Descriptors, want)
	}
	wantListen(t, found, map[string]string{
		"LISTEN_PID": strconv.Itoa(found.PID), "LISTEN_FDS": "3", "LISTEN_FDNAMES": "web::kept@1",
	})
	if want := []string{"/proc/self/exe", "first", "second", "third"}; !slices.Equal(found.Args, want) {
		t.Errorf("arguments %q, want %q", found.Args, want)
	}
	if found.Dir != "/" {
		t.Errorf("working directory %q, want /", found.Dir)
	}
}

func wantListen(t *testing.T, found report, want map[string]string) {
	t.Helper()
	got, _ := json.Marshal(found.Listen)
	wanted, _ := json.Marshal(want)
	if !bytes.Equal(got, wanted) {
		t.Errorf("variables %s, want %s", got, wanted)
	}
}

func TestCommandOptions(t *testing.T) {
	ln := listen(t)
	one := []Descriptor{{Name: "web", Conn: ln}}

	t.Run("nothing", func(t *testing.T) {
		found := startReport(t, Options{}, nil)
		wantListen(t, found, map[string]string{})
		if len(found.Descriptors) > 0 {
			t.Errorf("descriptors %+v, want none", found.Descriptors)
		}
	})
	t.Run("NonBlocking", func(t *testing.T) {
		found := startReport(t, Options{Descriptors: one, NonBlocking: true}, nil)
		if found.Descriptors[0].Blocking {
			t.Error("the socket arrived blocking, with NonBlocking set")
		}
	})
	t.Run("OmitNames", func(t *testing.T) {
		found := startReport(t, Options{Descriptors: one, OmitNames: true}, nil)
		wantListen(t, found, map[string]string{"LISTEN_PID": strconv.Itoa(found.PID), "LISTEN_FDS": "1"})
	})
	t.Run("PIDFDID", func(t *testing.T) {
		cmd := Command(t, Options{Descriptors: one, PIDFDID: true}, "/proc/self/exe")
		cmd.Env = append(os.Environ(), roleVar+"=report")
		out, err := cmd.Output()
		// Linux before 6.9 must be refused with the reason; package internal/pidfd checks the number itself.
		if err != nil {
			if !strings.Contains(string(err.(*exec.ExitError).Stderr), "needs Linux 6.9") {
				t.Fatalf("%v: %s", err, err.(*exec.ExitError).Stderr)
			}
			return
		}
		var found report
		if err := json.Unmarshal(out, &found); err != nil {
			t.Fatal(err)
		}
		if _, err := strconv.ParseUint(found.Listen["LISTEN_PIDFDID"], 10, 64); err != nil {
			t.Errorf("LISTEN_PIDFDID: %v", err)
		}
	})
}

func TestCommandFindsProgramInPath(t *testing.T) {
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(exe, filepath.Join(dir, "program")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	cmd := Command(t, Options{}, "program")
	cmd.Env = append(os.Environ(), roleVar+"=report")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var found report
	if err := json.Unmarshal(out, &found); err != nil {
		t.Fatal(err)
	}
	if want := []string{"program"}; !slices.Equal(found.Args, want) {
		t.Errorf("arguments %q, want %q", found.Args, want)
	}
}

// The test keeps a copy, as systemd does: a connection made after the death of the process waits in the queue.
func TestListenerOutlivesTheProcess(t *testing.T) {
	ln := listen(t)
	addr := ln.Addr().String()
	startReport(t, Options{Descriptors: []Descriptor{{Name: "web", Conn: ln}}}, nil)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatalf("dial after the process ended: %v", err)
	}
	_ = conn.Close()
}

func TestCommandEndsWithTheTest(t *testing.T) {
	var cmd *exec.Cmd
	t.Run("inner", func(t *testing.T) {
		cmd = Command(t, Options{}, "/proc/self/exe")
		cmd.Env = append(os.Environ(), roleVar+"=wait")
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = r.Close(), w.Close() })
		cmd.Stdin = r
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	})
	if cmd.ProcessState == nil {
		t.Fatal("the process was not waited for")
	}
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
		t.Errorf("the process ended with %v, want killed", cmd.ProcessState)
	}
}

// recorder is a testing.TB that a failing Command may end.
type recorder struct {
	testing.TB
	failure string
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.failure = strings.TrimSpace(fmt.Sprintf(format, args...))
	panic(r)
}

func TestCommandRefuses(t *testing.T) {
	closed := listen(t)
	_ = closed.Close()
	for _, c := range []struct {
		name    string
		options Options
		program string
		want    string
	}{
		{"no program", Options{}, "/nowhere/program", "/nowhere/program"},
		{"no Conn", Options{Descriptors: []Descriptor{{Name: "web"}}}, "/proc/self/exe", `descriptor 0 ("web"): no Conn`},
		{"closed Conn", Options{Descriptors: []Descriptor{{Name: "web", Conn: closed}}}, "/proc/self/exe", "use of closed network connection"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &recorder{TB: t}
			func() {
				defer func() {
					if p := recover(); p != any(r) {
						t.Errorf("Command did not fail: %v", p)
					}
				}()
				Command(r, c.options, c.program)
			}()
			if !strings.Contains(r.failure, c.want) {
				t.Errorf("failure %q, want it to name %q", r.failure, c.want)
			}
		})
	}
}

func TestTrampolineReportsFailure(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("no format that the kernel knows"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := Command(t, Options{}, program)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	if cmd.ProcessState.ExitCode() != exitTrampoline || !strings.Contains(stderr.String(), program) {
		t.Errorf("%v, %q; want exit status %d and the name of the program", err, stderr.String(), exitTrampoline)
	}
}
