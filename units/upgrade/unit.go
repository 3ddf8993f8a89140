// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/units/bus"
)

const (
	// reloadGrace is how long after the end of a job the service may take to show
	// that it has begun, or has ended, an upgrade.
	reloadGrace = 5 * time.Second
	// restartPatience is how long systemd may take to restart a service that is to be
	// rolled back.
	restartPatience = 30 * time.Second
)

// unit deals with one unit from the phase that it is in. It returns when the unit is
// done, or holds, or when the context has ended.
func (r *rollout) unit(name string) {
	s := r.rec.Steps[name]
	for checked := false; r.ctx.Err() == nil; {
		before := s.Phase
		switch s.Phase {
		case phasePlanned:
			r.checkUnit(s)
			checked = true
		case phaseReload:
			// A helper before this one may have sent the job.
			r.reload(s, !checked)
		case phaseSoak:
			r.soak(s)
		case phaseRollback:
			r.rollback(s)
		case phaseHeld, phaseDone:
			return
		}
		if before == s.Phase {
			return // the context has ended
		}
		r.emit(Event{Kind: "unit", Unit: name, Wave: s.Report.Wave, Phase: s.Phase, Text: s.text()})
	}
}

// text says what a phase has come to.
func (s *step) text() string {
	switch s.Phase {
	case phaseReload:
		return "reloading"
	case phaseSoak:
		return fmt.Sprintf("version %s serves: watching it", s.Report.To.Version)
	case phaseHeld:
		return fmt.Sprintf("version %s has passed its gates", s.Report.To.Version)
	case phaseRollback:
		if s.Report.Reason == "" {
			return "rolling back"
		}
		return "rolling back: " + s.Report.Reason
	default:
		if s.Report.Reason != "" {
			return fmt.Sprintf("%s: %s", s.Report.Outcome, s.Report.Reason)
		}
		return string(s.Report.Outcome)
	}
}

// end finishes a unit.
func (r *rollout) end(s *step, outcome Outcome, reason string) {
	r.save(func() {
		s.Report.Outcome, s.Report.Reason = outcome, reason
		s.Report.Seconds = time.Since(s.Report.Started).Seconds()
		s.finish()
	})
}

// serves notes what serves now.
func (r *rollout) serves(s *step, st control.Status) {
	r.change(func() { s.Report.To = versionOf(st) })
}

// checkUnit is the check of a unit whose turn it is.
func (r *rollout) checkUnit(s *step) {
	f, err := r.check(r.ctx, r.rec.Report.Action, s.Report.Unit)
	if r.ctx.Err() != nil {
		return
	}
	r.change(func() { s.Report.Started = time.Now() })
	if err != nil {
		r.end(s, Failed, err.Error())
		return
	}
	version := r.rec.Request.Version
	if r.rec.Report.Action == "rollout" && version != "" && f.status.Version == version {
		r.serves(s, f.status)
		r.end(s, Unchanged, "")
		return
	}
	r.save(func() {
		s.Socket, s.UID, s.Before = f.socket, f.unit.UID, f.mark()
		s.Report.From, s.Report.To = versionOf(f.status), versionOf(f.status)
		if r.rec.Report.Action == "rollback" {
			s.After = s.Before
			s.enter(phaseRollback)
			return
		}
		s.enter(phaseReload)
	})
}

// reload has systemd reload the unit, and waits for the verdict. If a helper before this
// one may have done so, it looks first.
func (r *rollout) reload(s *step, maybe bool) {
	ctx, cancel := r.ctx, context.CancelFunc(func() {})
	if limit := r.reloadTimeout(s); limit > 0 {
		ctx, cancel = context.WithTimeoutCause(r.ctx, limit, fmt.Errorf("the reload takes longer than %v", limit))
	}
	defer cancel()
	f := &follower{rollout: r, step: s, ctx: ctx, client: r.dial(s.Socket, s.UID)}
	if maybe {
		if v := f.settle(0); v.known {
			r.decided(s, v)
			return
		}
		if r.ctx.Err() != nil {
			return
		}
	}
	grace := reloadGrace
	result, err := f.runJob()
	if r.ctx.Err() != nil {
		return
	}
	var (
		away    *bus.AwayError
		lost    *bus.LostError
		unknown *bus.ResultError
	)
	switch {
	case err == nil:
	case errors.As(err, &away) && away.MaybeSent, errors.As(err, &lost), errors.As(err, &unknown), errors.Is(err, errJobWait), ctx.Err() != nil:
		// The service knows better.
		r.options.Logger.Warn("the result of the reload is not known: asking the service", "unit", s.Report.Unit, "error", err)
	default:
		// systemd has not taken the job.
		r.end(s, Failed, err.Error())
		return
	}
	v := f.settle(grace)
	if !v.known && ctx.Err() == nil {
		v = verdict{known: true, outcome: Failed, reason: fmt.Sprintf("the service has made no upgrade, though the reload ended %q: its ExecReload= must be \"holdfast reload\": run holdfast check %s", result, s.Report.Unit)}
		if result != "" && result != bus.Done {
			v.reason = fmt.Sprintf("the reload ended %q, and the service has made no upgrade: run journalctl -e -u %s", result, s.Report.Unit)
		}
	}
	if v.known {
		r.decided(s, v)
		return
	}
	if r.ctx.Err() == nil {
		st, _ := f.client.status(r.ctx) // nobody, if there is no answer
		r.serves(s, st)
		r.end(s, Broken, fmt.Sprintf("%v, and it goes on: run holdfast status %s", context.Cause(ctx), s.Report.Unit))
	}
}

