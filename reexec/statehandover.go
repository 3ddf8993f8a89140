// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// follow makes a successor hear of every commit from now on; nil ends that.
func (ss *states) follow(next updater) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.next = next
}

// forward tells the successor of the upgrade under way, if there is one, about a
// frame. One that cannot be told is dead, or will be.
func (ss *states) forward(u handover.Update, f *heldFrame) {
	ss.mu.Lock()
	next := ss.next
	ss.mu.Unlock()
	if next == nil {
		return
	}
	if err := next.update(u, f.file); err != nil {
		ss.log.Debug("successor does not hear of a frame", "state", f.Name, "error", err)
	}
}

// handOver saves all states for the successor and returns their frames, and all
// that are kept for other versions. owe is told what is being waited for.
func (ss *states) handOver(ctx context.Context, owe func(string)) (list []passing, err error) {
	defer func() {
		if err != nil {
			closePassing(list)
			list = nil
		}
	}()
	owe("what the predecessor's own predecessor has left is not loaded yet")
	if err := ss.lease.settled(ctx); err != nil {
		return nil, fmt.Errorf("hand over states: the service has not loaded what its predecessor has left: %w", err)
	}
	for _, h := range ss.all() {
		owe(fmt.Sprintf("state %q: Save has not returned yet", h.name))
		frames, err := h.handOver(ctx)
		list = append(list, frames...)
		if err != nil {
			return list, fmt.Errorf("hand over state %q: %w", h.name, err)
		}
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	for name, frames := range ss.strange {
		for _, f := range frames {
			f.current, f.update = false, false
			if list, err = pass(list, f); err != nil {
				return list, fmt.Errorf("hand over state %q: %w", name, err)
			}
		}
	}
	return list, nil
}

// pass adds a frame to what a successor gets.
func pass(list []passing, f *heldFrame) ([]passing, error) {
	fd, err := duplicate(f.file)
	if err != nil {
		return list, err
	}
	return append(list, passing{f.descriptor(), fd}), nil
}

// handOver returns what the state is now, and what is kept of it.
func (h *State) handOver(ctx context.Context) (list []passing, err error) {
	// Nothing may be added between the frame and the note of it.
	h.sending.Lock()
	defer h.sending.Unlock()
	f, err := h.save(ctx)
	if err != nil {
		return nil, err
	}
	defer f.close()
	if h.def.kind == kindMerged {
		h.commitHandover(ctx, f)
	}
	f.current = true
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.def.kind == kindMerged {
		if err := h.setBaseLocked(f); err != nil {
			return nil, err
		}
	}
	list, err = pass(nil, f)
	for _, k := range h.kept {
		if err == nil {
			list, err = pass(list, k)
		}
	}
	return list, err
}

// commitHandover has systemd keep what is handed over of a state that is committed: a
// successor may show it, and both generations may die before that commits.
func (h *State) commitHandover(ctx context.Context, f *heldFrame) {
	if !h.isCommitted() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	done, err := h.states.lease.use(ctx)
	if err != nil {
		return // in place the program before was the last to commit
	}
	defer done()
	stored, err := h.states.store.put(ctx, stateKey(h.name, f.Version), f.file)
	if err != nil {
		h.states.log.Warn("what is handed over of a state is not stored", "state", h.name, "error", err)
		return
	}
	kept, err := f.copy()
	if err != nil {
		return
	}
	kept.stored, kept.origin = stored, fromStore
	h.mu.Lock()
	h.committed = kept.frame()
	h.mu.Unlock()
	h.keep([]*heldFrame{kept}, nil)
}

// yield sends the last word about states with one writer to the successor that
// is about to be main. Nothing is committed from the moment that the lease was
// paused.
func (ss *states) yield(ctx context.Context, c updater) error {
	if err := ss.lease.unused(ctx); err != nil {
		return fmt.Errorf("a commit has not ended: %w", err)
	}
	for _, h := range ss.all() {
		if h.def.kind != kindExclusive {
			continue
		}
		f, err := h.save(ctx)
		if err != nil {
			return fmt.Errorf("state %q: %w", h.name, err)
		}
		f.current = true
		err = c.update(handover.Update{Descriptor: f.descriptor()}, f.file)
		f.close()
		if err != nil {
			return fmt.Errorf("state %q: %w", h.name, err)
		}
	}
	return nil
}

// update takes what another generation sends after the handover. It takes the
// file over.
func (ss *states) update(u handover.Update, file *os.File) {
	f := &heldFrame{file: file, stored: u.Stored, origin: fromPredecessor, update: true}
	err := f.peek(u.Name)
	ss.mu.Lock()
	i := slices.IndexFunc(ss.list, func(h *State) bool { return h.name == u.Name })
	if i < 0 {
		defer ss.mu.Unlock()
		if u.Added {
			f.close() // to what this version does not count
			return
		}
		ss.arriveLocked(u.Name, f, err)
		return
	}
	h := ss.list[i]
	ss.mu.Unlock()
	if err != nil {
		h.refuse("what another generation has sent", err)
		f.close()
		return
	}
	h.sending.Lock() // not before the state was loaded
	defer h.sending.Unlock()
	if u.Added {
		// It may be of a version that was undone, and is not believed more than it
		// must be: its number says nothing, and reading it costs memory.
		if f.Length > maxAdded {
			h.refuse("what another generation has counted", fmt.Errorf("%d bytes: at most %d", f.Length, maxAdded))
			f.close()
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), stateTimeout)
		defer cancel()
		h.add(ctx, f)
		return
	}
	h.saw(f.Seq)
	h.replace(f)
}

