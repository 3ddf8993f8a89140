// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// acceptedPair returns both ends of a connection of a listener.
func acceptedPair(t *testing.T, network string) (ln *listener, server, client net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	inv := firstInventory(t)
	ln = mustListen(t, inv, "x", network, address)
	inv.accept()
	client, err := net.Dial(network, ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	server, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return ln, server, client
}

// Others look for more than net.Conn: io.Copy for ReadFrom and WriteTo,
// proxies for CloseWrite, options for the descriptor.
func TestConnectionKeepsItsMethods(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			ln, server, client := acceptedPair(t, network)
			if n := ln.conns.count(); n != 1 {
				t.Fatalf("%d connections are open, want 1", n)
			}
			raw, ok := server.(syscall.Conn)
			if !ok {
				t.Fatal("no SyscallConn")
			}
			rc, err := raw.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			if err := rc.Control(func(fd uintptr) {
				if _, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_TYPE); err != nil {
					t.Errorf("the descriptor is no socket: %v", err)
				}
			}); err != nil {
				t.Fatal(err)
			}
			if network == "tcp" {
				from, ok := server.(io.ReaderFrom)
				if !ok {
					t.Fatal("no ReadFrom: files would not be sent by sendfile(2)")
				}
				file, err := os.Open("/proc/self/exe")
				if err != nil {
					t.Fatal(err)
				}
				defer file.Close()
				received := make(chan int64, 1)
				go func() {
					n, _ := io.Copy(io.Discard, client)
					received <- n
				}()
				n, err := from.ReadFrom(io.LimitReader(file, 1<<20))
				if n != 1<<20 || err != nil {
					t.Errorf("ReadFrom: %d, %v", n, err)
				}
				closeWrite(t, server)
				if got := <-received; got != 1<<20 {
					t.Errorf("the client received %d bytes", got)
				}
			} else {
				closeWrite(t, server)
				if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
					t.Errorf("after CloseWrite the client reads %v", err)
				}
			}
			// It is still open in the other direction.
			if _, err := client.Write([]byte("x")); err != nil {
				t.Error(err)
			}
			if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
				t.Error(err)
			}
			if err := server.Close(); err != nil {
				t.Error(err)
			}
			if err := server.Close(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("closing again: %v", err)
			}
			if n := ln.conns.count(); n != 0 {
				t.Errorf("%d connections are open after Close", n)
			}
		})
	}
}

func closeWrite(t *testing.T, conn net.Conn) {
	t.Helper()
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		t.Fatal("no CloseWrite")
	}
	if err := half.CloseWrite(); err != nil {
		t.Error(err)
	}
}

func TestConnectionsWait(t *testing.T) {
	c := newConnections()
	c.wait(nil) // none is open
	var conns []net.Conn
	for range 3 {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		conns = append(conns, c.track(ours))
	}
	empty := make(chan struct{})
	go func() { c.wait(nil); close(empty) }()
	for i, conn := range conns {
		select {
		case <-empty:
			t.Fatalf("the wait is over with %d open", len(conns)-i)
		default:
		}
		_ = conn.Close()
	}
	<-empty

	ours, theirs := net.Pipe()
	defer theirs.Close()
	conn := c.track(ours)
	stop := make(chan struct{})
	close(stop)
	c.wait(stop)
	if n := c.count(); n != 1 {
		t.Errorf("%d are open after a wait that was stopped, want 1", n)
	}
	c.abandon()
	if _, err := conn.Write([]byte("x")); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("after abandon: %v", err)
	}
	c.wait(nil)
}
