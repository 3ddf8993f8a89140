// SPDX-License-Identifier: Apache-2.0

package agreement_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/agreement"
)

var (
	sequences = flag.Int("sequences", 10, "how many generated sequences to play on each version")
	fresh     = flag.Int("fresh", 0, "how many more, with numbers drawn anew")
	firstSeed = flag.Uint64("seed", 1, "the `number` of the first sequence")
	show      = flag.Bool("show", false, "print what is seen on real systemd")
	twice     = flag.Bool("twice", false, "play on real systemd twice, and compare these")
)

// play plays a sequence and returns what was seen after each op, and the journal if that was asked for or it
// went wrong.
func play(ctx context.Context, on side, q *agreement.Sequence, journal bool) (seen []*agreement.Observation, said string, err error) {
	if err := on.open(ctx, q.Setup); err != nil {
		return nil, "", fmt.Errorf("open %s: %w", q.Setup.Name, err)
	}
	defer func() {
		if closing := on.close(ctx); closing != nil && err == nil {
			err = fmt.Errorf("close %s: %w", q.Setup.Name, closing)
		}
	}()
	for i, op := range q.Ops {
		o, err := on.perform(ctx, op)
		if err != nil {
			return seen, on.journal(ctx, q.Setup.Service()), fmt.Errorf("%s, step %d: %w", q.Setup.Name, i+1, err)
		}
		seen = append(seen, o)
	}
	if journal {
		said = on.journal(ctx, q.Setup.Service())
	}
	return seen, said, nil
}

// A match is a sequence played on two sides.
type match struct {
	sequence    *agreement.Sequence
	seen        [2][]*agreement.Observation
	journals    [2]string
	differences []agreement.Difference // of the first step that has any but exceptions
	exceptions  []*agreement.Exception // that were met
}

// compare plays a sequence on both sides at the same time.
func compare(ctx context.Context, v vmtests.Version, systemd, other side, q *agreement.Sequence, journals bool) (*match, error) {
	m := &match{sequence: q}
	var errs [2]error
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.seen[1], m.journals[1], errs[1] = play(ctx, other, q, journals)
	}()
	m.seen[0], m.journals[0], errs[0] = play(ctx, systemd, q, journals)
	if *show {
		fmt.Print(q.Story(m.seen[0]))
	}
	<-done
	for _, err := range errs {
		if err != nil {
			return m, err
		}
	}
	m.judge(v)
	return m, nil
}

// judge compares what was seen on the two sides.
func (m *match) judge(v vmtests.Version) {
	m.differences, m.exceptions = nil, nil
	for step := range m.seen[0] {
		differences := agreement.Compare(step, m.seen[0][step], m.seen[1][step])
		differences = slices.DeleteFunc(differences, func(d agreement.Difference) bool { return slices.Contains(m.sequence.Chance, d.Key) })
		left, met := agreement.Except(int(v), differences)
		for _, e := range met {
			if !slices.Contains(m.exceptions, e) {
				m.exceptions = append(m.exceptions, e)
			}
		}
		if m.differences = left; len(left) > 0 {
			break
		}
	}
}

// mayHappen plays the sequence again on systemd alone and says whether systemd
// does once what the stand-in did.
func (m *match) mayHappen(ctx context.Context, v vmtests.Version, systemd side) (bool, error) {
	for range replays {
		seen, _, err := play(ctx, systemd, m.sequence, false)
		if err != nil {
			return false, err
		}
		again := &match{sequence: m.sequence, seen: [2][]*agreement.Observation{seen, m.seen[1]}}
		if again.judge(v); len(again.differences) == 0 {
			return true, nil
		}
	}
	return false, nil
}

// shrink leaves out ops as long as the first difference is still in the same fact.
func shrink(ctx context.Context, v vmtests.Version, systemd, other side, m *match) *match {
	same := func(n *match) bool {
		for _, d := range n.differences {
			for _, was := range m.differences {
				if d.Key == was.Key && d.Real == was.Real && d.Imitated == was.Imitated {
					return true
				}
			}
		}
		return false
	}
	best := m
	cut := func(from, to int) bool {
		q := &agreement.Sequence{Setup: best.sequence.Setup, Chance: best.sequence.Chance}
		q.Ops = append(append(q.Ops, best.sequence.Ops[:from]...), best.sequence.Ops[to:]...)
		n, err := compare(ctx, v, systemd, other, q, true)
		if err != nil || !same(n) {
			return false
		}
		best = n
		return true
	}
	if !cut(m.differences[0].Step+1, len(m.sequence.Ops)) {
		return m // it did not happen again
	}
	for i := best.differences[0].Step - 1; i >= 0; i-- {
		cut(i, i+1)
	}
	return best
}

// report puts a difference into text: seed, units, ops, both observations, both journals.
func (m *match) report() string {
	return fmt.Sprintf("%sjournal of systemd:\n%s\njournal of the stand-in:\n%s", m.sequence.Describe(m.seen[0], m.seen[1], m.differences), m.journals[0], m.journals[1])
}