// reloadTimeout is 0 if there is none.
func (r *rollout) reloadTimeout(s *step) time.Duration {
	if t := r.rec.Request.Timeout; t > 0 {
		return t
	}
	unit, err := r.manager.Unit(r.ctx, s.Report.Unit)
	if err != nil || unit.TimeoutStart <= 0 {
		return 0
	}
	return unit.TimeoutStart + 10*time.Second
}

// verdict is how a reload has ended.
type verdict struct {
	known   bool
	outcome Outcome // Done, Failed or Broken
	reason  string
	found   found
}

// decided goes on after the reload.
func (r *rollout) decided(s *step, v verdict) {
	request := r.rec.Request
	if v.outcome == Broken {
		r.serves(s, v.found.status) // nobody, if there is no answer
	}
	if v.found.status.PID != 0 {
		r.serves(s, v.found.status)
		if last := v.found.status.Last; last != nil && !last.Started.Equal(s.Before.Verdict) {
			r.change(func() { s.Report.Verdict = last })
		}
	}
	if v.outcome != Done {
		r.end(s, v.outcome, v.reason)
		return
	}
	r.save(func() {
		s.After = v.found.mark()
		switch {
		case request.Version != "" && s.After.Version.Version != request.Version:
			s.Report.Gate, s.Report.Reason = "version", fmt.Sprintf("the file is version %s, and %s was asked for", s.After.Version.Version, request.Version)
			s.enter(phaseRollback)
		case request.Gates.Soak < 0:
			s.Report.Outcome = Done
			s.Report.Seconds = time.Since(s.Report.Started).Seconds()
			s.enter(phaseHeld)
		default:
			s.Until = time.Now().Add(request.Gates.Soak)
			s.enter(phaseSoak)
		}
	})
}

// errJobWait wraps what went wrong with the wait for a job that systemd has taken.
var errJobWait = errors.New("wait for the job")

// follower watches a reload.
type follower struct {
	*rollout
	step   *step
	ctx    context.Context
	client controller
	last   string // what was told last
}

// runJob reloads the unit by a job of systemd and follows the service meanwhile.
func (f *follower) runJob() (bus.Result, error) {
	job, err := f.manager.Reload(f.ctx, f.step.Report.Unit)
	if err != nil {
		return "", err
	}
	type ending struct {
		result bus.Result
		err    error
	}
	ended := make(chan ending, 1)
	go func() {
		result, err := job.Wait(f.ctx)
		ended <- ending{result, err}
	}()
	for {
		select {
		case e := <-ended:
			if e.err != nil {
				return "", fmt.Errorf("%w: %w", errJobWait, e.err)
			}
			return e.result, nil
		case <-time.After(lookInterval):
			// Only to tell of it.
			st, err := f.client.status(f.ctx)
			if err == nil {
				unit, _ := f.manager.Unit(f.ctx, f.step.Report.Unit)
				f.tell(st, unit)
			}
		}
	}
}

// tell tells of a state that is news.
func (f *follower) tell(st control.Status, unit bus.Unit) {
	if news := fmt.Sprint(st.State, st.PID, unit.StatusText); news != f.last {
		f.last = news
		f.emit(Event{Kind: "state", Unit: f.step.Report.Unit, Wave: f.step.Report.Wave, Phase: f.step.Phase, State: st.State, Text: unit.StatusText})
	}
}

// settle looks until nothing is under way. Nothing is known if no upgrade has shown
// within grace.
func (f *follower) settle(grace time.Duration) verdict {
	end := time.Now().Add(grace)
	for f.ctx.Err() == nil {
		v, wait := f.look()
		if v.known {
			return v
		}
		if !wait && time.Now().After(end) {
			return v
		}
		f.sleep(f.ctx, lookInterval)
	}
	return verdict{}
}

