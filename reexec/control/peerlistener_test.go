// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// envServer makes the test binary a server on descriptor 3; see
// TestPeerListenerInUserNamespace.
const envServer = "CONTROL_TEST_SERVER"

// The first thread stays with TestMain: /proc/self belongs to the user of that
// thread, and a test that acts as another user must not do so there.
func init() {
	if os.Getenv(envServer) == "" {
		runtime.LockOSThread()
	}
}

func TestMain(m *testing.M) {
	if os.Getenv(envServer) != "" {
		os.Exit(serveInNamespace())
	}
	os.Exit(m.Run())
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// openDir is a directory that every user can enter, unlike t.TempDir.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "control")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func listenUnix(t *testing.T) (*net.UnixListener, string) {
	t.Helper()
	path := filepath.Join(openDir(t), SocketName)
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	return ln, path
}

// dialAs connects with the effective uid of another user. Credentials are per
// thread in Linux, and SO_PEERCRED takes those of the connecting thread.
func dialAs(t *testing.T, path string, uid int) net.Conn {
	t.Helper()
	type result struct {
		file *os.File
		err  error
	}
	done := make(chan result)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			done <- result{err: err}
			return
		}
		keep := ^uintptr(0)
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
			done <- result{err: fmt.Errorf("setresuid %d: %w", uid, errno)}
			return
		}
		err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: path})
		_ = syscall.SetNonblock(fd, true)
		done <- result{file: os.NewFile(uintptr(fd), "client"), err: err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	conn, err := net.FileConn(r.file)
	r.file.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// ask sends a request over conn and returns the code and the body.
func ask(t *testing.T, conn net.Conn) (int, []byte) {
	t.Helper()
	if _, err := io.WriteString(conn, "GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	head, body, _ := bytes.Cut(answer, []byte("\r\n\r\n"))
	var code int
	if _, err := fmt.Sscanf(string(head), "HTTP/1.1 %d", &code); err != nil {
		t.Fatalf("answer %q: %v", answer, err)
	}
	return code, body
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: only root can connect as somebody else")
	}
}

func TestPeerListener(t *testing.T) {
	needRoot(t)
	overflow := overflowUID("/proc/sys/kernel/overflowuid")
	for _, tt := range []struct {
		name    string
		own     uint32
		peer    uint32
		code    int
		message string
	}{
		{"root", 1234, 0, 200, ""},
		{"own user", 1234, 1234, 200, ""},
		{"another user", 1234, 1235, 403, "uid 1235 is not served: only root and uid 1234 are"},
		{"overflow uid", 1234, overflow, 403, fmt.Sprintf("uid %d is not served: it is the overflow uid, which", overflow)},
		{"overflow uid that is the own one", overflow, overflow, 403, fmt.Sprintf("uid %d is not served: it is the overflow uid, which", overflow)},
		{"another user of a nobody", overflow, 1234, 403, "uid 1234 is not served: only root is"},
		{"root of a nobody", overflow, 0, 200, ""},
		{"another user of root", 0, 1234, 403, "uid 1234 is not served: only root is"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ln, path := listenUnix(t)
			var log logBuffer
			peers := NewPeerListener(ln, tt.own, slog.New(slog.NewTextHandler(&log, nil)))
			srv := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
			served := make(chan error, 1)
			go func() { served <- srv.Serve(peers) }()
			defer func() {
				srv.Close()
				<-served
			}()

			if warned := strings.Contains(log.String(), "serves root only"); warned != (tt.own == overflow) {
				t.Errorf("warning about the overflow uid: %v; log:\n%s", warned, log.String())
			}
			for range 3 {
				code, body := ask(t, dialAs(t, path, int(tt.peer)))
				if code != tt.code {
					t.Fatalf("code = %d, want %d; body %s", code, tt.code, body)
				}
				if code == 200 {
					continue
				}
				var e Error
				if err := json.Unmarshal(body, &e); err != nil {
					t.Fatalf("body %q: %v", body, err)
				}
				if !strings.HasPrefix(e.Message, tt.message) {
					t.Errorf("message %q, want it to begin with %q", e.Message, tt.message)
				}
			}
			want := 0
			if tt.code == 403 {
				want = 1
			}
			if got := strings.Count(log.String(), "level=WARN msg=\"control socket refused a peer\""); got != want {
				t.Errorf("%d refusals in the log, want %d:\n%s", got, want, log.String())
			}
		})
	}
}