// eachVersion runs f on each version, side by side, with a machine that it shares with nobody.
func eachVersion(t *testing.T, f func(t *testing.T, v vmtests.Version, systemd *machine)) {
	t.Helper()
	for _, v := range vmtests.Versions() {
		t.Run(fmt.Sprint(int(v)), func(t *testing.T) {
			t.Parallel()
			f(t, v, bootMachine(t, v))
		})
	}
}

// sequencesChance says what systemd itself does one way or the other in a sequence.
const sequencesChance = `the order in which processes die that get a signal at once, which of them systemd reaps first, and whether one hears
    SIGTERM before SIGKILL; whether a job is run before the next restart: systemd runs jobs when nothing else is to be
    done. Up to 252, whether a main process that is nobody's child here is gone when the last other one is reaped`

// replays is how often systemd gets to do what the stand-in did. What is chance
// goes one way as often as the other; what systemd never does is a fault.
const replays = 15

// Sequences of operations, generated from their number, agree between systemd and the stand-in.
func TestSequences(t *testing.T) {
	var seeds []uint64
	for i := range uint64(*sequences) {
		seeds = append(seeds, *firstSeed+i)
	}
	for range *fresh {
		seeds = append(seeds, rand.Uint64N(1_000_000_000))
	}
	t.Logf("fresh numbers: %v", seeds[*sequences:])
	eachVersion(t, func(t *testing.T, v vmtests.Version, m *machine) {
		begin, systemd := time.Now(), m.operator(t)
		ops, different, chance := 0, 0, 0
		for _, seed := range seeds {
			q := agreement.Generate(seed, int(v))
			m, err := compare(t.Context(), v, systemd, &standin{version: v}, q, false)
			if err != nil {
				t.Fatalf("sequence %d: %v", seed, err)
			}
			ops += len(m.seen[0])
			if len(m.differences) == 0 {
				continue
			}
			allowed, err := m.mayHappen(t.Context(), v, systemd)
			switch {
			case err != nil:
				t.Fatalf("sequence %d, again: %v", seed, err)
			case allowed:
				chance++
				t.Logf("sequence %d: left to chance, see sequencesChance: %v", seed, m.differences)
			default:
				different++
				t.Errorf("%v, sequence %d: %v\n%s", v, seed, m.differences, shrink(t.Context(), v, systemd, &standin{version: v}, m).report())
			}
		}
		t.Logf("%d sequences, %d ops, %d differ, %d are left to chance, %v", len(seeds), ops, different, chance, time.Since(begin).Round(time.Millisecond))
	})
}

// fickle is a side that does one thing after the other.
type fickle struct {
	side
	does []string
}

func (f *fickle) open(context.Context, *agreement.Setup) error { return nil }
func (f *fickle) close(context.Context) error                  { return nil }
func (f *fickle) perform(context.Context, agreement.Op) (*agreement.Observation, error) {
	op := f.does[0]
	if len(f.does) > 1 {
		f.does = f.does[1:]
	}
	return &agreement.Observation{Op: op}, nil
}

// Only what systemd itself does now and then is left to chance, not what the
// stand-in does now and then.
func TestLeftToChance(t *testing.T) {
	q := &agreement.Sequence{Setup: &agreement.Setup{Name: "fickle"}, Ops: make([]agreement.Op, 1)}
	v := vmtests.Versions()[0]
	for _, test := range []struct {
		systemd, standin []string
		want             bool
	}{
		{systemd: []string{"done", "done", "failed"}, standin: []string{"failed"}, want: true},
		{systemd: []string{"done"}, standin: []string{"failed", "done"}, want: false},
	} {
		systemd := &fickle{does: test.systemd}
		m, err := compare(t.Context(), v, systemd, &fickle{does: test.standin}, q, false)
		if err != nil || len(m.differences) == 0 {
			t.Fatalf("%v and %v do not differ: %v", test.systemd, test.standin, err)
		}
		if got, err := m.mayHappen(t.Context(), v, systemd); err != nil || got != test.want {
			t.Errorf("systemd %v, the stand-in %v: allowed is %v, %v, want %v", test.systemd, test.standin, got, err, test.want)
		}
	}
}

// The same sequence of operations, on real systemd twice: what differs then is chance, and no yardstick.
func TestRealSystemdAgreesWithItself(t *testing.T) {
	if !*twice {
		t.Skip("needs -twice: a test of the sequences, not of the stand-in")
	}
	eachVersion(t, func(t *testing.T, v vmtests.Version, m *machine) {
		begin, systemd := time.Now(), m.operator(t)
		other := bootMachine(t, v).operator(t)
		ops, different := 0, 0
		for i := range uint64(*sequences) {
			seed := *firstSeed + i
			m, err := compare(t.Context(), v, systemd, other, agreement.Generate(seed, int(v)), false)
			if err != nil {
				t.Fatalf("sequence %d: %v", seed, err)
			}
			ops += len(m.seen[0])
			if len(m.differences) > 0 {
				different++
				t.Errorf("sequence %d: %v\n%s", seed, m.differences, m.report())
			}
		}
		t.Logf("%d sequences, %d ops, %d differ, %v", *sequences, ops, different, time.Since(begin).Round(time.Millisecond))
	})
}
