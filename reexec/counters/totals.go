// SPDX-License-Identifier: Apache-2.0

package counters

import (
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
)

// totals are what was counted, by the name of the metric.
type totals map[string]*family

// family is a metric with all its series.
type family struct {
	kind       dto.MetricType // COUNTER, SUMMARY or HISTOGRAM
	help, unit string
	series     map[string]series // by labelKey
}

// series is one set of labels. It is not changed, only replaced.
type series struct {
	// created is when counting began, in nanoseconds since 1970; 0 if that is not
	// known.
	created int64
	sum     exactSum // of the counter, or of what was observed
	count   uint64   // of observations
	// bounds are the upper ends of the buckets without +Inf, and below how many
	// observations were at most that much.
	bounds []float64
	below  []uint64
	native *native // nil if there is none
}

// kinds are those of metrics that only grow.
func grows(kind dto.MetricType) bool {
	return kind == dto.MetricType_COUNTER || kind == dto.MetricType_SUMMARY || kind == dto.MetricType_HISTOGRAM
}

// labelKey tells sets of labels apart, whatever is in their values: each name and
// value has its length before it. The labels are sorted by name.
func labelKey(buf []byte, labels []*dto.LabelPair) []byte {
	for _, label := range labels {
		buf = appendString(appendString(buf, label.GetName()), label.GetValue())
	}
	return buf
}

// labelsOf is the inverse of labelKey.
func labelsOf(key string) []*dto.LabelPair {
	r := reader{rest: []byte(key)}
	var labels []*dto.LabelPair
	for len(r.rest) > 0 && r.err == nil {
		name, value := r.text(), r.text()
		labels = append(labels, &dto.LabelPair{Name: &name, Value: &value})
	}
	return labels
}

func appendString(buf []byte, s string) []byte {
	return append(binary.AppendUvarint(buf, uint64(len(s))), s...)
}

// seriesOf returns what m has counted, or false if it is of a kind that does not
// continue: with a time of its own, a float histogram, or one that contradicts itself.
func seriesOf(kind dto.MetricType, m *dto.Metric) (series, bool) {
	if m.TimestampMs != nil {
		return series{}, false
	}
	switch kind {
	case dto.MetricType_COUNTER:
		c := m.GetCounter()
		return series{created: nanoseconds(c.GetCreatedTimestamp()), sum: sumOf(c.GetValue())}, c != nil
	case dto.MetricType_SUMMARY:
		s := m.GetSummary()
		return series{created: nanoseconds(s.GetCreatedTimestamp()), sum: sumOf(s.GetSampleSum()), count: s.GetSampleCount()}, s != nil
	case dto.MetricType_HISTOGRAM:
		h := m.GetHistogram()
		if h == nil || h.SampleCountFloat != nil {
			return series{}, false
		}
		s := series{created: nanoseconds(h.GetCreatedTimestamp()), sum: sumOf(h.GetSampleSum()), count: h.GetSampleCount()}
		var ok bool
		if s.native, ok = nativeOf(h); !ok {
			return series{}, false
		}
		s.bounds, s.below, ok = boundsOf(h)
		return s, ok
	}
	return series{}, false
}

func boundsOf(h *dto.Histogram) (bounds []float64, below []uint64, ok bool) {
	if len(h.Bucket) == 0 {
		return nil, nil, true
	}
	bounds, below = make([]float64, 0, len(h.Bucket)), make([]uint64, 0, len(h.Bucket))
	for _, b := range h.Bucket {
		if b.CumulativeCountFloat != nil {
			return nil, nil, false
		}
		if math.IsInf(b.GetUpperBound(), 1) {
			continue
		}
		bounds, below = append(bounds, b.GetUpperBound()), append(below, b.GetCumulativeCount())
	}
	return bounds, below, ordered(bounds, below, h.GetSampleCount())
}

