// SPDX-License-Identifier: Apache-2.0

package manager

import "time"

// A ratelimit is systemd's: so many events in an interval that begins with the
// first of them. Without an interval or a burst there is no limit.
type ratelimit struct {
	interval time.Duration
	burst    int
	begin    time.Time
	count    int
}

// below counts an event and reports whether it is within the limit.
func (r *ratelimit) below(now time.Time) bool {
	if r.interval <= 0 || r.burst <= 0 {
		return true
	}
	if r.begin.IsZero() || now.Sub(r.begin) > r.interval {
		r.begin, r.count = now, 1
		return true
	}
	r.count++
	return r.count <= r.burst
}

// over is how long the limit stays hit.
func (r *ratelimit) over(now time.Time) time.Duration {
	return r.interval - now.Sub(r.begin)
}
