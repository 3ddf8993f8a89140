// SPDX-License-Identifier: Apache-2.0

package counters

import (
	"cmp"
	"math"
	"slices"

	dto "github.com/prometheus/client_model/go"
)

// native is the part of a histogram with buckets of exponential width: bucket i
// of schema n ends at 2^(i * 2^-n), and what is not further from zero than the threshold
// is in the zero bucket.
type native struct {
	schema    int32
	threshold float64
	zero      uint64
	positive  buckets
	negative  buckets
}

// The schemas that halve: others, such as -53 for custom bounds, are not added.
const (
	minSchema = -4
	maxSchema = 8
)

// maxBuckets is how many buckets a total has at most, if less resolution helps. The
// limit of the service's own histogram (NativeHistogramMaxBucketNumber) holds for
// what one generation observes; the sum of several has those of all.
const maxBuckets = 320

// maxIndex is beyond the buckets of the largest and of the smallest float64, which
// are about 1074 * 2^maxSchema from 1.
const maxIndex = 1 << 20

// bucket is one that is not empty.
type bucket struct {
	index int32
	count uint64
}

// buckets are sorted by index.
type buckets []bucket

// nativeOf returns nil, true if h has no such part, and false if it is of a
// kind that is not added.
func nativeOf(h *dto.Histogram) (*native, bool) {
	if h.Schema == nil {
		return nil, len(h.PositiveSpan) == 0 && len(h.NegativeSpan) == 0
	}
	// ZeroCountFloat and the like are of histograms that can fall.
	if h.GetSchema() < minSchema || h.GetSchema() > maxSchema || h.ZeroCountFloat != nil ||
		len(h.PositiveCount) > 0 || len(h.NegativeCount) > 0 || !(h.GetZeroThreshold() >= 0) {
		return nil, false
	}
	n := &native{schema: h.GetSchema(), threshold: h.GetZeroThreshold(), zero: h.GetZeroCount()}
	var ok, ok2 bool
	n.positive, ok = bucketsOf(h.PositiveSpan, h.PositiveDelta)
	n.negative, ok2 = bucketsOf(h.NegativeSpan, h.NegativeDelta)
	return n, ok && ok2
}

func bucketsOf(spans []*dto.BucketSpan, deltas []int64) (buckets, bool) {
	if len(deltas) == 0 {
		return nil, true
	}
	all := make(buckets, 0, len(deltas))
	var index, count int64
	for i, span := range spans {
		if i > 0 && span.GetOffset() < 0 {
			return nil, false
		}
		index += int64(span.GetOffset())
		for range span.GetLength() {
			if len(deltas) == 0 {
				return nil, false
			}
			count += deltas[0]
			deltas = deltas[1:]
			if count < 0 || index > maxIndex || index < -maxIndex {
				return nil, false
			}
			if count > 0 {
				all = append(all, bucket{int32(index), uint64(count)})
			}
			index++
		}
	}
	return all, len(deltas) == 0
}

// spans encodes as client_golang does: gaps of one or two buckets are filled.
func (b buckets) spans() (spans []*dto.BucketSpan, deltas []int64) {
	var last int64 // count of the last bucket
	var next int32 // after it
	put := func(count int64) {
		*spans[len(spans)-1].Length++
		deltas = append(deltas, count-last)
		last = count
	}
	for i, one := range b {
		gap := one.index - next
		if i == 0 || gap > 2 {
			spans = append(spans, &dto.BucketSpan{Offset: &gap, Length: new(uint32)})
		} else {
			for range gap {
				put(0)
			}
		}
		put(int64(one.count))
		next = one.index + 1
	}
	return spans, deltas
}

// write puts n into h, which is new.
func (n *native) write(h *dto.Histogram) {
	h.Schema, h.ZeroThreshold, h.ZeroCount = pointer(n.schema), pointer(n.threshold), pointer(n.zero)
	h.PositiveSpan, h.PositiveDelta = n.positive.spans()
	h.NegativeSpan, h.NegativeDelta = n.negative.spans()
	if n.threshold == 0 && n.zero == 0 && len(n.positive) == 0 && len(n.negative) == 0 {
		// It would be taken for one without this part (metrics.proto of client_model).
		h.PositiveSpan = []*dto.BucketSpan{{Offset: new(int32), Length: new(uint32)}}
	}
}

