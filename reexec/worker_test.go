// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// mainService is one that is main and runs what Go was given.
func mainService(t *testing.T) *Service {
	t.Helper()
	s := serviceOf(firstInventory(t))
	s.main, s.done, s.events = make(chan struct{}), make(chan struct{}), make(chan event, 1)
	close(s.main)
	return s
}

// A worker may learn of the drain in other ways than by its context, and earlier.
// What it returns then ends nothing.
func TestWorkerThatSeesTheDrainFirst(t *testing.T) {
	for range 200 {
		s := mainService(t)
		why := errors.New("the queue is closed")
		begun := make(chan struct{})
		s.Go("worker", func(context.Context) error { close(begun); <-s.Draining(); return why })
		go s.runWorker(s.workers[0])
		<-begun
		done := make(chan error, 1)
		s.drain.begin(ours, func(err error) { done <- err })
		s.drain.now()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		s.handle(<-s.events)
		if s.run.err != nil {
			t.Fatalf("a worker that ended with the drain ends the service: %v", s.run.err)
		}
		if h := s.drain.record.report(control.Process{}).Holders; len(h) != 1 || h[0].Error != why.Error() {
			t.Fatalf("holders %+v", h)
		}
	}
}

// A worker that returns why its context has ended has not failed.
func TestWorkerThatIsCanceled(t *testing.T) {
	s := mainService(t)
	begun := make(chan struct{})
	s.Go("worker", func(ctx context.Context) error {
		close(begun)
		<-ctx.Done()
		return fmt.Errorf("wait for mail: %w", ctx.Err())
	})
	go s.runWorker(s.workers[0])
	<-begun
	done := make(chan error, 1)
	s.drain.begin(ours, func(err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if h := s.drain.record.report(control.Process{}).Holders; len(h) != 1 || h[0].Error != "" {
		t.Errorf("holders %+v, want one without an error", h)
	}
}

// A worker has all the time of a drain: it has been told at the beginning, so it
// needs no farewell. One that is not over then was cut.
func TestWorkerHasAllTheTime(t *testing.T) {
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprint("late ", late), func(t *testing.T) {
			s := mainService(t)
			release := make(chan struct{})
			begun := make(chan struct{})
			s.Go("worker", func(context.Context) error { close(begun); <-release; return nil })
			go s.runWorker(s.workers[0])
			<-begun
			done := make(chan error, 1)
			defer s.drain.deadline(time.Millisecond)()
			s.drain.begin(ours, func(err error) { done <- err })
			s.drain.now()
			<-s.drain.ending.Done()
			notYet(t, done)
			if late {
				s.drain.abandon()
				defer close(release)
			} else {
				close(release)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			if h := s.drain.record.report(control.Process{}).Holders; len(h) != 1 || h[0].Cut != late || h[0].Error != "" {
				t.Errorf("holders %+v, want one that is cut: %t", h, late)
			}
		})
	}
}
