// SPDX-License-Identifier: Apache-2.0

// Package stats sums up measured times.
package stats

import (
	"math"
	"slices"
	"time"
)

// A Summary is of the latencies of a set of requests. Its zero value is that of none.
type Summary struct {
	Count int           `json:"count"`
	P50   time.Duration `json:"p50_ns"`
	P99   time.Duration `json:"p99_ns"`
	P999  time.Duration `json:"p999_ns"`
	Worst time.Duration `json:"worst_ns"`
}

// Summarize sorts times and sums them up.
func Summarize(times []time.Duration) Summary {
	if len(times) == 0 {
		return Summary{}
	}
	slices.Sort(times)
	return Summary{
		Count: len(times),
		P50:   Percentile(times, 50), P99: Percentile(times, 99), P999: Percentile(times, 99.9),
		Worst: times[len(times)-1],
	}
}

// Percentile returns the smallest of the sorted times that at least p percent of them do not exceed (the
// nearest rank): always one that was measured. It is 0 for none.
func Percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	// p*n is exact where p/100 is not: 99.9 % of 1000 is rank 999.
	rank := int(math.Ceil(p * float64(len(sorted)) / 100))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// Ratio returns a/b, and 0 where either was not measured.
func Ratio(a, b time.Duration) float64 {
	if a <= 0 || b <= 0 {
		return 0
	}
	return float64(a) / float64(b)
}
