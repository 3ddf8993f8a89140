// SPDX-License-Identifier: Apache-2.0

package counters

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"
)

func histogramOf(t *testing.T, h prometheus.Metric) *dto.Histogram {
	t.Helper()
	var m dto.Metric
	if err := h.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.Histogram
}

func nativeFrom(t *testing.T, h prometheus.Metric) *native {
	t.Helper()
	n, ok := nativeOf(histogramOf(t, h))
	if !ok || n == nil {
		t.Fatalf("not a native histogram: %v", h)
	}
	return n
}

// observation is of all sizes, signs included, and not too often beyond all buckets.
func observation(r *rand.Rand) float64 {
	switch r.IntN(20) {
	case 0:
		return 0
	case 1:
		return math.Inf(1 - 2*r.IntN(2))
	case 2:
		return math.Ldexp(1, r.IntN(20)-10) // the end of a bucket
	case 3:
		return -math.Ldexp(r.Float64(), r.IntN(300)-150)
	}
	return math.Exp(2 * r.NormFloat64())
}

// What two histograms have observed, added, is what one would have that observed
// all, and can be taken apart again: also where the two have another resolution.
func TestNativeAdds(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for round := range 300 {
		factors := []float64{1.01, 1.1, 1.5, 4, 60000}
		options := func(factor float64) prometheus.HistogramOpts {
			return prometheus.HistogramOpts{
				Name: "h", Help: "h", NativeHistogramBucketFactor: factor,
				NativeHistogramZeroThreshold: math.Ldexp(1, -128),
			}
		}
		one, two := factors[r.IntN(len(factors))], factors[r.IntN(len(factors))]
		a, b := prometheus.NewHistogram(options(one)), prometheus.NewHistogram(options(two))
		all := prometheus.NewHistogram(options(max(one, two)))
		for range r.IntN(60) {
			x := observation(r)
			all.Observe(x)
			if r.IntN(2) == 0 {
				a.Observe(x)
			} else {
				b.Observe(x)
			}
		}
		sum := nativeFrom(t, a).plus(nativeFrom(t, b))
		got, want := &dto.Histogram{}, histogramOf(t, all)
		sum.write(got)
		want.SampleCount, want.SampleSum, want.CreatedTimestamp = nil, nil, nil
		if !proto.Equal(got, want) {
			t.Fatalf("round %d, factors %v and %v:\n got %v\nwant %v", round, one, two, got, want)
		}
		rest, ok := sum.minus(nativeFrom(t, a))
		if !ok {
			t.Fatalf("round %d: %v is not less than %v", round, nativeFrom(t, a), sum)
		}
		lower, _ := align(nativeFrom(t, b), sum)
		if !rest.positive.equal(lower.positive) || !rest.negative.equal(lower.negative) || rest.zero != lower.zero {
			t.Fatalf("round %d: the rest is %v, want %v", round, rest, lower)
		}
	}
}

// A histogram that reaches the limit of its buckets widens its zero bucket, then
// its buckets. Added to one without a limit, nothing is lost, and the zero buckets
// are one.
func TestNativeAddsLimited(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	widened, halved := 0, 0
	for round := range 300 {
		options := prometheus.HistogramOpts{
			Name: "h", Help: "h", NativeHistogramBucketFactor: 1.1,
			NativeHistogramMaxBucketNumber: uint32(2 + r.IntN(20)), NativeHistogramMaxZeroThreshold: 0.5,
		}
		a := prometheus.NewHistogram(options)
		options.NativeHistogramMaxBucketNumber = 0
		b := prometheus.NewHistogram(options)
		count := uint64(r.IntN(100))
		for range count {
			if x := observation(r); r.IntN(2) == 0 {
				a.Observe(x)
			} else {
				b.Observe(x)
			}
		}
		x, y := nativeFrom(t, a), nativeFrom(t, b)
		sum := x.plus(y)
		if x.threshold > y.threshold {
			widened++
		}
		if x.schema < y.schema {
			halved++
		}
		if sum.schema > min(x.schema, y.schema) || sum.threshold < max(x.threshold, y.threshold) {
			t.Fatalf("round %d: %v and %v are %v", round, x, y, sum)
		}
		total := sum.zero
		for _, side := range []buckets{sum.positive, sum.negative} {
			for i, one := range side {
				total += one.count
				if one.overlaps(sum) {
					t.Fatalf("round %d: bucket %d ends at %v, the zero bucket at %v", round, one.index, bound(one.index, sum.schema), sum.threshold)
				}
				if i > 0 && one.index <= side[i-1].index {
					t.Fatalf("round %d: not sorted: %v", round, side)
				}
			}
		}
		if total != count {
			t.Fatalf("round %d: %d observations, want %d", round, total, count)
		}
		again := y.plus(x)
		if !again.positive.equal(sum.positive) || !again.negative.equal(sum.negative) || again.threshold != sum.threshold {
			t.Fatalf("round %d: %v the other way round, want %v", round, again, sum)
		}
		for _, part := range []*native{x, y} {
			if _, ok := sum.minus(part); !ok {
				t.Fatalf("round %d: %v is not less than %v", round, part, sum)
			}
		}
	}
	if widened == 0 || halved == 0 {
		t.Errorf("%d histograms widened their zero bucket, %d their buckets: want some of each", widened, halved)
	}
}

// The sum of many generations does not grow without bound.
func TestNativeBounded(t *testing.T) {
	sum := &native{schema: maxSchema}
	for i := range int32(50) {
		part := &native{schema: maxSchema}
		for j := range int32(100) {
			part.positive = append(part.positive, bucket{i*100 + j, 1})
		}
		sum = sum.plus(part)
	}
	if n := len(sum.positive); n > maxBuckets {
		t.Errorf("%d buckets, want at most %d", n, maxBuckets)
	}
	var count uint64
	for _, b := range sum.positive {
		count += b.count
	}
	if count != 5000 {
		t.Errorf("%d observations, want 5000", count)
	}
}
