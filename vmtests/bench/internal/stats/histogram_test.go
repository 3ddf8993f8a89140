// SPDX-License-Identifier: Apache-2.0

package stats_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/stats"
)

// The same times, counted in bins and kept: percentiles differ by the width of a bin at most.
func TestHistogramIsNearSummarize(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for name, draw := range map[string]func() time.Duration{
		"nanoseconds":  func() time.Duration { return time.Duration(random.IntN(100)) },
		"milliseconds": func() time.Duration { return time.Duration(random.IntN(int(50 * time.Millisecond))) },
		"long tail":    func() time.Duration { return time.Duration(math.Exp(random.NormFloat64()*4 + 12)) },
		"all the same": func() time.Duration { return time.Millisecond },
		"largest":      func() time.Duration { return math.MaxInt64 - time.Duration(random.IntN(2)) },
	} {
		for _, n := range []int{1, 2, 10, 999, 1000, 20000} {
			var h stats.Histogram
			var all []time.Duration
			for range n {
				d := draw()
				h.Add(d)
				all = append(all, d)
			}
			got, want := h.Summary(), stats.Summarize(all)
			if got.Count != want.Count || got.Worst != want.Worst {
				t.Errorf("%s, %d times: %+v, want count and worst of %+v", name, n, got, want)
			}
			for _, p := range [][2]time.Duration{{got.P50, want.P50}, {got.P99, want.P99}, {got.P999, want.P999}} {
				if p[0] < p[1] || p[0]-p[1] > p[1]/32 {
					t.Errorf("%s, %d times: %+v, want at most 1/32 above %+v", name, n, got, want)
				}
			}
		}
	}
}

func TestHistogramOfNothing(t *testing.T) {
	var h stats.Histogram
	if got := h.Summary(); got != (stats.Summary{}) {
		t.Errorf("got %+v", got)
	}
	h.Add(-1)
	if got, want := h.Summary(), (stats.Summary{Count: 1}); got != want {
		t.Errorf("got %+v for a negative time, want %+v", got, want)
	}
}
