// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"regexp"
	"strings"
	"testing"
)

func TestBoundKey(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, c := range []struct{ name, network, address, want string }{
		{"http", "tcp", "127.0.0.1:80", `bound/http/tcp/127\.0\.0\.1%3A80`},
		{"http", "tcp6", "[::1]:80", `bound/http/tcp6/%5B%3A%3A1%5D%3A80`},
		{"a/b", "unix", "/run/x/a b.sock", `bound/a%2Fb/unix/%2Frun%2Fx%2Fa%20b\.sock`},
		{"ü@7", "unix", "@abstract\x00", `bound/%C3%BC@7/unix/@abstract%00`},
		{"~", "udp", "~x", `bound/%7E/udp/%7Ex`},
		{"", "", "", `bound///`},
		{"http", "unix", "/" + long, `bound/http/unix/~[0-9a-f]{32}`},
		{long, "tcp", ":80", `bound/~[0-9a-f]{32}/tcp/~[0-9a-f]{32}|bound/~[0-9a-f]{32}/tcp/%3A80`},
	} {
		got := boundKey(c.name, c.network, c.address)
		if !regexp.MustCompile("^(" + c.want + ")$").MatchString(got) {
			t.Errorf("boundKey(%q, %q, %q) = %q, want %q", c.name, c.network, c.address, got, c.want)
		}
	}
	if a, b := boundKey("x", "unix", "/"+long+"1"), boundKey("x", "unix", "/"+long+"2"); a == b {
		t.Errorf("two addresses have the key %q", a)
	}
}

func TestParseEntry(t *testing.T) {
	hash := "~" + strings.Repeat("0a", 16)
	for _, c := range []struct {
		stored, kind, key string
		seq               uint64
	}{
		{"bound/http/tcp/%3A80@1", storeBound, "bound/http/tcp/%3A80", 1},
		{"bound/" + hash + "/tcp/" + hash + "@18446744073709551615", storeBound, "bound/" + hash + "/tcp/" + hash, 1<<64 - 1},
		{"bound/a@b/tcp/x@2", storeBound, "bound/a@b/tcp/x", 2},
		{"state/sessions/2@3", storeState, "state/sessions/2", 3},
		{"kept/a%20b@4", storeKept, "kept/a%20b", 4},
		{"probe@5", storeProbe, "probe", 5},
	} {
		kind, key, seq, ok := parseEntry(c.stored)
		if !ok || kind != c.kind || key != c.key || seq != c.seq {
			t.Errorf("%q: %q %q %d %v", c.stored, kind, key, seq, ok)
		}
	}
	// What this code would not have written belongs to others.
	for _, other := range []string{
		"", "stored", "http", "session@3", "program/x@1", "bound@1", "bound/http@1", "bound/http/tcp@1",
		"bound/http/tcp/:80@1", "bound/http/tcp/a/b@1", "state@1", "state/a@1", "state/a/b/c@1", "state/%zz/1@1", "state/%61/1@1",
		"kept/a b@4", "kept/~x@4", "probe/x@1", "probe", "bound/http/tcp/%3A80@01", "bound/http/tcp/%3A80@-1",
		"bound/" + strings.ToUpper(hash) + "/tcp/~@1",
	} {
		if kind, _, _, ok := parseEntry(other); ok {
			t.Errorf("%q is taken for one of kind %s", other, kind)
		}
	}
}

// Every name is one that systemd takes, is read back, and belongs to one socket.
func FuzzStoreKey(f *testing.F) {
	f.Add("http", "tcp", "127.0.0.1:80", "web", uint64(1))
	f.Add("a/b@c:d~", "unix", "/run/ü\x00\n", "~", uint64(0))
	f.Add(strings.Repeat("%", 200), "~", strings.Repeat("~", 200), "", ^uint64(0))
	f.Fuzz(func(t *testing.T, name, network, address, other string, seq uint64) {
		key := boundKey(name, network, address)
		for _, key := range []string{key, storeKey(storeKept, other), storeKey(storeState, other, "1")} {
			stored := entryName(key, seq)
			kind, parsed, n, ok := parseEntry(stored)
			if !ok || parsed != key || n != seq || !strings.HasPrefix(key, kind+"/") {
				t.Fatalf("%q is read as %q %q %d %v", stored, kind, parsed, n, ok)
			}
			if i := strings.IndexFunc(stored, func(r rune) bool { return r < 0x20 || r > 0x7e || r == ':' }); i >= 0 {
				t.Fatalf("%q has a byte that systemd refuses", stored)
			}
		}
		if len(entryName(key, seq)) > maxStoreName && len(network) < 100 {
			t.Fatalf("%q has %d bytes", key, len(key))
		}
		if name != other && boundKey(other, network, address) == key {
			t.Fatalf("%q and %q have the key %q", name, other, key)
		}
		if got, err := unescapeKept(storeKey(storeKept, other)); err != nil || got != other {
			t.Fatalf("%q comes back as %q, %v", other, got, err)
		}
	})
}
