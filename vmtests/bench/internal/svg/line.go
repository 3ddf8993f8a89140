// SPDX-License-Identifier: Apache-2.0

package svg

import (
	"fmt"
	"math"
)

// A Point is one value of a line. Worst is drawn as a circle; 0 for none.
type Point struct{ X, Y, Worst float64 }

// A Line is points that belong together, by X.
type Line struct {
	Name   string
	Points []Point
}

// A Panel is lines with a scale of their own.
type Panel struct {
	Unit  string
	Lines []Line
}

// A Tick names a place of the common axis.
type Tick struct {
	X     float64
	Label string
}

// A LineChart is panels below each other over the same axis. All scales are logarithmic; an X of 0 has its
// place one step before the others, and a Y of 0 at the bottom.
type LineChart struct {
	Title, Note string
	Ticks       []Tick // in their order
	Panels      []Panel
}

const panelHeight = 230

// SVG returns the drawing as a document.
func (c LineChart) SVG() []byte {
	p := newPage(width, headHeight+len(c.Panels)*panelHeight+2*margin, c.Title, c.Note)
	for i, panel := range c.Panels {
		panel.draw(p, headHeight+i*panelHeight, c.place)
	}
	bottom := headHeight + len(c.Panels)*panelHeight
	for _, t := range c.Ticks {
		p.text(int(c.place(t.X)), bottom+margin/2, "middle", "normal", t.Label)
		p.rect(c.place(t.X), headHeight, 0.5, float64(bottom-headHeight-2*margin), "#cccccc")
	}
	return p.end()
}

// Where lines are.
const (
	plotLeft  = 80
	plotRight = width - margin - labelWidth - 30 // names of lines stand beside it
)

// place is where an X is, between the margins of the plot.
func (c LineChart) place(x float64) float64 {
	least, most := math.Inf(1), 0.0
	zero := 0.0
	for _, t := range c.Ticks {
		if t.X <= 0 {
			zero = 1
			continue
		}
		least, most = min(least, t.X), max(most, t.X)
	}
	span := zero
	if most > least {
		span += math.Log10(most / least)
	}
	at := 0.0
	if x > 0 && most > 0 {
		at = zero + math.Log10(x/least)
	}
	if span == 0 {
		span = 1
	}
	const inset = 24
	return plotLeft + inset + at/span*(plotRight-plotLeft-2*inset)
}

func (panel Panel) draw(p *page, top int, place func(float64) float64) {
	low, high := panel.decades()
	height := float64(panelHeight - 3*margin)
	y := func(v float64) float64 {
		at := 0.0
		if v > 0 {
			at = max(0, (math.Log10(v)-low)/(high-low))
		}
		return float64(top) + height*(1-at)
	}
	for decade := low; decade <= high; decade++ {
		v := math.Pow(10, decade)
		p.rect(plotLeft, y(v), plotRight-plotLeft, 0.5, "#cccccc")
		p.text(plotLeft-8, int(y(v))+4, "end", "normal", fmt.Sprintf("%g %s", v, panel.Unit))
	}
	var names []float64
	for i, line := range panel.Lines {
		p.polyline(line, colour(i), place, y)
		if len(line.Points) == 0 {
			continue
		}
		last := y(line.Points[len(line.Points)-1].Y)
		// Names of lines that end near each other stand apart.
		for _, taken := range names {
			if math.Abs(last-taken) < 14 {
				last = taken + 14
			}
		}
		names = append(names, last)
		p.coloured(plotRight+8, int(last)+4, colour(i), line.Name)
	}
}

// decades returns the powers of ten below and above all values.
func (panel Panel) decades() (low, high float64) {
	low, high = math.Inf(1), math.Inf(-1)
	for _, line := range panel.Lines {
		for _, pt := range line.Points {
			for _, v := range []float64{pt.Y, pt.Worst} {
				if v > 0 {
					low, high = min(low, math.Floor(math.Log10(v))), max(high, math.Ceil(math.Log10(v)))
				}
			}
		}
	}
	if low > high {
		return 0, 1
	}
	return low, max(high, low+1)
}

func (p *page) polyline(line Line, stroke string, x, y func(float64) float64) {
	fmt.Fprintf(p, `<polyline fill="none" stroke="%s" stroke-width="2" points="`, stroke)
	for _, pt := range line.Points {
		fmt.Fprintf(p, "%.1f,%.1f ", x(pt.X), y(pt.Y))
	}
	p.WriteString("\"/>\n")
	for _, pt := range line.Points {
		p.rect(x(pt.X)-2.5, y(pt.Y)-2.5, 5, 5, stroke)
		if pt.Worst > 0 {
			fmt.Fprintf(p, `<circle cx="%.1f" cy="%.1f" r="3.5" fill="none" stroke="%s"/>`+"\n", x(pt.X), y(pt.Worst), stroke)
		}
	}
}

func (p *page) coloured(x, y int, fill, text string) {
	fmt.Fprintf(p, `<text x="%d" y="%d" fill="%s">%s</text>`+"\n", x, y, fill, escape(text))
}
