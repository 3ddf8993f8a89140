// SPDX-License-Identifier: Apache-2.0

package main

import "time"

// An event is what a view shows. Times count from the start of the demo.
type event interface{ at() time.Duration }

// moment is the time of an event.
type moment time.Duration

func (m moment) at() time.Duration { return time.Duration(m) }

type (
	// planned says what is to come.
	planned struct {
		moment
		Steps []string // titles
	}
	// booted names the systemd that runs.
	booted struct {
		moment
		Systemd string
	}
	// began and ended frame a step.
	began struct {
		moment
		Step int
	}
	ended struct {
		moment
		Step    int
		OK      bool
		Verdict string
	}
	// traffic tells how many requests were answered by the time Counted, in all and by version. It comes
	// several times a second, so that time shows too.
	traffic struct {
		moment
		Counted  time.Duration
		Answered int
		Versions map[string]int
	}
	// settled tells what became of the others so far.
	settled struct {
		moment
		Failed, Cut int
	}
)

// A view shows events to a person. Close leaves the output ready for other text.
type view interface {
	show(event)
	close()
}
