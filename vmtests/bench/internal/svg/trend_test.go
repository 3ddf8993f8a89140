// SPDX-License-Identifier: Apache-2.0

package svg_test

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/svg"
)

func TestTrendChart(t *testing.T) {
	document := svg.TrendChart{
		Title: "a < b", Note: "note", Steps: "generation",
		Trends: []svg.Trend{
			{Name: "descriptors", Text: "grow", Values: []float64{1, 2, 4}, Label: func(v float64) string { return fmt.Sprintf("%g fd", v) }},
			{Name: "odd", Values: []float64{math.NaN(), math.Inf(1), -1}},
			{Name: "none"},
			{Name: "one", Values: []float64{5}},
		},
	}.SVG()
	texts, _ := read(t, document)
	all := strings.Join(texts, "|")
	if want := "a < b|note|4 fd|descriptors|0 fd|grow|"; !strings.HasPrefix(all, want) {
		t.Errorf("texts %s: want %s first", all, want)
	}
	if want := "|1|2|3|generation"; !strings.HasSuffix(all, want) {
		t.Errorf("texts %s: want %s last", all, want)
	}
	// From the left to the right edge; the largest value is at the top, half of it half-way.
	if want := `points="186.0,131.5 535.0,115.0 884.0,82.0"`; strings.Count(string(document), want) != 1 {
		t.Errorf("no line %s in\n%s", want, document)
	}
	if n := bytes.Count(document, []byte("<polyline")); n != 2 {
		t.Errorf("%d lines, want 2: nothing is drawn where no value is above 0", n)
	}
}

func TestTrendChartNumbersItsSteps(t *testing.T) {
	for steps, want := range map[int]string{
		0: "", 1: "1", 10: "1|2|3|4|5|6|7|8|9|10", 11: "1|2|4|6|8|10", 60: "1|10|20|30|40|50|60", 1100: "1|200|400|600|800|1000",
	} {
		texts, _ := read(t, svg.TrendChart{Title: "t", Steps: "s", Trends: []svg.Trend{{Values: make([]float64, steps)}}}.SVG())
		var numbers []string
		for _, text := range texts {
			if strings.Trim(text, "0123456789") == "" && text != "0" {
				numbers = append(numbers, text)
			}
		}
		if got := strings.Join(numbers, "|"); strings.Trim(got, "|") != want {
			t.Errorf("%d steps: %s, want %s", steps, got, want)
		}
	}
}
