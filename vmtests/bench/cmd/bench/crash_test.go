// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
)

func TestSumUpOfCrashes(t *testing.T) {
	const ms = int64(time.Millisecond)
	restart, killed := &crashed{Subject: "restart"}, &crashed{Subject: "killed", Pause: 200 * time.Millisecond}
	for i := range int64(4) {
		restart.Rounds = append(restart.Rounds, crashRound{Begin: i, Exec: i + 60*ms, First: i + (100+i)*ms})
		killed.Rounds = append(killed.Rounds, crashRound{Begin: i, Exec: i + 300*ms, First: i + (404-i)*ms})
	}
	c := &crashes{Systemd: 257, Subjects: []*crashed{restart, killed}}
	c.sumUp()
	if want := (quartiles{401 * time.Millisecond, 402 * time.Millisecond, 403 * time.Millisecond, 404 * time.Millisecond}); killed.Total != want {
		t.Errorf("total: %+v, want %+v", killed.Total, want)
	}
	if got, want := killed.Work.P50, 202*time.Millisecond; got != want {
		t.Errorf("rest: median %v, want %v", got, want)
	}
	if got, want := killed.Exec.P75, 100*time.Millisecond; got != want {
		t.Errorf("until exec: p75 %v, want %v", got, want)
	}
	if got, want := killed.Start.Worst, 104*time.Millisecond; got != want {
		t.Errorf("to answer: worst %v, want %v", got, want)
	}
	if restart.TotalRatio != 1 || restart.WorkRatio != 1 || killed.WorkRatio != 2 {
		t.Errorf("ratios %v, %v and %v, want 1, 1 and 2", restart.TotalRatio, restart.WorkRatio, killed.WorkRatio)
	}
	var text strings.Builder
	if err := printCrashes(&text, []*crashes{c}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"systemd 257", "402.0 ms", "2.00"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in:\n%s", want, text.String())
		}
		if drawing := string(drawCrashes([]*crashes{c})); !strings.Contains(drawing, "202.0 (201.0 to 203.0) ms, 2.00") {
			t.Errorf("the drawing has no quartiles:\n%s", drawing)
		}
	}
}

// Every subject is killed once under real systemd, and answers again without a refused connection.
func TestCrashOnce(t *testing.T) {
	if err := vmtests.RequireContainers(); errors.Is(err, vmtests.ErrNotRoot) {
		t.Skip(err)
	}
	b := *sharedBench(t)
	// The shared programs are for the stand-in, which needs no command.
	if err := b.compile(t.Context(), "command", "github.com/holdfast-go/holdfast/units/cmd/holdfast"); err != nil {
		t.Fatal(err)
	}
	all, err := b.measureCrashes(t.Context(), []vmtests.Version{vmtests.Systemd257}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all[0].Subjects {
		if len(s.Rounds) != 1 {
			t.Errorf("%s: %d rounds, want 1", s.Subject, len(s.Rounds))
		}
		if (s.Pause == 0) != (s.Subject == "restart") || s.Work.P50 <= 0 || s.Exec.P50 <= 0 || s.Start.P50 <= 0 {
			t.Errorf("%s: %+v: every part takes time", s.Subject, s)
		}
	}
}