// ordered says whether bounds rise, and what is below them does not fall.
func ordered(bounds []float64, below []uint64, count uint64) bool {
	for i := range bounds {
		if !finite(bounds[i]) || below[i] > count || i > 0 && (bounds[i] <= bounds[i-1] || below[i] < below[i-1]) {
			return false
		}
	}
	return true
}

// like says whether s and t can be added: their buckets are the same.
func (s series) like(t series) bool {
	return slices.Equal(s.bounds, t.bounds) && (s.native == nil) == (t.native == nil)
}

// plus adds two that are alike. The older time of creation is that of the sum.
func (s series) plus(t series) series {
	s.sum = s.sum.plus(t.sum)
	s.count += t.count
	if s.created == 0 || t.created != 0 && t.created < s.created {
		s.created = t.created
	}
	if len(s.below) > 0 {
		below := make([]uint64, len(s.below))
		for i := range below {
			below[i] = s.below[i] + t.below[i]
		}
		s.below = below
	}
	if s.native != nil {
		s.native = s.native.plus(t.native)
	}
	return s
}

// since returns what s has more than before, which is an earlier state of s. If s is less, or
// was created later, it was reset in between, and all of it is more: so does
// Prometheus count it.
func (s series) since(before series, kind dto.MetricType) series {
	all := s
	if !s.like(before) || s.created > before.created && before.created != 0 || s.count < before.count {
		return all
	}
	s.count -= before.count
	s.sum = s.sum.minus(before.sum)
	if kind == dto.MetricType_COUNTER && s.sum.negative() {
		return all
	}
	if len(s.below) > 0 {
		s.below = slices.Clone(s.below)
		for i := range s.below {
			if s.below[i] < before.below[i] {
				return all
			}
			s.below[i] -= before.below[i]
		}
		if !ordered(s.bounds, s.below, s.count) {
			return all
		}
	}
	if s.native != nil {
		var ok bool
		if s.native, ok = s.native.minus(before.native); !ok {
			return all
		}
	}
	return s
}

// nothing says that s counts nothing.
func (s series) nothing() bool { return s.count == 0 && s.sum.isZero() }

// since returns what t has more than before, where before is an earlier state of t.
func (t totals) since(before totals) totals {
	added := totals{}
	for name, f := range t {
		old := before[name]
		for key, s := range f.series {
			if old != nil && old.kind == f.kind {
				if was, ok := old.series[key]; ok {
					if s = s.since(was, f.kind); s.nothing() {
						continue
					}
				}
			}
			added.family(name, f).series[key] = s
		}
	}
	return added
}

// add adds what is counted in added. Series that were not counted before begin so, and
// what does not fit to what is there is left out: the new version counts it in
// another way, see the package documentation.
func (t totals) add(added totals) {
	for name, f := range added {
		mine := t.family(name, f)
		if mine.kind != f.kind {
			continue
		}
		for key, s := range f.series {
			if was, ok := mine.series[key]; ok {
				if !was.like(s) {
					continue
				}
				s = was.plus(s)
			}
			mine.series[key] = s
		}
	}
}

// family returns the one of that name. A new one is like f, without series.
func (t totals) family(name string, f *family) *family {
	mine := t[name]
	if mine == nil {
		mine = &family{kind: f.kind, help: f.help, unit: f.unit, series: map[string]series{}}
		t[name] = mine
	}
	return mine
}

// clone returns a copy that may be changed.
func (t totals) clone() totals {
	c := make(totals, len(t))
	for name, f := range t {
		c[name] = &family{f.kind, f.help, f.unit, maps.Clone(f.series)}
	}
	return c
}

// ofOneProcess says whether a metric of that name describes one process, so that
// the sum of several means nothing: what the collectors of client_golang for
// processes and for Go count. Gauges among them do not matter here.
func ofOneProcess(name string) bool {
	switch name {
	case "process_cpu_seconds_total", "process_network_receive_bytes_total", "process_network_transmit_bytes_total":
		return true
	}
	return strings.HasPrefix(name, "go_")
}
