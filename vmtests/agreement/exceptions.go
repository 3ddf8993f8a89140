// SPDX-License-Identifier: Apache-2.0

package agreement

import (
	"slices"
	"strings"
)

// An Exception is a difference that is known and stays, with the reason for it.
type Exception struct {
	Name   string
	Reason string
	Since  int // the first version that has it; 0 for all
	Until  int // the last one; 0 for all
	// Everywhere is for what every service meets, so that it says nothing of a scenario.
	Everywhere bool
	// Covers reports whether a difference is of this kind.
	Covers func(Difference) bool
}

// Exceptions are all that there are. One that no test meets on a version between Since and Until is to be
// removed: the tests fail then.
var Exceptions = []*Exception{
	{
		Name:       "memory pressure",
		Reason:     "the stand-in has no control group whose memory pressure a service could watch",
		Since:      254,
		Everywhere: true,
		Covers: func(d Difference) bool {
			return strings.HasSuffix(d.Key, " $MEMORY_PRESSURE_WATCH") || strings.HasSuffix(d.Key, " $MEMORY_PRESSURE_WRITE")
		},
	},
	{
		Name:   "a skipped start",
		Reason: "Unit.Start returns nil for a start that ExecCondition= skips, as systemctl exits with 0: one does not see that the job's result is another",
		Until:  247,
		Covers: func(d Difference) bool {
			return d.Key == "jobs ended" && strings.ReplaceAll(d.Real, ": skipped,", ": done,") == d.Imitated
		},
	},
}

// Applies reports whether e is to be met on a version.
func (e *Exception) Applies(version int) bool {
	return version >= e.Since && (e.Until == 0 || version <= e.Until)
}

// Except takes the differences that are exceptions from the others, and says which exceptions these were.
func Except(version int, all []Difference) (left []Difference, met []*Exception) {
	for _, d := range all {
		i := slices.IndexFunc(Exceptions, func(e *Exception) bool { return e.Applies(version) && e.Covers(d) })
		switch {
		case i < 0:
			left = append(left, d)
		case !slices.Contains(met, Exceptions[i]):
			met = append(met, Exceptions[i])
		}
	}
	return left, met
}
