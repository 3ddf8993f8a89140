// SPDX-License-Identifier: Apache-2.0

package upgrade1

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/holdfast-go/holdfast/units/upgrade"
)

const (
	maxRollouts = 64
	// maxFinished is how many ends are kept here; the others are in the journal.
	maxFinished = 64
	// acceptTimeout bounds the wait for the checks, so that a caller has the id
	// before the bus loses its patience, which is 25 s.
	acceptTimeout = 15 * time.Second
)

// rollouts are those of this process.
type rollouts struct {
	mu       sync.Mutex
	byID     map[string]*rolloutJob
	active   int
	finished []string // the oldest first
}

// rolloutJob is one of them. Its fields are fixed before its channels are closed.
type rolloutJob struct {
	id      string
	action  string
	by      string
	asked   upgrade.Request // with the units as the caller has named them
	resumed bool

	accepted  chan struct{} // the checks have passed, or it has ended
	acceptOne sync.Once
	done      chan struct{}
	report    upgrade.Report
	err       error // nothing was started
}

func newJob(id, action, by string, asked upgrade.Request) *rolloutJob {
	return &rolloutJob{id: id, action: action, by: by, asked: asked, accepted: make(chan struct{}), done: make(chan struct{})}
}

func (j *rolloutJob) accept() { j.acceptOne.Do(func() { close(j.accepted) }) }

// ended says whether it is over.
func (j *rolloutJob) ended() bool {
	select {
	case <-j.done:
		return true
	default:
		return false
	}
}

func (r *rollouts) any() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.active > 0
}

func (r *rollouts) find(id string) *rolloutJob {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byID[id]
}

// ids are those of what is under way, sorted.
func (r *rollouts) ids() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := make([]string, 0, len(r.byID)) // never nil: the bus needs a type
	for id, j := range r.byID {
		if !j.ended() {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// add returns the job of the same id if there is one.
func (r *rollouts) add(j *rolloutJob) (existing *rolloutJob, err *dbus.Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if existing := r.byID[j.id]; existing != nil {
		return existing, nil
	}
	if r.active >= maxRollouts && !j.resumed {
		return nil, fail(ErrorLimitsExceeded, "%d rollouts are under way, which is all that there may be: wait for one", r.active)
	}
	r.byID[j.id] = j
	r.active++
	return nil, nil
}

// end keeps a job that is over, unless nothing was started: its id may be used again.
func (r *rollouts) end(j *rolloutJob, report upgrade.Report, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	j.report, j.err = report, err
	r.active--
	if err != nil {
		delete(r.byID, j.id)
	} else if r.finished = append(r.finished, j.id); len(r.finished) > maxFinished {
		delete(r.byID, r.finished[0])
		r.finished = r.finished[1:]
	}
	close(j.done)
	j.accept()
}

// launch runs a job that was added.
func (s *server) launch(j *rolloutJob, request upgrade.Request) {
	s.idle.begin()
	s.running.Go(func() {
		defer s.idle.end()
		run := s.Upgrader.Rollout
		if j.action == rollback {
			run = s.Upgrader.Rollback
		}
		s.Logger.Info("asked for", "action", j.action, "id", j.id, "by", j.by, "units", request.Units, "version", request.Version)
		s.announce()
		report, err := run(s.work, request, func(event upgrade.Event) {
			event.ID = j.id
			j.accept()
			s.progress(event)
		})
		s.finish(j, report, err)
	})
}

func (s *server) finish(j *rolloutJob, report upgrade.Report, err error) {
	s.rollouts.end(j, report, err)
	if err != nil {
		s.Logger.Info("not started", "action", j.action, "id", j.id, "by", j.by, "error", err)
	} else {
		s.Logger.Info("ended", "action", j.action, "id", j.id, "by", j.by, "outcome", report.Outcome, "reason", report.Reason)
		if report.Outcome != upgrade.Interrupted { // that is no end
			s.emit(Interface+".Done", j.id, string(report.Outcome), printable(report.Reason, maxText))
		}
	}
	s.announce()
}

// progress tells all who listen.
func (s *server) progress(event upgrade.Event) {
	if event.Kind == "done" {
		return // that is the signal Done
	}
	state := event.State
	if state == "" {
		state = event.Kind
	}
	s.emit(Interface+".Progress", event.ID, event.Unit, printable(state, maxText), event.Phase, printable(event.Text, maxText),
		uint32(max(0, event.Done)), uint32(max(0, event.Total)))
}

// resume goes on with what another process has left. What it is shows with its first event.
func (s *server) resume() {
	s.idle.begin()
	s.running.Go(func() {
		defer s.idle.end()
		reports, err := s.Upgrader.Resume(s.work, func(event upgrade.Event) {
			if s.rollouts.find(event.ID) == nil {
				s.adopt(event.ID)
			}
			s.progress(event)
		})
		if err != nil {
			s.Logger.Error("resume", "error", err)
		}
		for _, report := range reports {
			j := s.rollouts.find(report.ID)
			if j == nil {
				j = s.adopt(report.ID)
			}
			if j != nil && j.resumed && !j.ended() {
				s.finish(j, report, nil)
			}
		}
		// What could not be resumed has no report.
		for _, id := range s.rollouts.ids() {
			if j := s.rollouts.find(id); j != nil && j.resumed && !j.ended() {
				s.finish(j, upgrade.Report{}, errors.New("it could not be resumed"))
			}
		}
	})
}

// adopt makes a job of what is resumed. It is nil if another process of ours has the id.
func (s *server) adopt(id string) *rolloutJob {
	found, err := s.Upgrader.Find(s.work, id)
	if err != nil {
		s.Logger.Warn("resume", "id", id, "error", err)
	}
	j := newJob(id, found.Report.Action, found.Request.By, found.Request)
	j.resumed = true
	j.accept()
	if existing, _ := s.rollouts.add(j); existing != nil {
		return nil
	}
	s.Logger.Info("resumed", "action", j.action, "id", id, "by", j.by)
	s.announce()
	return j
}

// interrupt ends what is under way; it is left for the next time.
func (s *server) interrupt() {
	s.stopWork(errEnds)
	ended := make(chan struct{})
	go func() {
		s.running.Wait()
		close(ended)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	select {
	case <-ended:
	case <-ctx.Done():
		s.Logger.Warn("what is under way does not end", "ids", s.rollouts.ids())
	}
}

var errEnds = errors.New("the service ends")
