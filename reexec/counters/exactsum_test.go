// SPDX-License-Identifier: Apache-2.0

package counters

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// anyFloat returns finite numbers of all sizes, and often some of similar size.
func anyFloat(r *rand.Rand) float64 {
	switch r.IntN(4) {
	case 0:
		return float64(r.IntN(1000))
	case 1:
		return r.NormFloat64()
	case 2:
		return math.Ldexp(r.Float64(), r.IntN(200)-100)
	}
	for {
		// Not so large that sums overflow.
		if x := math.Float64frombits(r.Uint64()); math.Abs(x) < 1e300 {
			return x
		}
	}
}

func TestExactSum(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 2000 {
		var sum exactSum
		want := new(big.Float).SetPrec(exactBits)
		var half exactSum // what is taken away again
		n := 1 + r.IntN(30)
		for i := range n {
			x := anyFloat(r)
			if i < n/2 {
				half = half.add(x)
			} else {
				want.Add(want, big.NewFloat(x))
			}
			sum = sum.add(x)
		}
		wantFloat, _ := want.Float64()
		rest := sum.minus(half)
		if got := rest.float(); got != wantFloat && !(got == 0 && wantFloat == 0) {
			t.Fatalf("round %d: %v, want %v", round, got, wantFloat)
		}
		if sign := want.Sign(); rest.negative() != (sign < 0) || rest.isZero() != (sign == 0) {
			t.Fatalf("round %d: %v: negative %v, zero %v; the sum is %v", round, rest, rest.negative(), rest.isZero(), want)
		}
		if back := half.plus(rest); !back.minus(sum).isZero() {
			t.Fatalf("round %d: %v and %v are %v, want %v", round, half, rest, back, sum)
		}
	}
}

// What is not finite is so for ever, as in the process that counted it.
func TestExactSumNotFinite(t *testing.T) {
	inf, nan := math.Inf(1), math.NaN()
	for _, tc := range []struct{ now, before, added float64 }{
		{inf, 5, inf},
		{inf, inf, 0},
		{nan, 5, nan},
		{nan, inf, nan},
		{nan, nan, 0},
		{-inf, 5, -inf},
		{math.MaxFloat64, 1, math.MaxFloat64},
	} {
		added := sumOf(tc.now).minus(sumOf(tc.before)).float()
		if added != tc.added && !(math.IsNaN(added) && math.IsNaN(tc.added)) {
			t.Errorf("%v after %v: %v more, want %v", tc.now, tc.before, added, tc.added)
		}
		back := sumOf(tc.before).add(added).float()
		if back != tc.now && !(math.IsNaN(back) && math.IsNaN(tc.now)) {
			t.Errorf("%v and %v: %v, want %v", tc.before, added, back, tc.now)
		}
	}
	if got := sumOf(math.MaxFloat64).add(math.MaxFloat64).float(); got != inf {
		t.Errorf("too large a sum is %v, want +Inf", got)
	}
	if got := sumOf(math.MaxFloat64).add(1e-300).add(math.MaxFloat64).float(); got != inf {
		t.Errorf("too large a sum with a rest is %v, want +Inf", got)
	}
}
