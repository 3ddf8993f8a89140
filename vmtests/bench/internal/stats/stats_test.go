// SPDX-License-Identifier: Apache-2.0

package stats_test

import (
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/stats"
)

func TestPercentile(t *testing.T) {
	upTo := func(n int) []time.Duration {
		var times []time.Duration
		for i := range n {
			times = append(times, time.Duration(i+1))
		}
		return times
	}
	for _, c := range []struct {
		n    int
		p    float64
		want time.Duration
	}{
		{0, 50, 0},
		{1, 0, 1},
		{1, 99.9, 1},
		{2, 50, 1},
		{2, 50.1, 2},
		{3, 50, 2},
		{100, 99, 99},
		{100, 99.9, 100},
		{1000, 99.9, 999},
		{10000, 99.9, 9990},
		{10001, 99.9, 9991},
		{1000, 100, 1000},
	} {
		if got := stats.Percentile(upTo(c.n), c.p); got != c.want {
			t.Errorf("percentile %v of 1..%d: got %d, want %d", c.p, c.n, got, c.want)
		}
	}
}

func TestSummarize(t *testing.T) {
	got := stats.Summarize([]time.Duration{30, 10, 20})
	if want := (stats.Summary{Count: 3, P50: 20, P99: 30, P999: 30, Worst: 30}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := stats.Summarize(nil); got != (stats.Summary{}) {
		t.Errorf("of none: got %+v", got)
	}
}

func TestRatio(t *testing.T) {
	if got := stats.Ratio(30, 20); got != 1.5 {
		t.Errorf("got %v, want 1.5", got)
	}
	if got := stats.Ratio(30, 0); got != 0 {
		t.Errorf("against nothing: got %v, want 0", got)
	}
}
