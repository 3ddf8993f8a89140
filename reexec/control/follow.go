// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Outcomes that a service never sends: [Client.UpgradeAndFollow] and
// [Client.RollbackAndFollow] work them out when the service could not say how the
// attempt ended.
const (
	// Restarted: the service died during the attempt and was started anew.
	Restarted Outcome = "restarted"
	// Down: the service died during the attempt and nothing answers.
	Down Outcome = "down"
	// Undecided: the generation that was asked still serves, but there is no
	// verdict of the attempt.
	Undecided Outcome = "undecided"
)

const (
	// DefaultDownAfter is the default of FollowOptions.DownAfter.
	DefaultDownAfter = 5 * time.Second

	pollInterval = 100 * time.Millisecond
	// statusTimeout bounds one question to a service that accepts connections
	// but does not answer, so that the next one may reach another process.
	statusTimeout = 2 * time.Second
)

// FollowOptions are the options of [Client.UpgradeAndFollow] and
// [Client.RollbackAndFollow].
type FollowOptions struct {
	// OnState, unless nil, is called with every change of state.
	OnState func(Status)
	// DownAfter is how long nobody may serve the control socket before the
	// service counts as down. Keep it short in a command of ExecReload=: while
	// that runs, systemd waits for it before it restarts a dead service.
	DownAfter time.Duration
	// Reason is that of a rollback, see [Client.Rollback].
	Reason string
}

// Result is how an attempt to upgrade ended.
type Result struct {
	Verdict Verdict
	// Note says how the verdict was found, when it did not arrive on the
	// connection that asked for it.
	Note string
	// Now is what the service said of itself after the verdict. It is nil when
	// it no longer answers, and after a plain [Upgraded], which says itself who
	// serves.
	Now *Status
	// Down says that nobody serves the control socket any more.
	Down bool
}

// UpgradeAndFollow is [Client.Upgrade] for an operator. If the connection ends
// without a verdict (the predecessor died in the middle), it asks whoever
// serves now until the end is known: another Instance means that the service
// manager restarted the service, the same Instance with a greater Generation
// that the successor took over.
//
// Once the upgrade was asked for, the error is an [*UnknownError]: ctx ended, or
// what serves now cannot be asked. Errors before that are those of
// [Client.Status], and nothing was started.
func (c *Client) UpgradeAndFollow(ctx context.Context, opts FollowOptions) (Result, error) {
	return c.follow(ctx, opts, c.Upgrade)
}

// RollbackAndFollow is UpgradeAndFollow for [Client.Rollback]. If the predecessor
// dies in the middle, the version that runs now need not be the one before: see
// [Result.Now].
func (c *Client) RollbackAndFollow(ctx context.Context, opts FollowOptions) (Result, error) {
	r, err := c.follow(ctx, opts, func(ctx context.Context, onState func(Status)) (Verdict, error) {
		return c.Rollback(ctx, opts.Reason, onState)
	})
	r.Verdict.Rollback = err == nil // also where it had to be worked out
	return r, err
}

func (c *Client) follow(ctx context.Context, opts FollowOptions, ask func(context.Context, func(Status)) (Verdict, error)) (Result, error) {
	if opts.DownAfter <= 0 {
		opts.DownAfter = DefaultDownAfter
	}
	before, err := c.Status(ctx)
	if err != nil {
		return Result{}, err
	}
	f := &follower{client: c, opts: opts, before: before, asked: time.Now()}
	f.saw(before)

	verdict, err := ask(ctx, f.saw)
	var (
		broken  *BrokenError
		strange *ProtocolError
	)
	switch {
	case err == nil && verdict.Outcome == Upgraded:
		return Result{Verdict: verdict}, nil
	case err == nil:
		return f.afterFailure(ctx, verdict), nil
	case ctx.Err() != nil:
		return Result{}, &UnknownError{f.last, context.Cause(ctx)}
	case errors.As(err, &broken):
		return f.find(ctx)
	case errors.As(err, &strange):
		// It may have begun all the same.
		return Result{}, &UnknownError{f.last, err}
	default:
		return Result{}, err
	}
}

// follower is one UpgradeAndFollow or RollbackAndFollow.
type follower struct {
	client *Client
	opts   FollowOptions
	before Status
	asked  time.Time // just before the request was sent
	last   *Status
	// executed says that the service has said so.
	executed bool
}

// saw reports st if it is news.
func (f *follower) saw(st Status) {
	news := f.last == nil || f.last.State != st.State || f.last.PID != st.PID
	f.last = &st
	f.executed = f.executed || st.State == Executing
	if news && f.opts.OnState != nil {
		f.opts.OnState(st)
	}
}

