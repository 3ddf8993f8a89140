// SPDX-License-Identifier: Apache-2.0

package upgrade1

import (
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
)

// rollouts are those of this process.
type rollouts struct {
	mu       sync.Mutex
	byID     map[string]*rolloutJob
	active   int
	closed   bool // nothing begins any more
	running  sync.WaitGroup
	finished []string // the oldest first
}

// rolloutJob is one of them. Its fields are fixed before its channels are closed, but for promised,
// which needs the lock of the rollouts.
type rolloutJob struct {
	id      string
	action  string
	by      string
	asked   upgrade.Request // with the units as the caller has named them
	resumed bool
	// promised: the caller has the id, and the checks were not over.
	promised bool

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

// void: nothing was started, so the id is free.
func (j *rolloutJob) void() bool { return j.ended() && j.err != nil }

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
	existing = r.byID[j.id]
	if existing != nil && !existing.void() {
		return existing, nil
	}
	if r.closed {
		return nil, fail(ErrorInterrupted, "request %q: the service ends: ask again", j.id)
	}
	if r.active >= maxRollouts && !j.resumed {
		return nil, fail(ErrorLimitsExceeded, "%d rollouts are under way, which is all that there may be: wait for one", r.active)
	}
	if existing != nil {
		r.finished = slices.DeleteFunc(r.finished, func(id string) bool { return id == j.id })
	}
	r.byID[j.id] = j
	r.active++
	r.running.Add(1)
	return nil, nil
}

// promise says that the caller goes with the id alone.
func (r *rollouts) promise(j *rolloutJob) {
	r.mu.Lock()
	defer r.mu.Unlock()
	j.promised = true
}

// close has nothing begin any more, and returns a channel that is closed when all has ended.
func (r *rollouts) close() <-chan struct{} {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		r.running.Wait()
		close(ended)
	}()
	return ended
}

// end keeps a job that is over, unless nothing was started and its caller hears that: its id may be used
// again. It says whether the job was kept.
func (r *rollouts) end(j *rolloutJob, report upgrade.Report, err error) (kept bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.running.Done()
	j.report, j.err = report, err
	r.active--
	kept = err == nil || j.promised
	if !kept {
		delete(r.byID, j.id)
	} else if r.finished = append(r.finished, j.id); len(r.finished) > maxFinished {
		delete(r.byID, r.finished[0])
		r.finished = r.finished[1:]
	}
	close(j.done)
	j.accept()
	return kept
}

// launch runs a job that was added.
func (s *server) launch(j *rolloutJob, request upgrade.Request) {
	s.idle.begin()
	go func() {
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
	}()
}

func (s *server) finish(j *rolloutJob, report upgrade.Report, err error) {
	kept := s.rollouts.end(j, report, err)
	switch {
	case err != nil:
		s.Logger.Info("not started", "action", j.action, "id", j.id, "by", j.by, "error", err)
		if kept {
			s.emit(Interface+".Done", j.id, string(upgrade.Failed), printable(err.Error(), maxText))
		}
	default:
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
	s.resuming.Go(func() {
		defer s.idle.end()
		_, err := s.Upgrader.Resume(s.work, func(event upgrade.Event) {
			j := s.rollouts.find(event.ID)
			if j == nil {
				j = s.adopt(event.ID)
			}
			s.progress(event)
			if event.Report != nil && j != nil && !j.ended() {
				s.finish(j, *event.Report, nil) // there may be others to resume
			}
		})
		if err != nil {
			s.Logger.Error("resume", "error", err)
		}
		for _, id := range s.rollouts.ids() {
			if j := s.rollouts.find(id); j != nil && j.resumed && !j.ended() {
				s.finish(j, upgrade.Report{ID: id, Outcome: upgrade.Interrupted, Reason: "it could not be resumed"}, nil)
			}
		}
	})
}

// adopt makes a job of what is resumed. It is nil if the same id was asked for meanwhile.
func (s *server) adopt(id string) *rolloutJob {
	found, err := s.Upgrader.Find(s.work, id)
	if err != nil {
		s.Logger.Warn("resume", "id", id, "error", err)
	}
	j := newJob(id, found.Report.Action, found.Request.By, found.Request)
	j.resumed = true
	j.accept()
	if existing, fault := s.rollouts.add(j); existing != nil || fault != nil {
		return nil
	}
	s.Logger.Info("resumed", "action", j.action, "id", id, "by", j.by)
	s.announce()
	return j
}

// interrupt ends what is under way; it is left for the next time.
func (s *server) interrupt() {
	s.stopWork(errEnds)
	s.resuming.Wait()
	timeout := time.NewTimer(endTimeout)
	defer timeout.Stop()
	select {
	case <-s.rollouts.close():
	case <-timeout.C:
		s.Logger.Warn("what is under way does not end", "ids", s.rollouts.ids())
	}
}

var errEnds = errors.New("the service ends")
