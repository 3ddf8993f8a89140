// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/control/command/term"
)

// The pictures of the README are drawn from the golden output, so that they show
// what is shown.
func TestPictures(t *testing.T) {
	read := func(name string) string {
		data, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	status := part(t, read("status.golden"), "wide")
	table := part(t, read("status-table.golden"), "wide")
	_, frame, _ := strings.Cut(part(t, read("progress.golden"), "wide"), "-- 58.3s\n")
	frame, _, _ = strings.Cut(frame, "\n-- ")
	for name, text := range map[string]string{
		"status.svg":   "$ holdfast status myapp\n" + status,
		"table.svg":    "$ holdfast status 'myapp@*'\n" + table,
		"progress.svg": "$ holdfast upgrade --errors=http_errors_total --requests=http_requests_total 'myapp@*'\n" + frame + "\n",
	} {
		svg := picture(text)
		golden(t, name, svg)
		drawn := drawnText(t, svg)
		for line := range strings.Lines(sgr.ReplaceAllString(text, "")) {
			if want := words(line); !strings.Contains(drawn, want) {
				t.Errorf("%s lacks %q", name, want)
			}
		}
	}
}

// The measures of a picture, in pixels.
const (
	cellWidth, cellHeight = 8.4, 19.0
	margin                = 14.0
)

// paints are the colours of term on a dark screen.
var paints = map[term.Color]string{
	term.Plain: "#d0d0d0", term.Bold: "#ffffff", term.Dim: "#909090",
	term.Red: "#ff6b68", term.Green: "#6cd16c", term.Yellow: "#e8c15a",
}

// picture draws lines of a terminal as SVG. Each run of one colour is stretched to
// its columns, so that any font will do.
func picture(text string) string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	columns := 0
	for _, l := range lines {
		columns = max(columns, term.Width(l))
	}
	width, height := float64(columns)*cellWidth+2*margin, float64(len(lines))*cellHeight+2*margin
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.1f %.1f" width="%.0f" font-family="ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace" font-size="14">`+"\n", width, height, width)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" rx="8" fill="#1d1f24"/>`+"\n")
	for row, line := range lines {
		y := margin + float64(row)*cellHeight + cellHeight*0.75
		column := 0
		for _, r := range runs(line) {
			n := term.Width(r.text)
			if visible := strings.TrimLeft(r.text, " "); visible != "" {
				lead := n - term.Width(visible)
				visible = strings.TrimRight(visible, " ")
				bold := ""
				if r.color != term.Plain && r.color != term.Dim {
					bold = ` font-weight="bold"`
				}
				fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" textLength="%.1f" lengthAdjust="spacingAndGlyphs" xml:space="preserve" fill="%s"%s>`,
					margin+float64(column+lead)*cellWidth, y, float64(term.Width(visible))*cellWidth, paints[r.color], bold)
				_ = xml.EscapeText(&b, []byte(visible)) // a Builder takes all
				b.WriteString("</text>\n")
			}
			column += n
		}
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// colored is text of one colour.
type colored struct {
	color term.Color
	text  string
}

func runs(line string) []colored {
	var all []colored
	color := term.Plain
	for line != "" {
		at := sgr.FindStringIndex(line)
		if at == nil {
			return append(all, colored{color, line})
		}
		if at[0] > 0 {
			all = append(all, colored{color, line[:at[0]]})
		}
		color = term.Color(line[at[0]+2 : at[1]-1])
		if color == "0" {
			color = term.Plain
		}
		line = line[at[1]:]
	}
	return all
}

// drawnText is the text of a picture, read as XML.
func drawnText(t *testing.T, svg string) string {
	t.Helper()
	var b strings.Builder
	for dec := xml.NewDecoder(strings.NewReader(svg)); ; {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return words(b.String())
		}
		if err != nil {
			t.Fatal(err)
		}
		if data, ok := token.(xml.CharData); ok {
			b.Write(data)
			b.WriteByte(' ')
		}
	}
}
