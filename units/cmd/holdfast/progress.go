// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control/command/term"
	"github.com/holdfast-go/holdfast/units/upgrade"
)

// redraw is how often the clock on a terminal goes on.
const redraw = 200 * time.Millisecond

// progress tells who waits what becomes of a request: on a terminal a line for
// each unit, drawn again as it changes, elsewhere a line for each event that
// matters.
type progress struct {
	w    io.Writer
	term term.Terminal
	now  func() time.Time

	mu      sync.Mutex
	started time.Time
	banner  string // what goes on with all units
	pause   time.Time
	lines   []*line
	drawn   int // lines that are on the screen
	stop    chan struct{}
	stopped sync.WaitGroup
}

// line is one unit.
type line struct {
	unit    string
	phase   string
	text    string
	since   time.Time
	took    time.Duration // once it is over
	until   time.Time     // of the soak
	failing bool          // its last look
	over    bool
}

func newProgress(w io.Writer, t term.Terminal, now func() time.Time) *progress {
	return &progress{w: w, term: t, now: now, started: now(), stop: make(chan struct{})}
}

// run keeps the clock going until end.
func (p *progress) run() {
	if !p.term.Redraw {
		return
	}
	p.stopped.Go(func() {
		tick := time.NewTicker(redraw)
		defer tick.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-tick.C:
				p.mu.Lock()
				p.draw()
				p.mu.Unlock()
			}
		}
	})
}

// end leaves the last state on the screen.
func (p *progress) end() {
	close(p.stop)
	p.stopped.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.banner = ""
	p.draw()
}

// event takes what the helper tells.
func (p *progress) event(e upgrade.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	said := p.take(e)
	switch {
	case p.term.Redraw && strings.HasPrefix(e.Text, warning):
		p.above(said)
		p.draw()
	case p.term.Redraw:
		p.draw()
	case said != "":
		fmt.Fprintf(p.w, "%6.1fs  %s\n", p.now().Sub(p.started).Seconds(), said)
	}
}

// warning begins the text of an event that is not replaced by the next one.
const warning = "warning: "

// above writes a line that stays, over those that are drawn again. It needs p.mu.
func (p *progress) above(text string) {
	if p.drawn > 0 {
		fmt.Fprintf(p.w, "\x1b[%dA\r\x1b[J", p.drawn)
		p.drawn = 0
	}
	fmt.Fprintln(p.w, p.term.Paint(term.Yellow, text))
}

