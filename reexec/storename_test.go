// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"strings"
	"testing"
)

func TestBoundKey(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, c := range []struct{ name, network, address, want string }{
		{"http", "tcp", "127.0.0.1:80", "bound/http/tcp/127.0.0.1%3A80"},
		{"http", "tcp6", "[::1]:80", "bound/http/tcp6/%5B%3A%3A1%5D%3A80"},
		{"a/b", "unix", "/run/x/a b.sock", "bound/a%2Fb/unix/%2Frun%2Fx%2Fa%20b.sock"},
		{"ü@7", "unix", "@abstract\x00", "bound/%C3%BC@7/unix/@abstract%00"},
		{"~", "udp", "~x", "bound/%7E/udp/%7Ex"},
		{"", "", "", "bound///"},
		{"http", "unix", "/" + long, "bound/http/unix/~9ed5407cb4ab1ea4"},
		{long, "tcp", ":80", "bound/~"},
	} {
		got := boundKey(c.name, c.network, c.address)
		if got != c.want && !(len(c.address)+len(c.name) > 300 && strings.HasPrefix(got, c.want[:strings.IndexByte(c.want, '~')+1])) {
			t.Errorf("boundKey(%q, %q, %q) = %q, want %q", c.name, c.network, c.address, got, c.want)
		}
		if len(got) > maxStoreKey {
			t.Errorf("%q has %d bytes", got, len(got))
		}
		kind, key, seq, ok := parseEntry(entryName(got, 7))
		if kind != storeBound || key != got || seq != 7 || !ok {
			t.Errorf("%q is parsed as %q %q %d %v", got, kind, key, seq, ok)
		}
	}
	if a, b := boundKey("x", "unix", "/"+long+"1"), boundKey("x", "unix", "/"+long+"2"); a == b {
		t.Errorf("two addresses have the key %q", a)
	}
}
