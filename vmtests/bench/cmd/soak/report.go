// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/load"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/mixed"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/stats"
)

// A result is what the JSON file holds.
type result struct {
	Began   time.Time     `json:"began"`
	Kernel  string        `json:"kernel"`
	CPUs    int           `json:"cpus"`
	Go      string        `json:"go"`
	Systemd string        `json:"systemd"`
	Seed    uint64        `json:"seed"`
	Length  time.Duration `json:"length_ns"`

	Every     time.Duration `json:"every_ns"`
	Probation time.Duration `json:"probation_ns"`
	Drain     time.Duration `json:"drain_ns"`

	Kinds       []ofKind      `json:"kinds"`
	Changes     []tally       `json:"changes"`
	Generations []mixed.State `json:"generations"` // one of each main
	Growth      []growth      `json:"growth"`
	// Problems are why the soak has failed. Empty: it has not.
	Problems []string `json:"problems"`

	changes  []change
	troubles []string
	lines    int // of the journal that tell of errors
}

// ofKind is what one kind of clients has seen.
type ofKind struct {
	Kind        string           `json:"kind"`
	Title       string           `json:"title"`
	Clients     int              `json:"clients"`
	Sum         load.Sum         `json:"sum"`
	Connections load.Connections `json:"connections"`
	// Losses say when the first failures were.
	Losses []string `json:"losses,omitempty"`

	kind kind
}

func newOfKind(k kind, seen load.Report, changes []change) ofKind {
	o := ofKind{Kind: k.name, Title: k.title, Clients: k.clients, Sum: *seen.Sum, Connections: seen.Connections, kind: k}
	for _, failed := range o.Sum.Failures {
		o.Losses = append(o.Losses, during(failed, changes)+": "+failed.Error)
	}
	return o
}

// during says when a request was, in terms of the change that began last before its end.
func during(failed load.Sample, changes []change) string {
	text := "before the first change"
	for _, c := range changes {
		if c.begin > failed.End {
			break
		}
		text = fmt.Sprintf("change %d (%s, %s, %v long): sent %+.3f s and failed %+.3f s after its begin", c.number, c.attempt.name, c.outcome,
			time.Duration(c.end-c.begin).Round(time.Millisecond), float64(failed.Start-c.begin)/1e9, float64(failed.End-c.begin)/1e9)
	}
	return text
}

// A tally counts changes that ended in the same way.
type tally struct {
	Change  string          `json:"change"`
	Outcome control.Outcome `json:"outcome"`
	Count   int             `json:"count"`
	Took    stats.Summary   `json:"took"`

	want control.Outcome
	took []time.Duration
}

func (r *result) add(c change) {
	r.changes = append(r.changes, c)
	took := time.Duration(c.end - c.begin)
	for i := range r.Changes {
		t := &r.Changes[i]
		if t.Change == c.attempt.name && t.Outcome == c.outcome {
			t.Count++
			t.took = append(t.took, took)
			return
		}
	}
	r.Changes = append(r.Changes, tally{Change: c.attempt.name, Outcome: c.outcome, Count: 1, want: c.attempt.want, took: []time.Duration{took}})
	if c.outcome != c.attempt.want && c.outcome != control.Busy {
		r.trouble(fmt.Errorf("change %d (%s) is %s, must be %s: %s", c.number, c.attempt.name, c.outcome, c.attempt.want, c.reason))
	}
}

// count returns how many changes had that outcome.
func (r *result) count(outcome control.Outcome) int {
	n := 0
	for _, t := range r.Changes {
		if t.Outcome == outcome {
			n += t.Count
		}
	}
	return n
}

func (r *result) trouble(err error) {
	if err != nil {
		r.troubles = append(r.troubles, err.Error())
	}
}

// maxLines is how many lines of the journal are worth repeating.
const maxLines = 5

func (r *result) badLine(line string) {
	if r.lines++; r.lines <= maxLines {
		r.trouble(errors.New("the journal has: " + line))
	}
}

