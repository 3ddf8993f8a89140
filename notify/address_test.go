// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseAddress(t *testing.T) {
	path := "/" + strings.Repeat("p", 106)
	abstract := "@" + strings.Repeat("a", 107)
	tests := []struct {
		value string
		want  address
	}{
		{"/run/systemd/notify", address{family: unix.AF_UNIX, kind: unix.SOCK_DGRAM, sockaddr: &unix.SockaddrUnix{Name: "/run/systemd/notify"}}},
		{"@a", address{family: unix.AF_UNIX, kind: unix.SOCK_DGRAM, sockaddr: &unix.SockaddrUnix{Name: "@a"}}},
		{path, address{family: unix.AF_UNIX, kind: unix.SOCK_DGRAM, sockaddr: &unix.SockaddrUnix{Name: path}}},
		{abstract, address{family: unix.AF_UNIX, kind: unix.SOCK_DGRAM, sockaddr: &unix.SockaddrUnix{Name: abstract}}},
		{"vsock:2:1234", address{family: unix.AF_VSOCK, sockaddr: &unix.SockaddrVM{CID: 2, Port: 1234}}},
		{"vsock:host:0", address{family: unix.AF_VSOCK, sockaddr: &unix.SockaddrVM{CID: 2}}},
		{"vsock:local:4294967294", address{family: unix.AF_VSOCK, sockaddr: &unix.SockaddrVM{CID: 1, Port: 4294967294}}},
		{"vsock:hypervisor:1", address{family: unix.AF_VSOCK, sockaddr: &unix.SockaddrVM{CID: 0, Port: 1}}},
		{"vsock-dgram:4294967294:1", address{family: unix.AF_VSOCK, kind: unix.SOCK_DGRAM, sockaddr: &unix.SockaddrVM{CID: 4294967294, Port: 1}}},
		{"vsock-seqpacket:3:1", address{family: unix.AF_VSOCK, kind: unix.SOCK_SEQPACKET, sockaddr: &unix.SockaddrVM{CID: 3, Port: 1}}},
		{"vsock-stream:3:1", address{family: unix.AF_VSOCK, kind: unix.SOCK_STREAM, sockaddr: &unix.SockaddrVM{CID: 3, Port: 1}}},
	}
	for _, test := range tests {
		test.want.text = test.value
		got, err := parseAddress(test.value)
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("parseAddress(%q): got %+v, %v, want %+v", test.value, got, err, test.want)
		}
	}
}

func TestParseAddressRefuses(t *testing.T) {
	const (
		form = `must be an absolute path, "@" and an abstract name, or "vsock:CID:PORT"`
		cid  = "must have a CID that is a number, hypervisor, local or host"
		port = "must have a port from 0 to 4294967294"
	)
	tests := []struct{ value, reason string }{
		{"", form},
		{"run/notify", form},
		{"tcp:1:2", form},
		{"VSOCK:1:2", form},
		{"vsock", `must have the form "vsock:CID:PORT"`},
		{"vsock-stream:2", `must have the form "vsock-stream:CID:PORT"`},
		{"/", "must have a name after the first character"},
		{"@", "must have a name after the first character"},
		{"/" + strings.Repeat("p", 107), "must be at most 107 bytes long"},
		{"@" + strings.Repeat("a", 108), "must be at most 108 bytes long"},
		{"/run/no\x00tify", "must not contain a NUL byte"},
		{"vsock::1", cid},
		{"vsock:any:1", cid},
		{"vsock:-1:1", cid},
		{"vsock:4294967296:1", cid},
		{"vsock:4294967295:1", "must have a specific CID, not VMADDR_CID_ANY"},
		{"vsock:2:", port},
		{"vsock:2:x", port},
		{"vsock:2:4294967295", port},
		{"vsock:2:1:1", port},
	}
	for _, test := range tests {
		_, err := parseAddress(test.value)
		var envErr *EnvError
		want := fmt.Sprintf("NOTIFY_SOCKET=%q: %s", test.value, test.reason)
		if !errors.As(err, &envErr) || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// FuzzParseAddress checks that the parser never fails in another way than by
// an EnvError, and that the kernel's own form of what it accepts is the same
// address: nothing is cut off or reinterpreted.
func FuzzParseAddress(f *testing.F) {
	for _, seed := range []string{
		"/run/systemd/notify", "@a", "@", "/", "vsock:2:1234", "vsock-stream:host:1", "vsock:4294967295:1", "\x00", "@\x00a",
		"/" + strings.Repeat("p", 107), "@" + strings.Repeat("a", 108),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got, err := parseAddress(value)
		if err != nil {
			var envErr *EnvError
			if !errors.As(err, &envErr) || envErr.Value != value || envErr.Variable != "NOTIFY_SOCKET" {
				t.Errorf("got %v, want an EnvError for %q", err, value)
			}
			return
		}
		if got.text != value {
			t.Errorf("text is %q, want %q", got.text, value)
		}
		switch sockaddr := got.sockaddr.(type) {
		case *unix.SockaddrUnix:
			if sockaddr.Name != value || got.kind != unix.SOCK_DGRAM {
				t.Errorf("parseAddress(%q): %+v", value, got)
			}
		case *unix.SockaddrVM:
			again := fmt.Sprintf("vsock:%d:%d", sockaddr.CID, sockaddr.Port)
			reparsed, err := parseAddress(again)
			if err != nil || !reflect.DeepEqual(reparsed.sockaddr, got.sockaddr) {
				t.Errorf("parseAddress(%q) is %s, which parses into %+v, %v", value, again, reparsed, err)
			}
		default:
			t.Errorf("parseAddress(%q): %T", value, sockaddr)
		}
	})
}
