// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"sync"
	"time"

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
// A panic in one of them is logged with its stack, and counts as an error that it
// has returned: the service goes on. So unlock by defer, else the next call hangs.
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
// counts when Commit has returned nil, and Load has not come between the two: it
// replaces what a generation has changed before it was main. For ledgers and positions in a queue.
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
		return errors.New("set Version: formats count from 1, this is 0")
	case d.save == nil:
		return errors.New("set Save: it is nil")
	case d.load == nil:
		return errors.New("set Load: it is nil")
	case d.kind == kindMerged && d.subtract == nil:
		return errors.New("set Subtract: it is nil")
	case d.kind == kindMerged && d.merge == nil:
		return errors.New("set Merge: it is nil")
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

// State is a state of the service that goes from version to version.
type State struct {
	name   string
	def    definition
	states *states
	// hidden says that the service has no use for it so far: it is a ready-made
	// one. Nil: never.
	hidden func() bool
	// spare: the fd store has it only where it takes no place from others.
	spare bool

	calling chan struct{} // full while a function of the service is being called

	mu        sync.Mutex
	callee    string       // which one was called last
	seq       uint64       // the highest that was seen
	kept      []*heldFrame // of all formats, for other versions and the next start
	base      *heldFrame   // of Merged: what the other generation has of it
	closed    bool         // with the process; nothing is told to others any more
	pending   *heldFrame   // the newest that the predecessor has sent after the first
	stale     []string     // entries of the fd store that nobody can use
	loaded    *Frame
	committed *Frame
	refused   []string
	round     *commitRound // those who wait for the next commit
	busy      bool         // one is under way

	sending sync.Mutex // of what was added
}

// State registers a state under a name of its own, the same in all versions:
// letters, digits, dots, dashes and underscores. Before it returns, Load was
// called with the newest frame that can be used: the predecessor's, or else one
// of the fd store. If there is none, Load is not called.
//
// What is not used is in the log and in the status, with the reason. A frame that
// a living predecessor gives and Load refuses is an error: the upgrade is refused
// then, and nothing is lost. Without a predecessor the next older one is tried,
// and the service begins without the state rather than not at all.
//
// Each call of Load and Save is bounded by Options.StartTimeout. Call State
// before Run, and before what uses the state.
func (s *Service) State(name string, kind StateKind) (*State, error) {
	s.mu.Lock()
	running := s.running
	s.mu.Unlock()
	if running {
		return nil, fmt.Errorf("reexec: state %q: must be registered before Run", name)
	}
	slow := time.AfterFunc(slowLoad, func() { s.notReady(fmt.Errorf("state %q: Load has not returned yet", name)) })
	h, err := s.states.register(name, kind.definition())
	slow.Stop()
	s.notReady(err)
	return h, err
}

// Loaded is the frame that the state began with; false if there was none.
func (h *State) Loaded() (Frame, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.loaded == nil {
		return Frame{}, false
	}
	return *h.loaded, true
}

// status is for the control socket.
func (h *State) status() control.State {
	h.mu.Lock()
	defer h.mu.Unlock()
	return control.State{
		Name: h.name, Kind: h.def.kind, Version: h.def.version,
		Loaded: h.loaded, Committed: h.committed, Refused: slices.Clone(h.refused),
	}
}

// hangError says that a function of the service has not returned in time.
type hangError struct {
	what  string
	after time.Duration
	cause error
}

func (e *hangError) Error() string {
	return fmt.Sprintf("%s has not returned within %v", e.what, e.after.Round(time.Millisecond))
}

func (e *hangError) Unwrap() error { return e.cause }

// panicError says that a function of the service has panicked.
type panicError struct{ what, value string }

func (e *panicError) Error() string { return fmt.Sprintf("%s has panicked: %s", e.what, e.value) }

const (
	maxPanic = 300     // bytes of what panic was called with
	maxStack = 8 << 10 // bytes of where, in the log
)

// guard makes an error of a panic in a function of the service: what cannot be
// saved is no reason for main to die with all that it serves.
func guard[T any](h *State, what string, f func() (T, error)) (result T, err error) {
	defer func() {
		if p := recover(); p != nil {
			e := &panicError{what, clip(fmt.Sprint(p), maxPanic)}
			h.states.log.Error("a function of a state has panicked",
				"state", h.name, "function", what, "panic", e.value, "stack", clip(string(debug.Stack()), maxStack))
			err = e
		}
	}()
	return f()
}

// call runs a function of the service, one at a time. One that does not return
// before the end of ctx is left behind, and until it has returned no other is
// called: then discard gets its result.
func call[T any](ctx context.Context, h *State, what string, f func() (T, error), discard func(T)) (result T, err error) {
	began := time.Now()
	late := func(what string) error { return &hangError{what, time.Since(began), context.Cause(ctx)} }
	select {
	case h.calling <- struct{}{}:
	case <-ctx.Done():
		h.mu.Lock()
		defer h.mu.Unlock()
		return result, late(h.callee)
	}
	h.mu.Lock()
	h.callee = what
	h.mu.Unlock()
	type outcome struct {
		result T
		err    error
	}
	over := make(chan outcome, 1)
	go func() {
		defer func() { <-h.calling }()
		result, err := guard(h, what, f)
		over <- outcome{result, err}
	}()
	select {
	case o := <-over:
		return o.result, o.err
	case <-ctx.Done():
		go func() {
			if o := <-over; o.err == nil && discard != nil {
				discard(o.result)
			}
		}()
		return result, late(what)
	}
}
