// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/notify"
	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/internal/handover"
	"github.com/holdfast-go/holdfast/reexec/internal/stateframe"
)

const (
	// stateTimeout bounds what is called of the service where others wait for
	// it: between MAINPID= and the verdict, and at the end of a drain.
	stateTimeout = 5 * time.Second
	// slowLoad is how long Load may take before the predecessor is told what is
	// being waited for.
	slowLoad = time.Second
	// otherFormats is how many formats older than ours, and how many newer ones,
	// are kept for the versions that know them.
	otherFormats = 2
	// orphanLeap is more than the frames that a dead predecessor may have made
	// without telling.
	orphanLeap = 1 << 16
)

// The origins of a frame.
const (
	fromPredecessor = "predecessor"
	fromStore       = "fd store"
)

// frameStore is the fd store, as far as states need it.
type frameStore interface {
	put(ctx context.Context, key string, conn syscall.Conn, opts ...notify.Field) (stored string, err error)
	putSpare(ctx context.Context, key string, conn syscall.Conn, opts ...notify.Field) (stored string, err error)
	remove(ctx context.Context, stored string) error
}

// heldFrame is a frame in a memfd that this process has open.
type heldFrame struct {
	stateframe.Header
	file   *os.File
	stored string // its entry in the fd store; "" if it has none
	origin string
	// current: it is what the state of a living predecessor was when the
	// handover began.
	current bool
	// update: the predecessor has sent it after that.
	update bool
}

func (f *heldFrame) frame() *Frame {
	return &Frame{Version: f.Version, Seq: f.Seq, Bytes: int64(f.Length), Origin: f.origin}
}

func (f *heldFrame) close() {
	if f != nil {
		_ = f.file.Close()
	}
}

// descriptor describes it to another generation.
func (f *heldFrame) descriptor() handover.Descriptor {
	return handover.Descriptor{Role: roleState, Name: f.Name, Stored: f.stored, Current: f.current}
}

// newestFirst sorts frames by their sequence numbers.
func newestFirst(frames []*heldFrame) {
	slices.SortStableFunc(frames, func(a, b *heldFrame) int { return cmp.Compare(b.Seq, a.Seq) })
}

// states are all states of a generation, and the frames of those that its
// version does not know.
type states struct {
	store        frameStore
	log          *slog.Logger
	startTimeout time.Duration
	lease        *lease

	mu      sync.Mutex
	list    []*State
	strange map[string][]*heldFrame // by name, of states that are not registered (yet)
	bad     map[string][]badFrame   // the same, of what is no frame
	next    updater                 // the successor of the upgrade under way
	senders map[any]<-chan struct{} // who may yet add to what is counted here, until it is closed
}

// badFrame is something that should have been a frame.
type badFrame struct {
	what, stored string
	err          error
	current      bool
}

func newStates(store frameStore, log *slog.Logger, startTimeout time.Duration) *states {
	return &states{
		store: store, log: log, startTimeout: startTimeout, lease: newLease(),
		strange: map[string][]*heldFrame{}, bad: map[string][]badFrame{}, senders: map[any]<-chan struct{}{},
	}
}

// arrive keeps a frame until the state is registered. It takes the file over.
func (ss *states) arrive(name string, f *heldFrame) {
	err := f.peek(name)
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.arriveLocked(name, f, err)
}

// peek reads the header, which says how new the frame is.
func (f *heldFrame) peek(name string) (err error) {
	if f.Header, err = stateframe.Peek(f.file); err == nil && f.Name != name {
		err = fmt.Errorf("%w: it is of %q", stateframe.ErrOtherName, f.Name)
	}
	return err
}

func (ss *states) arriveLocked(name string, f *heldFrame, err error) {
	if err != nil {
		f.close()
		ss.bad[name] = append(ss.bad[name], badFrame{"a frame of the " + f.origin, f.stored, err, f.current})
		return
	}
	ss.strange[name] = append(ss.strange[name], f)
}

// stateKey is the key of a frame in the fd store. Each format has its own, so
// that the frames of two versions do not replace each other.
func stateKey(name string, version uint32) string {
	return storeKey(storeState, name, strconv.FormatUint(uint64(version), 10))
}

