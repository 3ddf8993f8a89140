// SPDX-License-Identifier: Apache-2.0

package counters

import "math/big"

// exactSum is a sum of floating-point numbers without rounding. A total is taken
// apart and put together again each time it goes from one generation to the next,
// and each rounding could make it less by one unit in the last place: Prometheus
// takes any fall of a counter for a restart from zero, and would count all of it again.
//
// It is kept as numbers whose bits do not overlap, the largest first and the
// others in rest from the smallest. Sums of integers below 2^53 have no rest.
// (J. R. Shewchuk, "Adaptive Precision Floating-Point Arithmetic", 1997, section 2.)
type exactSum struct {
	first float64 // or what is not finite; then there is no rest
	rest  []float64
}

func sumOf(x float64) exactSum { return exactSum{first: x} }

func finite(x float64) bool { return x-x == 0 }

// add returns s+x. What is not finite follows the rules of float64.
func (s exactSum) add(x float64) exactSum {
	if !finite(s.first) || !finite(x) {
		return exactSum{first: s.first + x}
	}
	if len(s.rest) == 0 {
		high, low := twoSum(s.first, x)
		if low == 0 || !finite(high) {
			return exactSum{first: high}
		}
		return exactSum{first: high, rest: []float64{low}}
	}
	rest := make([]float64, 0, len(s.rest)+1)
	for i := range len(s.rest) + 1 {
		part := s.first
		if i < len(s.rest) {
			part = s.rest[i]
		}
		high, low := twoSum(x, part)
		if !finite(high) {
			return exactSum{first: high}
		}
		if low != 0 {
			rest = append(rest, low)
		}
		x = high
	}
	if last := len(rest) - 1; x == 0 && last >= 0 {
		x, rest = rest[last], rest[:last]
	}
	return exactSum{first: x, rest: rest}
}

// twoSum returns a+b rounded, and what that lacks, exactly (Knuth).
func twoSum(a, b float64) (high, low float64) {
	high = a + b
	bRounded := high - a
	low = (a - (high - bRounded)) + (b - bRounded)
	return high, low
}

func (s exactSum) plus(t exactSum) exactSum {
	for _, part := range t.rest {
		s = s.add(part)
	}
	return s.add(t.first)
}

// minus returns what must be added to t to get s. From what is not finite on,
// nothing that is counted changes it but to NaN.
func (s exactSum) minus(t exactSum) exactSum {
	if !finite(s.first) {
		if s.first == t.first || s.first != s.first && t.first != t.first {
			return exactSum{}
		}
		return s
	}
	for _, part := range t.rest {
		s = s.add(-part)
	}
	return s.add(-t.first)
}

// float rounds to the nearest number, and to the even one of two. It never falls
// while the sum grows.
func (s exactSum) float() float64 {
	switch len(s.rest) {
	case 0:
		return s.first
	case 1:
		return s.first + s.rest[0]
	}
	// More than a few parts are rare: numbers of very different size.
	total := new(big.Float).SetPrec(exactBits).SetFloat64(s.first)
	for _, part := range s.rest {
		total.Add(total, new(big.Float).SetFloat64(part))
	}
	x, _ := total.Float64()
	return x
}

// exactBits holds every sum of float64s: from 2^-1074 to 2^1023, and the carries.
const exactBits = 1074 + 1024 + 64

// isZero says whether nothing is there to be added.
func (s exactSum) isZero() bool { return s.first == 0 && len(s.rest) == 0 }

// negative goes by the first number, which is more than all others together.
func (s exactSum) negative() bool { return s.first < 0 }