// maxAdded bounds what another generation has counted since it said so last.
const maxAdded = 64 << 20

// replace keeps a newer frame of the predecessor for the moment at which it is
// needed: when this generation becomes main.
func (h *State) replace(f *heldFrame) {
	if f.stored != "" {
		if stored, err := f.copy(); err == nil {
			h.keep([]*heldFrame{stored}, nil)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.def.kind == kindSnapshot || newer(h.pending, f) != f {
		f.close()
		return
	}
	h.pending.close()
	h.pending = f
}

// copy opens the frame once more.
func (f *heldFrame) copy() (*heldFrame, error) {
	fd, err := duplicate(f.file)
	if err != nil {
		return nil, err
	}
	c := *f
	c.file = os.NewFile(uintptr(fd), f.file.Name())
	return &c, nil
}

// takeLease makes this generation the writer. If the predecessor has left
// something to load, it does so in a goroutine of its own, and calls failed if
// it cannot: the last commit is right then, and no other.
func (ss *states) takeLease(orphan bool, failed func(error)) {
	var late []*State
	for _, h := range ss.all() {
		h.mu.Lock()
		if orphan {
			h.seq += orphanLeap
		}
		if h.pending != nil {
			late = append(late, h)
		}
		h.mu.Unlock()
	}
	if len(late) == 0 {
		ss.lease.set(leaseHeld)
		return
	}
	ss.lease.set(leaseTaking)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), stateTimeout)
		defer cancel()
		for _, h := range late {
			if err := h.catchUp(ctx, orphan); err != nil {
				failed(fmt.Errorf("state %q: %w", h.name, err))
				return
			}
		}
		ss.lease.move(leaseTaking, leaseHeld)
	}()
}

// catchUp takes what the predecessor has sent last.
func (h *State) catchUp(ctx context.Context, orphan bool) error {
	h.sending.Lock()
	defer h.sending.Unlock()
	h.mu.Lock()
	f := h.pending
	h.pending = nil
	old := h.loaded != nil && f.Seq <= h.loaded.Seq
	h.mu.Unlock()
	defer f.close()
	switch {
	case old:
		return nil
	case f.Version > h.def.version:
		h.refuse(f.what(), h.future(f))
		return nil
	case h.def.kind == kindMerged:
		if orphan {
			return h.addCommitted(ctx, f)
		}
		return nil // it was added
	}
	if err := h.load(ctx, f); err != nil {
		return fmt.Errorf("%s: %w", f.what(), err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.loaded = f.frame()
	return nil
}
