// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"math"
	"slices"
)

// A Trend says whether values grow with their position.
type Trend struct {
	// Slope is the median of the slopes between any two values (Theil and Sen): outliers do not sway it.
	Slope float64 `json:"slope"`
	// Z is how far the order of the values is from chance, in standard deviations (Mann and Kendall): above
	// 3 for one in 700 sets of values without a trend, positive where they grow.
	Z float64 `json:"z"`
}

// TrendOf returns the trend of values. Fewer than three have none. It compares each with each.
func TrendOf(values []float64) Trend {
	n := len(values)
	if n < 3 {
		return Trend{}
	}
	slopes := make([]float64, 0, n*(n-1)/2)
	ups := 0 // pairs that grow, less those that shrink
	for i, a := range values {
		for j, b := range values[i+1:] {
			slopes = append(slopes, (b-a)/float64(j+1))
			switch {
			case b > a:
				ups++
			case b < a:
				ups--
			}
		}
	}
	t := Trend{Slope: Median(slopes)}
	// The variance of ups where there is no trend; equal values make it smaller.
	variance := spread(n)
	counts := make(map[float64]int)
	for _, v := range values {
		counts[v]++
	}
	for _, ties := range counts {
		variance -= spread(ties)
	}
	if variance > 0 && ups != 0 {
		t.Z = (float64(ups) - math.Copysign(1, float64(ups))) / math.Sqrt(variance)
	}
	return t
}

func spread(n int) float64 { return float64(n) * float64(n-1) * float64(2*n+5) / 18 }

// Median returns the middle of values, or the mean of the two in the middle. It is 0 for none.
func Median(values []float64) float64 {
	n := len(values)
	if n == 0 {
		return 0
	}
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
