// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/load"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/stats"
	"github.com/holdfast-go/holdfast/vmtests/internal/procs"
)

// A cell is what was measured of one peer under one workload.
type cell struct {
	Peer     string `json:"peer"`
	Workload string `json:"workload"`
	Skipped  string `json:"skipped,omitempty"` // why nothing was measured
	Error    string `json:"error,omitempty"`   // which upgrade did not happen, and why

	Upgrades    []upgrade        `json:"upgrades"`
	Requests    int              `json:"requests"`
	Failed      int              `json:"failed"`
	Failures    map[string]int   `json:"failures,omitempty"` // by what was said
	Connections load.Connections `json:"connections"`

	Steady stats.Summary `json:"steady"` // latency between upgrades
	Around stats.Summary `json:"around"` // latency in the second around each
	Ratio  float64       `json:"p999_ratio"`

	First     time.Duration `json:"first_answer_ns"` // median from signal to first answer
	Exec      time.Duration `json:"bare_exec_ns"`    // median from a bare exec between upgrades to first answer
	FirstOver float64       `json:"first_answer_ratio"`
	Memory    procs.Memory  `json:"memory_peak"`

	Timeline []moment `json:"timeline,omitempty"`
}

// The second around an upgrade is from before to after its signal.
const (
	aroundBefore = 100 * time.Millisecond
	aroundAfter  = 900 * time.Millisecond
	// aftermath is how long after the end of the old version the steady state begins.
	aftermath = 200 * time.Millisecond
)

// sumUp fills c with what was measured since begin.
func (c *cell) sumUp(begin int64, upgrades []upgrade, report load.Report, w workload) {
	c.Upgrades, c.Connections, c.Requests = upgrades, report.Connections, len(report.Samples)
	c.Failures = make(map[string]int)
	for _, s := range report.Samples {
		if s.Error != "" {
			c.Failed++
			c.Failures[withoutNumbers(s.Error)]++
		}
	}
	var firsts, execs []time.Duration
	for _, u := range upgrades {
		firsts, execs = append(firsts, time.Duration(u.First-u.Signal)), append(execs, u.Exec)
		c.Memory = higher(c.Memory, u.Memory)
	}
	c.First, c.Exec = stats.Summarize(firsts).P50, stats.Summarize(execs).P50
	c.FirstOver = stats.Ratio(c.First, c.Exec)
	if w.mode == load.Idle {
		return // sweeps come after an upgrade, and their latency says nothing about it
	}
	steady, around := split(begin, upgrades, report.Samples)
	c.Steady, c.Around = stats.Summarize(steady), stats.Summarize(around)
	c.Ratio = stats.Ratio(c.Around.P999, c.Steady.P999)
	c.Timeline = timeline(upgrades, report.Samples)
}

// numbers of ports, streams and such differ from failure to failure.
var numbers = regexp.MustCompile(`127\.[0-9.]+:\d+|\d+`)

func withoutNumbers(text string) string { return numbers.ReplaceAllString(text, "#") }

// failureTexts returns the failures, the most frequent ones first.
func (c *cell) failureTexts() []string {
	return slices.SortedFunc(maps.Keys(c.Failures), func(a, b string) int {
		return cmp.Or(cmp.Compare(c.Failures[b], c.Failures[a]), cmp.Compare(a, b))
	})
}

// phaseTexts says how long the phases took, as medians; empty where there are none.
func (c *cell) phaseTexts() string {
	var texts []string
	for _, name := range phases {
		var took []time.Duration
		for _, u := range c.Upgrades {
			if d, ok := u.Phases[name]; ok {
				took = append(took, d)
			}
		}
		if len(took) > 0 {
			texts = append(texts, name+" "+ms(stats.Summarize(took).P50))
		}
	}
	return strings.Join(texts, ", ")
}

// split returns the latencies of the requests that were answered: of those between upgrades, and of those
// that were under way at some time in the second around one.
func split(begin int64, upgrades []upgrade, samples []load.Sample) (steady, around []time.Duration) {
	for _, s := range samples {
		if s.Error != "" {
			continue
		}
		near, between := false, s.Start >= begin
		for _, u := range upgrades {
			if s.End >= u.Signal-int64(aroundBefore) && s.Start <= u.Signal+int64(aroundAfter) {
				near = true
			}
			if s.End >= min(u.Bare, u.Signal-int64(aroundBefore)) && s.Start <= max(u.Settled+int64(aftermath), u.Signal+int64(aroundAfter)) {
				between = false
			}
		}
		if near {
			around = append(around, s.Latency())
		}
		if between {
			steady = append(steady, s.Latency())
		}
	}
	return steady, around
}

// A moment is what happened in a short time, a certain time after the signal, in all upgrades.
type moment struct {
	Worst  time.Duration `json:"worst_ns"` // of the requests that began then
	Failed int           `json:"failed"`
}

// The timeline has moments from timelineBefore the signal to timelineAfter it.
const (
	timelineStep   = 20 * time.Millisecond
	timelineBefore = 500 * time.Millisecond
	timelineAfter  = 2 * time.Second
)

func timeline(upgrades []upgrade, samples []load.Sample) []moment {
	line := make([]moment, int((timelineBefore+timelineAfter)/timelineStep))
	for _, s := range samples {
		for _, u := range upgrades {
			since := time.Duration(s.Start-u.Signal) + timelineBefore
			if since < 0 || since >= timelineBefore+timelineAfter {
				continue
			}
			m := &line[since/timelineStep]
			m.Worst = max(m.Worst, s.Latency())
			if s.Error != "" {
				m.Failed++
			}
		}
	}
	return line
}
