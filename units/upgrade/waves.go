// SPDX-License-Identifier: Apache-2.0

package upgrade

import "math"

// plan divides units into waves and returns those that are left over by the ratio.
func (w Waves) plan(units []string) (waves [][]string, rest []string) {
	n := len(units)
	if w.Ratio > 0 && w.Ratio < 1 {
		// Of ten, 0.3 is three: a float must not make it four.
		n = min(n, int(math.Ceil(w.Ratio*float64(len(units))-1e-9)))
	}
	units, rest = units[:n], units[n:]
	canary := w.Canary
	if canary == 0 {
		canary = 1
	}
	if canary > 0 && len(units) > 0 {
		waves = append(waves, units[:min(canary, len(units))])
		units = units[len(waves[0]):]
	}
	size := w.Size
	if size == 0 {
		size = max(1, n/4)
	}
	for len(units) > 0 {
		wave := units[:min(size, len(units))]
		waves = append(waves, wave)
		units = units[len(wave):]
	}
	return waves, rest
}

// tolerated is how many units of a wave may fail. With more than one unit the first wave
// is there to find out, unless there is no canary.
func (w Waves) tolerated(wave int) int {
	if wave == 0 && w.Canary >= 0 {
		return 0
	}
	return w.MaxFailed
}
