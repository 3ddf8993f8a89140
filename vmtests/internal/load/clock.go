// SPDX-License-Identifier: Apache-2.0

package load

import "golang.org/x/sys/unix"

// now returns the time of CLOCK_MONOTONIC in nanoseconds.
func now() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // every Linux has this clock
	}
	return ts.Nano()
}
