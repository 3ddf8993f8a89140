// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"sync"
)

// lease is the right to commit states. One generation has it: the predecessor
// until the verdict, and from then on the successor.
type lease struct {
	mu      sync.Mutex
	phase   leasePhase
	users   int           // commits under way
	changed chan struct{} // closed at the next change of the above
}

type leasePhase int

const (
	leaseNone   leasePhase = iota // another generation has it, or will
	leaseTaking                   // ours once what the predecessor left is loaded
	leaseHeld
	leasePaused // on its way to the successor, which may fail
)

func newLease() *lease { return &lease{changed: make(chan struct{})} }

func (l *lease) change(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.changed)
	l.changed = make(chan struct{})
}

// set moves it to another phase. Who waits for it learns that.
func (l *lease) set(to leasePhase) { l.change(func() { l.phase = to }) }

// move is set for a phase that may have been left meanwhile.
func (l *lease) move(from, to leasePhase) {
	l.change(func() {
		if l.phase == from {
			l.phase = to
		}
	})
}

func (l *lease) held() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.phase == leaseHeld
}

// elsewhere says that another generation has it, or that what that has left is
// not loaded yet.
func (l *lease) elsewhere() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.phase == leaseNone || l.phase == leaseTaking
}

// use returns when this generation has the lease, and keeps it until done is
// called. While it is on its way use waits, and returns [ErrNotMain] if another
// generation has it then.
func (l *lease) use(ctx context.Context) (done func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.waitLocked(ctx, func() bool { return l.phase == leaseNone || l.phase == leaseHeld }); err != nil {
		return nil, err
	}
	if l.phase == leaseNone {
		return nil, ErrNotMain
	}
	l.users++
	return func() { l.change(func() { l.users-- }) }, nil
}

// settled returns when the lease is not about to be taken.
func (l *lease) settled(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waitLocked(ctx, func() bool { return l.phase != leaseTaking })
}

// unused returns when nothing is being committed.
func (l *lease) unused(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waitLocked(ctx, func() bool { return l.users == 0 })
}

func (l *lease) waitLocked(ctx context.Context, until func() bool) error {
	for !until() {
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
			l.mu.Lock()
		case <-ctx.Done():
			l.mu.Lock()
			return context.Cause(ctx)
		}
	}
	return nil
}
