// SPDX-License-Identifier: Apache-2.0

package reexec

import "time"

// maxMissed is how many beats in a row a successor may miss.
const maxMissed = 3

// beats watches a successor on trial. Ticks are counted rather than time
// measured: a predecessor that was itself stopped for a while finds the beats
// of that time in its socket, and must not blame the successor.
type beats struct {
	last  time.Time
	until time.Time
	ticks int
}

func newBeats(probation time.Duration) beats {
	now := time.Now()
	return beats{last: now, until: now.Add(probation)}
}

func (b *beats) heard() { b.ticks, b.last = 0, time.Now() }

// missed counts one tick and says whether there were too many.
func (b *beats) missed() bool {
	b.ticks++
	return b.ticks > maxMissed
}

func (b *beats) silence() time.Duration { return time.Since(b.last) }

// over says whether probation's time is over.
func (b *beats) over() bool { return !time.Now().Before(b.until) }
