// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
)

// fillDescriptors leaves no descriptor to open to this process until the test ends, or
// the returned function is called. No other test may run beside it.
func fillDescriptors(t *testing.T) (leave func()) {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	var all []*os.File
	leave = func() {
		for _, f := range all {
			_ = f.Close()
		}
		all = nil
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(leave)
	few := before
	few.Cur = 64
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	for {
		f, err := os.Open(os.DevNull)
		if errors.Is(err, syscall.EMFILE) {
			return leave
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
}

// A process that can open nothing any more is still asked what is wrong, by one client
// after the other.
func TestPeerListenerOutOfDescriptors(t *testing.T) {
	ln, path := listenUnix(t)
	log := new(logBuffer)
	logger := slog.New(slog.NewTextHandler(log, nil))
	l := newPeerListener(ln, uint32(os.Geteuid()), defaultOverflowUID, logger)
	srv := NewServer(quiet{}, logger)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	var clients []int // what they need themselves is opened before
	for range 3 {
		fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(fd)
		if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Sec: 60}); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, fd)
	}
	leave := fillDescriptors(t)
	for _, fd := range clients {
		if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
			t.Fatal(err)
		}
		if _, err := syscall.Write(fd, []byte("GET /v1/status HTTP/1.1\r\nHost: control\r\nConnection: close\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	for i, fd := range clients {
		var answer []byte
		for buf := make([]byte, 4096); ; {
			n, err := syscall.Read(fd, buf)
			if err != nil {
				t.Fatalf("client %d has read %q: %v", i, answer, err)
			}
			if n == 0 {
				break
			}
			answer = append(answer, buf[:n]...)
		}
		if !strings.HasPrefix(string(answer), "HTTP/1.1 200 OK") || !strings.Contains(string(answer), `"instance":"i1"`) {
			t.Errorf("client %d was answered %q", i, answer)
		}
	}
	leave()
	if got := log.String(); strings.Count(got, "raise LimitNOFILE=") != 1 || strings.Contains(got, "retrying") {
		t.Errorf("log: %s; want the remedy once, and nothing else", got)
	}
	// All is as before when there are descriptors again, and nothing is left of it.
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if code, _ := ask(t, conn); code != http.StatusOK {
		t.Errorf("afterwards: status %d", code)
	}
	_ = conn.Close()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve ended with %v", err)
	}
	_ = srv.Close()
	if l.reserve.fd != -1 {
		t.Error("the reserve is still open")
	}
}

// At its limit, too, Accept hears of Close.
func TestPeerListenerClosesOutOfDescriptors(t *testing.T) {
	ln, _ := listenUnix(t)
	l := newPeerListener(ln, uint32(os.Geteuid()), defaultOverflowUID, slog.New(slog.DiscardHandler))
	leave := fillDescriptors(t)
	defer leave()
	result := make(chan error, 1)
	go func() { _, err := l.Accept(); result <- err }()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := <-result; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: got %v, want net.ErrClosed", err)
	}
}
