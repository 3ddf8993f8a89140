// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBeats(time.Second)
		for tick := range maxMissed {
			if b.missed() {
				t.Fatalf("tick %d of %d counts as too many", tick+1, maxMissed)
			}
		}
		time.Sleep(300 * time.Millisecond)
		if got := b.silence(); got != 300*time.Millisecond {
			t.Errorf("silence %v, want 300ms", got)
		}
		b.heard()
		if got := b.silence(); got != 0 {
			t.Errorf("silence %v after a beat", got)
		}
		// A beat begins the count anew.
		for range maxMissed {
			if b.missed() {
				t.Fatal("counted on after a beat")
			}
		}
		if !b.missed() {
			t.Errorf("%d ticks without a beat are not too many", maxMissed+1)
		}
		if b.over() {
			t.Error("probation is over early")
		}
		time.Sleep(700 * time.Millisecond)
		if !b.over() {
			t.Error("probation is not over after its time")
		}
	})
}
