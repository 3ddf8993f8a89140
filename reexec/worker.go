// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-go/holdfast/reexec/internal/machine"
)

// worker is what [Service.Go] was given.
type worker struct {
	name string
	work func(context.Context) error
	over chan struct{} // closed when work has returned, or will never run
	err  error         // what it returned, once over is closed
}

// runWorker runs w while we are main.
func (s *Service) runWorker(w *worker) {
	defer close(w.over)
	select {
	case <-s.main:
	case <-s.drain.draining:
		return
	case <-s.done:
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-s.drain.draining:
		case <-s.done:
		case <-ctx.Done():
		}
		cancel()
	}()
	if w.err = w.work(ctx); w.err != nil {
		s.send(event{kind: machine.Failed, err: fmt.Errorf("%s: %w", w.name, w.err), reason: w.err.Error(), worker: true})
	}
}

// finish is for the drain. The worker was told at its beginning, so it is waited
// for to the end.
func (w *worker) finish(context.Context) error {
	<-w.over
	if errors.Is(w.err, context.Canceled) {
		return nil // it was asked to, and many return ctx.Err()
	}
	return w.err
}
