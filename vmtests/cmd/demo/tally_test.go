// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// lastLine is the contract of the last line on standard output.
var lastLine = regexp.MustCompile(`^demo: requests=(\d+) failed=(\d+) upgrades=(\d+) rollbacks=(\d+) refused=(\d+) crashes=(\d+) cut=(\d+)$`)

// parseTally reads the last line of output, which must be the only one of its kind.
func parseTally(output string) (tally, error) {
	lines := strings.Split(strings.TrimSuffix(output, "\n"), "\n")
	for _, line := range lines[:len(lines)-1] {
		if strings.HasPrefix(line, "demo:") {
			return tally{}, fmt.Errorf("line %q is not the last", line)
		}
	}
	last := lines[len(lines)-1]
	fields := lastLine.FindStringSubmatch(last)
	if fields == nil {
		return tally{}, fmt.Errorf("last line is %q", last)
	}
	var t tally
	for i, to := range []*int{&t.Requests, &t.Failed, &t.Upgrades, &t.Rollbacks, &t.Refused, &t.Crashes, &t.Cut} {
		var err error
		if *to, err = strconv.Atoi(fields[i+1]); err != nil {
			return tally{}, err
		}
	}
	return t, nil
}

func TestTally(t *testing.T) {
	for _, want := range []tally{
		{},
		{Requests: 1, Failed: 2, Upgrades: 3, Rollbacks: 4, Refused: 5, Crashes: 6, Cut: 7},
		{Requests: 123456, Cut: 12},
	} {
		got, err := parseTally(want.String() + "\n")
		if err != nil || got != want {
			t.Errorf("%q: got %+v (%v), want %+v", want, got, err, want)
		}
		status := 0
		if want.Failed != 0 {
			status = 1
		}
		if got := want.exitStatus(); got != status {
			t.Errorf("%q: exit status %d, want %d", want, got, status)
		}
	}
	if got, want := (tally{Requests: 9, Upgrades: 3, Rollbacks: 1, Refused: 3, Crashes: 2}).String(),
		"demo: requests=9 failed=0 upgrades=3 rollbacks=1 refused=3 crashes=2 cut=0"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
