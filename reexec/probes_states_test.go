// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/internal/machine"
)

// Who accepts is ready, if it is healthy; so is who has handed over to another
// generation, and nobody else.
func TestReadyInEveryState(t *testing.T) {
	t.Parallel()
	ill := errors.New("the database is gone")
	for state := range machine.States {
		for _, health := range []error{nil, ill} {
			s := &Service{state: state, began: time.Now(), opts: Options{Health: func(context.Context) error { return health }}}
			h := probed{s}.Readyz(t.Context())
			elsewhere := state == machine.Probation || state == machine.Promoting || state == machine.Draining || state == machine.Resigning
			if want := elsewhere || state.Accepts() && health == nil; h.OK != want || h.Accepts != state.Accepts() || h.OK != (h.Reason == "") || h.State != stateWord(state) {
				t.Errorf("%v, %v: %+v; want %t", state, health, h, want)
			}
			if state.Accepts() && health != nil && h.Reason != health.Error() {
				t.Errorf("%v: the reason is %q", state, h.Reason)
			}
		}
	}
}

// Health may change the state, or take its time while something else does.
func TestReadySeesWhatComesMeanwhile(t *testing.T) {
	t.Parallel()
	s := &Service{state: machine.Serving, began: time.Now()}
	s.opts.Health = func(context.Context) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.state = machine.Stopping
		return nil
	}
	if h := (probed{s}).Readyz(t.Context()); h.OK || h.State != "stopping" {
		t.Errorf("%+v", h)
	}
}

// A health check that hangs is left behind once, however many ask.
func TestReadyAsksOnce(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 100)
	release := make(chan struct{})
	s := &Service{state: machine.Serving, began: time.Now()}
	s.opts.Health = func(context.Context) error {
		asked <- struct{}{}
		<-release
		return nil
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		if h := (probed{s}).Readyz(gone); h.OK || !strings.Contains(h.Reason, "health check") {
			t.Errorf("%+v", h)
		}
	}
	<-asked
	select {
	case <-asked:
		t.Error("it was asked twice at once")
	default:
	}
	close(release)
	for deadline := time.Now().Add(10 * time.Second); !(probed{s}).Readyz(t.Context()).OK; {
		if time.Now().After(deadline) {
			t.Fatal("it is never ready again")
		}
	}
}

func TestHealthz(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		running, over bool
		turned        time.Duration // ago
		want          string
	}{
		{name: "before Run", turned: time.Hour},
		{name: "serving", running: true},
		{name: "busy", running: true, turned: turnLimit - time.Second},
		{name: "stands still", running: true, turned: turnLimit + 5*time.Second, want: "the loop of Run stands still since "},
		{name: "over", running: true, over: true, want: "Run has returned"},
	} {
		s := &Service{began: time.Now().Add(-time.Hour), running: c.running, done: make(chan struct{}), opts: Options{Beat: time.Second}}
		s.turned.Store(int64(time.Hour - c.turned))
		if c.over {
			close(s.done)
		}
		h := probed{s}.Healthz()
		if h.OK != (c.want == "") || !strings.HasPrefix(h.Reason, c.want) || h.Reason == "" != h.OK {
			t.Errorf("%s: %+v, want %q", c.name, h, c.want)
		}
	}
}
