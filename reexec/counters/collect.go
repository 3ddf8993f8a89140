// SPDX-License-Identifier: Apache-2.0

package counters

import (
	"maps"
	"slices"
	"time"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// others are the totals of other generations, and what is known of the same
// series in this process.
type others struct {
	totals
	here map[string]map[string]*trace // by name and labelKey
}

// trace is what this process has counted when it was last asked.
type trace struct {
	created int64
	count   uint64
	sum     float64
}

// live is a metric as the registry has it now.
type live struct {
	*dto.MetricFamily
	// keys are the labels of the metrics, at the same places; empty for those that
	// do not continue.
	keys []string
	// continues is false for gauges and the like.
	continues bool
}

// unkept is no labelKey: those begin with a whole length.
const unkept = "\xff"

// collect takes apart what a registry has gathered, and returns the totals of all
// generations.
func (o *others) collect(gathered []*dto.MetricFamily) ([]live, totals) {
	families := make([]live, len(gathered))
	sums := make(totals, len(gathered)+len(o.totals))
	var buf []byte
	for i, g := range gathered {
		name := g.GetName()
		families[i] = live{MetricFamily: g, continues: grows(g.GetType()) && !ofOneProcess(name)}
		theirs := o.totals[name]
		if theirs != nil && (theirs.kind != g.GetType() || !families[i].continues) {
			o.forget(name) // it is counted in another way now
			theirs = nil
		}
		if !families[i].continues {
			continue
		}
		f := &family{kind: g.GetType(), help: g.GetHelp(), unit: g.GetUnit(), series: make(map[string]series, len(g.Metric))}
		families[i].keys = make([]string, len(g.Metric))
		for j, m := range g.Metric {
			buf = labelKey(buf[:0], m.Label)
			key := string(buf)
			if s, ok := seriesOf(f.kind, m); ok {
				families[i].keys[j] = key
				f.series[key] = o.total(name, key, s, theirs)
			} else {
				families[i].keys[j] = unkept
				if theirs != nil {
					delete(theirs.series, key)
				}
			}
		}
		sums[name] = f
	}
	o.unseen(sums, gathered)
	return families, sums
}

func (o *others) forget(name string) {
	delete(o.totals, name)
	delete(o.here, name)
}

// total adds what others have counted to s.
func (o *others) total(name, key string, s series, theirs *family) series {
	if theirs == nil {
		return s
	}
	before, ok := theirs.series[key]
	if !ok {
		return s
	}
	was := o.here[name][key]
	now := trace{created: s.created, count: s.count}
	if theirs.kind == dto.MetricType_COUNTER {
		now.sum = s.sum.first
	}
	if !before.like(s) || was != nil && (now.created > was.created && was.created != 0 || now.count < was.count || now.sum < was.sum) {
		// Counted in another way, or reset by the service.
		delete(theirs.series, key)
		delete(o.here[name], key)
		return s
	}
	if was == nil {
		if o.here[name] == nil {
			o.here[name] = map[string]*trace{}
		}
		was = new(trace)
		o.here[name][key] = was
	}
	*was = now
	sum := s.plus(before)
	if n := before.native; n != nil && (sum.native.schema < n.schema || sum.native.threshold > n.threshold) {
		// A resolution that rises again, or a zero bucket that shrinks, is a
		// restart for Prometheus.
		_, before.native = align(sum.native, n)
		theirs.series[key] = before
	}
	return sum
}

// unseen adds to sums what only others have counted. What this process has counted
// once and has no longer was deleted by the service.
func (o *others) unseen(sums totals, gathered []*dto.MetricFamily) {
	var taken map[string]bool
	for _, name := range slices.Sorted(maps.Keys(o.totals)) {
		theirs := o.totals[name]
		if sums[name] == nil {
			if taken == nil {
				taken = exposed(gathered)
			}
			if collides(name, theirs.kind, taken) {
				o.forget(name)
				continue
			}
			for _, suffix := range suffixes(theirs.kind) {
				taken[name+suffix] = true
			}
		}
		here := o.here[name]
		if len(here) == len(theirs.series) {
			continue // all of it was seen here
		}
		f := sums.family(name, theirs)
		for key, s := range theirs.series {
			if here[key] == nil {
				f.series[key] = s
			}
		}
	}
}

// suffixes of the names under which a kind of metric is exposed.
func suffixes(kind dto.MetricType) []string {
	switch kind {
	case dto.MetricType_SUMMARY:
		return []string{"", "_sum", "_count"}
	case dto.MetricType_HISTOGRAM:
		return []string{"", "_sum", "_count", "_bucket"}
	}
	return []string{""}
}

func exposed(families []*dto.MetricFamily) map[string]bool {
	names := make(map[string]bool, len(families))
	for _, f := range families {
		for _, suffix := range suffixes(f.GetType()) {
			names[f.GetName()+suffix] = true
		}
	}
	return names
}

func collides(name string, kind dto.MetricType, taken map[string]bool) bool {
	for _, suffix := range suffixes(kind) {
		if taken[name+suffix] {
			return true
		}
	}
	return false
}

func nanoseconds(t *timestamppb.Timestamp) int64 {
	if t == nil {
		return 0
	}
	return t.AsTime().UnixNano()
}

func timestamp(nanoseconds int64) *timestamppb.Timestamp {
	if nanoseconds == 0 {
		return nil
	}
	return timestamppb.New(time.Unix(0, nanoseconds))
}
