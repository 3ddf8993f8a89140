// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"fmt"
	"slices"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// A job is what the service shall do. There is one at most: another request is
// merged into it, or cancels it.
type job struct {
	verb    wire.Verb // wire.Start, wire.Stop, wire.Restart or wire.Reload
	ids     []int     // of the requests that wait for it
	running bool
	queued  bool // it is run at the next dispatch, unless it runs already
}

// jobAgain is the result of a job that has to wait for another state.
const jobAgain jobResult = "again"

// jobGoesOn is the result of a job that a change of state will end.
const jobGoesOn jobResult = ""

func (j *job) is(verb wire.Verb) bool { return j != nil && j.verb == verb }

// request begins a job.
func (s *service) request(id int, verb wire.Verb) *wire.Error {
	defer s.settle()
	if verb == wire.ReloadOrRestart && !s.canReload() {
		verb = wire.Restart
	}
	u := s.unit
	refused := false
	switch verb {
	case wire.Start:
		refused = u.RefuseManualStart
	case wire.Stop:
		refused = u.RefuseManualStop
	case wire.Restart, wire.TryRestart:
		refused = u.RefuseManualStart || u.RefuseManualStop
	case wire.ReloadOrRestart:
		refused = u.RefuseManualStart && !s.state.active().up()
	}
	if refused {
		return &wire.Error{Name: wire.ErrOnlyByDependency, Message: fmt.Sprintf("Operation refused, unit %s may be "+
			"requested by dependency only (it is configured to refuse manual start/stop).", u.Name)}
	}
	if verb == wire.Reload && !s.canReload() {
		return &wire.Error{Name: wire.ErrJobTypeNotApplicable, Message: fmt.Sprintf("Job type %s is not applicable for unit %s.", verb, u.Name)}
	}
	verb = s.collapse(verb)
	if verb == "" {
		s.world.jobEnded(id, wire.Done)
		return nil
	}
	if verb == wire.Start || verb == wire.Restart {
		if err := s.world.socketsWanted(); err != nil {
			s.world.log(logWarning, "Dependency failed for %s: %v", s.ident(), err)
			s.world.jobEnded(id, wire.Dependency)
			return nil
		}
	}
	s.install(verb, []int{id}, true)
	return nil
}

// triggered starts the service for a socket.
func (s *service) triggered() {
	defer s.settle()
	if a := s.state.active(); a.up() || a == unitActivating || s.job.is(wire.Start) || s.job.is(wire.Restart) {
		return
	}
	if err := s.world.socketsWanted(); err != nil {
		s.world.log(logWarning, "Dependency failed for %s: %v", s.ident(), err)
		return
	}
	s.install(wire.Start, nil, true)
}

// canReload is the property CanReload.
func (s *service) canReload() bool {
	return len(s.unit.ExecReload) > 0 || s.unit.Type == "notify-reload"
}

// collapse makes a verb that depends on the state into one that does not; "" is
// to do nothing.
func (s *service) collapse(verb wire.Verb) wire.Verb {
	a := s.state.active()
	switch verb {
	case wire.TryRestart:
		if a.up() || a == unitActivating && s.since(252) {
			return wire.Restart
		}
		return ""
	case wire.ReloadOrRestart:
		if a.up() {
			return wire.Reload
		}
		return wire.Start
	}
	return verb
}

// merge returns the job that does what both ask for, or "" if they conflict.
func (s *service) merge(a, b wire.Verb) wire.Verb {
	switch {
	case a == b:
		return a
	case a == wire.Stop || b == wire.Stop:
		return ""
	case a == wire.Restart || b == wire.Restart:
		return wire.Restart
	}
	return s.collapse(wire.ReloadOrRestart)
}

// install makes a request the service's job. If mergeable is false, a job that
// runs already has to run again for it.
func (s *service) install(verb wire.Verb, ids []int, mergeable bool) {
	if s.job != nil {
		merged := s.merge(s.job.verb, verb)
		switch {
		case merged == "":
			s.endJob(wire.Canceled)
		default:
			// A second reload is a reload of its own: the first may have read
			// what it reloads before it changed.
			enough := mergeable && verb != wire.Reload && (s.job.verb == verb || s.job.verb == wire.Restart)
			if s.job.running && !enough {
				s.job.running = false
			}
			s.job.verb = merged
			s.job.ids = append(s.job.ids, ids...)
		}
	}
	if s.job == nil {
		s.job = &job{verb: verb, ids: slices.Clone(ids)}
	}
	s.queueJob()
}

func (s *service) queueJob() {
	s.job.queued = true
	s.world.schedule()
}

// dispatch runs the job that waits.
func (s *service) dispatch() {
	j := s.job
	if j == nil || !j.queued {
		return
	}
	j.queued = false
	if j.running {
		return
	}
	defer s.settle()
	j.running = true
	var result jobResult
	var doing string
	switch j.verb {
	case wire.Start:
		result, doing = s.performStart()
	case wire.Reload:
		result, doing = s.performReload()
	default:
		result, doing = s.performStop()
	}
	if s.job != j {
		return // it ended meanwhile
	}
	switch result {
	case jobGoesOn:
		if doing != "" {
			s.logJobStart(doing)
		}
	case jobAgain:
		j.running = false
	default:
		s.endJob(result)
	}
}

