// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A style is how a picture is drawn: with which characters, and whether in colours.
type style struct {
	good, bad, busy string
	levels          []rune // of a sparkline, from nothing to the most
	share, rest     string // of a bar
	ellipsis        string
	colours         bool
}

var (
	unicodeStyle = style{good: "✓", bad: "✗", busy: "▸", levels: []rune("·▁▂▃▄▅▆▇█"), share: "█", rest: "░", ellipsis: "…"}
	asciiStyle   = style{good: "+", bad: "!", busy: ">", levels: []rune("_.:-=+*#%@"), share: "#", rest: ".", ellipsis: "..."}
)

const (
	sparkWidth  = 48
	barWidth    = 16
	titleWidth  = 37
	recentSpan  = time.Second // whose answers count as those of now
	colourGood  = "\x1b[32m"
	colourBad   = "\x1b[31m"
	colourBusy  = "\x1b[1m"
	colourReset = "\x1b[0m"
)

// A picture is what the events so far add up to.
type picture struct {
	style   style
	now     time.Duration
	systemd string
	steps   []pictureStep
	failed  int
	cut     int
	samples []traffic // one more than the sparkline has places
}

type pictureStep struct {
	title         string
	begun, over   bool
	ok            bool
	begin, finish time.Duration
	verdict       string
}

// apply takes an event in.
func (p *picture) apply(e event) {
	p.now = max(p.now, e.at())
	switch e := e.(type) {
	case planned:
		for _, title := range e.Steps {
			p.steps = append(p.steps, pictureStep{title: title})
		}
	case booted:
		p.systemd = e.Systemd
	case began:
		s := &p.steps[e.Step]
		s.begun, s.begin = true, e.at()
	case ended:
		s := &p.steps[e.Step]
		s.over, s.finish, s.ok, s.verdict = true, e.at(), e.OK, e.Verdict
	case traffic:
		p.samples = append(p.samples, e)
		if extra := len(p.samples) - sparkWidth - 1; extra > 0 {
			p.samples = slices.Delete(p.samples, 0, extra)
		}
	case settled:
		p.failed, p.cut = e.Failed, e.Cut
	}
}

// frame returns the lines of the picture, none longer than width.
func (p *picture) frame(width int) []string {
	systemd := p.systemd
	if systemd == "" {
		systemd = "systemd"
	}
	lines := []string{
		p.clip(fmt.Sprintf("Holdfast demo: myapp under %s, %.1f s", systemd, p.now.Seconds()), width),
		"",
	}
	for _, s := range p.steps {
		lines = append(lines, p.stepLine(s, width))
	}
	lines = append(lines, "")
	for _, line := range []string{p.rateLine(), p.answeringLine(), p.totalLine()} {
		lines = append(lines, p.clip(line, width))
	}
	return lines
}

func (p *picture) stepLine(s pictureStep, width int) string {
	mark, colour, took := " ", "", ""
	switch {
	case s.over && s.ok:
		mark, colour = p.style.good, colourGood
	case s.over:
		mark, colour = p.style.bad, colourBad
	case s.begun:
		mark, colour = p.style.busy, colourBusy
	}
	if s.begun {
		end := p.now
		if s.over {
			end = s.finish
		}
		took = fmt.Sprintf("%.1f s", (end - s.begin).Seconds())
	}
	line := strings.TrimRight(fmt.Sprintf("  %-*s %7s  %s", titleWidth, s.title, took, s.verdict), " ")
	line = p.clip(line, width-len(" ")-1)
	if p.style.colours && colour != "" {
		return " " + colour + mark + colourReset + line
	}
	return strings.TrimRight(" "+mark+line, " ")
}

// rateLine draws requests per second.
func (p *picture) rateLine() string {
	var rates []float64
	for i := 1; i < len(p.samples); i++ {
		a, b := p.samples[i-1], p.samples[i]
		if span := (b.Counted - a.Counted).Seconds(); span > 0 {
			rates = append(rates, float64(b.Answered-a.Answered)/span)
		}
	}
	if len(rates) == 0 {
		return " requests/s"
	}
	most := slices.Max(rates)
	spark := make([]rune, len(rates))
	for i, rate := range rates {
		level := 0
		if rate > 0 {
			level = 1 + int(rate/most*float64(len(p.style.levels)-2)+0.5)
		}
		spark[i] = p.style.levels[level]
	}
	return fmt.Sprintf(" requests/s %s %s", string(spark), grouped(int(rates[len(rates)-1])))
}

// answeringLine draws which versions answer now.
func (p *picture) answeringLine() string {
	if len(p.samples) == 0 {
		return " answering"
	}
	last := p.samples[len(p.samples)-1]
	// The latest sample that is old enough to compare with.
	first := p.samples[0]
	for _, s := range p.samples {
		if last.Counted-s.Counted >= recentSpan {
			first = s
		}
	}
	recent := make(map[string]int)
	sum := 0
	for version, n := range last.Versions {
		if n -= first.Versions[version]; n > 0 {
			recent[version] = n
			sum += n
		}
	}
	line := " answering "
	if sum == 0 {
		return line + " nobody"
	}
	for _, version := range slices.SortedFunc(maps.Keys(recent), cmp.Compare[string]) {
		share := float64(recent[version]) / float64(sum)
		full := min(max(int(share*barWidth+0.5), 1), barWidth)
		line += fmt.Sprintf(" %s %s%s %3.0f %%  ", version, strings.Repeat(p.style.share, full), strings.Repeat(p.style.rest, barWidth-full), share*100)
	}
	return strings.TrimRight(line, " ")
}

func (p *picture) totalLine() string {
	answered := 0
	if len(p.samples) > 0 {
		answered = p.samples[len(p.samples)-1].Answered
	}
	return fmt.Sprintf(" %s requests answered, %d failed, %d cut by a crash", grouped(answered), p.failed, p.cut)
}

// grouped writes 12345 as 12,345.
func grouped(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// clip shortens a line to width characters.
func (p *picture) clip(line string, width int) string {
	runes := []rune(line)
	if width <= 0 || len(runes) <= width {
		return line
	}
	end := []rune(p.style.ellipsis)
	return string(append(runes[:max(0, width-len(end))], end...))
}
