// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRemoveStale(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir) // short paths
	bind := func(t *testing.T, network, path string) int {
		t.Helper()
		typ := map[string]int{"unix": unix.SOCK_STREAM, "unixgram": unix.SOCK_DGRAM, "unixpacket": unix.SOCK_SEQPACKET}[network]
		fd, err := unix.Socket(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			t.Fatal(err)
		}
		if network != "unixgram" {
			if err := unix.Listen(fd, 0); err != nil {
				t.Fatal(err)
			}
		}
		return fd
	}
	exists := func(path string) bool {
		_, err := os.Lstat(path)
		return err == nil
	}
	for _, network := range []string{"unix", "unixgram", "unixpacket"} {
		t.Run(network, func(t *testing.T) {
			path := network
			fd := bind(t, network, path)
			if inUse, err := removeStale(network, path); !inUse || err != nil || !exists(path) {
				t.Errorf("a living socket: in use %t, %v, path %t", inUse, err, exists(path))
			}
			if network == "unix" {
				// Nobody accepts, so the queue is full by now: connect(2)
				// says EAGAIN.
				var err error
				for err == nil {
					var conn net.Conn
					if conn, err = net.Dial(network, path); err == nil {
						defer conn.Close()
					}
				}
				if !errors.Is(err, syscall.EAGAIN) {
					t.Fatal(err)
				}
				if inUse, err := removeStale(network, path); !inUse || err != nil || !exists(path) {
					t.Errorf("a full queue: in use %t, %v, path %t", inUse, err, exists(path))
				}
			}
			other := map[string]string{"unix": "unixgram", "unixgram": "unix", "unixpacket": "unix"}[network]
			if inUse, err := removeStale(other, path); !inUse || err != nil || !exists(path) {
				t.Errorf("a socket of another kind: in use %t, %v, path %t", inUse, err, exists(path))
			}
			_ = unix.Close(fd)
			if inUse, err := removeStale(network, path); inUse || err != nil || exists(path) {
				t.Errorf("a dead socket: in use %t, %v, path %t", inUse, err, exists(path))
			}
		})
	}
	// What is no socket is not ours to remove.
	if err := os.WriteFile("file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"file", dir, "missing", "", "@abstract"} {
		if inUse, err := removeStale("unix", path); inUse || err != nil {
			t.Errorf("%q: in use %t, %v", path, inUse, err)
		}
	}
	if !exists("file") || !exists(filepath.Join(dir, "file")) {
		t.Error("a file was removed")
	}
	if inUse, err := removeStale("tcp", "127.0.0.1:80"); inUse || err != nil {
		t.Errorf("tcp: %t, %v", inUse, err)
	}
}
