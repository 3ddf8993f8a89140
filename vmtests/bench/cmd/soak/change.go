// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/load"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/mixed"
	"github.com/holdfast-go/holdfast/vmtests/internal/mark"
)

// An attempt is a sort of change.
type attempt struct {
	name   string
	weight int
	fault  string
	script bool // no program of Go, but a text
	want   control.Outcome
}

// None of them kills a process that serves: what such a one was answering is lost, as promised, and could
// hide what is lost against the promise.
var attempts = []attempt{
	{name: "upgrade", weight: 60, want: control.Upgraded},
	{name: "falls ill on trial", weight: 16, fault: mixed.FallingIll, want: control.RolledBack},
	{name: "fails its check", weight: 8, fault: mixed.BadCheck, want: control.Refused},
	{name: "ends when it starts", weight: 8, fault: mixed.BadStart, want: control.Refused},
	{name: "is no program", weight: 8, script: true, want: control.Refused},
}

// A plan is a sequence of changes that a seed decides.
type plan struct{ random *rand.Rand }

func newPlan(seed uint64) *plan {
	var key [32]byte // ChaCha8 also makes unlike sequences of seeds that are alike
	binary.LittleEndian.PutUint64(key[:], seed)
	return &plan{rand.New(rand.NewChaCha8(key))}
}

// next returns the next attempt, and when it begins after the one before, as a part of the usual interval.
func (p *plan) next() (a attempt, after float64) {
	after = 0.5 + p.random.Float64()
	all := 0
	for _, a := range attempts {
		all += a.weight
	}
	n := p.random.IntN(all)
	for _, a = range attempts {
		if n -= a.weight; n < 0 {
			break
		}
	}
	return a, after
}

// A change is one that was tried. Times are of CLOCK_MONOTONIC in nanoseconds.
type change struct {
	number     int
	attempt    attempt
	begin, end int64
	outcome    control.Outcome
	reason     string
}

// patience bounds one change on a busy machine.
const patience = time.Minute

// try puts a version in place, reloads, and asks what became of it. An error is our own.
func (s *soak) try(ctx context.Context, number, version int, what attempt) (c change, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not over after %v", patience))
	defer cancel()
	c = change{number: number, attempt: what}
	content := append(s.binary[:len(s.binary):len(s.binary)], mark.Of(version, what.fault)...)
	if what.script {
		content = []byte("#!/bin/sh\nexec sleep infinity\n")
	}
	file, err := s.writeBinary("next", content)
	if err != nil {
		return c, err
	}
	if err := errors.Join(s.target.install(ctx, file), os.Remove(file)); err != nil {
		return c, err
	}
	before, err := s.control.Status(ctx)
	if err != nil {
		return c, err
	}
	c.begin = load.Now()
	reloadErr := s.target.reload(ctx)
	c.end = load.Now()
	if ctx.Err() != nil {
		return c, fmt.Errorf("reload: %w", context.Cause(ctx))
	}
	after, err := s.control.Status(ctx)
	if err != nil {
		return c, err
	}
	switch {
	case after.Last == nil || before.Last != nil && after.Last.Started.Equal(before.Last.Started):
		// Nothing was begun. The verdict is told to nobody but the reload command.
		c.outcome, c.reason = control.Busy, fmt.Sprintf("%d older generations drained", len(before.Draining))
		if reloadErr == nil {
			return c, errors.New("the reload succeeded, and the service knows of no upgrade")
		}
		return c, nil
	case (reloadErr == nil) != (after.Last.Outcome == control.Upgraded):
		return c, fmt.Errorf("the verdict is %q, and the reload says: %w", after.Last.Outcome, reloadErr)
	}
	c.outcome, c.reason = after.Last.Outcome, after.Last.Reason
	return c, nil
}
