// SPDX-License-Identifier: Apache-2.0

package counters

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
)

// show returns families with the totals in the place of what this process has
// counted, and with what only others have counted. What the families have and t has
// not is left out. Nothing of families is changed: their metrics may be shared.
func show(families []live, t totals) []*dto.MetricFamily {
	out := make([]*dto.MetricFamily, 0, len(families)+len(t))
	here := make(map[string]bool, len(families))
	for _, f := range families {
		here[f.GetName()] = true
		if !f.continues {
			out = append(out, f.MetricFamily)
			continue
		}
		if metrics := f.with(t[f.GetName()]); len(metrics) > 0 {
			out = append(out, &dto.MetricFamily{Name: f.Name, Help: f.Help, Type: f.Type, Unit: f.Unit, Metric: metrics})
		}
	}
	shown := len(out)
	for name, f := range t {
		if here[name] || len(f.series) == 0 {
			continue
		}
		mf := &dto.MetricFamily{Name: &name, Help: &f.help, Type: f.kind.Enum(), Metric: f.metrics(nil)}
		if f.unit != "" {
			mf.Unit = &f.unit
		}
		out = append(out, mf)
	}
	if len(out) > shown {
		slices.SortFunc(out, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	}
	return out
}

// with returns the metrics of f with the numbers of t, which may be nil.
func (f live) with(t *family) []*dto.Metric {
	out := make([]*dto.Metric, 0, len(f.Metric))
	if t != nil && t.kind != f.GetType() {
		t = nil
	}
	matched := 0
	for i, m := range f.Metric {
		if f.keys[i] == unkept {
			out = append(out, m)
			continue
		}
		if t == nil {
			continue
		}
		if s, ok := t.series[f.keys[i]]; ok {
			matched++
			if s.fits(m) {
				out = append(out, s.metric(t.kind, m.Label, m))
			}
		}
	}
	if t != nil && matched < len(t.series) {
		out = append(out, t.metrics(f.keys)...)
		slices.SortStableFunc(out, byLabels)
	}
	return out
}

// fits says whether the buckets of m are those of s.
func (s series) fits(m *dto.Metric) bool {
	h := m.GetHistogram()
	if h == nil {
		return true
	}
	n := 0
	for _, b := range h.Bucket {
		if math.IsInf(b.GetUpperBound(), 1) {
			continue
		}
		if n >= len(s.bounds) || s.bounds[n] != b.GetUpperBound() {
			return false
		}
		n++
	}
	return n == len(s.bounds) && (h.Schema != nil) == (s.native != nil)
}

// metrics returns those of f that are not among the keys.
func (f *family) metrics(keys []string) []*dto.Metric {
	here := make(map[string]bool, len(keys))
	for _, key := range keys {
		here[key] = true
	}
	out := make([]*dto.Metric, 0, len(f.series))
	for _, key := range slices.Sorted(maps.Keys(f.series)) {
		if !here[key] {
			out = append(out, f.series[key].metric(f.kind, labelsOf(key), nil))
		}
	}
	slices.SortStableFunc(out, byLabels)
	return out
}

// byLabels is the order of a registry.
func byLabels(a, b *dto.Metric) int {
	if c := cmp.Compare(len(a.Label), len(b.Label)); c != 0 {
		return c
	}
	return slices.CompareFunc(a.Label, b.Label, func(x, y *dto.LabelPair) int {
		return strings.Compare(x.GetValue(), y.GetValue())
	})
}

// metric returns s with the labels, and with what only here tells: exemplars and quantiles.
// It may be nil.
func (s series) metric(kind dto.MetricType, labels []*dto.LabelPair, here *dto.Metric) *dto.Metric {
	m := &dto.Metric{Label: labels}
	created := timestamp(s.created)
	switch kind {
	case dto.MetricType_COUNTER:
		m.Counter = &dto.Counter{Value: pointer(s.sum.float()), Exemplar: here.GetCounter().GetExemplar(), CreatedTimestamp: created}
	case dto.MetricType_SUMMARY:
		m.Summary = &dto.Summary{
			SampleCount: &s.count, SampleSum: pointer(s.sum.float()),
			Quantile: here.GetSummary().GetQuantile(), CreatedTimestamp: created,
		}
	case dto.MetricType_HISTOGRAM:
		h := &dto.Histogram{SampleCount: &s.count, SampleSum: pointer(s.sum.float()), CreatedTimestamp: created}
		h.Exemplars = here.GetHistogram().GetExemplars()
		h.Bucket = make([]*dto.Bucket, len(s.bounds))
		all := make([]dto.Bucket, len(s.bounds))
		for i := range all {
			all[i].CumulativeCount, all[i].UpperBound = &s.below[i], &s.bounds[i]
			h.Bucket[i] = &all[i]
		}
		for i, b := range here.GetHistogram().GetBucket() {
			switch {
			case b.Exemplar == nil:
			case i < len(all):
				all[i].Exemplar = b.Exemplar
			default: // that of +Inf is there only for its exemplar, as in client_golang
				h.Bucket = append(h.Bucket, &dto.Bucket{CumulativeCount: &s.count, UpperBound: pointer(math.Inf(1)), Exemplar: b.Exemplar})
			}
		}
		if s.native != nil {
			s.native.write(h)
		}
		m.Histogram = h
	}
	return m
}

func pointer[T any](x T) *T { return &x }
