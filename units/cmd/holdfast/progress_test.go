// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control/command/term"
	"github.com/holdfast-go/holdfast/units/upgrade"
)

// rollout is what a rollout of four instances tells: a canary that holds, and then
// a wave of which one unit fails a gate. Seconds are since its begin.
func rollout() []upgrade.Event {
	const a, b, c, d = "myapp@1.service", "myapp@2.service", "myapp@3.service", "myapp@4.service"
	events := []struct {
		at float64
		upgrade.Event
	}{
		{0, upgrade.Event{Kind: "unit", Unit: a, Phase: "check", Text: "warning: its unit file has changed on disk: run systemctl daemon-reload"}},
		{0, upgrade.Event{Kind: "wave", Text: "wave 1 of 2: myapp@1.service"}},
		{0.1, upgrade.Event{Kind: "unit", Unit: a, Phase: "reload", Text: "reloading"}},
		{0.2, upgrade.Event{Kind: "state", Unit: a, Phase: "reload", State: "starting"}},
		{0.4, upgrade.Event{Kind: "state", Unit: a, Phase: "reload", State: "probation\x1b[2J"}},
		{5.5, upgrade.Event{Kind: "unit", Unit: a, Phase: "soak", Text: "version 2.1.0 serves: watching it"}},
		{5.6, upgrade.Event{Kind: "gate", Unit: a, Phase: "soak", Left: 9.9, Text: "ok"}},
		{15.5, upgrade.Event{Kind: "gate", Unit: a, Phase: "soak", Left: 0, Text: "ok"}},
		{15.5, upgrade.Event{Kind: "unit", Unit: a, Phase: "held", Text: "version 2.1.0 has passed its gates"}},
		{15.6, upgrade.Event{Kind: "pause", Wave: 1, Left: 30, Text: "pause of 30s before wave 2"}},
		{45.6, upgrade.Event{Kind: "wave", Wave: 1, Text: "wave 2 of 2: myapp@2.service myapp@3.service myapp@4.service"}},
		{45.7, upgrade.Event{Kind: "unit", Unit: b, Phase: "reload", Text: "reloading"}},
		{45.7, upgrade.Event{Kind: "unit", Unit: c, Phase: "reload", Text: "reloading"}},
		{45.8, upgrade.Event{Kind: "unit", Unit: d, Phase: "done", Text: "unchanged"}},
		{51, upgrade.Event{Kind: "unit", Unit: b, Phase: "soak", Text: "version 2.1.0 serves: watching it"}},
		{51, upgrade.Event{Kind: "gate", Unit: b, Phase: "soak", Left: 10, Text: "ok"}},
		{51.2, upgrade.Event{Kind: "unit", Unit: c, Phase: "soak", Text: "version 2.1.0 serves: watching it"}},
		{53, upgrade.Event{Kind: "gate", Unit: b, Phase: "soak", Left: 8, Text: "health: http://127.0.0.1:8082/ answers 503\x07 Service Unavailable"}},
		{54, upgrade.Event{Kind: "gate", Unit: b, Phase: "soak", Left: 7, Text: "health: http://127.0.0.1:8082/ answers 503 Service Unavailable"}},
		{55, upgrade.Event{Kind: "gate", Unit: b, Phase: "soak", Left: 6, Text: "ok"}},
		{58, upgrade.Event{Kind: "gate", Unit: c, Phase: "soak", Left: 3.2, Text: "errors: 12 of 100 requests failed, more than 0.01"}},
		{58, upgrade.Event{Kind: "unit", Unit: c, Phase: "rollback", Text: "rolling back: errors: 12 of 100 requests failed, more than 0.01"}},
		{61, upgrade.Event{Kind: "unit", Unit: b, Phase: "held", Text: "version 2.1.0 has passed its gates"}},
		{63.1, upgrade.Event{Kind: "unit", Unit: c, Phase: "done", Text: "rolled back: errors: 12 of 100 requests failed, more than 0.01"}},
		{63.2, upgrade.Event{Kind: "wave", Wave: 1, Text: "wave 2 has failed: myapp@3.service: undoing it"}},
		{63.3, upgrade.Event{Kind: "unit", Unit: b, Phase: "rollback", Text: "rolling back"}},
		{68.4, upgrade.Event{Kind: "unit", Unit: b, Phase: "done", Text: "rolled back: its wave has failed"}},
		{68.4, upgrade.Event{Kind: "done", Text: "rolled back", Report: &upgrade.Report{}}},
	}
	all := make([]upgrade.Event, len(events))
	for i, e := range events {
		all[i] = e.Event
		all[i].At = now.Add(seconds(e.at))
		all[i].Total = 4
	}
	return all
}