// plus returns the sum, at the lower of both resolutions.
func (n *native) plus(m *native) *native {
	a, b := align(n, m)
	a.zero += b.zero
	a.positive = a.positive.plus(b.positive)
	a.negative = a.negative.plus(b.negative)
	for len(a.positive)+len(a.negative) > maxBuckets && a.schema > minSchema {
		a = a.halved()
	}
	return a
}

// minus returns false if m has what n has not.
func (n *native) minus(m *native) (*native, bool) {
	a, b := align(n, m)
	// What was observed can have coarsened n, never refined it. The threshold of both can be
	// higher now: the end of a bucket that is part of the zero bucket in n.
	if a.schema != n.schema || b.zero > a.zero {
		return nil, false
	}
	var ok, ok2 bool
	a.zero -= b.zero
	a.positive, ok = a.positive.minus(b.positive)
	a.negative, ok2 = a.negative.minus(b.negative)
	return a, ok && ok2
}

// align returns copies with the same schema and threshold.
func align(n, m *native) (a, b *native) {
	a, b = n.copy(), m.copy()
	for a.schema > b.schema {
		a = a.halved()
	}
	for b.schema > a.schema {
		b = b.halved()
	}
	// A threshold within a bucket that is not empty grows to the end of it.
	for a.threshold != b.threshold {
		if a.threshold < b.threshold {
			a.widen(b.threshold)
		} else {
			b.widen(a.threshold)
		}
	}
	return a, b
}

func (n *native) copy() *native {
	c := *n
	return &c
}

// halved has buckets of twice the width in the exponent: those with index 2i-1
// and 2i become i.
func (n *native) halved() *native {
	c := n.copy()
	c.schema--
	c.positive, c.negative = n.positive.halved(), n.negative.halved()
	return c
}

func (b buckets) halved() buckets {
	var out buckets
	for _, one := range b {
		index := one.index >> 1
		if one.index&1 != 0 {
			index++
		}
		if len(out) > 0 && out[len(out)-1].index == index {
			out[len(out)-1].count += one.count
		} else {
			out = append(out, bucket{index, one.count})
		}
	}
	return out
}

// widen makes the zero bucket reach to threshold, or further, to the end of a
// bucket that is not empty.
func (n *native) widen(threshold float64) {
	n.threshold = threshold
	for _, side := range []*buckets{&n.positive, &n.negative} {
		rest := *side
		for len(rest) > 0 && rest[0].overlaps(n) {
			n.zero += rest[0].count
			n.threshold = max(n.threshold, bound(rest[0].index, n.schema))
			rest = rest[1:]
		}
		*side = rest
	}
	// The second side may have moved the threshold into a bucket of the first.
	if len(n.positive) > 0 && n.positive[0].overlaps(n) {
		n.widen(n.threshold)
	}
}

// overlaps says whether the zero bucket of n reaches into b. A threshold that is the end of
// the bucket before it may be rounded otherwise than here.
func (b bucket) overlaps(n *native) bool {
	const rounding = 1e-9
	return bound(b.index-1, n.schema) < n.threshold*(1-rounding)
}

// bound is the upper end of a bucket.
func bound(index, schema int32) float64 {
	if schema <= 0 {
		return math.Ldexp(1, int(index)<<-schema)
	}
	whole := index >> schema
	part := index - whole<<schema
	return math.Ldexp(math.Exp2(float64(part)/float64(int(1)<<schema)), int(whole))
}

func (b buckets) plus(c buckets) buckets {
	if len(b) == 0 {
		return c
	}
	if len(c) == 0 {
		return b
	}
	out := make(buckets, 0, len(b)+len(c))
	for len(b) > 0 && len(c) > 0 {
		switch cmp.Compare(b[0].index, c[0].index) {
		case -1:
			out, b = append(out, b[0]), b[1:]
		case 1:
			out, c = append(out, c[0]), c[1:]
		default:
			out = append(out, bucket{b[0].index, b[0].count + c[0].count})
			b, c = b[1:], c[1:]
		}
	}
	return append(append(out, b...), c...)
}

func (b buckets) minus(c buckets) (buckets, bool) {
	out := make(buckets, 0, len(b))
	for _, one := range b {
		if len(c) > 0 && c[0].index == one.index {
			if c[0].count > one.count {
				return nil, false
			}
			one.count -= c[0].count
			c = c[1:]
		}
		if one.count > 0 {
			out = append(out, one)
		}
	}
	return out, len(c) == 0
}

func (b buckets) equal(c buckets) bool { return slices.Equal(b, c) }