// stateOf is the name in such a key.
func stateOf(key string) (name string, ok bool) {
	parts := strings.Split(key, "/")
	if len(parts) != 3 {
		return "", false
	}
	name, err := url.PathUnescape(parts[1])
	return name, err == nil
}

// register makes a state and loads it.
func (ss *states) register(name string, def definition) (*State, error) {
	if err := checkStateName(name); err != nil {
		return nil, fmt.Errorf("reexec: state %q: %w", name, err)
	}
	if err := def.check(); err != nil {
		return nil, fmt.Errorf("reexec: state %q: %s: %w", name, def.kind, err)
	}
	h := &State{name: name, def: def, states: ss, calling: make(chan struct{}, 1)}
	// Updates of it wait until it is loaded.
	h.sending.Lock()
	defer h.sending.Unlock()
	ss.mu.Lock()
	if slices.ContainsFunc(ss.list, func(h *State) bool { return h.name == name }) {
		ss.mu.Unlock()
		return nil, fmt.Errorf("reexec: state %q: the name is taken", name)
	}
	frames, bad := ss.strange[name], ss.bad[name]
	delete(ss.strange, name)
	delete(ss.bad, name)
	ss.list = append(ss.list, h)
	ss.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.Background(), ss.startTimeout)
	defer cancel()
	if err := h.begin(ctx, frames, bad); err != nil {
		ss.mu.Lock()
		defer ss.mu.Unlock()
		ss.list = slices.DeleteFunc(ss.list, func(other *State) bool { return other == h })
		ss.strange[name] = append(ss.strange[name], frames...)
		return nil, fmt.Errorf("reexec: state %q: %w", name, err)
	}
	return h, nil
}

// begin loads the newest frame that is good, and keeps those of other formats.
func (h *State) begin(ctx context.Context, frames []*heldFrame, bad []badFrame) error {
	var stale []string
	for _, b := range bad {
		h.refuse(b.what, b.err)
		if b.current {
			return fmt.Errorf("%s: %w", b.what, b.err)
		}
		if b.stored != "" {
			stale = append(stale, b.stored)
		}
	}
	newestFirst(frames)
	var loaded, pending *heldFrame
	var useless []*heldFrame
	for _, f := range frames {
		h.saw(f.Seq)
		switch {
		case f.Version > h.def.version:
			// Left for the version that wrote it.
			h.refuse(f.what(), h.future(f))
			continue
		case h.def.kind == kindMerged && f.update:
			pending = newer(pending, f) // what it adds to the first one is not known yet
			continue
		case loaded != nil:
			continue
		}
		err := h.load(ctx, f)
		if err == nil {
			loaded = f
			continue
		}
		h.refuse(f.what(), err)
		var hangs *hangError
		switch {
		case f.current || f.update:
			return fmt.Errorf("%s: %w", f.what(), err)
		case errors.As(err, &hangs):
			return fmt.Errorf("%s: %w", f.what(), err) // it would be called twice at once
		}
		if isDamaged(err) {
			useless = append(useless, f)
		}
	}
	if loaded == nil && len(frames)+len(bad) > 0 {
		h.states.log.Warn("state begins empty", "state", h.name, "kind", h.def.kind)
	}
	var base *heldFrame
	if h.def.kind == kindMerged && loaded != nil {
		var err error
		if base, err = h.baseOf(ctx, loaded); err != nil {
			return err
		}
	}
	h.mu.Lock()
	if loaded != nil {
		h.loaded = loaded.frame()
	}
	h.stale, h.pending, h.base = stale, pending, base
	h.mu.Unlock()
	h.keep(frames, useless)
	return nil
}

func isDamaged(err error) bool {
	for _, reason := range []error{stateframe.ErrForeign, stateframe.ErrUnsealed, stateframe.ErrTruncated, stateframe.ErrTorn, stateframe.ErrOtherName} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return false
}

// what names a frame in a sentence.
func (f *heldFrame) what() string { return fmt.Sprintf("frame %d of the %s", f.Seq, f.origin) }