// afterFailure adds who serves after a verdict that is not Upgraded.
func (f *follower) afterFailure(ctx context.Context, v Verdict) Result {
	// The verdict is there: a service that is slow to say more, or a context
	// that ends now, takes nothing from it.
	st, err := f.status(ctx)
	var notRunning *NotRunningError
	switch {
	case errors.As(err, &notRunning):
		return Result{Verdict: v, Down: true}
	case err != nil:
		return Result{Verdict: v}
	default:
		return Result{Verdict: v, Now: &st}
	}
}

// find asks whoever serves now how the attempt ended.
func (f *follower) find(ctx context.Context) (Result, error) {
	var downSince time.Time
	undecided := 0
	for {
		st, err := f.status(ctx)
		var notRunning *NotRunningError
		var broken *BrokenError
		switch {
		case ctx.Err() != nil:
			return Result{}, &UnknownError{f.last, context.Cause(ctx)}
		case err == nil:
			downSince = time.Time{}
			f.saw(st)
			result, known := decide(f.before, st, f.asked)
			// An attempt that has just been asked for may not show yet: only
			// the second look counts.
			if known && result.Verdict.Outcome == Undecided {
				undecided++
				known = undecided > 1
			}
			if known {
				return f.inPlace(result), nil
			}
		case errors.As(err, &notRunning):
			if downSince.IsZero() {
				downSince = time.Now()
			}
			if time.Since(downSince) >= f.opts.DownAfter {
				return f.down(), nil
			}
		case errors.As(err, &broken), errors.Is(err, context.DeadlineExceeded):
			// It died, or hangs: ask again.
		default:
			return Result{}, &UnknownError{f.last, err}
		}
		select {
		case <-ctx.Done():
		case <-time.After(pollInterval):
		}
	}
}

// inPlace says it of a result that was found after an execution in place, where
// no stream could bring it.
func (f *follower) inPlace(r Result) Result {
	if !f.executed {
		return r
	}
	switch r.Verdict.Outcome {
	case Upgraded:
		return Result{Verdict: r.Verdict}
	case Restarted:
		r.Verdict.Reason = fmt.Sprintf("the new version ended in the process of the old one (PID %d), and the service was started anew", f.before.PID)
	}
	r.Note = ""
	return r
}

func (f *follower) status(ctx context.Context) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	return f.client.Status(ctx)
}

func (f *follower) down() Result {
	return Result{
		Verdict: Verdict{
			Outcome: Down,
			Reason:  fmt.Sprintf("the service (PID %d) died during the upgrade and nothing serves its control socket", f.before.PID),
			From:    f.before.process(),
		},
		Note: "the connection ended without a verdict",
		Down: true,
	}
}

// decide finds the end of an attempt in what the service says before and after
// it. It is not known while an upgrade is under way.
func decide(before, now Status, asked time.Time) (result Result, known bool) {
	from, to := before.process(), now.process()
	if now.Instance != before.Instance {
		return Result{
			Verdict: Verdict{
				Outcome: Restarted,
				Reason:  fmt.Sprintf("the service (PID %d) died during the upgrade and was started anew", before.PID),
				From:    from, To: &to,
			},
			Note: "the connection ended without a verdict, and another instance answers",
			Now:  &now,
		}, true
	}
	if now.upgrading() {
		return Result{}, false
	}
	if now.Last != nil && (before.Last == nil || !now.Last.Started.Equal(before.Last.Started)) {
		if now.Last.Started.Before(asked) || now.Last.From.PID != before.PID {
			return Result{
				Verdict: Verdict{
					Outcome: Busy,
					Reason:  fmt.Sprintf("another upgrade was under way when this one was asked for; it ended: %s", now.Last.Outcome),
					From:    from,
				},
				Note: "the connection ended without a verdict",
				Now:  &now,
			}, true
		}
		return Result{
			Verdict: *now.Last,
			Note:    "the connection ended before the verdict, which was asked for afterwards",
			Now:     &now,
		}, true
	}
	if now.Generation > before.Generation {
		return Result{
			Verdict: Verdict{Outcome: Upgraded, From: from, To: &to},
			Note:    fmt.Sprintf("the predecessor (PID %d) died before it gave a verdict, and its successor took over", before.PID),
			Now:     &now,
		}, true
	}
	return Result{
		Verdict: Verdict{
			Outcome: Undecided,
			Reason:  fmt.Sprintf("the service ended the connection without a verdict; generation %d still serves", now.Generation),
			From:    from,
		},
		Note: "the connection ended without a verdict",
		Now:  &now,
	}, true
}

// upgradingStates are those in which a verdict is still to come: those of the
// predecessor and those of a successor that is not main yet.
var upgradingStates = []string{
	"pre-check", "checking", "starting", "probation", "promoting",
	"joining", "offered", "trial", "emptying", Executing,
}

func (s Status) upgrading() bool {
	return s.Successor != nil || slices.Contains(upgradingStates, s.State)
}

func (s Status) process() Process {
	p := Process{PID: s.PID, Generation: s.Generation, Version: s.Version}
	if s.Fingerprint != nil {
		p.Build = s.Fingerprint.Build()
	}
	return p
}
