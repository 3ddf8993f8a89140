// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// ErrDrainTimeout is the cause of the end of a context that [Service.OnDrain]
// has passed, when the drain has taken too long.
var ErrDrainTimeout = errors.New("the drain timeout is over")

// errHurry is the cause when a person does not want to wait.
var errHurry = errors.New("the service is to end at once")

// drain ends what this generation still has to answer: the connections of its
// listeners, its HTTP servers, and what the service has registered.
type drain struct {
	inv       *inventory
	servers   []*httpServer
	finishers []*finisher
	mover     *mover // nil if there is nobody to move to

	once      sync.Once
	draining  chan struct{} // closed when it begins
	abandoned chan struct{} // closed when the rest is cut
	hurry     chan struct{} // closed when idle connections need not be waited for
	hurryOnce sync.Once
	cutOnce   sync.Once

	ending   context.Context // of the finishers
	end      context.CancelCauseFunc
	record   record
	reported sync.Once
}

// finisher is what the service has registered by [Service.OnDrain].
type finisher struct {
	name   string
	finish func(context.Context) error
}

func newDrain(inv *inventory) *drain {
	d := &drain{inv: inv, draining: make(chan struct{}), abandoned: make(chan struct{}), hurry: make(chan struct{})}
	d.ending, d.end = context.WithCancelCause(context.Background())
	return d
}

// begin closes the listeners and waits for the connections in a goroutine of
// its own; done is called once when none is left. After a handover nothing is
// closed under a client: an idle connection moves, or else is led away with its
// next answer, and one that asks nothing is waited for until the deadline.
func (d *drain) begin(paths ownership, done func(error)) {
	d.once.Do(func() {
		var sets []*keepAlives
		for _, h := range d.servers {
			if set := h.keepAlives.Load(); set != nil && d.mover != nil {
				sets = append(sets, set)
			} else {
				h.lead()
			}
		}
		if d.mover != nil {
			d.mover.begin(sets) // before anybody learns that sessions may move
			// Those that wait for one that hangs need the time for a last word, too.
			context.AfterFunc(d.ending, d.mover.end)
		}
		close(d.draining)
		err := d.inv.close(paths)
		d.record.begin(time.Now())
		finished := d.finish()
		go func() {
			d.wait(finished)
			done(err)
		}()
	})
}

// began says that it has begun.
func (d *drain) began() bool {
	select {
	case <-d.draining:
		return true
	default:
		return false
	}
}

// finish tells all that was registered, and returns a channel that is closed
// when they have finished.
func (d *drain) finish() <-chan struct{} {
	var all sync.WaitGroup
	for _, f := range d.finishers {
		over := d.record.hold(f.name, func() int { return 0 })
		all.Go(func() { over(f.finish(d.ending)) })
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	return done
}

// report sums the drain up.
func (d *drain) report(p control.Process) control.Drain {
	sum := d.record.report(p)
	if d.mover != nil {
		sum.Moved = int(d.mover.count.Load())
	}
	return sum
}

// farewell is how long before the deadline those who are left are told: time
// for a last word to their clients.
func farewell(timeout time.Duration) time.Duration { return min(time.Second, timeout/10) }

// deadline says when the rest will be cut. It may be said again.
func (d *drain) deadline(timeout time.Duration) (stop func() bool) {
	return time.AfterFunc(timeout-farewell(timeout), func() { d.end(ErrDrainTimeout) }).Stop
}

// now goes on without waiting for idle connections: there is no successor to
// lead clients to, or the service stops.
func (d *drain) now() { d.hurryOnce.Do(func() { close(d.hurry) }) }

func (d *drain) wait(finished <-chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-d.abandoned:
			cancel()
		case <-ctx.Done():
		}
	}()
	var empty sync.WaitGroup
	for _, conns := range d.inv.connections() {
		over := func(error) {}
		if conns.count() > 0 {
			over = d.record.hold(conns.name, conns.count)
		}
		empty.Go(func() {
			select {
			case <-conns.closed:
				if conns.wait(d.abandoned) {
					over(nil)
				}
			case <-d.abandoned:
			}
		})
	}
	none := make(chan struct{})
	go func() { empty.Wait(); close(none) }()
	select {
	case <-none:
		// What is registered may have sessions to move.
		select {
		case <-finished:
		case <-d.hurry:
		case <-ctx.Done():
		}
	case <-d.hurry:
	case <-ctx.Done():
	}
	d.stay()

	var servers sync.WaitGroup
	for _, h := range d.servers {
		// Shutdown also waits for a handler that goes on after its connection
		// was closed.
		servers.Go(func() { _ = h.stop(ctx) })
	}
	servers.Wait()
	if d.mover != nil {
		<-d.mover.over
	}
	// What no server closes: hijacked connections, and those of listeners that
	// the service serves itself.
	<-none
	select {
	case <-finished:
	case <-d.abandoned:
	}
	d.inv.waitAnswers(d.abandoned)
}

// stay ends the move, and closes adopted connections on which nothing was
// asked.
func (d *drain) stay() {
	if d.mover != nil {
		d.mover.end()
	}
	for _, h := range d.servers {
		if set := h.keepAlives.Load(); set != nil {
			set.closeParked()
		}
	}
}

// abandon cuts what is left.
func (d *drain) abandon() {
	d.cutOnce.Do(func() {
		d.record.cut()
		d.end(errHurry) // if it has not ended yet
		close(d.abandoned)
		d.stay()
		for _, h := range d.servers {
			_ = h.srv.Close()
		}
		for _, l := range d.inv.all() {
			l.abandon()
		}
		for _, k := range d.inv.sessionKinds() {
			k.conns.abandon()
		}
		d.inv.closePackets()
	})
}
