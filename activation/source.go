// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"fmt"
	"strconv"
	"strings"
)

// Source says where a descriptor comes from. For descriptors of [FromEnv] it is told from name, position and
// kind; the package documentation has the rule and its limits.
//
// The numbers do not change: predecessors send them to successors of other versions.
type Source uint8

const (
	// SourceSocket is a .socket unit with Accept=no.
	SourceSocket Source = iota + 1
	// SourceConnection is a connection that a .socket unit with Accept=yes took.
	SourceConnection
	// SourceStore is the file descriptor store of the service.
	SourceStore
	// SourceOther is none of the above, but systemd: OpenFile=, ExtraFileDescriptors, or an entry of the store
	// under a name that was not declared.
	SourceOther
	// SourcePredecessor is the previous generation of the service.
	SourcePredecessor
)

var sourceNames = [...]string{
	SourceSocket:      "socket unit",
	SourceConnection:  "Accept=yes",
	SourceStore:       "fd store",
	SourceOther:       "other",
	SourcePredecessor: "predecessor",
}

// String returns the source in words, for messages.
func (s Source) String() string {
	if s != 0 && int(s) < len(sourceNames) {
		return sourceNames[s]
	}
	return fmt.Sprintf("Source(%d)", uint8(s))
}

// storedByDefault is the name of what was stored without FDNAME=, see sd_pid_notify_with_fds(3).
const storedByDefault = "stored"

// ParseStoreName takes apart the name of an entry of the file descriptor store: name@seq, where seq is a
// decimal number without sign or leading zero. The name may hold further @. It is pure syntax: ok says that the
// name has this form.
func ParseStoreName(stored string) (name string, seq uint64, ok bool) {
	at := strings.LastIndexByte(stored, '@')
	if at < 0 {
		return "", 0, false
	}
	seq, err := strconv.ParseUint(stored[at+1:], 10, 64)
	if err != nil || strconv.FormatUint(seq, 10) != stored[at+1:] {
		return "", 0, false
	}
	return stored[:at], seq, true
}

// sourcesOf tells the sources of the descriptors of one environment, in the order of systemd: the socket units'
// (or the one connection of Accept=yes), the store's, ExtraFileDescriptors, OpenFile=.
func sourcesOf(entries []*entry, isStored func(name string) bool) []Source {
	sources := make([]Source, len(entries))
	socketUnits := true
	for i, e := range entries {
		switch {
		case isStored(e.info.Name):
			socketUnits = false
			sources[i] = SourceStore
		case socketUnits && i == 0 && e.info.Kind == KindConn:
			// The connection is the only descriptor that a service with Accept=yes gets from its socket unit.
			socketUnits = false
			sources[i] = SourceConnection
		case socketUnits && mayBeSocketUnits(e.info.Kind):
			sources[i] = SourceSocket
		default:
			socketUnits = false
			sources[i] = SourceOther
		}
	}
	return sources
}

// mayBeSocketUnits rules out what no Listen*= option makes; see systemd.socket(5).
func mayBeSocketUnits(kind Kind) bool {
	switch kind {
	case KindConn, KindMemfd, KindDirectory, KindUnknown:
		return false
	}
	return true
}
