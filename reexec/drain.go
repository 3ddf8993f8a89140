// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"sync"
)

// drain ends what this generation still has to answer.
type drain struct {
	inv     *inventory
	servers []*httpServer
	mover   *mover // nil if there is nobody to move to

	once      sync.Once
	draining  chan struct{} // closed when it begins
	abandoned chan struct{} // closed when the rest is cut
	hurry     chan struct{} // closed when idle connections need not be waited for
	hurryOnce sync.Once
	cutOnce   sync.Once
}

func newDrain(inv *inventory) *drain {
	return &drain{inv: inv, draining: make(chan struct{}), abandoned: make(chan struct{}), hurry: make(chan struct{})}
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
				h.leading.Store(true)
			}
		}
		close(d.draining)
		err := d.inv.close(paths)
		if d.mover != nil {
			d.mover.begin(sets)
		}
		go func() {
			d.wait()
			done(err)
		}()
	})
}

// now goes on without waiting for idle connections: there is no successor to
// lead clients to, or the service stops.
func (d *drain) now() { d.hurryOnce.Do(func() { close(d.hurry) }) }

func (d *drain) wait() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-d.abandoned:
			cancel()
		case <-ctx.Done():
		}
	}()
	listeners := d.inv.all()
	stop := make(chan struct{})
	var empty sync.WaitGroup
	for _, l := range listeners {
		empty.Go(func() {
			select {
			case <-l.closed:
				l.conns.wait(stop)
			case <-stop:
			}
		})
	}
	none := make(chan struct{})
	go func() { empty.Wait(); close(none) }()
	select {
	case <-none:
	case <-d.hurry:
	case <-ctx.Done():
	}
	close(stop)
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
	for _, l := range listeners {
		l.conns.wait(d.abandoned)
	}
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
		close(d.abandoned)
		d.stay()
		for _, h := range d.servers {
			_ = h.srv.Close()
		}
		for _, l := range d.inv.all() {
			l.abandon()
		}
	})
}
