// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"slices"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
)

// successes returns the requests that were answered, in the order in which they ended.
func successes(results []vmtests.LoadResult) []vmtests.LoadResult {
	var ok []vmtests.LoadResult
	for _, r := range results {
		if r.Error == "" {
			ok = append(ok, r)
		}
	}
	slices.SortStableFunc(ok, func(a, b vmtests.LoadResult) int { return cmp.Compare(a.End, b.End) })
	return ok
}

// longestGap returns the longest time without a success, of which some part is between from and to. It
// lasts from one success to the next, or to the end where none follows. Only those are looked at for which
// counts reports true; ok is in order.
func longestGap(ok []vmtests.LoadResult, from, to int64, counts func(vmtests.LoadResult) bool) time.Duration {
	var longest, last int64
	for _, r := range ok {
		if !counts(r) {
			continue
		}
		if last != 0 && r.End > from && last < to {
			longest = max(longest, r.End-last)
		}
		last = r.End
	}
	if last != 0 {
		longest = max(longest, to-last)
	}
	return time.Duration(longest)
}

func anyRequest(vmtests.LoadResult) bool { return true }

// onNewConnection says that nobody had answered on the connection before: somebody accepted it.
func onNewConnection(r vmtests.LoadResult) bool { return !r.Reused }

// takeover is how another process came to answer new connections in place of a dead one.
type takeover struct {
	Version string
	PID     int
	// After is the time from the last answer of the dead process to the first answer of the other one
	// on a new connection. The dead process lived at its start, so this is at least the time from the
	// death to that answer.
	After time.Duration
}

// findTakeover returns who took over from the process dead; the result is false when nobody did.
func findTakeover(ok []vmtests.LoadResult, dead int) (takeover, bool) {
	var last int64
	for _, r := range ok {
		if r.PID == dead {
			last = r.End
		}
	}
	for _, r := range ok {
		if last != 0 && r.End > last && r.PID != dead && onNewConnection(r) {
			return takeover{r.Version, r.PID, time.Duration(r.End - last)}, true
		}
	}
	return takeover{}, false
}
