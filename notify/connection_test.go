// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The tests of this file send over Unix streams and packets in place of vsock
// ones, which few machines can loop back. Everything but the family is the
// same.

// connected returns a Notifier that makes a connection for each message.
func connected(t *testing.T, network string, kind int) (*Notifier, *net.UnixListener) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "notify")
	listener, err := net.ListenUnix(network, &net.UnixAddr{Net: network, Name: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	n, err := newNotifier(address{
		text: "vsock-test:" + name, family: unix.AF_UNIX, kind: kind, sockaddr: &unix.SockaddrUnix{Name: name},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n, listener
}

// sd_notify(3) ends a message over a stream by the end of the stream, and
// waits for the receiver's.
func TestOneConnectionPerMessage(t *testing.T) {
	for network, kind := range map[string]int{"unix": unix.SOCK_STREAM, "unixpacket": unix.SOCK_SEQPACKET} {
		t.Run(network, func(t *testing.T) {
			n, listener := connected(t, network, kind)
			for _, text := range []string{"one", strings.Repeat("x", 4000)} {
				sent := make(chan error)
				go func() { sent <- n.Notify(Ready(), Status(text)) }()
				conn, err := listener.Accept()
				if err != nil {
					t.Fatal(err)
				}
				buffer := make([]byte, MaxPayload)
				read, err := io.ReadAtLeast(conn, buffer, len("READY=1\nSTATUS=")+len(text))
				if want := "READY=1\nSTATUS=" + text; err != nil || string(buffer[:read]) != want {
					t.Errorf("got %q, %v, want %q", buffer[:read], err, want)
				}
				if read, err := conn.Read(buffer); read != 0 {
					t.Errorf("message does not end: %q, %v", buffer[:read], err)
				}
				select {
				case err := <-sent:
					conn.Close()
					t.Fatalf("returned before the receiver closed: %v", err)
				default:
				}
				conn.Close()
				if err := <-sent; err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestConnectionIsBounded(t *testing.T) {
	n, listener := connected(t, "unix", unix.SOCK_STREAM)
	n.timeout = 20 * time.Millisecond
	// Accepted by the kernel's backlog, but nobody reads to the end.
	if err := n.Notify(Ready()); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want os.ErrDeadlineExceeded", err)
	}
	n.timeout = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.notify(ctx, []Field{Ready()}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	listener.Close()
	if err := n.Notify(Ready()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nobody listens: got %v, want os.ErrNotExist", err)
	}
}

func TestConnectionIsAnswered(t *testing.T) {
	n, listener := connected(t, "unix", unix.SOCK_STREAM)
	sent := make(chan error)
	go func() { sent <- n.Notify(Ready()) }()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("?")); err != nil {
		t.Error(err)
	}
	if err := <-sent; err == nil || !strings.Contains(err.Error(), "receiver answered") {
		t.Errorf("got %v, want an error", err)
	}
}

func TestVsockCarriesNoDescriptors(t *testing.T) {
	n := &Notifier{address: address{text: "vsock:2:1", family: unix.AF_VSOCK, kind: unix.SOCK_STREAM}, enabled: true, fd: -1}
	for call, err := range map[string]error{
		"Store":   n.Store("a", os.Stdin, NoPoll()),
		"Barrier": n.Barrier(t.Context()),
	} {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: got %v, want errors.ErrUnsupported", call, err)
		}
	}
}

// TestVsock sends to itself where the kernel can loop vsock back. Where it
// cannot, which the test finds out without the code under test, the errors
// must say so.
func TestVsock(t *testing.T) {
	const port = 47110
	for scheme, kind := range map[string]int{"vsock-stream": unix.SOCK_STREAM, "vsock-seqpacket": unix.SOCK_SEQPACKET} {
		t.Run(scheme, func(t *testing.T) {
			n, err := New(scheme + ":local:47110")
			if err != nil {
				if _, rawErr := unix.Socket(unix.AF_VSOCK, kind|unix.SOCK_CLOEXEC, 0); rawErr == nil {
					t.Fatalf("kernel has vsock sockets, but New says: %v", err)
				}
				return
			}
			defer n.Close()
			listener, err := listenVsock(kind, port)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(listener)
			loopback := connectVsock(kind, port)
			if loopback != nil {
				n.timeout = 50 * time.Millisecond
				sendErr := n.Notify(Ready())
				if !errors.Is(sendErr, loopback) && !errors.Is(sendErr, os.ErrDeadlineExceeded) || !strings.Contains(sendErr.Error(), scheme+":local:47110") {
					t.Errorf("kernel says %v, Notify %v", loopback, sendErr)
				}
				t.Logf("no loopback for %s here: %v", scheme, loopback)
				return
			}
			received := make(chan string)
			go func() { received <- receiveVsock(listener) }()
			if err := n.Notify(Ready(), Status("up")); err != nil {
				t.Error(err)
			}
			if got := <-received; got != "READY=1\nSTATUS=up" {
				t.Errorf("got %q", got)
			}
		})
	}
}

func listenVsock(kind int, port uint32) (int, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("bind", err)
	}
	return fd, os.NewSyscallError("listen", unix.Listen(fd, 8))
}

// connectVsock returns what the kernel says of a connection to itself.
func connectVsock(kind int, port uint32) error {
	fd, err := unix.Socket(unix.AF_VSOCK, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// A transport that leads nowhere answers by a timeout only, 2 s by default.
	short := unix.Timeval{Usec: 50_000}
	if err := unix.SetsockoptTimeval(fd, unix.AF_VSOCK, unix.SO_VM_SOCKETS_CONNECT_TIMEOUT, &short); err != nil {
		return err
	}
	return unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_LOCAL, Port: port})
}

// receiveVsock returns the first message that is not empty.
func receiveVsock(listener int) string {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err != nil {
			return err.Error()
		}
		file := os.NewFile(uintptr(fd), "vsock")
		message, err := io.ReadAll(file)
		file.Close()
		if err != nil || len(message) > 0 {
			return string(message)
		}
	}
}
