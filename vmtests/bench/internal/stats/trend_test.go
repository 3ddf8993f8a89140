// SPDX-License-Identifier: Apache-2.0

package stats_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/stats"
)

func TestTrend(t *testing.T) {
	for name, c := range map[string]struct {
		values []float64
		want   stats.Trend
	}{
		"none":     {nil, stats.Trend{}},
		"two":      {[]float64{1, 2}, stats.Trend{}},
		"constant": {[]float64{7, 7, 7, 7}, stats.Trend{}},
		"line":     {[]float64{1, 3, 5, 7}, stats.Trend{Slope: 2, Z: 5 / math.Sqrt(4*3*13/18.)}},
		"falling":  {[]float64{7, 5, 3, 1}, stats.Trend{Slope: -2, Z: -5 / math.Sqrt(4*3*13/18.)}},
		"outlier":  {[]float64{5, 5, 1000, 5, 5}, stats.Trend{}},
		// Two ups and no down, and a pair of equals.
		"a tie": {[]float64{1, 1, 2}, stats.Trend{Slope: 0.5, Z: 1 / math.Sqrt((3*2*11-2*1*9)/18.)}},
	} {
		got := stats.TrendOf(c.values)
		if math.Abs(got.Slope-c.want.Slope) > 1e-9 || math.Abs(got.Z-c.want.Z) > 1e-9 {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// What a soak looks for: a leak of one in ten generations shows in the noise, and noise alone does not.
func TestTrendInNoise(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	steady, leak := make([]float64, 1000), make([]float64, 1000)
	for i := range steady {
		steady[i] = math.Round(300 + 15*random.NormFloat64())
		leak[i] = steady[i] + math.Floor(float64(i)/10)
	}
	if got := stats.TrendOf(steady); math.Abs(got.Z) > 3 {
		t.Errorf("noise: %+v, want no trend", got)
	}
	if got := stats.TrendOf(leak); got.Z < 10 || math.Abs(got.Slope-0.1) > 0.01 {
		t.Errorf("a leak of 0.1: %+v", got)
	}
}
