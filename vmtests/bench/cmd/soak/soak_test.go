// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/load"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/mixed"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/prepare"
	"github.com/holdfast-go/holdfast/vmtests/internal/procs"
)

// A plan with this seed begins with changes of all outcomes.
const (
	shortSeed    = 2
	shortChanges = 6
)

func TestShortSeed(t *testing.T) {
	p := newPlan(shortSeed)
	var outcomes []control.Outcome
	for range shortChanges {
		a, _ := p.next()
		outcomes = append(outcomes, a.want)
	}
	for _, want := range []control.Outcome{control.Upgraded, control.RolledBack, control.Refused} {
		if !slices.Contains(outcomes, want) {
			t.Errorf("the first changes are to be %q: choose another seed", outcomes)
		}
	}
}

func TestPlanIsReplayed(t *testing.T) {
	counts := make(map[string]int)
	a, b, other := newPlan(7), newPlan(7), newPlan(8)
	differ := false
	for range 1000 {
		one, after := a.next()
		two, afterToo := b.next()
		if one != two || after != afterToo {
			t.Fatalf("%s after %v and %s after %v with the same seed", one.name, after, two.name, afterToo)
		}
		if after < 0.5 || after >= 1.5 {
			t.Errorf("after %v of the interval, must be a half to one and a half", after)
		}
		third, _ := other.next()
		differ = differ || third != one
		counts[one.name]++
	}
	if !differ {
		t.Error("another seed makes the same sequence")
	}
	for _, a := range attempts {
		if n := counts[a.name]; n < a.weight*7 || n > a.weight*13 {
			t.Errorf("%s: %d of 1000, want about %d", a.name, n, a.weight*10)
		}
	}
}

// soakOnce soaks on the stand-in for a few changes, and returns what was written.
func soakOnce(ctx context.Context, t *testing.T, progress func(string)) (text string, r result, err error) {
	t.Helper()
	dir := t.TempDir()
	var out bytes.Buffer
	err = report(ctx, settings{
		on: prepare.OnStandIn, systemd: 257, length: time.Hour, changes: shortChanges, every: 800 * time.Millisecond, seed: shortSeed,
		probation: 250 * time.Millisecond, drain: 5 * time.Second,
	}, &out, dir, progress)
	data, readErr := os.ReadFile(filepath.Join(dir, "soak.json"))
	if readErr != nil {
		t.Fatal(errors.Join(err, readErr))
	}
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"soak.txt": "soak: ", "soak.svg": "</svg>"} {
		written, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !strings.Contains(string(written), want) {
			t.Errorf("%s (%v) has no %q", name, err, want)
		}
	}
	return out.String(), r, err
}

