// SPDX-License-Identifier: Apache-2.0

package lastgood

import (
	"errors"
	"fmt"
	"time"
)

// MaxAttempts is how often a file is started without proving itself before the
// good version starts instead.
const MaxAttempts = 3

// Choice is what starts.
type Choice struct {
	// Good says that the good copy starts, and not the service's file.
	Good bool
	// Why is for the operator: what speaks against the file. It is empty in an
	// ordinary start.
	Why string
}

// A Candidate is what is known about the service's file, and about the copy.
type Candidate struct {
	Path string
	// Identity may be unknown, for a file that cannot be read.
	Identity Identity
	// Unusable says why the file cannot be executed; nil if nothing is known to
	// be wrong.
	Unusable error
	// NoGood says why the copy cannot be executed.
	NoGood error
}

// ErrNoGood is the reason where no version has proven itself yet.
var ErrNoGood = errors.New("no version has proven itself yet")

// Choose decides what starts, and counts it in the record. It chooses the copy
// only if that can be executed.
func (r *Record) Choose(c Candidate, now time.Time) Choice {
	failure, marked := r.FailedBefore(c.Identity)
	why := ""
	switch {
	case c.Unusable != nil:
		why = c.Unusable.Error()
	case marked:
		why = fmt.Sprintf("%s: %v", c.Path, failure)
	case r.Attempt != nil && r.Attempt.Identity == c.Identity && r.Attempt.Count >= MaxAttempts:
		failure = Failure{
			Identity: c.Identity, At: now, Counted: true,
			Reason: fmt.Sprintf("it was started %d times and has not once run in good health through its probation", r.Attempt.Count),
		}
		why = fmt.Sprintf("%s: %v", c.Path, failure)
	}
	switch {
	case why == "":
		r.Fallback = nil
		r.Attempting(c.Identity)
		return Choice{}
	case c.NoGood != nil:
		r.Fallback = nil
		return Choice{Why: fmt.Sprintf("%s; it is started all the same, since there is nothing better: %v", why, c.NoGood)}
	case c.Unusable == nil && !marked:
		r.Mark(failure)
	}
	if r.Fallback == nil {
		r.Fallback = &Fallback{Since: now}
	}
	if r.Fallback.Count >= MaxAttempts && c.Unusable == nil && failure.Counted {
		// Something that both need may be missing: then the file is not to blame,
		// and whichever comes up first is right.
		r.Unmark(c.Identity)
		r.Fallback = nil
		r.Attempting(c.Identity)
		return Choice{Why: fmt.Sprintf("%s; it is tried again, since the last good version did not come up either", why)}
	}
	r.Fallback.Reason = text(why)
	r.Fallback.Count = min(r.Fallback.Count+1, MaxAttempts)
	return Choice{Good: true, Why: why}
}
