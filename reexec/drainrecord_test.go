// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

func TestDrainRecord(t *testing.T) {
	var r record
	r.begin(time.Now().Add(-10 * time.Second))
	open := 7
	slow := r.hold("slow", func() int { return open })
	never := r.hold("never", func() int { return open })
	failed := r.hold("failed", func() int { return 0 })
	for range maxHolders {
		r.hold("quick", func() int { return 0 })(nil)
	}
	failed(errors.New("no disk"))
	slow(nil)
	slow(errors.New("again")) // is not heard
	open = 2
	r.cut()
	never(nil) // too late
	report := r.report(control.Process{PID: 1})
	if len(report.Holders) != maxHolders || report.Seconds < 10 || report.PID != 1 {
		t.Fatalf("report %+v", report)
	}
	h := report.Holders
	if h[0].Name != "never" || !h[0].Cut || h[0].Left != 2 || h[0].Connections != 7 ||
		h[1].Name != "slow" || h[1].Cut || h[1].Error != "" || h[2].Name != "failed" || h[2].Error != "no disk" {
		t.Errorf("holders %+v", h[:3])
	}
	for i, want := range []string{"never (7 connections) 10.0s, 2 were cut", "slow (7 connections) 10.0s", "failed 10.0s: no disk"} {
		if got := h[i].String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// The context of what is registered ends before the rest is cut, with the reason.
func TestOnDrainIsTold(t *testing.T) {
	inv := firstInventory(t)
	d := newDrain(inv)
	causes := make(chan error, 2)
	d.finishers = []*finisher{{"patient", func(ctx context.Context) error {
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return context.Cause(ctx)
	}}, {"quick", func(context.Context) error { return nil }}}
	done := make(chan error, 1)
	defer d.deadline(50 * time.Millisecond)()
	d.begin(ours, func(err error) { done <- err })
	d.now()
	if err := <-causes; !errors.Is(err, ErrDrainTimeout) {
		t.Errorf("the cause is %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if farewell(time.Second) != 100*time.Millisecond || farewell(time.Minute) != time.Second {
		t.Error("the farewell has another time")
	}
}

// A drain that is cut ends although something registered goes on.
func TestOnDrainThatHangsIsCut(t *testing.T) {
	d := newDrain(firstInventory(t))
	release := make(chan struct{})
	defer close(release)
	d.finishers = []*finisher{{"hangs", func(context.Context) error { <-release; return nil }}}
	done := make(chan error, 1)
	d.begin(ours, func(err error) { done <- err })
	d.now()
	notYet(t, done)
	d.abandon()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if h := d.record.report(control.Process{}).Holders; len(h) != 1 || !h[0].Cut || h[0].Name != "hangs" {
		t.Errorf("holders %+v", h)
	}
}
