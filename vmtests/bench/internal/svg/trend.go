// SPDX-License-Identifier: Apache-2.0

package svg

import (
	"fmt"
	"math"
	"strings"
)

// A Trend is one value for each step, drawn on a scale of its own from 0.
type Trend struct {
	Name   string
	Text   string // what there is to say about it
	Values []float64
	// Label says a value as people read it.
	Label func(float64) string
}

// A TrendChart is trends below each other over the same steps, which count from 1.
type TrendChart struct {
	Title, Note string
	Steps       string // what a step is
	Trends      []Trend
}

const trendHeight = 110

// SVG returns the drawing as a document.
func (c TrendChart) SVG() []byte {
	p := newPage(width, headHeight+len(c.Trends)*trendHeight+3*margin, c.Title, c.Note)
	left, across, steps := float64(margin+labelWidth), float64(width-2*margin-labelWidth), 0
	for i, t := range c.Trends {
		base := float64(headHeight + (i+1)*trendHeight - 24)
		high := float64(trendHeight - 44)
		largest := 0.0
		for _, v := range t.Values {
			if !math.IsInf(v, 0) {
				largest = max(largest, v)
			}
		}
		steps = max(steps, len(t.Values))
		p.text(margin+labelWidth-8, int(base-high)+4, "end", "normal", t.label(largest))
		p.text(margin+labelWidth-8, int(base-high/2)+4, "end", "bold", t.Name)
		p.text(margin+labelWidth-8, int(base)+4, "end", "normal", t.label(0))
		p.text(margin+labelWidth, int(base-high)-8, "start", "normal", t.Text)
		p.rect(left, base, across, 1, "#888888")
		p.rect(left, base-high, across, 0.5, "#cccccc")
		if largest > 0 {
			p.line(t.Values, left, across, base, high/largest, colour(i))
		}
	}
	bottom := headHeight + len(c.Trends)*trendHeight
	for _, step := range marks(steps) {
		x := left
		if steps > 1 {
			x += across * float64(step-1) / float64(steps-1)
		}
		p.text(int(x), bottom, "middle", "normal", fmt.Sprint(step))
	}
	p.text(int(left+across/2), bottom+margin+4, "middle", "normal", c.Steps)
	return p.end()
}

func (t Trend) label(v float64) string {
	if t.Label == nil {
		return fmt.Sprintf("%.3g", v)
	}
	return t.Label(v)
}

// line draws values at equal distances. What is no number is left out.
func (p *page) line(values []float64, left, across, base, scale float64, stroke string) {
	var points strings.Builder
	for i, v := range values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			continue
		}
		x := left
		if len(values) > 1 {
			x += across * float64(i) / float64(len(values)-1)
		}
		fmt.Fprintf(&points, "%.1f,%.1f ", x, base-max(v, 0)*scale)
	}
	fmt.Fprintf(p, `<polyline points="%s" fill="none" stroke="%s"/>`+"\n", strings.TrimSpace(points.String()), stroke)
}

// marks returns round numbers of steps, about ten, and always the first one.
func marks(steps int) []int {
	if steps == 0 {
		return nil
	}
	every := 1
	for i := 0; steps/every > 10; i++ { // 1, 2, 5, 10, 20, ...
		if i%3 == 1 {
			every = every * 5 / 2
		} else {
			every *= 2
		}
	}
	all := []int{1}
	for step := every; step <= steps; step += every {
		if step > 1 {
			all = append(all, step)
		}
	}
	return all
}
