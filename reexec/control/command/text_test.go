// SPDX-License-Identifier: Apache-2.0

package command

import (
	"testing"
	"time"
)

func TestDistance(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 59900 * time.Millisecond: "59s", time.Minute: "1min 0s", time.Hour - time.Second: "59min 59s",
		90 * time.Minute: "1h 30min", 49 * time.Hour: "2d 1h",
	} {
		if got := distance(d); got != want {
			t.Errorf("distance(%v) = %q, want %q", d, got, want)
		}
	}
}