// look finds out what has become of the reload; wait says that it is under way.
func (f *follower) look() (v verdict, wait bool) {
	name, before := f.step.Report.Unit, f.step.Before
	unit, unitErr := f.manager.Unit(f.ctx, name)
	st, err := f.client.status(f.ctx)
	v.found = found{unit: unit, socket: f.step.Socket, status: st}
	var none *NoUnitError
	switch {
	case f.ctx.Err() != nil:
		return v, true
	case errors.As(unitErr, &none):
		return broken(v, "its unit file is gone"), false
	case err != nil && unitErr == nil && unit.Job == 0 && (unit.ActiveState == "failed" || unit.ActiveState == "inactive"):
		return broken(v, fmt.Sprintf("the service is down (%s, Result=%s): run journalctl -e -u %s", unit.ActiveState, unit.Result, name)), false
	case err != nil:
		// It is between two processes, or hangs; systemd says when that is over.
		return v, true
	case unitErr != nil && st.Instance != before.Instance:
		return v, true // only systemd knows what it has started
	}
	if unitErr != nil {
		// The service is what it was for systemd, and its word counts.
		v.found.unit.InvocationID, v.found.unit.NRestarts = before.InvocationID, before.Restarts
	}
	f.tell(st, unit)
	if unitErr == nil && (unit.Job != 0 || unit.ActiveState != "active") || underWay(st) || st.State != "running" {
		return v, true
	}
	// systemd hears of a new main process a moment later.
	if unitErr == nil && unit.MainPID == before.MainPID && st.PID != before.PID {
		v.found.unit.MainPID = 0
	}
	v.known = true
	fresh := st.Last != nil && !st.Last.Started.Equal(before.Verdict)
	switch {
	case st.Instance != before.Instance && st.Version == before.Version.Version:
		v.outcome, v.reason = Failed, fmt.Sprintf("the service died in the upgrade, and systemd has started it anew: version %s serves", st.Version)
	case st.Instance != before.Instance:
		v.outcome = Done // whoever started it, the new version is what runs
	case fresh && st.Last.Outcome == control.Upgraded, !fresh && st.Generation > before.Generation:
		v.outcome = Done
	case fresh:
		v.outcome, v.reason = Failed, st.Last.Reason
		if v.reason == "" {
			v.reason = string(st.Last.Outcome)
		}
	default:
		v.known = false
	}
	return v, false
}

func broken(v verdict, reason string) verdict {
	v.known, v.outcome, v.reason = true, Broken, reason
	return v
}

// why is what a service is told of its rollback.
func (r *rollout) why(s *step) string {
	text := "request " + r.rec.Request.ID
	if r.rec.Request.By != "" {
		text += " by " + r.rec.Request.By
	}
	if reason := cmp.Or(s.Report.Reason, r.rec.Request.Reason); reason != "" {
		text += ": " + reason
	}
	return text
}

// rollback has the service go back to the version before.
func (r *rollout) rollback(s *step) {
	client := r.dial(s.Socket, s.UID)
	st, ok := r.answering(s, client)
	if !ok {
		return
	}
	byHand := r.rec.Report.Action == "rollback"
	undone := func() bool {
		moved := st.Instance != s.After.Instance || st.Generation != s.After.Generation
		if !byHand {
			return moved && st.Version == s.Before.Version.Version
		}
		// Two builds may say the same of themselves.
		last := st.Last
		return moved && (st.Version != s.After.Version.Version || last != nil && last.Rollback && last.Outcome == control.Upgraded && !last.Started.Equal(s.After.Verdict))
	}
	reason := s.Report.Reason
	if !undone() {
		result, err := client.rollback(r.ctx, r.why(s), func(st control.Status) {
			r.emit(Event{Kind: "state", Unit: s.Report.Unit, Wave: s.Report.Wave, Phase: s.Phase, State: st.State})
		})
		if r.ctx.Err() != nil {
			return
		}
		now, ok := r.answering(s, client)
		if !ok {
			return
		}
		st = now
		if !undone() {
			why := result.Verdict.Reason
			if err != nil {
				why = err.Error()
			}
			r.serves(s, st)
			if byHand {
				r.end(s, Failed, why)
				return
			}
			r.end(s, Broken, fmt.Sprintf("%s; the rollback failed, and version %s serves: %s", reason, st.Version, why))
			return
		}
		if result.Verdict.Outcome != "" {
			r.change(func() { s.Report.Verdict = &result.Verdict })
		}
	}
	r.serves(s, st)
	if byHand {
		r.end(s, Done, "")
		return
	}
	r.end(s, RolledBack, reason)
}

// answering waits until the service is up and nothing is under way there; if that
// does not come, it ends the step.
func (r *rollout) answering(s *step, client controller) (control.Status, bool) {
	end := time.Now().Add(restartPatience)
	for r.ctx.Err() == nil {
		st, err := client.status(r.ctx)
		unit, unitErr := r.manager.Unit(r.ctx, s.Report.Unit)
		switch {
		case r.ctx.Err() != nil:
			return st, false
		case err == nil && underWay(st):
			end = time.Now().Add(restartPatience) // it has bounds of its own
		case err == nil && st.State == "running":
			return st, true
		}
		down := unitErr == nil && unit.Job == 0 && (unit.ActiveState == "failed" || unit.ActiveState == "inactive")
		if down || time.Now().After(end) {
			state := "does not answer"
			if down {
				state = fmt.Sprintf("is down (%s, Result=%s)", unit.ActiveState, unit.Result)
			}
			reason := s.Report.Reason
			if reason != "" {
				reason += "; "
			}
			r.serves(s, control.Status{})
			r.end(s, Broken, fmt.Sprintf("%sthe service %s, so it cannot go back by itself: run systemctl start %s, which starts the last good version", reason, state, s.Report.Unit))
			return st, false
		}
		r.sleep(r.ctx, lookInterval)
	}
	return control.Status{}, false
}
