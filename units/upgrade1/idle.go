// SPDX-License-Identifier: Apache-2.0

package upgrade1

import (
	"context"
	"sync"
	"time"
)

// idle counts what goes on and says for how long nothing has.
type idle struct {
	limit time.Duration // 0: it does not matter

	mu      sync.Mutex
	work    int // rollouts
	calls   int
	since   time.Time
	changed chan struct{} // closed at every change
}

func newIdle(limit time.Duration) *idle {
	return &idle{limit: limit, since: time.Now(), changed: make(chan struct{})}
}

// begin says that work goes on until end is called.
func (i *idle) begin() { i.add(1, 0) }
func (i *idle) end()   { i.add(-1, 0) }

// beginCall says that a call is to be answered before endCall.
func (i *idle) beginCall() { i.add(0, 1) }
func (i *idle) endCall()   { i.add(0, -1) }

func (i *idle) add(work, calls int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.work += work
	i.calls += calls
	i.since = time.Now()
	close(i.changed)
	i.changed = make(chan struct{})
}

// left is the time until the limit, if nothing begins; negative if something goes on or
// there is no limit. changed is closed when that may be no longer so.
func (i *idle) left() (left time.Duration, changed <-chan struct{}) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.work > 0 || i.calls > 0 || i.limit <= 0 {
		return -1, i.changed
	}
	return max(0, i.limit-time.Since(i.since)), i.changed
}

// settle waits until all calls are answered, or ctx ends.
func (i *idle) settle(ctx context.Context) {
	for {
		i.mu.Lock()
		calls, changed := i.calls, i.changed
		i.mu.Unlock()
		if calls == 0 {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
