// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"math"
	"math/bits"
	"time"
)

// Each power of two has this many bins, so that a bin is at most 1/32 wide.
const (
	binBits = 5
	bins    = 1 << binBits
)

// A Histogram counts times in a fixed amount of memory, for runs that are too long to keep each. Its zero
// value is that of none.
type Histogram struct {
	count  int
	worst  time.Duration
	counts [64 * bins]int
}

// Add counts one time. Negative ones count as 0.
func (h *Histogram) Add(d time.Duration) {
	d = max(d, 0)
	h.count++
	h.worst = max(h.worst, d)
	h.counts[bin(uint64(d))]++
}

// Summary is [Summarize] of what was added, where each percentile is the upper end of its bin: at most 1/32
// above the measured one. Count and Worst are exact.
func (h *Histogram) Summary() Summary {
	return Summary{
		Count: h.count,
		P50:   h.percentile(50), P99: h.percentile(99), P999: h.percentile(99.9), Worst: h.worst,
	}
}

func (h *Histogram) percentile(p float64) time.Duration {
	rank := max(int(math.Ceil(p*float64(h.count)/100)), 1)
	seen := 0
	for i, n := range h.counts {
		if seen += n; seen >= rank {
			return min(time.Duration(binEnd(i)), h.worst)
		}
	}
	return h.worst
}

// bin is the number of v's bin. Values below bins have one each.
func bin(v uint64) int {
	shift := max(bits.Len64(v)-binBits-1, 0)
	return shift<<binBits + int(v>>shift)
}

// binEnd is the largest value of a bin.
func binEnd(i int) uint64 {
	if i < 2*bins {
		return uint64(i)
	}
	shift := i>>binBits - 1
	return (uint64(i-shift<<binBits)+1)<<shift - 1
}
