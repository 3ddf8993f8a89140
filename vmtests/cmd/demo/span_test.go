// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
)

func TestSuccesses(t *testing.T) {
	got := successes([]vmtests.LoadResult{{End: 30}, {End: 10}, {End: 20, Error: "lost"}, {End: 15}})
	want := []int64{10, 15, 30}
	if len(got) != len(want) {
		t.Fatalf("got %v, want the ends %v", got, want)
	}
	for i, r := range got {
		if r.End != want[i] {
			t.Errorf("success %d: got end %d, want %d", i, r.End, want[i])
		}
	}
}

func TestLongestGap(t *testing.T) {
	ok := []vmtests.LoadResult{{End: 100}, {End: 110, Reused: true}, {End: 150}, {End: 155, Reused: true}, {End: 300}, {End: 310}}
	tests := []struct {
		name     string
		from, to int64
		counts   func(vmtests.LoadResult) bool
		want     time.Duration
	}{
		{"all of it", 0, 400, anyRequest, 145},
		{"begins before the step", 120, 152, anyRequest, 40},
		{"ends after the step", 112, 200, anyRequest, 145},
		{"the step lies in the gap", 200, 210, anyRequest, 145},
		{"between two gaps", 301, 309, anyRequest, 10},
		{"after everything", 400, 500, anyRequest, 190},
		{"new connections", 0, 152, onNewConnection, 150},
		{"new connections before", 0, 140, onNewConnection, 50},
	}
	for _, tt := range tests {
		if got := longestGap(ok, tt.from, tt.to, tt.counts); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
	if got := longestGap(nil, 0, 100, anyRequest); got != 0 {
		t.Errorf("without successes: got %v, want 0", got)
	}
}

func TestFindTakeover(t *testing.T) {
	ok := []vmtests.LoadResult{
		{End: 10, PID: 1, Version: "1"},
		{End: 20, PID: 2, Version: "2"},
		{End: 30, PID: 1, Version: "1", Reused: true},
		{End: 40, PID: 2, Version: "2"},
		{End: 50, PID: 1, Version: "1", Reused: true}, // a connection that it had kept
		{End: 65, PID: 1, Version: "1"},
		{End: 70, PID: 1, Version: "1"},
	}
	got, found := findTakeover(ok, 2)
	if want := (takeover{"1", 1, 25}); !found || got != want {
		t.Errorf("got %v, %t; want %v", got, found, want)
	}
	if got, found := findTakeover(ok, 1); found {
		t.Errorf("from the last one that answered: got %v, want none", got)
	}
	if got, found := findTakeover(ok, 3); found {
		t.Errorf("from a process that never answered: got %v, want none", got)
	}
}