// performStart, performStop and performReload begin what a job asks for. What they
// do, if that is worth a line in the journal, is doing.
func (s *service) performStart() (result jobResult, doing string) {
	a := s.state.active()
	if a.up() {
		return wire.Done, ""
	}
	if s.since(258) {
		if a == unitDeactivating {
			return jobAgain, ""
		}
		if s.starting() {
			return jobGoesOn, ""
		}
	}
	if s.limitsEarly() && !s.takeStart() {
		return wire.Failed, ""
	}
	switch {
	case a == unitDeactivating:
		return jobAgain, ""
	case s.starting():
		return jobGoesOn, ""
	case s.state == serviceAutoRestart:
		if s.since(257) {
			s.enterRestart(true)
		}
		return jobAgain, ""
	}
	if !s.limitsEarly() && !s.takeStart() {
		return wire.Failed, ""
	}
	s.begin()
	return jobGoesOn, "Starting"
}

// starting reports whether a start is under way.
func (s *service) starting() bool {
	return s.state.is(serviceCondition, serviceStartPre, serviceStart, serviceStartPost)
}

func (s *service) performStop() (result jobResult, doing string) {
	if s.state.active().down() {
		return wire.Done, ""
	}
	s.forbidRestart = true
	switch s.state {
	case serviceAutoRestart, serviceAutoRestartQueued:
		s.setState(s.deadState())
	case serviceCondition, serviceStartPre, serviceStart, serviceStartPost,
		serviceReload, serviceReloadSignal, serviceReloadNotify, serviceReloadPost, serviceStopWatchdog:
		s.enterSignal(serviceStopSigterm, resultSuccess)
	case serviceRunning, serviceExited:
		s.enterStop(resultSuccess)
		doing = "Stopping"
	}
	return jobGoesOn, doing
}

func (s *service) performReload() (result jobResult, doing string) {
	switch {
	case !s.canReload():
		return wire.Skipped, ""
	case s.state.active() == unitReloading:
		return jobAgain, ""
	case s.state.active() != unitActive:
		s.world.log(logWarning, "Unit cannot be reloaded because it is inactive.")
		return wire.Invalid, ""
	}
	s.startReload()
	return jobGoesOn, "Reloading"
}

// jobSees tells the job of a change of state: it may be what it waits for, or
// what it wanted, or the contrary.
func (s *service) jobSees(a activeState) {
	j := s.job
	if j == nil {
		return
	}
	if !j.running {
		s.queueJob()
	}
	switch j.verb {
	case wire.Start:
		switch {
		case a.up():
			s.endJob(wire.Done)
		case j.running && a == unitFailed:
			s.endJob(wire.Failed)
		case j.running && a == unitInactive && s.result == resultExecCondition && s.until(247):
			s.endJob(wire.Skipped)
		case j.running && a == unitInactive:
			s.endJob(wire.Done)
		}
	case wire.Reload:
		s.reloadJobSees(a)
	default:
		switch {
		case a.down():
			s.endJob(wire.Done)
		case j.running && a != unitDeactivating:
			s.endJob(wire.Failed)
		}
	}
}

func (s *service) reloadJobSees(a activeState) {
	fine := s.reloadResult == resultSuccess
	switch {
	case !s.job.running || a == unitActivating || a == unitReloading:
	case a == unitActive && fine:
		s.endJob(wire.Done)
	case a == unitActive:
		s.endJob(wire.Failed)
	case s.since(258) && fine:
		s.endJob(wire.Canceled)
	case s.since(258) || a == unitFailed:
		s.endJob(wire.Failed)
	case a == unitInactive:
		s.endJob(wire.Done)
	}
}

// endJob ends the job, but a restart that has stopped goes on as a start.
func (s *service) endJob(result jobResult) {
	j := s.job
	s.logJobEnd(j.verb, result)
	if j.verb == wire.Restart && result == wire.Done {
		j.verb, j.running = wire.Start, false
		s.queueJob()
		return
	}
	s.job = nil
	for _, id := range j.ids {
		s.world.jobEnded(id, result)
	}
	s.tellSockets()
	if s.until(253) && s.state.active().down() {
		s.releasing = true
	}
}

// ident is how systemd calls the service in messages about jobs.
func (s *service) ident() string {
	switch d := s.unit.Description; {
	case d == "" || d == s.unit.Name:
		return s.unit.Name
	case s.since(250):
		return s.unit.Name + " - " + d
	default:
		return d
	}
}

func (s *service) logJobStart(doing string) {
	dots := "..."
	if s.until(248) && doing == "Reloading" {
		dots = "."
	}
	s.world.log(logInfo, "%s %s%s", doing, s.ident(), dots)
}

// jobEnds are systemd's words for the ends of jobs.
var jobEnds = map[wire.Verb]map[jobResult]string{
	wire.Start: {
		wire.Done: "Started %s.", wire.Failed: "Failed to start %s.",
		wire.Skipped: "Condition check resulted in %s being skipped.",
	},
	wire.Stop: {wire.Done: "Stopped %s.", wire.Failed: "Stopped %s with error."},
	wire.Reload: {
		wire.Done: "Reloaded %s.", wire.Failed: "Reload failed for %s.",
	},
}

func (s *service) logJobEnd(verb wire.Verb, result jobResult) {
	if verb == wire.Restart {
		verb = wire.Stop
	}
	text, ok := jobEnds[verb][result]
	if !ok {
		return
	}
	level := logInfo
	if result == wire.Failed {
		level = logError
	}
	if verb == wire.Start && result == wire.Done {
		switch {
		case s.result == resultExecCondition:
			text = "Condition check resulted in %s being skipped."
		case s.unit.Type == "oneshot" && s.since(245):
			text = "Finished %s."
		}
	}
	s.world.log(level, text, s.ident())
}