// replay shows events at the times that they have, and calls look after each.
func replay(p *progress, clock *time.Time, events []upgrade.Event, look func(e upgrade.Event)) {
	for _, e := range events {
		*clock = e.At
		p.event(e)
		if look != nil {
			look(e)
		}
	}
}

func TestProgress(t *testing.T) {
	got := onScreens(func(where term.Terminal) string {
		clock := now
		var out bytes.Buffer
		p := newProgress(&out, where, func() time.Time { return clock })
		if !where.Redraw {
			replay(p, &clock, rollout(), nil)
			p.end()
			return out.String()
		}
		var frames strings.Builder
		replay(p, &clock, rollout(), func(e upgrade.Event) {
			// A frame as it is a little later: the clocks go on.
			clock = clock.Add(300 * time.Millisecond)
			fmt.Fprintf(&frames, "-- %.1fs\n%s\n", clock.Sub(now).Seconds(), strings.Join(p.frame(), "\n"))
		})
		return frames.String()
	})
	golden(t, "progress.golden", got)
	wantTame(t, got)
}

// What is drawn over and over ends as the last frame, on a screen that understands
// the sequences, whatever was there before is still there, and nothing is left over.
func TestProgressRedraws(t *testing.T) {
	const above = "$ holdfast upgrade\nmyapp@1.service: warning: its unit file has changed on disk: run systemctl daemon-reload"
	for _, height := range []int{30, 5, 4} {
		clock := now
		var s screen
		s.write(t, "$ holdfast upgrade\n")
		p := newProgress(&s, term.Terminal{Width: 60, Height: height, Redraw: true}, func() time.Time { return clock })
		replay(p, &clock, rollout(), func(upgrade.Event) {
			frame := p.frame()
			if len(frame) >= height {
				t.Fatalf("a frame has %d lines on a screen of %d", len(frame), height)
			}
			want := append(strings.Split(above, "\n"), frame...)
			if got := strings.TrimRight(strings.Join(s.lines, "\n"), "\n"); got != strings.Join(want, "\n") {
				t.Fatalf("height %d: the screen is\n%s\nwant\n%s", height, got, strings.Join(want, "\n"))
			}
		})
		p.end()
		if text := strings.Join(s.lines, "\n"); strings.Contains(text, "undoing") || !strings.Contains(text, "myapp@3.service") {
			t.Errorf("height %d: at the end the screen is\n%s", height, text)
		}
	}
}

// With a clock of its own, progress goes on between events, and ends.
func TestProgressRuns(t *testing.T) {
	var s screen
	drawn := make(chan struct{}, 1000)
	p := newProgress(writerFunc(func(b []byte) (int, error) {
		drawn <- struct{}{}
		return s.Write(b)
	}), term.Terminal{Width: 60, Height: 10, Redraw: true}, time.Now)
	p.run()
	p.event(upgrade.Event{Kind: "unit", Unit: "myapp.service", Phase: "reload", Text: "reloading"})
	for range 3 {
		<-drawn
	}
	p.end()
	if text := strings.Join(s.lines, "\n"); !strings.Contains(text, "myapp.service") {
		t.Errorf("the screen is %q", text)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// screen is a terminal as far as progress uses one.
type screen struct {
	lines []string
	row   int
}

var csi = regexp.MustCompile(`^\x1b\[([0-9]*)([AKJ])`)

func (s *screen) write(t *testing.T, text string) {
	t.Helper()
	if _, err := s.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

// Write takes whole lines, which begin at the left.
func (s *screen) Write(b []byte) (int, error) {
	text := string(b)
	line := ""
	for len(text) > 0 {
		for len(s.lines) <= s.row {
			s.lines = append(s.lines, "")
		}
		if m := csi.FindStringSubmatch(text); m != nil {
			n, _ := strconv.Atoi(m[1])
			switch m[2] {
			case "A":
				if s.row -= n; s.row < 0 {
					return 0, fmt.Errorf("above the screen: %q", b)
				}
			case "J":
				s.lines = s.lines[:s.row]
			case "K":
				s.lines[s.row] = line
			}
			text = text[len(m[0]):]
			continue
		}
		switch r := text[0]; r {
		case '\n':
			s.lines[s.row] = line
			line = ""
			s.row++
		case '\r':
			line = ""
		default:
			line += text[:1]
		}
		text = text[1:]
	}
	return len(b), nil
}
