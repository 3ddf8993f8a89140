// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
)

func TestRelocatedAddresses(t *testing.T) {
	dir := t.TempDir()
	if len(dir) > 60 {
		dir = shortDir(t)
	}
	s := &unit.Socket{Name: "a.socket", Backlog: 10, SocketMode: 0o640, DirectoryMode: 0o750, BindIPv6Only: "default"}
	r := newRelocator(false)
	tests := []struct {
		kind, address, network, at string
	}{
		{"ListenStream", "0.0.0.0:80", "tcp4", "127.0.0.1:"},
		{"ListenStream", "192.0.2.7:80", "tcp4", "127.0.0.1:"},
		{"ListenStream", "127.0.0.9:80", "tcp4", "127.0.0.9:"},
		{"ListenStream", "80", "tcp6", "[::1]:"},
		{"ListenStream", "[::]:81", "tcp6", "[::1]:"},
		{"ListenDatagram", "[2001:db8::1]:53", "udp6", "[::1]:"},
		{"ListenDatagram", "127.0.0.1:53", "udp4", "127.0.0.1:"},
		{"ListenStream", filepath.Join(dir, "run/a/stream"), "unix", dir + "/run/a/stream"},
		{"ListenDatagram", filepath.Join(dir, "run/a/dgram"), "unixgram", dir + "/run/a/dgram"},
		{"ListenSequentialPacket", filepath.Join(dir, "seq"), "unixpacket", dir + "/seq"},
		{"ListenStream", "@name", "unix", "@" + r.prefix + "name"},
		{"ListenFIFO", filepath.Join(dir, "fifo"), "fifo", dir + "/fifo"},
		{"ListenSpecial", "/dev/zero", "special", "/dev/zero"},
	}
	for _, test := range tests {
		if strings.Contains(test.at, "::1") && !ipv6() {
			t.Logf("%s=%s: this machine has no IPv6", test.kind, test.address)
			continue
		}
		fd, address, err := r.listenOn(s, unit.Listen{Kind: test.kind, Address: test.address})
		if err != nil {
			t.Errorf("%s=%s: %v", test.kind, test.address, err)
			continue
		}
		defer unix.Close(fd)
		if address.Network != test.network || !strings.HasPrefix(address.Address, test.at) ||
			address.Listen != test.kind+"="+test.address || address.Unit != "a.socket" {
			t.Errorf("%s=%s: listens on %+v, want %s %s", test.kind, test.address, address, test.network, test.at)
		}
		if flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); flags&unix.O_NONBLOCK == 0 {
			t.Errorf("%s=%s: blocks", test.kind, test.address)
		}
		if strings.HasPrefix(address.Network, "tcp") || address.Network == "unix" || address.Network == "unixpacket" {
			conn, err := net.Dial(address.Network, address.Address)
			if err != nil {
				t.Error(err)
				continue
			}
			_ = conn.Close()
		}
	}
	for path, mode := range map[string]os.FileMode{
		"run/a/stream": os.ModeSocket | 0o640, "seq": os.ModeSocket | 0o640, "fifo": os.ModeNamedPipe | 0o640, "run/a": os.ModeDir | 0o750,
	} {
		if info, err := os.Stat(filepath.Join(dir, path)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; want %v", path, info.Mode(), err, mode)
		}
	}
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "m")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// An address stays what it became: for a restart, for a second socket with
// ReusePort=, and for another protocol.
func TestRelocatedPortsStay(t *testing.T) {
	r := newRelocator(false)
	s := &unit.Socket{ReusePort: true, Backlog: 1, BindIPv6Only: "default"}
	line := unit.Listen{Kind: "ListenStream", Address: "127.0.0.1:443"}
	first, address, err := r.listenOn(s, line)
	if err != nil {
		t.Fatal(err)
	}
	second, again, err := r.listenOn(s, line)
	if err != nil || again != address {
		t.Errorf("the second is on %v, %v; want %v", again, err, address)
	}
	_ = unix.Close(first)
	_ = unix.Close(second)
	third, again, err := r.listenOn(s, line)
	if err != nil || again.Address != address.Address {
		t.Errorf("listens anew on %v, %v; want %v", again, err, address)
	}
	_ = unix.Close(third)
	datagrams, udp, err := r.listenOn(&unit.Socket{BindIPv6Only: "default"}, unit.Listen{Kind: "ListenDatagram", Address: "127.0.0.1:443"})
	if err != nil || udp.Network != "udp4" || udp.Address != address.Address {
		t.Errorf("datagrams come on %v, %v; want %v", udp, err, address)
	}
	_ = unix.Close(datagrams)
}

func TestKeptAddresses(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	r := newRelocator(true)
	s := &unit.Socket{Backlog: 1, BindIPv6Only: "default"}
	line := unit.Listen{Kind: "ListenStream", Address: listener.Addr().String()}
	if _, _, err := r.listenOn(s, line); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("got %v, want that the address is in use", err)
	}
	_ = listener.Close()
	fd, address, err := r.listenOn(s, line)
	if err != nil || address.Address != line.Address {
		t.Fatalf("listens on %v, %v; want %v", address, err, line.Address)
	}
	_ = unix.Close(fd)
}

// What is left of a socket is replaced; anything that is no socket of ours to
// take is an error.
func TestListenOverRemains(t *testing.T) {
	dir := shortDir(t)
	r := newRelocator(false)
	s := &unit.Socket{SocketMode: 0o666, DirectoryMode: 0o755, Backlog: 1}
	line := unit.Listen{Kind: "ListenStream", Address: filepath.Join(dir, "s")}
	for range 2 {
		fd, _, err := r.listenOn(s, line)
		if err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(fd)
	}
	for _, kind := range []string{"ListenFIFO", "ListenSpecial"} {
		if _, _, err := r.listenOn(s, unit.Listen{Kind: kind, Address: line.Address}); err == nil {
			t.Errorf("%s: a socket was taken", kind)
		}
	}
	if _, _, err := r.listenOn(s, unit.Listen{Kind: "ListenSpecial", Address: dir}); !errors.Is(err, unix.EEXIST) {
		t.Errorf("a directory: %v", err)
	}
}
