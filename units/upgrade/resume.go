// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// staleAfter is how old an interrupted request may be for units that it has not begun
// with to be upgraded: nobody expects it of one of last week.
const staleAfter = time.Hour

// Resume finishes, or undoes, what helpers before this one have left unfinished, and
// that nobody works on: it finds out from systemd and from each service where it
// stands. What was interrupted more than an hour ago upgrades no further units. The
// reports are those of requests that it went on with. An error says why it could not
// go on with one of them.
func (u *Upgrader) Resume(ctx context.Context, onEvent func(Event)) ([]Report, error) {
	ids, err := u.journal.requests()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, u.journalError(err)
	}
	var (
		reports []Report
		errs    []error
		left    []*record
	)
	for _, id := range ids {
		rec, err := u.journal.load(id)
		if err != nil {
			errs = append(errs, err)
		} else if rec != nil && !rec.Finished {
			left = append(left, rec)
		}
	}
	slices.SortFunc(left, func(a, b *record) int { return a.Report.Started.Compare(b.Report.Started) })
	for _, rec := range left {
		if ctx.Err() != nil {
			break
		}
		report, err := u.resumeOne(ctx, rec.Request.ID, onEvent)
		switch {
		case errors.Is(err, errLocked), errors.Is(err, errFinished):
		case err != nil:
			errs = append(errs, err)
		default:
			reports = append(reports, report)
		}
	}
	return reports, errors.Join(errs...)
}

var errFinished = errors.New("the request is finished")

func (u *Upgrader) resumeOne(ctx context.Context, id string, onEvent func(Event)) (Report, error) {
	l, err := u.journal.lockRequest(id)
	if err != nil {
		return Report{}, u.journalError(err)
	}
	defer l.release()
	// Another helper may have finished it meanwhile.
	rec, err := u.journal.load(id)
	if err != nil {
		return Report{}, err
	}
	if rec == nil || rec.Finished {
		return Report{}, errFinished
	}
	return u.resume(ctx, rec, onEvent)
}

// resume goes on with a record whose lock the caller holds.
func (u *Upgrader) resume(ctx context.Context, rec *record, onEvent func(Event)) (Report, error) {
	release, err := u.journal.lockUnits(rec.order(), rec.Request)
	if err != nil {
		return Report{}, u.journalError(err)
	}
	defer release()
	r := u.newRollout(ctx, rec, onEvent)
	defer r.cancel(nil)
	// It writes nothing while it watches, and in a pause.
	quiet := max(0, rec.Request.Gates.Soak) + rec.Request.Waves.Pause
	stale := time.Since(rec.Written) > staleAfter+quiet
	r.save(func() {
		rec.Report.Resumed = true
		for _, s := range rec.Steps {
			if stale && s.Phase == phasePlanned {
				s.Report.Outcome, s.Report.Reason = Skipped, "the request was interrupted more than an hour ago"
				s.enter(phaseDone)
			}
		}
	})
	var under []string
	for _, name := range rec.order() {
		if s := rec.Steps[name]; s.Phase != phaseDone && s.Phase != phasePlanned {
			under = append(under, name+" ("+s.Phase+")")
		}
	}
	text := "going on with what was interrupted"
	if len(under) > 0 {
		text += ": " + strings.Join(under, ", ")
	}
	r.emit(Event{Kind: "unit", Text: text})
	return r.run(), nil
}