func newer(a, b *heldFrame) *heldFrame {
	if a == nil || b.Seq > a.Seq {
		return b
	}
	return a
}

func (h *State) future(f *heldFrame) error {
	return fmt.Errorf("%w: version %d, this program knows up to %d", stateframe.ErrFuture, f.Version, h.def.version)
}

// refuse notes why a frame is not used.
func (h *State) refuse(what string, why error) {
	h.states.log.Warn("frame of a state is not used", "state", h.name, "frame", what, "reason", why)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refused = append(h.refused, clip(fmt.Sprintf("%s: %v", what, why), maxRefusal))
	h.refused = h.refused[max(0, len(h.refused)-maxRefused):]
}

const (
	maxRefused = 8   // refusals in the status
	maxRefusal = 300 // bytes of each
)

// load checks a frame and has the service take it.
func (h *State) load(ctx context.Context, f *heldFrame) error {
	_, err := call(ctx, h, "Load", func() (none struct{}, err error) {
		v, err := stateframe.Open(f.file, h.name, h.def.version)
		if err != nil {
			return none, err
		}
		defer func() { err = errors.Join(err, v.Close()) }()
		return none, h.def.load(v.Version, v.Payload)
	}, nil)
	return err
}

// save makes a frame of the state as it is.
func (h *State) save(ctx context.Context) (*heldFrame, error) {
	return h.write(ctx, "Save", h.def.save)
}

func (h *State) write(ctx context.Context, what string, save func(io.Writer) error) (*heldFrame, error) {
	return call(ctx, h, what, func() (*heldFrame, error) {
		// Here, where no other is called: what was saved later has a higher number.
		h.mu.Lock()
		h.seq++
		header := stateframe.Header{Name: h.name, Version: h.def.version, Seq: h.seq}
		h.mu.Unlock()
		file, header, err := stateframe.Write(header, save)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		return &heldFrame{Header: header, file: file}, nil
	}, (*heldFrame).close)
}

// saw notes a sequence number.
func (h *State) saw(seq uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq = max(h.seq, seq)
}

// keep sorts frames out: it keeps the newest of each format that another version,
// or the next start, may need, and closes the others.
func (h *State) keep(frames, useless []*heldFrame) {
	h.mu.Lock()
	defer h.mu.Unlock()
	frames = append(slices.Clone(frames), h.kept...)
	newestFirst(frames)
	h.kept = nil
	have := map[uint32]bool{}
	older, newerOnes := 0, 0
	for _, f := range frames {
		if f == h.pending {
			continue
		}
		wanted := !have[f.Version] && !slices.Contains(useless, f)
		switch {
		case f.Version == h.def.version:
			// What is not in the store is what the state is now.
			wanted = wanted && f.stored != ""
		case f.Version < h.def.version:
			wanted = wanted && older < otherFormats
		default:
			wanted = wanted && newerOnes < otherFormats
		}
		if !wanted {
			if f.stored != "" && f.Version != h.def.version { // ours goes with the next commit
				h.stale = append(h.stale, f.stored)
			}
			f.close()
			continue
		}
		have[f.Version] = true
		switch {
		case f.Version == h.def.version:
			h.committed = f.frame()
		case f.Version < h.def.version:
			older++
		default:
			newerOnes++
		}
		f.current, f.update = false, false
		h.kept = append(h.kept, f)
	}
}

// status is for the control socket.
func (ss *states) status() (list []control.State) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	for _, h := range ss.list {
		if h.hidden == nil || !h.hidden() {
			list = append(list, h.status())
		}
	}
	return list
}

func (ss *states) all() []*State {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return slices.Clone(ss.list)
}

// close closes all frames.
func (ss *states) close() {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	for _, frames := range ss.strange {
		for _, f := range frames {
			f.close()
		}
	}
	clear(ss.strange)
	for _, h := range ss.list {
		h.mu.Lock()
		for _, f := range append(h.kept, h.base, h.pending) {
			f.close()
		}
		h.kept, h.base, h.pending, h.closed = nil, nil, nil, true
		h.mu.Unlock()
	}
}
