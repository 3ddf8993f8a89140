// SPDX-License-Identifier: Apache-2.0

// Package svg draws the two kinds of charts of the benchmark.
package svg

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
)

// A Bar is one value of a group. Its text says the value as people read it.
type Bar struct {
	Label string
	Value float64
	Text  string
}

// A Group is bars under a heading.
type Group struct {
	Name string
	Bars []Bar
}

// A BarChart is groups of horizontal bars on a common scale from 0.
type BarChart struct {
	Title  string
	Note   string // below the title
	Log    bool   // lengths are log(1+value)
	Groups []Group
}

// Sizes in pixels.
const (
	width      = 900
	margin     = 16
	rowHeight  = 20
	labelWidth = 170
	textWidth  = 150
	headHeight = 62
)

// colours by position, told apart by people who do not see all colours too.
var colours = []string{"#0072b2", "#e69f00", "#d55e00", "#cc79a7", "#009e73", "#56b4e9", "#8c564b", "#999999", "#4b4b9b"}

func colour(i int) string { return colours[i%len(colours)] }

// SVG returns the drawing as a document.
func (c BarChart) SVG() []byte {
	rows, largest := 0, 0.0
	for _, g := range c.Groups {
		rows += len(g.Bars) + 2
		for _, b := range g.Bars {
			largest = max(largest, c.scale(b.Value))
		}
	}
	p := newPage(width, headHeight+rows*rowHeight+margin, c.Title, c.Note)
	y := headHeight
	for _, g := range c.Groups {
		p.text(margin, y+14, "start", "bold", g.Name)
		y += rowHeight
		for i, b := range g.Bars {
			p.text(margin+labelWidth-8, y+14, "end", "normal", b.Label)
			length := 0.0
			if largest > 0 {
				length = c.scale(b.Value) / largest * (width - 2*margin - labelWidth - textWidth)
			}
			p.rect(margin+labelWidth, float64(y+3), max(length, 1), rowHeight-6, colour(i))
			p.text(margin+labelWidth+int(length)+6, y+14, "start", "normal", b.Text)
			y += rowHeight
		}
		y += rowHeight
	}
	return p.end()
}

func (c BarChart) scale(v float64) float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
		return 0
	}
	if c.Log {
		return math.Log1p(v)
	}
	return v
}

// A Strip is one value for each step of time. A mark, where not 0, is drawn below with its number.
type Strip struct {
	Name   string
	Values []float64
	Marks  []int
}

// A StripChart is strips below each other over the same time.
type StripChart struct {
	Title, Note string
	From, Step  float64 // of the time axis, in seconds
	Unit        string  // of values
	Strips      []Strip
}

const stripHeight = 74

// SVG returns the drawing as a document.
func (c StripChart) SVG() []byte {
	p := newPage(width, headHeight+len(c.Strips)*stripHeight+3*margin, c.Title, c.Note)
	largest, steps := 0.0, 0
	for _, s := range c.Strips {
		steps = max(steps, len(s.Values))
		for _, v := range s.Values {
			largest = max(largest, v)
		}
	}
	left, across := float64(margin+labelWidth), float64(width-2*margin-labelWidth)
	x := func(step int) float64 { return left + across*float64(step)/float64(max(steps, 1)) }
	for i, s := range c.Strips {
		base := float64(headHeight + (i+1)*stripHeight - 20)
		top := 0.0
		for step, v := range s.Values {
			top = max(top, v)
			if height := v / largest * (stripHeight - 28); v > 0 && largest > 0 {
				p.rect(x(step), base-height, x(step+1)-x(step)-0.5, height, colour(i))
			}
		}
		p.rect(left, base, across, 1, "#888888")
		p.text(margin+labelWidth-8, int(base)-12, "end", "bold", s.Name)
		p.text(margin+labelWidth-8, int(base)+3, "end", "normal", fmt.Sprintf("worst %.3g %s", top, c.Unit))
		for step, n := range s.Marks {
			if n > 0 {
				p.rect(x(step), base+3, max(x(step+1)-x(step)-0.5, 2), 7, "#cc0000")
			}
		}
	}
	bottom := headHeight + len(c.Strips)*stripHeight
	for step := 0; step <= steps; step++ {
		at := c.From + c.Step*float64(step)
		if math.Abs(at*2-math.Round(at*2)) < 1e-9 {
			p.text(int(x(step)), bottom+margin, "middle", "normal", fmt.Sprintf("%+.1f s", at))
			p.rect(x(step), headHeight, 0.5, float64(bottom-headHeight), "#cccccc")
		}
	}
	return p.end()
}

// A page is an SVG document that is being written.
type page struct{ bytes.Buffer }

func newPage(width, height int, title, note string) *page {
	p := new(page)
	fmt.Fprintf(p, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" `+
		`font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(p, "<title>%s</title>\n", escape(title))
	p.rect(0, 0, float64(width), float64(height), "#ffffff")
	fmt.Fprintf(p, `<text x="%d" y="26" font-size="16" font-weight="bold">%s</text>`+"\n", margin, escape(title))
	p.text(margin, 46, "start", "normal", note)
	return p
}

func (p *page) end() []byte {
	p.WriteString("</svg>\n")
	return p.Bytes()
}

func (p *page) rect(x, y, width, height float64, fill string) {
	fmt.Fprintf(p, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`+"\n", x, y, width, height, fill)
}

func (p *page) text(x, y int, anchor, weight, text string) {
	fmt.Fprintf(p, `<text x="%d" y="%d" text-anchor="%s" font-weight="%s">%s</text>`+"\n", x, y, anchor, weight, escape(text))
}

func escape(text string) string {
	var b bytes.Buffer
	if err := xml.EscapeText(&b, []byte(text)); err != nil {
		panic(err) // a buffer takes everything
	}
	return b.String()
}
