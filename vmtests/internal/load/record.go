// SPDX-License-Identifier: Apache-2.0

package load

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxFailures bounds how many failures a summary describes. All are counted.
const maxFailures = 1000

// Progress is how many requests were made up to the time At.
type Progress struct {
	At       int64          `json:"at"`
	OK       int            `json:"ok"`
	Failed   int            `json:"failed"`
	Versions map[string]int `json:"versions"` // answers of each
}

// A Mark is a moment that somebody gave a name, with the counts of that moment.
type Mark struct {
	Name string `json:"name"`
	Progress
}

// A Gap is a time without a success.
type Gap struct {
	Start    int64         `json:"start"`
	Duration time.Duration `json:"duration"` // nanoseconds
}

// A ModeSummary is the summary of the workers of one mode.
type ModeSummary struct {
	Mode        string `json:"mode"`
	Workers     int    `json:"workers"`
	OK          int    `json:"ok"`
	Failed      int    `json:"failed"`
	Connections int    `json:"connections"` // opened; where none was lost, one for each worker that keeps them
	LongestGap  Gap    `json:"longest_gap"`
}

// Served is how much one process answered, and from when to when.
type Served struct {
	PID     int    `json:"pid"`
	Version string `json:"version"`
	OK      int    `json:"ok"`
	First   int64  `json:"first"` // end of the first request it answered
	Last    int64  `json:"last"`
}

// A Summary is what became of all requests.
type Summary struct {
	Start  int64 `json:"start"`
	End    int64 `json:"end"`
	OK     int   `json:"ok"`
	Failed int   `json:"failed"`
	// LongestGap is the longest time between two successes that follow each other, of all workers taken
	// together; the time from the last success to the end counts too.
	LongestGap      Gap           `json:"longest_gap"`
	Modes           []ModeSummary `json:"modes"`
	Served          []Served      `json:"served"` // in the order in which they first answered
	Marks           []Mark        `json:"marks"`
	Failures        []Result      `json:"failures"`
	FailuresOmitted int           `json:"failures_omitted"` // counted in Failed, but not described
}

// FailureText describes the failures for a person, at most limit of them; "" when there are none.
func (s Summary) FailureText(limit int) string {
	if s.Failed == 0 {
		return ""
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%d of %d requests failed:", s.Failed, s.OK+s.Failed)
	for i, f := range s.Failures {
		if i == limit {
			break
		}
		fmt.Fprintf(&text, "\n+%.3fs %s, port %d (reused: %t), after %v: %s",
			time.Duration(f.Start-s.Start).Seconds(), f.Mode, f.LocalPort, f.Reused, time.Duration(f.End-f.Start), f.Error)
	}
	if more := s.Failed - min(limit, len(s.Failures)); more > 0 {
		fmt.Fprintf(&text, "\nand %d more", more)
	}
	return text.String()
}

// A recorder counts results.
type recorder struct {
	mu       sync.Mutex
	start    int64
	ok       int
	failed   int
	gap      gapMeter
	versions map[string]int
	modes    []*modeRecord
	served   map[who]*Served
	marks    []Mark
	failures []Result
}

type who struct {
	pid     int
	version string
}

type modeRecord struct {
	ModeSummary
	gap gapMeter
}

// A gapMeter measures the longest time between successes. Results come in the order in which workers
// report them, which is nearly that of their ends.
type gapMeter struct {
	last    int64 // success; 0 before the first
	longest Gap
}

func (g *gapMeter) success(at int64) {
	if g.last == 0 {
		g.last = at
		return
	}
	g.until(at)
	g.last = max(g.last, at)
}

func (g *gapMeter) until(at int64) {
	if d := time.Duration(at - g.last); g.last != 0 && d > g.longest.Duration {
		g.longest = Gap{Start: g.last, Duration: d}
	}
}

func newRecorder(start int64) *recorder {
	return &recorder{start: start, versions: make(map[string]int), served: make(map[who]*Served)}
}

func (r *recorder) setWorkers(mode string, count int) {
	if count == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.modes = append(r.modes, &modeRecord{ModeSummary: ModeSummary{Mode: mode, Workers: count}})
}

func (r *recorder) add(result Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.modes, func(m *modeRecord) bool { return m.Mode == result.Mode })
	mode := r.modes[i]
	if !result.Reused && result.LocalPort != 0 {
		mode.Connections++
	}
	if result.Error != "" {
		r.failed++
		mode.Failed++
		if len(r.failures) < maxFailures {
			r.failures = append(r.failures, result)
		}
		return
	}
	r.ok++
	mode.OK++
	r.gap.success(result.End)
	mode.gap.success(result.End)
	if result.Mode == ModeConnect {
		return // nobody answered
	}
	r.versions[result.Version]++
	key := who{result.PID, result.Version}
	s := r.served[key]
	if s == nil {
		s = &Served{PID: result.PID, Version: result.Version, First: result.End, Last: result.End}
		r.served[key] = s
	}
	s.OK++
	s.First, s.Last = min(s.First, result.End), max(s.Last, result.End)
}

// progressLocked needs mu.
func (r *recorder) progressLocked(at int64) Progress {
	return Progress{At: at, OK: r.ok, Failed: r.failed, Versions: maps.Clone(r.versions)}
}

func (r *recorder) progress(at int64) Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.progressLocked(at)
}

func (r *recorder) mark(name string, at int64) Mark {
	r.mu.Lock()
	defer r.mu.Unlock()
	mark := Mark{Name: name, Progress: r.progressLocked(at)}
	r.marks = append(r.marks, mark)
	return mark
}

func (r *recorder) summary(end int64) Summary {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Summary{
		Start: r.start, End: end, OK: r.ok, Failed: r.failed,
		Marks: slices.Clone(r.marks), Failures: slices.Clone(r.failures), FailuresOmitted: r.failed - len(r.failures),
	}
	r.gap.until(end)
	s.LongestGap = r.gap.longest
	for _, mode := range r.modes {
		mode.gap.until(end)
		mode.LongestGap = mode.gap.longest
		s.Modes = append(s.Modes, mode.ModeSummary)
	}
	for _, served := range r.served {
		s.Served = append(s.Served, *served)
	}
	slices.SortFunc(s.Served, func(a, b Served) int { return cmp.Compare(a.First, b.First) })
	return s
}
