// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// commitRound is one commit and those who wait for it.
type commitRound struct {
	over chan struct{}
	err  error // once over is closed
}

// Commit saves the state and has systemd keep it: once Commit has returned nil,
// whatever was in the state when it was called survives a crash of the service,
// and a successor on trial has it, should this process die. Many callers at once
// share one Save and one answer of systemd.
//
// The error wraps [ErrNotMain] in a generation that does not hold the lease:
// before it is main, and once another one is. It is a [*StoreError] when systemd
// does not keep the state; without a service manager that wraps [ErrNoManager].
// Else it is what Save has returned, or says that Save hangs. What was committed
// before stays. While it is being decided which generation is main, Commit
// waits. ctx bounds the wait only: the commit may still be made.
func (h *State) Commit(ctx context.Context) error {
	// What is in it now, Load is about to replace: the caller's change is lost,
	// and must not be committed in name.
	if h.def.kind != kindMerged && h.states.lease.elsewhere() {
		return fmt.Errorf("reexec: commit state %q: %w", h.name, ErrNotMain)
	}
	h.mu.Lock()
	if h.round == nil {
		// One that is under way may have saved before the caller's change.
		h.round = &commitRound{over: make(chan struct{})}
	}
	round := h.round
	if !h.busy {
		h.busy = true
		go h.commitRounds()
	}
	h.mu.Unlock()
	select {
	case <-round.over:
		return round.err
	case <-ctx.Done():
		return fmt.Errorf("reexec: commit state %q: %w", h.name, context.Cause(ctx))
	}
}

// isCommitted says whether systemd has a frame of our format.
func (h *State) isCommitted() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.committed != nil
}

// commitRounds commits as long as somebody waits for it.
func (h *State) commitRounds() {
	for {
		ctx, cancel := context.WithCancel(context.Background())
		done, err := h.states.lease.use(ctx)
		h.mu.Lock()
		round := h.round
		h.round = nil
		h.mu.Unlock()
		if err == nil {
			err = h.commit(ctx)
			done()
		}
		cancel()
		if err != nil {
			err = fmt.Errorf("reexec: commit state %q: %w", h.name, err)
		}
		round.err = err
		close(round.over)
		h.mu.Lock()
		if h.round == nil {
			h.busy = false
			h.mu.Unlock()
			return
		}
		h.mu.Unlock()
	}
}

// commit is for who holds the lease.
func (h *State) commit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, h.states.startTimeout)
	defer cancel()
	f, err := h.save(ctx)
	if err != nil {
		return err
	}
	put := h.states.store.put
	if h.spare {
		put = h.states.store.putSpare
	}
	if f.stored, err = put(ctx, stateKey(h.name, f.Version), f.file); err != nil {
		f.close()
		if h.spare && errors.Is(err, ErrStoreFull) {
			h.dropStored()
		}
		return err
	}
	f.origin = fromStore
	// A successor that is left alone must have what was promised.
	h.states.forward(handover.Update{Descriptor: f.descriptor()}, f)
	h.mu.Lock()
	h.committed = &control.StateFrame{Version: f.Version, Seq: f.Seq, Bytes: int64(f.Length)}
	h.mu.Unlock()
	h.keep([]*heldFrame{f}, nil)
	h.tidy(ctx)
	return nil
}

// dropStored forgets the frame of our format, which had to leave the fd store.
func (h *State) dropStored() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.committed = nil
	h.kept = slices.DeleteFunc(h.kept, func(f *heldFrame) bool {
		ours := f.Version == h.def.version
		if ours {
			f.close()
		}
		return ours
	})
}

// tidy has systemd keep the frames that are for older versions, and forget those
// that are for nobody.
func (h *State) tidy(ctx context.Context) {
	h.mu.Lock()
	kept, stale := slices.Clone(h.kept), h.stale
	h.stale = nil
	h.mu.Unlock()
	for _, f := range kept {
		if f.stored != "" {
			continue
		}
		stored, err := h.states.store.put(ctx, stateKey(h.name, f.Version), f.file)
		if err != nil {
			h.states.log.Warn("frame of another version is not stored", "state", h.name, "version", f.Version, "error", err)
			continue
		}
		h.mu.Lock()
		f.stored = stored
		h.mu.Unlock()
	}
	for _, stored := range stale {
		if err := h.states.store.remove(ctx, stored); err != nil {
			h.states.log.Warn("frame of a state stays in the fd store", "state", h.name, "entry", stored, "error", err)
		}
	}
}

// commitAll commits all states of the service that are in use, if this
// generation has the lease. Nobody can be told of an error but the operator.
func (ss *states) commitAll(ctx context.Context) {
	if !ss.lease.held() {
		return
	}
	for _, h := range ss.all() {
		if h.hidden != nil && h.hidden() {
			continue
		}
		err := h.Commit(ctx)
		switch {
		case errors.Is(err, ErrNoManager):
			return // there is nothing that would outlive this process
		case err != nil:
			ss.log.Error("state is not committed: the next start has an older one", "state", h.name, "error", err)
		}
	}
}
