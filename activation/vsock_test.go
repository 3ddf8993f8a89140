// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Where the kernel has no transport between sockets of one machine (vsock_loopback), AF_VSOCK listeners can be made
// but not reached. Except for the addresses, a Unix socket behaves the same, so these tests put one in its place.

func vsockStandIn(t *testing.T) (ln *VsockListener, dial func() net.Conn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "stand-in")
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 16); err != nil {
		t.Fatal(err)
	}
	ln, err = newVsockListener(file, "vsock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln, func() net.Conn {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
}

func connected(t *testing.T) (*VsockConn, net.Conn) {
	t.Helper()
	ln, dial := vsockStandIn(t)
	peer := dial()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.(*VsockConn), peer
}

func TestVsockCarriesHTTP(t *testing.T) {
	ln, dial := vsockStandIn(t)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// HTTP/1.1: first all of the request, then the answer.
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	})}
	served := make(chan error)
	go func() { served <- srv.Serve(ln) }()
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return dial(), nil }}
	defer transport.CloseIdleConnections()
	body := strings.Repeat("body", 1<<16)
	resp, err := (&http.Client{Transport: transport}).Post("http://vsock/", "text/plain", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || string(got) != body {
		t.Errorf("%d bytes came back, %v; want %d", len(got), err, len(body))
	}
	if err := srv.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != http.ErrServerClosed {
		t.Errorf("Serve: %v", err)
	}
}

func TestVsockConnHalvesClose(t *testing.T) {
	conn, peer := connected(t)
	if _, err := conn.Write([]byte("all")); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(peer); err != nil || string(got) != "all" {
		t.Errorf("the peer read %q, %v", got, err)
	}
	if _, err := peer.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 6)
	if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != "answer" {
		t.Errorf("read %q, %v after CloseWrite", buf, err)
	}
	if err := conn.CloseRead(); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(buf); n != 0 || err != io.EOF {
		t.Errorf("read %d, %v after CloseRead; want the bare io.EOF", n, err)
	}
	var opErr *net.OpError
	if _, err := conn.Write([]byte("x")); !errors.As(err, &opErr) || opErr.Op != "write" || opErr.Net != "vsock" || !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write after CloseWrite: %v, want a *net.OpError with EPIPE", err)
	}
}

func TestVsockConnIsCloseOnExec(t *testing.T) {
	conn, _ := connected(t)
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		if flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("flags %#x, %v; want close-on-exec", flags, err)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

func TestVsockDeadlines(t *testing.T) {
	conn, _ := connected(t)
	ln, _ := vsockStandIn(t)
	past := time.Now().Add(-time.Second)
	for name, c := range map[string]struct {
		set  func(time.Time) error
		call func() error
	}{
		"accept": {ln.SetDeadline, func() error { _, err := ln.Accept(); return err }},
		"read":   {conn.SetReadDeadline, func() error { _, err := conn.Read(make([]byte, 1)); return err }},
		"write":  {conn.SetWriteDeadline, func() error { _, err := conn.Write([]byte("x")); return err }},
		"both":   {conn.SetDeadline, func() error { _, err := conn.Read(make([]byte, 1)); return err }},
	} {
		if err := c.set(past); err != nil {
			t.Fatal(err)
		}
		err := c.call()
		var netErr net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &netErr) || !netErr.Timeout() {
			t.Errorf("%s past its deadline: %v, want a timeout", name, err)
		}
		if err := c.set(time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestVsockCloseEndsCalls(t *testing.T) {
	conn, _ := connected(t)
	ln, _ := vsockStandIn(t)
	accepted, read := make(chan error), make(chan error)
	go func() {
		_, err := ln.Accept()
		accepted <- err
	}()
	go func() {
		_, err := conn.Read(make([]byte, 1))
		read <- err
	}()
	if err := errors.Join(ln.Close(), conn.Close()); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"accept": <-accepted, "read": <-read,
		"close listener again": ln.Close(), "close connection again": conn.Close(),
		"set deadline": ln.SetDeadline(time.Now()), "shut down": conn.CloseWrite(),
		"write":        func() error { _, err := conn.Write([]byte("x")); return err }(),
		"accept again": func() error { _, err := ln.Accept(); return err }(),
		"file":         func() error { _, err := ln.File(); return err }(),
	} {
		if !errors.Is(err, net.ErrClosed) || !errors.As(err, new(*net.OpError)) {
			t.Errorf("%s after Close: %v, want net.ErrClosed in a *net.OpError", name, err)
		}
	}
}

// The predecessor's way: a copy of the listener goes on when the original is closed.
func TestVsockFile(t *testing.T) {
	ln, dial := vsockStandIn(t)
	file, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	copied, err := newVsockListener(file, "vsock")
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Close()
	dial()
	conn, err := copied.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func TestVsockAcceptErrorsAreTemporary(t *testing.T) {
	ln, dial := vsockStandIn(t)
	dial()
	// No descriptor is left for the connection; http.Server then waits and tries again.
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	lowered := limit
	lowered.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lowered); err != nil {
		t.Fatal(err)
	}
	_, err := ln.Accept()
	if restoreErr := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); restoreErr != nil {
		t.Fatal(restoreErr)
	}
	var opErr *net.OpError
	if !errors.As(err, &opErr) || !errors.Is(err, syscall.EMFILE) || !opErr.Temporary() { //nolint:staticcheck // what http.Server asks
		t.Errorf("%v, want a temporary *net.OpError with EMFILE", err)
	}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatalf("the connection was lost: %v", err)
	}
	_ = conn.Close()
}