// conclude decides whether the soak has failed.
func (r *result) conclude() {
	r.Problems = append(r.Problems[:0], r.troubles...)
	if more := r.lines - maxLines; more > 0 {
		r.Problems = append(r.Problems, fmt.Sprintf("the journal has %d more lines about errors", more))
	}
	for i := range r.Changes {
		r.Changes[i].Took = stats.Summarize(r.Changes[i].took)
	}
	for _, outcome := range []control.Outcome{control.Upgraded, control.RolledBack, control.Refused} {
		if r.count(outcome) == 0 {
			r.Problems = append(r.Problems, fmt.Sprintf("no change was %s: make it longer with -for", outcome))
		}
	}
	for _, k := range r.Kinds {
		for _, p := range k.problems() {
			r.Problems = append(r.Problems, k.Kind+": "+p)
		}
	}
	r.Growth = growths(r.Generations)
	for _, g := range r.Growth {
		if g.Grows {
			r.Problems = append(r.Problems, fmt.Sprintf("%s grow: by %s from the first to the last generation, the median is %s",
				g.Name, g.text(g.Total), g.text(g.Median)))
		}
	}
}

// problems are what clients must not see.
func (o ofKind) problems() []string {
	var all []string
	bad := func(n int, text string) {
		if n != 0 {
			all = append(all, fmt.Sprintf("%d %s", n, text))
		}
	}
	n := o.Connections
	bad(o.Sum.Failed, "requests failed")
	bad(n.Cut, "connections were cut while they were idle")
	bad(n.Duplicates, "answers came twice or late")
	if o.kind.fate == stays {
		bad(n.Announced, "connections were led away, and must cross")
	}
	if o.kind.tls() {
		bad(n.Reconnects()-n.Resumed, "reconnects did not resume their TLS session")
	}
	if o.Sum.Requests == 0 {
		all = append(all, "no request was made")
	}
	return all
}

// A growth is how something changes from generation to generation.
type growth struct {
	Name   string  `json:"name"`
	First  float64 `json:"first"`
	Median float64 `json:"median"`
	Last   float64 `json:"last"`
	stats.Trend
	Total float64 `json:"total"` // the slope times the generations
	Grows bool    `json:"grows"`

	bytes  bool
	values []float64
}

// Something grows if the trend is no chance, and is more than a part of the median and a constant over all
// generations: noise has no such trend, and a small true one may be the machine's, which is busier at times.
// Memory follows that more than counts do, by how many clients have asked since the last change.
const (
	chance     = 4 // standard deviations
	countPart  = 0.05
	memoryPart = 0.2
)

// A series is what is looked at in every generation.
type series struct {
	name  string
	floor float64 // of what is called growth
	part  float64 // of the median, in addition
	of    func(mixed.State) float64
}

var allSeries = []series{
	{"descriptors", 2, countPart, func(s mixed.State) float64 { return float64(s.Descriptors) }},
	{"other descriptors", 1, countPart, func(s mixed.State) float64 { return float64(s.Descriptors - s.Connections) }},
	{"goroutines", 4, countPart, func(s mixed.State) float64 { return float64(s.Goroutines) }},
	{"heap", 256 << 10, memoryPart, func(s mixed.State) float64 { return float64(s.Heap) }},
	{"RSS", 1 << 20, memoryPart, func(s mixed.State) float64 { return float64(s.Memory.RSS) }},
	{"PSS", 1 << 20, memoryPart, func(s mixed.State) float64 { return float64(s.Memory.PSS) }},
}

// growths looks at all generations but the first. That one was started by systemd, before the load.
func growths(generations []mixed.State) []growth {
	if len(generations) < 2 {
		return nil
	}
	var all []growth
	for _, s := range allSeries {
		g := growth{Name: s.name, bytes: s.part == memoryPart}
		for _, state := range generations {
			g.values = append(g.values, s.of(state))
		}
		later := g.values[1:]
		g.First, g.Median, g.Last = g.values[0], stats.Median(later), g.values[len(g.values)-1]
		g.Trend = stats.TrendOf(later)
		g.Total = g.Slope * float64(len(later)-1)
		g.Grows = g.Z > chance && g.Total > s.floor+s.part*g.Median
		all = append(all, g)
	}
	return all
}

func (g growth) text(v float64) string {
	if g.bytes {
		return fmt.Sprintf("%.2f MiB", v/(1<<20))
	}
	return fmt.Sprintf("%.4g", v)
}
