// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// lookInterval is between two looks at a service whose state is to change.
const lookInterval = 200 * time.Millisecond

// run goes on from where the record is, up to the end or that of the context.
func (r *rollout) run() Report {
	for i, wave := range r.rec.Waves {
		if r.over(wave) && len(r.failed(wave)) <= r.rec.Request.Waves.tolerated(i) {
			continue
		}
		if i > 0 && r.fresh(wave) && !r.pause(i) {
			break
		}
		r.emit(Event{Kind: "wave", Wave: i, Text: fmt.Sprintf("wave %d of %d: %s", i+1, len(r.rec.Waves), strings.Join(wave, " "))})
		r.parallel(wave)
		if r.ctx.Err() != nil {
			break
		}
		failed := r.failed(wave)
		if len(failed) > r.rec.Request.Waves.tolerated(i) && r.rec.Bad == nil {
			r.undo(i, failed)
			r.parallel(wave)
			if r.ctx.Err() != nil {
				break
			}
		}
		r.save(func() {
			for _, name := range wave {
				if s := r.rec.Steps[name]; s.Phase == phaseHeld {
					r.rec.Steps[name].finish()
				}
			}
		})
		if r.rec.Bad != nil {
			break
		}
	}
	return r.finish()
}

// over: nothing is left to do for the wave.
func (r *rollout) over(wave []string) bool {
	for _, name := range wave {
		if r.rec.Steps[name].Phase != phaseDone {
			return false
		}
	}
	return true
}

// fresh: nothing was done for the wave.
func (r *rollout) fresh(wave []string) bool {
	for _, name := range wave {
		if r.rec.Steps[name].Phase != phasePlanned {
			return false
		}
	}
	return true
}

// pause waits between two waves, and says whether to go on.
func (r *rollout) pause(wave int) bool {
	pause := r.rec.Request.Waves.Pause
	if pause == 0 {
		return true
	}
	r.emit(Event{Kind: "pause", Wave: wave, Left: pause.Seconds(), Text: fmt.Sprintf("pause of %v before wave %d", pause, wave+1)})
	return r.sleep(r.ctx, pause)
}

// parallel deals with the units of a wave at the same time.
func (r *rollout) parallel(wave []string) {
	var all sync.WaitGroup
	for _, name := range wave {
		all.Go(func() { r.unit(name) })
	}
	all.Wait()
}

func (r *rollout) failed(wave []string) []string {
	var list []string
	for _, name := range wave {
		switch r.rec.Steps[name].Report.Outcome {
		case Failed, RolledBack, Broken:
			list = append(list, name)
		}
	}
	return list
}

// undo has the units of a bad wave rolled back that hold.
func (r *rollout) undo(wave int, failed []string) {
	r.save(func() {
		r.rec.Bad = &wave
		for _, name := range r.rec.Waves[wave] {
			if s := r.rec.Steps[name]; s.Phase == phaseHeld {
				s.Report.Reason = "its wave has failed: " + strings.Join(failed, " ")
				s.enter(phaseRollback)
			}
		}
	})
	r.emit(Event{Kind: "wave", Wave: wave, Text: fmt.Sprintf("wave %d has failed: %s: undoing it", wave+1, strings.Join(failed, " "))})
}

// finish ends the record, or leaves it for another run.
func (r *rollout) finish() Report {
	interrupted := r.ctx.Err() != nil
	r.save(func() {
		rec := r.rec
		for _, s := range rec.Steps {
			if !interrupted && s.Phase == phasePlanned {
				s.Report.Outcome, s.Report.Reason = Skipped, "the rollout ended before its turn"
				s.enter(phaseDone)
			}
		}
		rec.Report.Outcome, rec.Report.Reason = rec.outcome()
		if interrupted {
			rec.Report.Outcome, rec.Report.Reason = Interrupted, context.Cause(r.ctx).Error()
		}
		rec.Report.Units = rec.units()
		for i := range rec.Report.Units {
			if unit := &rec.Report.Units[i]; unit.Outcome == "" {
				unit.Outcome, unit.Reason = Interrupted, "the rollout was interrupted"
			}
		}
		rec.Report.Seconds = time.Since(rec.Report.Started).Seconds()
	})
	if !interrupted {
		// To be told twice of a report does no harm, as is not to be told does.
		if err := r.journal.remember(r.rec.Report); err != nil {
			r.options.Logger.Warn("history", "error", err)
		}
		r.save(func() { r.rec.Finished = true })
		if err := r.journal.prune(); err != nil {
			r.options.Logger.Warn("journal", "error", err)
		}
	}
	report := r.rec.Report
	r.emit(Event{Kind: "done", Text: string(report.Outcome), Report: &report})
	return report
}