func TestParseVsockAddr(t *testing.T) {
	for address, want := range map[string]string{
		"3:1024":           "3:1024",
		":80":              ":80",
		"4294967295:80":    ":80",
		"2:0":              "2:4294967295",
		"":                 "must be CID:port",
		"1024":             "must be CID:port",
		"3:":               `port ""`,
		"x:1":              `CID "x"`,
		"4294967296:1":     `CID "4294967296"`,
		"1:4294967296":     `port "4294967296"`,
		"1:-1":             `port "-1"`,
		"1:2:3":            `port "2:3"`,
		"vsock:2:1":        `CID "vsock"`,
		"18446744073709:1": `CID "18446744073709"`,
	} {
		addr, err := parseVsockAddr(address)
		if got := addr.String(); err == nil && got != want || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("parseVsockAddr(%q) = %q, %v; want %q", address, got, err, want)
		}
	}
}

// kernelVsock skips where the kernel has just refused a socket of the family.
func kernelVsock(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == unix.EAFNOSUPPORT {
		t.Skipf("this kernel has no AF_VSOCK: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fd)
}

func TestListenBindsVsock(t *testing.T) {
	kernelVsock(t)
	set := &Set{reason: ErrNotActivated}
	bound, err := set.Listen(t.Context(), "http", "vsock", ":0")
	if err != nil {
		t.Fatal(err)
	}
	ln := bound.Listeners[0]
	defer ln.Close()
	addr, ok := ln.Addr().(*VsockAddr)
	if !ok || addr.CID != unix.VMADDR_CID_ANY || addr.Port == 0 || addr.Port == unix.VMADDR_PORT_ANY || addr.Network() != "vsock" {
		t.Fatalf("bound to %v, want a port that the kernel chose", ln.Addr())
	}

	// What was bound can be passed on, and claimed as the same.
	file, err := ln.(*VsockListener).File()
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(int(file.Fd()), false); err != nil {
		t.Fatal(err)
	}
	next, err := NewSet([]Passed{{File: file, Name: "http"}})
	if err != nil {
		t.Fatal(err)
	}
	passed, err := next.Listener("http")
	if err != nil {
		t.Fatal(err)
	}
	defer passed.Close()
	if passed.Addr().String() != addr.String() {
		t.Errorf("passed on as %v, bound to %v", passed.Addr(), addr)
	}
	// It went out in blocking mode, as systemd hands sockets over; the claim puts it in the poller's care.
	if err := passed.(*VsockListener).SetDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := passed.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("accept past the deadline: %v", err)
	}

	if _, err := set.Listen(t.Context(), "http", "vsock", addr.String()); !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), addr.String()) {
		t.Errorf("bind again: %v, want the address in use", err)
	}
	if _, err := set.Listen(t.Context(), "http", "vsock", "80"); err == nil || !strings.Contains(err.Error(), `listen vsock "80": must be CID:port`) {
		t.Errorf("bind a malformed address: %v", err)
	}
}

// Within one machine a connection works only over vsock_loopback; elsewhere the connect itself must be what fails.
func TestVsockConnects(t *testing.T) {
	kernelVsock(t)
	set := &Set{reason: ErrNotActivated}
	bound, err := set.Listen(t.Context(), "http", "vsock", ":0")
	if err != nil {
		t.Fatal(err)
	}
	ln := bound.Listeners[0].(*VsockListener)
	defer ln.Close()
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	client := os.NewFile(uintptr(fd), "client")
	defer client.Close()
	timeout := unix.NsecToTimeval(int64(500 * time.Millisecond))
	// SO_VM_SOCKETS_CONNECT_TIMEOUT of linux/vm_sockets.h.
	if err := unix.SetsockoptTimeval(fd, unix.AF_VSOCK, unix.SO_VM_SOCKETS_CONNECT_TIMEOUT, &timeout); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_LOCAL, Port: ln.addr.Port}); err != nil {
		t.Skipf("this kernel has no vsock_loopback: connect to CID %d: %v", unix.VMADDR_CID_LOCAL, err)
	}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if local := conn.LocalAddr().(*VsockAddr); local.Port != ln.addr.Port || conn.RemoteAddr().(*VsockAddr).CID != unix.VMADDR_CID_LOCAL {
		t.Errorf("connection from %v to %v", conn.RemoteAddr(), local)
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 5)
	if _, err := io.ReadFull(client, buf); err != nil || !bytes.Equal(buf, []byte("hello")) {
		t.Errorf("the client read %q, %v", buf, err)
	}
}