// A whole soak, on the stand-in and short: nothing is lost, and all is counted.
func TestSoak(t *testing.T) {
	text, r, err := soakOnce(t.Context(), t, func(string) {})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if len(r.Kinds) != len(kinds) {
		t.Errorf("%d kinds of clients, want %d", len(r.Kinds), len(kinds))
	}
	for i, k := range r.Kinds {
		n := k.Connections
		if k.Sum.Latency.Count != k.Sum.Requests || n.Opened == 0 {
			t.Errorf("%s: %+v, %+v", k.Kind, k.Sum, n)
		}
		if kinds[i].fate != ends && n.Moved == 0 {
			t.Errorf("%s: nothing moved over %d upgrades", k.Kind, r.count(control.Upgraded))
		}
	}
	upgrades := r.count(control.Upgraded)
	if first, last := r.Generations[0], r.Generations[len(r.Generations)-1]; first.Generation != 1 || last.Version != upgrades+1 || len(r.Generations) < upgrades {
		t.Errorf("%d generations, from %+v to %+v; want all of %d upgrades", len(r.Generations), first, last, upgrades)
	}
	for _, want := range []string{"soak: passed after", "unixpacket", "rolled back", "other descriptors"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// At the end of its context a soak tells what it has seen, has failed, and leaves nothing behind.
func TestSoakThatIsInterrupted(t *testing.T) {
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	text, r, err := soakOnce(ctx, t, func(text string) {
		if strings.Contains(text, "1 changes") {
			cancel()
		}
	})
	if !errors.Is(err, errFailed) || !strings.Contains(text, "ended before its time") {
		t.Errorf("%v, want it failed and to say that it was ended\n%s", err, text)
	}
	if changes := len(r.Changes); changes != 1 || len(r.Kinds) != len(kinds) {
		t.Errorf("%d changes, %d kinds; want one change, and all of %d kinds", changes, len(r.Kinds), len(kinds))
	}
	left, err := filepath.Glob(temporary + "/holdfast-soak-*")
	if err != nil || len(left) != 0 {
		t.Errorf("left: %q (%v)", left, err)
	}
	children, err := procs.Descendants(os.Getpid())
	if err != nil || len(children) != 0 {
		t.Errorf("processes %v are left (%v)", children, err)
	}
}

func TestArguments(t *testing.T) {
	for arg, want := range map[string]string{
		"-on=moon":         "must be container or stand-in",
		"more":             `argument "more"`,
		"-for=0s":          "-for",
		"-probation=100ms": "-probation above 100ms",
		"-systemd=x":       "-systemd",
	} {
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := run(t.Context(), []string{arg}, io.Discard, null); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", arg, err, want)
		}
		null.Close()
	}
}

// sound is a result without problems, to be changed.
func sound() *result {
	r := &result{Length: time.Minute}
	for _, k := range kinds {
		seen := load.Report{Sum: &load.Sum{Requests: 100}, Connections: load.Connections{Opened: k.clients}}
		if k.tls() {
			seen.Connections.Announced, seen.Connections.Resumed = 3, 3
		}
		r.Kinds = append(r.Kinds, newOfKind(k, seen, nil))
	}
	for i, a := range attempts {
		r.add(change{number: i + 1, attempt: a, begin: int64(i) * 1e9, end: int64(i)*1e9 + 5e8, outcome: a.want})
	}
	for i := range 60 {
		s := mixed.State{Generation: i + 1, Descriptors: 200 + i%3, Connections: 180 + i%3, Goroutines: 300 - i%2, Heap: 2 << 20}
		s.Memory = procs.Memory{RSS: 15 << 20, PSS: 14 << 20}
		r.Generations = append(r.Generations, s)
	}
	return r
}

// Each thing that must not be makes a soak fail, and is named.
func TestConclude(t *testing.T) {
	for want, spoil := range map[string]func(r *result){
		"": func(*result) {},
		"new: 1 requests failed": func(r *result) {
			r.Kinds[0].Sum.Failed = 1
		},
		"keep-alive: 2 connections were led away": func(r *result) { r.Kinds[1].Connections.Announced = 2 },
		"idle: 1 connections were cut":            func(r *result) { r.Kinds[2].Connections.Cut = 1 },
		"tls: 1 reconnects did not resume":        func(r *result) { r.Kinds[6].Connections.Resumed-- },
		"udp: 3 answers came twice":               func(r *result) { r.Kinds[10].Connections.Duplicates = 3 },
		"unix: no request was made":               func(r *result) { r.Kinds[11].Sum.Requests = 0 },
		"change 9 (upgrade) is refused, must be upgraded: bad luck": func(r *result) {
			r.add(change{number: 9, attempt: attempts[0], outcome: control.Refused, reason: "bad luck"})
		},
		"no change was rolled back": func(r *result) {
			r.Changes = slices.DeleteFunc(r.Changes, func(t tally) bool { return t.Outcome == control.RolledBack })
		},
		"broken": func(r *result) { r.trouble(errors.New("broken")) },
		"the journal has 2 more lines": func(r *result) {
			for range maxLines + 2 {
				r.badLine("panic: it")
			}
		},
		"descriptors grow: by ": func(r *result) {
			for i := range r.Generations {
				r.Generations[i].Descriptors += i / 3
			}
		},
		"other descriptors grow: by 5.": func(r *result) {
			for i := range r.Generations { // too few among all
				r.Generations[i].Connections -= i / 10
			}
		},
		"goroutines grow: by 58": func(r *result) {
			for i := range r.Generations {
				r.Generations[i].Goroutines += i
			}
		},
		"heap grow: by 1.1": func(r *result) {
			for i := range r.Generations {
				r.Generations[i].Heap += int64(i) * 20 << 10
			}
		},
		"PSS grow: by 5.": func(r *result) {
			for i := range r.Generations {
				r.Generations[i].Memory.PSS += int64(i) * 100 << 10
				r.Generations[i].Memory.RSS -= int64(i) * 100 << 10
			}
		},
	} {
		r := sound()
		spoil(r)
		r.conclude()
		said := strings.Join(r.Problems, "\n")
		if (said == "") != (want == "") || !strings.Contains(said, want) {
			t.Errorf("got %q, want %q", said, want)
		}
		if verdict := r.verdict(); strings.Contains(verdict, "soak: passed") != (want == "") {
			t.Errorf("%q with problems %q", verdict, said)
		}
	}
}

// Busy is no trouble: the change is tried again.
func TestBusyIsCounted(t *testing.T) {
	r := sound()
	r.add(change{attempt: attempts[0], outcome: control.Busy})
	r.conclude()
	if len(r.Problems) != 0 || !strings.Contains(r.verdict(), "busy=1 problems=0") {
		t.Errorf("%s", r.verdict())
	}
}

func TestLossesNameTheChange(t *testing.T) {
	changes := []change{
		{number: 1, attempt: attempts[0], begin: 10e9, end: 11e9, outcome: control.Upgraded},
		{number: 2, attempt: attempts[1], begin: 12e9, end: 12e9 + 5e8, outcome: control.RolledBack},
	}
	for end, want := range map[int64]string{
		9e9:      "before the first change",
		11e9 + 5: "change 1 (upgrade, upgraded, 1s long): sent +0.900 s and failed +1.000 s after its begin",
		13e9:     "change 2 (falls ill on trial, rolled back, 500ms long): sent +0.900 s",
	} {
		if got := during(load.Sample{Start: end - 1e8, End: end}, changes); !strings.Contains(got, want) {
			t.Errorf("at %d: %q, want %q", end, got, want)
		}
	}
}
