// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/holdfast-go/holdfast/reexec/internal/handover"
	"github.com/holdfast-go/holdfast/reexec/internal/stateframe"
)

// setBaseLocked notes what another generation has of a merged state: what is
// counted after that is added to it later.
func (h *State) setBaseLocked(f *heldFrame) error {
	base, err := f.copy()
	if err != nil {
		return err
	}
	h.base.close()
	h.base = base
	return nil
}

// baseOf is what the state was when it was loaded, in our own format.
func (h *State) baseOf(ctx context.Context, loaded *heldFrame) (*heldFrame, error) {
	if loaded.Version == h.def.version {
		return loaded.copy()
	}
	return h.save(ctx)
}

// difference calls Subtract and makes a frame of what it returns; nil if that is
// nothing.
func (h *State) difference(ctx context.Context, total, since *heldFrame) (*heldFrame, error) {
	added, err := call(ctx, h, "Subtract", func() (added []byte, err error) {
		now, err := stateframe.Open(total.file, h.name, h.def.version)
		if err != nil {
			return nil, err
		}
		defer now.Close()
		var before []byte
		if since != nil {
			then, err := stateframe.Open(since.file, h.name, h.def.version)
			if err != nil {
				return nil, err
			}
			defer then.Close()
			before = then.Payload
		}
		added, err = h.def.subtract(now.Payload, before)
		if err != nil {
			return nil, fmt.Errorf("subtract: %w", err)
		}
		return append([]byte(nil), added...), nil // it may be part of the mapping
	}, nil)
	if err != nil || len(added) == 0 {
		return nil, err
	}
	return h.write(ctx, "what Subtract has returned", func(w io.Writer) error { _, err := w.Write(added); return err })
}

// mergeFrame has the service add what another generation has counted.
func (h *State) mergeFrame(ctx context.Context, f *heldFrame) error {
	_, err := call(ctx, h, "Merge", func() (none struct{}, err error) {
		v, err := stateframe.Open(f.file, h.name, h.def.version)
		if err != nil {
			return none, err
		}
		defer func() { err = errors.Join(err, v.Close()) }()
		return none, h.def.merge(v.Version, v.Payload)
	}, nil)
	return err
}

// add merges what another generation has counted since its last word. It takes
// the frame over.
func (h *State) add(ctx context.Context, f *heldFrame) {
	defer f.close()
	if h.def.kind != kindMerged {
		return // it was merged in the version of the sender
	}
	// What the sender has committed before is in it.
	h.mu.Lock()
	h.pending.close()
	h.pending = nil
	h.mu.Unlock()
	if err := h.mergeFrame(ctx, f); err != nil {
		h.refuse("what another generation has counted", err)
	}
}

// addCommitted merges the last commit of a predecessor that died before its
// verdict: what that has more than the frame that this generation began with.
func (h *State) addCommitted(ctx context.Context, f *heldFrame) error {
	if f.Version != h.def.version || h.base != nil && h.base.Version != f.Version {
		h.refuse(f.what(), errors.New("it has another format, so that nothing can be told apart in it"))
		return nil
	}
	added, err := h.difference(ctx, f, h.base)
	if err != nil || added == nil {
		return err
	}
	defer added.close()
	return h.mergeFrame(ctx, added)
}

// sendAdded tells another generation what was counted here since it was told
// last. Where somebody else does so already, it waits for that.
func (ss *states) sendAdded(ctx context.Context, to updater) {
	if to == nil {
		return
	}
	for _, h := range ss.all() {
		if h.def.kind != kindMerged {
			continue
		}
		if err := h.sendAdded(ctx, to); err != nil {
			ss.log.Warn("what was counted does not reach the other generation", "state", h.name, "error", err)
		}
	}
}

func (h *State) sendAdded(ctx context.Context, to updater) error {
	h.sending.Lock()
	defer h.sending.Unlock()
	now, err := h.save(ctx)
	if err != nil {
		return err
	}
	defer now.close()
	h.mu.Lock()
	base, closed := h.base, h.closed
	h.mu.Unlock()
	if closed {
		return nil // without the base, all would look as if it were new
	}
	added, err := h.difference(ctx, now, base)
	if err != nil {
		return err
	}
	if added != nil {
		defer added.close()
		if err := to.update(handover.Update{Descriptor: added.descriptor(), Added: true}, added.file); err != nil {
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	return h.setBaseLocked(now)
}

// expect makes the drain wait for a generation that may add to what is counted
// here, until ended is closed; forget ends that.
func (ss *states) expect(who any, ended <-chan struct{}) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	for who, ended := range ss.senders {
		select {
		case <-ended:
			delete(ss.senders, who)
		default:
		}
	}
	ss.senders[who] = ended
}

func (ss *states) forget(who any) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	delete(ss.senders, who)
}

// heardAll returns when nobody can add any more to what is counted here.
func (ss *states) heardAll(ctx context.Context) error {
	ss.mu.Lock()
	var all []<-chan struct{}
	for _, ended := range ss.senders {
		all = append(all, ended)
	}
	ss.mu.Unlock()
	for _, ended := range all {
		select {
		case <-ended:
		case <-ctx.Done():
			return fmt.Errorf("another generation has not ended its drain: %w", context.Cause(ctx))
		}
	}
	return nil
}

// merges says whether any state is merged.
func (ss *states) merges() bool {
	for _, h := range ss.all() {
		if h.def.kind == kindMerged {
			return true
		}
	}
	return false
}
