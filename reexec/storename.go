// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/holdfast-go/holdfast/activation"
)

// Entries of the fd store are named KIND/PART/…@SEQ, which is the form
// name@seq of package activation. All before the @ is the key: of several
// entries with one key the one with the highest number counts. There is one
// counter for all entries of a service.
const (
	storeBound = "bound" // bound/NAME/NETWORK/ADDRESS: a socket that the service has bound
	storeState = "state" // state/NAME/FORMAT: a frame of a state; each format has its own
	storeKept  = "kept"  // kept/NAME: what the service itself keeps
	storeProbe = "probe" // probe: was there room?
)

const (
	// maxStoreName is systemd's limit of a name in bytes (fdname_is_valid).
	maxStoreName = 255
	maxStoreSeq  = len("@18446744073709551615")
	maxStoreKey  = maxStoreName - maxStoreSeq
	// maxHashed is the length of a part that is written as its hash.
	maxHashed = len("~") + 32
)

// storeKey makes the key of an entry. The parts are escaped, since a name is
// printable ASCII without colons.
func storeKey(kind string, parts ...string) string {
	key := kind
	for _, p := range parts {
		key += "/" + escapeName(p)
	}
	return key
}

// boundKey is the key of a bound socket. An address that makes the name too long
// is written as its hash, and so is then the name of the socket; nobody has to
// read them back, since a socket is looked for by its key.
func boundKey(name, network, address string) string {
	name, network, address = escapeName(name), escapeName(network), escapeName(address)
	length := func() int { return len(storeBound) + len(name) + len(network) + len(address) + len("///") }
	for _, part := range []*string{&address, &name, &network} {
		if length() > maxStoreKey && len(*part) > maxHashed {
			sum := sha256.Sum256([]byte(*part))
			*part = "~" + hex.EncodeToString(sum[:16])
		}
	}
	return storeBound + "/" + name + "/" + network + "/" + address
}

// escapeName escapes what is no part of a path, colons, and a tilde that a
// hash begins with.
func escapeName(s string) string {
	s = strings.ReplaceAll(url.PathEscape(s), ":", "%3A")
	if strings.HasPrefix(s, "~") {
		s = "%7E" + s[1:]
	}
	return s
}

// entryName is the name of an entry.
func entryName(key string, seq uint64) string { return key + "@" + strconv.FormatUint(seq, 10) }

// parseEntry takes the name of an entry of ours apart. Others may be in the
// store, too; those are not ours to touch.
func parseEntry(stored string) (kind, key string, seq uint64, ok bool) {
	key, seq, ok = activation.ParseStoreName(stored)
	if !ok {
		return "", "", 0, false
	}
	kind, rest, parts := strings.Cut(key, "/")
	want := 0
	switch kind {
	case storeBound:
		want = 3
	case storeState:
		want = 2
	case storeKept:
		want = 1
	case storeProbe:
		return kind, key, seq, !parts
	default:
		return "", "", 0, false
	}
	split := strings.Split(rest, "/")
	if !parts || len(split) != want {
		return "", "", 0, false
	}
	for _, p := range split {
		if plain, err := url.PathUnescape(p); !isHash(p) && (err != nil || escapeName(plain) != p) {
			return "", "", 0, false
		}
	}
	return kind, key, seq, true
}

// isHash says that a part is a hash: a plain tilde is escaped.
func isHash(p string) bool {
	hash, ok := strings.CutPrefix(p, "~")
	_, err := hex.DecodeString(hash)
	return ok && err == nil && len(p) == maxHashed
}

// boundParts are name, network and address of a key of that kind, for people to
// read: a part may be a hash.
func boundParts(key string) (name, network, address string) {
	parts := strings.Split(key, "/")
	if len(parts) != 4 {
		return key, "", ""
	}
	for i, to := range []*string{&name, &network, &address} {
		if plain, err := url.PathUnescape(parts[i+1]); err == nil {
			*to = plain
		}
	}
	return name, network, address
}

// keptKey is the key of what a service keeps, or says that the name is too long.
func keptKey(name string) (string, error) {
	key := storeKey(storeKept, name)
	switch {
	case name == "":
		return "", fmt.Errorf("reexec: keep: the name is empty")
	case len(key) > maxStoreKey:
		return "", fmt.Errorf("reexec: keep %q: the name has %d bytes as systemd stores it, at most %d are allowed: choose a shorter one", name, len(key)-len(storeKept+"/"), maxStoreKey-len(storeKept+"/"))
	}
	return key, nil
}
