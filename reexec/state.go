// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"fmt"
	"io"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// StateKind is one of [Snapshot], [Merged] and [Exclusive]: how a state of the
// service goes from one generation to the next.
//
// Save writes all of the state; Load puts what Save has written, in this format
// or an older one, in the place of what the state is. data is valid during the
// call only, and must not be written to: it is a read-only mapping of the frame,
// so that a large state is not copied. Both are called in goroutines of the
// service's own, never two of one state at once, and lock what they read and
// write themselves. Save is called while the service serves.
//
// Version is that of the format that Save writes, from 1. A frame of a higher
// one is left for the version that wrote it, and Load never sees it.
type StateKind interface{ definition() definition }

// Snapshot is a copy: the successor gets the state as it is when the handover
// begins. What the predecessor changes after that, while it still answers what
// it has, is lost to the successor. For caches, keys and configurations.
type Snapshot struct {
	Version uint32
	Save    func(w io.Writer) error
	Load    func(version uint32, data []byte) error
}

// Merged is counted by several generations at once: the successor begins with
// the totals of its predecessor, and gets what that counts after the handover.
// After a rollback it is the other way round. For counters and limits.
//
// Save writes totals. Subtract returns what total, written by Save of this
// version, has more than since, written by it earlier; since is nil when there
// was nothing. Merge adds what Subtract of the same or an older version has
// returned to what is counted here.
//
// Register it before anything is counted.
type Merged struct {
	Version  uint32
	Save     func(w io.Writer) error
	Load     func(version uint32, data []byte) error
	Subtract func(total, since []byte) ([]byte, error)
	Merge    func(version uint32, added []byte) error
}

// Exclusive has one writer at a time: the generation that holds the lease,
// which moves with the verdict. The successor loads the state before it is
// ready, to read it, and again when it becomes main; until then, and once
// another generation is main, [State.Commit] returns [ErrNotMain]. A change
// counts when Commit has returned nil. For ledgers and positions in a queue.
type Exclusive struct {
	Version uint32
	Save    func(w io.Writer) error
	Load    func(version uint32, data []byte) error
}

// Frame is one copy of a state.
type Frame = control.StateFrame

// The kinds, as the status calls them.
const (
	kindSnapshot  = "snapshot"
	kindMerged    = "merged"
	kindExclusive = "exclusive"
)

// definition is what all kinds have.
type definition struct {
	kind     string
	version  uint32
	save     func(io.Writer) error
	load     func(uint32, []byte) error
	subtract func(total, since []byte) ([]byte, error) // of Merged
	merge    func(version uint32, added []byte) error  // of Merged
}

func (k Snapshot) definition() definition {
	return definition{kind: kindSnapshot, version: k.Version, save: k.Save, load: k.Load}
}

func (k Merged) definition() definition {
	return definition{kind: kindMerged, version: k.Version, save: k.Save, load: k.Load, subtract: k.Subtract, merge: k.Merge}
}

func (k Exclusive) definition() definition {
	return definition{kind: kindExclusive, version: k.Version, save: k.Save, load: k.Load}
}

// check says what is missing.
func (d definition) check() error {
	switch {
	case d.version == 0:
		return errors.New("Version=0: formats count from 1")
	case d.save == nil:
		return errors.New("Save is nil")
	case d.load == nil:
		return errors.New("Load is nil")
	case d.kind == kindMerged && d.subtract == nil:
		return errors.New("Subtract is nil")
	case d.kind == kindMerged && d.merge == nil:
		return errors.New("Merge is nil")
	}
	return nil
}

// maxStateName is less than what a name in the fd store and a frame can hold.
const maxStateName = 64

func checkStateName(name string) error {
	if name == "" || len(name) > maxStateName {
		return fmt.Errorf("a name has 1 to %d characters", maxStateName)
	}
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return fmt.Errorf("a name consists of letters, digits, dots, dashes and underscores, not of %q", c)
		}
	}
	return nil
}
