// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"fmt"
	"time"
)

// yieldAtOnce is how long the end of what is being written to the fd store is
// waited for on the spot. As a rule nothing is.
const yieldAtOnce = 5 * time.Millisecond

// yielded ends our writing to the fd store, and says whether it has ended: what
// systemd has read after MAINPID= from us it does not keep. States with one
// writer are with the successor then.
//
// It belongs to the probation, which goes on meanwhile: later it would be too
// late for what the successor says in that time, and a bad one would be main. So
// a beat that finds it not over ends nothing; the next one asks again.
func (s *Service) yielded() (over bool, err error) {
	r := &s.run
	if r.yielding != nil {
		select {
		case err := <-r.yielding:
			return s.haveYielded(err)
		default:
			return false, nil
		}
	}
	s.states.lease.set(leasePaused)
	ctx, cancel := context.WithTimeout(context.Background(), barrierTimeout)
	wait, thaw := s.store.freeze(ctx)
	result, c := make(chan error, 1), r.successor
	r.yielding, r.thaw = result, thaw
	go func() {
		defer cancel()
		err := s.states.yield(ctx, c)
		if err == nil {
			err = wait()
		}
		result <- err
	}()
	select {
	case err := <-result:
		return s.haveYielded(err)
	case <-time.After(yieldAtOnce):
		return false, nil
	}
}

func (s *Service) haveYielded(err error) (over bool, _ error) {
	if err != nil {
		return false, fmt.Errorf("the successor (PID %d) cannot be main: what is in the fd store or goes there is not settled: %w", s.run.successor.process.PID, err)
	}
	return true, nil
}
