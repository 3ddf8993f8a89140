// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestPlan(t *testing.T) {
	for _, tt := range []struct {
		units int
		waves Waves
		sizes string
		rest  int
	}{
		{1, Waves{}, "[1]", 0},
		{2, Waves{}, "[1 1]", 0},
		{10, Waves{}, "[1 2 2 2 2 1]", 0},
		{10, Waves{Canary: -1}, "[2 2 2 2 2]", 0},
		{10, Waves{Canary: -1, Size: 10}, "[10]", 0},
		{10, Waves{Canary: 3, Size: 5}, "[3 5 2]", 0},
		{10, Waves{Canary: 20}, "[10]", 0},
		{10, Waves{Ratio: 1}, "[1 2 2 2 2 1]", 0},
		{10, Waves{Ratio: 0.3}, "[1 1 1]", 7},
		{10, Waves{Ratio: 0.01}, "[1]", 9},
		{3, Waves{Ratio: 0.5}, "[1 1]", 1},
		{0, Waves{}, "[]", 0},
	} {
		waves, rest := tt.waves.plan(instances(tt.units))
		sizes := []int{}
		for _, w := range waves {
			sizes = append(sizes, len(w))
		}
		if fmt.Sprint(sizes) != tt.sizes || len(rest) != tt.rest {
			t.Errorf("%d units, %+v: waves of %v and %d left over, want %s and %d", tt.units, tt.waves, sizes, len(rest), tt.sizes, tt.rest)
		}
	}
}

// Each unit is in one place, in order; the ratio is kept; no wave is empty.
func TestPlanProperties(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		units := instances(r.IntN(40))
		w := Waves{Ratio: float64(r.IntN(11)) / 10, Canary: r.IntN(8) - 2, Size: r.IntN(6)}
		waves, rest := w.plan(units)
		var all []string
		for _, wave := range waves {
			if len(wave) == 0 {
				t.Fatalf("%+v, %d units: an empty wave", w, len(units))
			}
			all = append(all, wave...)
		}
		want := len(units)
		if w.Ratio > 0 {
			want = int(math.Ceil(math.Round(w.Ratio*10) * float64(len(units)) / 10))
		}
		if len(all) != want {
			t.Fatalf("%+v, %d units: %d in waves, want %d", w, len(units), len(all), want)
		}
		if all = append(all, rest...); !slices.Equal(all, units) {
			t.Fatalf("%+v: %q became %q", w, units, all)
		}
	}
}
