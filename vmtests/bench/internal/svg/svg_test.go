// SPDX-License-Identifier: Apache-2.0

package svg_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/svg"
)

// read checks that a document is well-formed and within its size, and returns its texts and the widths of
// what is filled with a colour of a series.
func read(t *testing.T, document []byte) (texts []string, widths []float64) {
	t.Helper()
	var root bool
	var right float64
	inText := false
	decoder := xml.NewDecoder(bytes.NewReader(document))
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		switch token := token.(type) {
		case xml.StartElement:
			attr := make(map[string]string)
			for _, a := range token.Attr {
				attr[a.Name.Local] = a.Value
			}
			number := func(name string) float64 {
				v, err := strconv.ParseFloat(attr[name], 64)
				if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
					t.Errorf("%s %s=%q", token.Name.Local, name, attr[name])
				}
				return v
			}
			switch token.Name.Local {
			case "svg":
				root, right = token.Name.Space == "http://www.w3.org/2000/svg", number("width")
			case "rect":
				if number("x")+number("width") > right+0.1 || number("x") < 0 || number("height") < 0 {
					t.Errorf("outside of the drawing: %v", attr)
				}
				if fill := attr["fill"]; fill != "#ffffff" && fill != "#cccccc" && fill != "#888888" && fill != "#cc0000" {
					widths = append(widths, number("width"))
				}
			}
			inText = token.Name.Local == "text"
		case xml.CharData:
			if inText {
				texts = append(texts, string(token))
			}
		case xml.EndElement:
			inText = false
		}
	}
	if !root {
		t.Error("the document is no SVG")
	}
	return texts, widths
}

func TestBarChart(t *testing.T) {
	chart := svg.BarChart{
		Title: `a < b & "c"`, Note: "note",
		Groups: []svg.Group{
			{"one", []svg.Bar{{"x", 10, "ten"}, {"y", 5, "five"}, {"z", 0, "none"}}},
			{"two", []svg.Bar{{"x", math.NaN(), "nothing"}, {"y", math.Inf(1), "all"}, {"z", -1, "less"}}},
		},
	}
	texts, widths := read(t, chart.SVG())
	if all := strings.Join(texts, "|"); all != `a < b & "c"|note|one|x|ten|y|five|z|none|two|x|nothing|y|all|z|less` {
		t.Errorf("texts %s", all)
	}
	if len(widths) != 6 || widths[0] != 2*widths[1] || widths[2] > 1 || widths[3] > 1 {
		t.Errorf("widths %v: the second must be half of the first, the others nothing", widths)
	}
	chart.Log = true
	if _, widths := read(t, chart.SVG()); widths[0] >= 2*widths[1] || widths[0] <= widths[1] {
		t.Errorf("widths %v on a logarithmic scale", widths)
	}
}

func TestBarChartOfNothing(t *testing.T) {
	read(t, svg.BarChart{}.SVG())
	read(t, svg.BarChart{Groups: []svg.Group{{Name: "none"}}}.SVG())
	read(t, svg.StripChart{}.SVG())
	read(t, svg.StripChart{Strips: []svg.Strip{{Name: "none"}}}.SVG())
}

func TestStripChart(t *testing.T) {
	document := svg.StripChart{
		Title: "strips", Unit: "ms", From: -0.5, Step: 0.25,
		Strips: []svg.Strip{{"a", []float64{1, 4, 2, 0}, []int{0, 3, 0, 0}}, {"b", []float64{1, 1, 1, 1}, nil}},
	}.SVG()
	texts, widths := read(t, document)
	all := strings.Join(texts, "|")
	for _, want := range []string{"a|worst 4 ms", "b|worst 1 ms", "-0.5 s", "+0.0 s", "+0.5 s"} {
		if !strings.Contains(all, want) {
			t.Errorf("texts %s: no %q", all, want)
		}
	}
	if len(widths) != 7 {
		t.Errorf("%d steps are drawn, want the 7 that are not 0", len(widths))
	}
	if n := bytes.Count(document, []byte("#cc0000")); n != 1 {
		t.Errorf("%d marks, want 1", n)
	}
}

func TestLineChart(t *testing.T) {
	chart := svg.LineChart{
		Title: "Lines & circles", Note: "note",
		Ticks: []svg.Tick{{X: 0, Label: "none"}, {X: 10, Label: "ten"}, {X: 1000, Label: "many"}},
		Panels: []svg.Panel{
			{Unit: "ms", Lines: []svg.Line{
				{Name: "first", Points: []svg.Point{{X: 0, Y: 5, Worst: 20}, {X: 10, Y: 50, Worst: 60}, {X: 1000, Y: 500, Worst: 700}}},
				{Name: "near", Points: []svg.Point{{X: 0, Y: 0}, {X: 1000, Y: 510}}},
				{Name: "empty"},
			}},
			{Unit: "MiB"},
		},
	}
	document := chart.SVG()
	texts, _ := read(t, document)
	for _, want := range []string{"Lines & circles", "note", "none", "ten", "many", "first", "near", "1 ms", "1000 ms", "1 MiB"} {
		if !slices.Contains(texts, want) {
			t.Errorf("no text %q in %q", want, texts)
		}
	}
	if slices.Contains(texts, "empty") {
		t.Error("a line without points is named")
	}
	// Equal steps of the scale are equal steps of the drawing: 0 has its place one decade before the first.
	var x []float64
	for _, field := range strings.Fields(between(string(document), `points="`, `"`)) {
		at, _, _ := strings.Cut(field, ",")
		v, err := strconv.ParseFloat(at, 64)
		if err != nil {
			t.Fatal(err)
		}
		x = append(x, v)
	}
	if len(x) != 3 || math.Abs((x[2]-x[1])-2*(x[1]-x[0])) > 0.3 {
		t.Errorf("points at %v, want the second step twice the first", x)
	}
	if n := bytes.Count(document, []byte("<circle")); n != 3 {
		t.Errorf("%d circles, want 3", n)
	}
}

// A chart of nothing is one.
func TestEmptyLineChart(t *testing.T) {
	read(t, svg.LineChart{Panels: []svg.Panel{{Lines: []svg.Line{{Name: "none"}}}}}.SVG())
	one := svg.LineChart{
		Ticks:  []svg.Tick{{X: 3, Label: "three"}},
		Panels: []svg.Panel{{Lines: []svg.Line{{Name: "one", Points: []svg.Point{{X: 3, Y: 1}}}}}},
	}
	if document := string(one.SVG()); strings.Contains(document, "NaN") || strings.Contains(document, "Inf") {
		t.Errorf("no place for a single point:\n%s", document)
	}
}

func between(text, before, after string) string {
	_, text, _ = strings.Cut(text, before)
	text, _, _ = strings.Cut(text, after)
	return text
}
