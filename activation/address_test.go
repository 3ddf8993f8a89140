// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFormatSockaddr(t *testing.T) {
	// The one interface that every network namespace has.
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	linkLocal := [16]byte{0: 0xfe, 1: 0x80, 15: 1}
	for _, c := range []struct {
		sa   unix.Sockaddr
		want string
	}{
		{&unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 1}, Port: 80}, "192.0.2.1:80"},
		{&unix.SockaddrInet6{Port: 65535}, "[::]:65535"},
		{&unix.SockaddrInet6{Addr: linkLocal, ZoneId: uint32(lo.Index), Port: 80}, "[fe80::1%lo]:80"},
		{&unix.SockaddrInet6{Addr: linkLocal, ZoneId: 1 << 30, Port: 80}, "[fe80::1%1073741824]:80"},
		{&unix.SockaddrUnix{Name: "/run/s"}, "/run/s"},
		{&unix.SockaddrUnix{Name: "@abstract"}, "@abstract"},
		{&unix.SockaddrUnix{Name: "@"}, ""},
		{&unix.SockaddrUnix{}, ""},
		{&unix.SockaddrVM{CID: 3, Port: 1024}, "3:1024"},
		{&unix.SockaddrNetlink{Pid: 7}, ""},
		{nil, ""},
	} {
		if got := formatSockaddr(c.sa); got != c.want {
			t.Errorf("%#v is written %q, want %q", c.sa, got, c.want)
		}
	}
}
