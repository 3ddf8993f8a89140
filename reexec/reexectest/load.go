// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"
)

// load are clients that ask all the time.
type load struct {
	unit  *Unit
	stop  context.CancelFunc
	ctx   context.Context
	done  sync.WaitGroup
	limit time.Duration // of one exchange

	mu      sync.Mutex
	changed chan struct{} // closed and replaced after every exchange
	workers []*worker
	losses  []loss
}

type worker struct {
	kind      string
	exchanges int
}

// loss is an exchange that was not answered.
type loss struct {
	at   time.Time
	kind string
	err  error
}

// refused says whether nobody listened, as opposed to a connection that was cut.
func (l loss) refused() bool {
	return errors.Is(l.err, syscall.ECONNREFUSED) || errors.Is(l.err, syscall.ENOENT) ||
		strings.Contains(l.err.Error(), syscall.ECONNREFUSED.Error()) // where it was not wrapped
}

// startLoad starts clients of every kind, which pause between two exchanges.
func startLoad(ctx context.Context, u *Unit, kinds []Kind, clients int, pause time.Duration) *load {
	l := &load{unit: u, limit: u.opts.Patience, changed: make(chan struct{})}
	l.ctx, l.stop = context.WithCancel(ctx)
	for _, kind := range kinds {
		for range clients {
			w := &worker{kind: kind.Name}
			l.workers = append(l.workers, w)
			l.done.Go(func() { l.ask(w, kind, pause) })
		}
	}
	return l
}

func (l *load) ask(w *worker, kind Kind, pause time.Duration) {
	var client Client
	defer func() {
		if client != nil {
			_ = client.Close()
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for l.ctx.Err() == nil {
		// The end of the load waits for the answer to what was asked.
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(l.ctx), l.limit, fmt.Errorf("no answer within %v", l.limit))
		var err error
		if client == nil {
			var dialled Client
			if dialled, err = kind.Dial(ctx, l.unit); err == nil {
				client = dialled
			}
		}
		if err == nil {
			if err = client.Exchange(ctx); err != nil {
				_ = client.Close()
				client = nil
			}
		}
		cancel()
		l.note(w, err)
		wait := pause
		if err != nil {
			wait = max(pause, 5*time.Millisecond) // a service that is gone is asked no faster
		}
		if wait == 0 {
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-l.ctx.Done():
		}
	}
}

func (l *load) note(w *worker, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w.exchanges++
	if err != nil {
		l.losses = append(l.losses, loss{time.Now(), w.kind, err})
		l.unit.tell("%s: %v", w.kind, err)
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// round waits until every client has had another exchange that began after the
// call.
func (l *load) round(ctx context.Context) error {
	l.mu.Lock()
	want := make([]int, len(l.workers))
	for i, w := range l.workers {
		want[i] = w.exchanges + 2 // the one under way may have begun before
	}
	l.mu.Unlock()
	for {
		l.mu.Lock()
		changed, behind := l.changed, ""
		for i, w := range l.workers {
			if w.exchanges < want[i] {
				behind = w.kind
			}
		}
		l.mu.Unlock()
		if behind == "" {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("a client (%s) gets no answer: %w", behind, context.Cause(ctx))
		}
	}
}

// end stops the clients and returns how many exchanges there were, and what was lost.
func (l *load) end() (exchanges int, losses []loss) {
	l.stop()
	l.done.Wait()
	for _, w := range l.workers {
		exchanges += w.exchanges
	}
	return exchanges, l.losses
}

// describe lists some of what was lost.
func describe(losses []loss) string {
	var b strings.Builder
	for i, l := range losses {
		if i == 5 {
			fmt.Fprintf(&b, "\n  and %d more", len(losses)-i)
			break
		}
		fmt.Fprintf(&b, "\n  %s: %v", l.kind, l.err)
	}
	return b.String()
}