// take changes what is shown, and returns the line for a pipe, if e is worth one.
func (p *progress) take(e upgrade.Event) string {
	text := term.Line(e.Text)
	switch e.Kind {
	case "wave":
		p.banner, p.pause = text, time.Time{}
		return text
	case "pause":
		p.banner, p.pause = text, p.now().Add(seconds(e.Left))
		return text
	case "unit":
		if e.Unit == "" {
			p.banner = text
			return text
		}
	case "state", "gate":
	default:
		return "" // "done": the result says it
	}
	l := p.line(e.Unit)
	name := term.Line(e.Unit)
	switch e.Kind {
	case "state":
		l.enter(e.Phase, p.now())
		l.text = term.Line(e.State)
		return ""
	case "gate":
		l.enter(e.Phase, p.now())
		l.until = p.now().Add(seconds(e.Left))
		failing := e.Text != "ok"
		changed := failing != l.failing
		l.failing, l.text = failing, text
		switch {
		case !changed:
			return ""
		case failing:
			return name + ": " + text
		default:
			return name + ": ok again"
		}
	default:
		l.enter(e.Phase, p.now())
		if l.until = (time.Time{}); !strings.HasPrefix(e.Text, warning) {
			l.text = text
		}
		if e.Phase == "done" || e.Phase == "held" {
			l.over, l.took = true, p.now().Sub(l.since)
		}
		return name + ": " + text
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// enter notes a phase; a unit that was held may be undone with its wave.
func (l *line) enter(phase string, now time.Time) {
	if l.since.IsZero() || l.over && phase == "rollback" {
		l.since = now
	}
	l.phase, l.over = phase, false
}

func (p *progress) line(unit string) *line {
	for _, l := range p.lines {
		if l.unit == unit {
			return l
		}
	}
	l := &line{unit: unit}
	p.lines = append(p.lines, l)
	return l
}

// draw writes the lines over those that are there. It needs p.mu.
func (p *progress) draw() {
	if !p.term.Redraw {
		return
	}
	frame := p.frame()
	var b strings.Builder
	if p.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\r", p.drawn)
	}
	for _, l := range frame {
		b.WriteString(l + "\x1b[K\n")
	}
	if len(frame) < p.drawn {
		b.WriteString("\x1b[J")
	}
	p.drawn = len(frame)
	_, _ = io.WriteString(p.w, b.String())
}

// frame is what is on the screen now. It is never higher than that: then lines
// that scroll away could not be drawn again.
func (p *progress) frame() []string {
	var frame []string
	if p.banner != "" {
		text := p.banner
		if left := p.pause.Sub(p.now()); left > 0 {
			text += fmt.Sprintf(": %s left", countdown(left))
		}
		frame = append(frame, p.term.Cut(p.term.Paint(term.Bold, text), p.term.Width-1))
	}
	width := 0
	for _, l := range p.lines {
		width = max(width, term.Width(term.Line(l.unit)))
	}
	width = min(width, max(p.term.Width/2, 12))
	shown, hidden := p.visible(max(p.term.Height-len(frame)-1, 2))
	for _, l := range shown {
		frame = append(frame, p.term.Cut(p.text(l, width), p.term.Width-1))
	}
	if hidden > 0 {
		over := 0
		for _, l := range p.lines {
			if l.over {
				over++
			}
		}
		frame = append(frame, p.term.Cut(fmt.Sprintf("  and %d more; %d of %d are over", hidden, over, len(p.lines)), p.term.Width-1))
	}
	return frame
}

// visible chooses the lines for so much room: what goes on, then what went wrong,
// then the rest, in the order of the units.
func (p *progress) visible(room int) (shown []*line, hidden int) {
	if len(p.lines) <= room {
		return p.lines, 0
	}
	room-- // for the line that says how many are hidden
	chosen := make(map[*line]bool)
	for _, wanted := range []func(*line) bool{
		func(l *line) bool { return !l.over },
		func(l *line) bool { return l.color() == term.Red },
		func(*line) bool { return true },
	} {
		for _, l := range p.lines {
			if len(chosen) < room && wanted(l) {
				chosen[l] = true
			}
		}
	}
	for _, l := range p.lines {
		if chosen[l] {
			shown = append(shown, l)
		}
	}
	return shown, len(p.lines) - len(shown)
}

func (l *line) color() term.Color {
	switch {
	case l.phase == "rollback" || l.failing && !l.over:
		return term.Red
	case !l.over:
		return term.Yellow
	case l.phase == "held" || strings.HasPrefix(l.text, string(upgrade.Done)) || strings.HasPrefix(l.text, string(upgrade.Unchanged)):
		return term.Green
	default:
		return term.Red
	}
}

// text is the line of one unit: "● myapp@1.service   12.3s  soak      4s left".
func (p *progress) text(l *line, width int) string {
	elapsed := l.took
	if !l.over {
		elapsed = p.now().Sub(l.since)
	}
	color := l.color()
	name := term.Pad(p.term.Cut(term.Line(l.unit), width), width)
	phase := l.phase
	if l.over {
		phase = ""
	}
	detail := l.text
	if l.phase == "soak" && !l.until.IsZero() && !l.over {
		detail = countdown(max(l.until.Sub(p.now()), 0)) + " left"
		if l.failing {
			detail += ": " + p.term.Paint(term.Red, l.text)
		}
	}
	text := fmt.Sprintf("%s %s %6.1fs  ", p.term.Mark(color), name, elapsed.Seconds())
	if phase != "" {
		text += term.Pad(phase, len("rollback")) + "  "
	} else {
		detail = p.term.Paint(color, detail)
	}
	return strings.TrimRight(text+detail, " ")
}

// countdown is a time in whole seconds, rounded up: it ends at 0s, not before.
func countdown(d time.Duration) string {
	return (d + time.Second - 1).Truncate(time.Second).String()
}
