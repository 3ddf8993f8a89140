// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"time"

	"golang.org/x/sys/unix"
)

// sinceBoot is CLOCK_MONOTONIC, for times that cross from one process to another: a
// [time.Time] loses its monotonic part on the way, and the wall clock may be set in
// the middle of an upgrade.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // every Linux has this clock
	return time.Duration(ts.Nano())
}