// Refused peers that send nothing hold few descriptors, do not keep others
// out, and do not outlive Close.
func TestPeerListenerSilentStrangers(t *testing.T) {
	needRoot(t)
	ln, path := listenUnix(t)
	peers := NewPeerListener(ln, 1234, slog.New(slog.DiscardHandler))
	accepted, closed := make(chan net.Conn), make(chan error)
	go func() {
		for {
			conn, err := peers.Accept()
			if err != nil {
				closed <- err
				return
			}
			accepted <- conn
		}
	}()
	var strangers []net.Conn
	for range maxRefusals + 3 {
		strangers = append(strangers, dialAs(t, path, 1235))
	}
	friend := dialAs(t, path, 1234)
	conn := <-accepted
	defer conn.Close()
	// Accept has seen all strangers by now; the last three were closed at once.
	for _, c := range strangers[maxRefusals:] {
		if n, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("read of a stranger over the limit: %d, %v, want EOF", n, err)
		}
	}
	if err := peers.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-closed; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v, want net.ErrClosed", err)
	}
	for _, c := range strangers[:maxRefusals] {
		if n, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("read of a stranger after Close: %d, %v, want EOF", n, err)
		}
	}
	// What Accept returned is the caller's and lives on.
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(friend, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func TestOverflowUID(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		content string
		want    uint32
	}{
		"usual":      {"65534\n", 65534},
		"set":        {"99\n", 99},
		"not number": {"nobody\n", 65534},
		"too large":  {"4294967296\n", 65534},
		"empty":      {"", 65534},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := overflowUID(path); got != tt.want {
			t.Errorf("%s: overflowUID = %d, want %d", name, got, tt.want)
		}
	}
	if got := overflowUID(filepath.Join(dir, "absent")); got != 65534 {
		t.Errorf("overflowUID without the file = %d", got)
	}
}

// A service under PrivateUsers=yes whose namespace maps only its own user: the
// host's root arrives there as the overflow uid and must not pass for anybody.
// (systemd maps root too; this is the harder case.)
func TestPeerListenerInUserNamespace(t *testing.T) {
	needRoot(t)
	ln, path := listenUnix(t)
	file, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	// The test binary lies in a directory that only root can enter.
	exe := filepath.Join(openDir(t), "server")
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, data, 0o755); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	server := exec.CommandContext(t.Context(), exe)
	server.Env = append(os.Environ(), envServer+"=1")
	server.ExtraFiles = []*os.File{file}
	server.Stderr = &stderr
	server.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 1234, HostID: 1234, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 1234, HostID: 1234, Size: 1}},
		Credential:  &syscall.Credential{Uid: 1234, Gid: 1234, NoSetGroups: true},
		Pdeathsig:   syscall.SIGKILL,
	}
	runtime.LockOSThread() // Pdeathsig follows the thread
	defer runtime.UnlockOSThread()
	stop, err := server.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		stop.Close()
		if err := server.Wait(); err != nil {
			t.Errorf("server: %v: %s", err, stderr.String())
		}
	}()

	overflow := overflowUID("/proc/sys/kernel/overflowuid")
	for _, tt := range []struct{ uid, code int }{{0, 403}, {1235, 403}, {1234, 200}} {
		code, body := ask(t, dialAs(t, path, tt.uid))
		if code != tt.code {
			t.Errorf("uid %d: code %d, want %d; body %s", tt.uid, code, tt.code, body)
		}
		if want := fmt.Sprintf("uid %d is not served: it is the overflow uid", overflow); code == 403 && !strings.Contains(string(body), want) {
			t.Errorf("uid %d: body %s, want %q", tt.uid, body, want)
		}
	}
}

func serveInNamespace() int {
	ln, err := net.FileListener(os.NewFile(3, "socket"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	peers := NewPeerListener(ln.(*net.UnixListener), uint32(os.Getuid()), slog.Default())
	srv := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		srv.Close()
	}()
	if err := srv.Serve(peers); !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