// outcome is that of the whole request.
func (r *record) outcome() (Outcome, string) {
	count := make(map[Outcome]int)
	var first *UnitReport
	for _, name := range r.order() {
		report := r.Steps[name].Report
		count[report.Outcome]++
		if bad := report.Outcome == Failed || report.Outcome == RolledBack || report.Outcome == Broken; bad && (first == nil || first.Outcome == RolledBack && report.Outcome != RolledBack) {
			first = &report
		}
	}
	why := func(what string) string {
		text := fmt.Sprintf("%s: %s", first.Unit, first.Reason)
		if len(r.Steps) > 1 {
			text = what + ": " + text
		}
		if r.Bad != nil && count[Done] > 0 {
			text += fmt.Sprintf("; %d units that were upgraded before stay so", count[Done])
		}
		return text
	}
	switch {
	case count[Broken] > 0:
		return Broken, why("somebody has to look")
	case r.Bad != nil && count[RolledBack] > 0:
		return RolledBack, why(fmt.Sprintf("wave %d has failed", *r.Bad+1))
	case r.Bad != nil:
		return Failed, why(fmt.Sprintf("wave %d has failed", *r.Bad+1))
	case count[Done] > 0 || count[Failed]+count[RolledBack] == 0 && count[Unchanged] == 0:
		return Done, ""
	case count[Failed]+count[RolledBack] > 0:
		return Failed, why("no unit was upgraded")
	default:
		return Unchanged, ""
	}
}

// enter begins a phase and notes how long the one before took.
func (s *step) enter(phase string) {
	now := time.Now()
	if s.Phase != phaseHeld {
		s.Report.Phases = append(s.Report.Phases, control.Phase{Name: s.Phase, Seconds: now.Sub(s.Since).Seconds()})
	}
	s.Phase, s.Since = phase, now
}

// finish ends a step whose outcome is known.
func (s *step) finish() { s.enter(phaseDone) }

// change changes the record, which goes to the disk with the next save.
func (r *rollout) change(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// save changes the record and writes it. A helper that cannot write does not go on.
func (r *rollout) save(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	if r.rec.Request.DryRun {
		return
	}
	if err := r.journal.save(r.rec); err != nil {
		r.cancel(err)
	}
}

// emit tells of progress.
func (r *rollout) emit(event Event) {
	if r.onEvent == nil {
		return
	}
	r.mu.Lock()
	event.ID, event.At, event.Total = r.rec.Request.ID, time.Now(), len(r.rec.Steps)
	if event.Done == 0 {
		for _, s := range r.rec.Steps {
			if s.Phase == phaseDone || s.Phase == phaseHeld {
				event.Done++
			}
		}
	}
	r.mu.Unlock()
	r.telling.Lock()
	defer r.telling.Unlock()
	r.onEvent(event)
}

// warn tells of what is odd about units that are fit all the same.
func (r *rollout) warn(founds map[string]found) {
	for _, name := range r.rec.order() {
		if founds[name].unit.NeedDaemonReload {
			r.emit(Event{Kind: "unit", Unit: name, Wave: r.rec.Steps[name].Report.Wave, Phase: phasePlanned, Text: "warning: its unit file has changed on disk: run systemctl daemon-reload"})
		}
	}
}

// sleep says whether ctx has let it.
func (r *rollout) sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
