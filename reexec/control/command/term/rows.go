// SPDX-License-Identifier: Apache-2.0

package term

import "strings"

// Rows is a screen of labels and what belongs to each, as "systemctl status" has
// it. A value that is wider than the terminal goes on below itself.
type Rows struct {
	Terminal
	// Labels is the width of the column of labels, with its colon.
	Labels int

	b    strings.Builder
	last string
}

// Add adds a row. The label is written only if the row before has another one.
// Lines of text after the first are rows of their own.
func (r *Rows) Add(label, text string) {
	shown := ""
	if label != "" && label != r.last {
		shown = label + ":"
		r.last = label
	}
	width := 0
	if r.Width > 0 {
		width = max(r.Width-r.Labels-1, minWidth/2)
	}
	for line := range strings.SplitSeq(text, "\n") {
		for _, part := range wrap(line, width) {
			r.b.WriteString(strings.Repeat(" ", max(r.Labels-Width(shown), 0)))
			r.b.WriteString(shown)
			if part != "" {
				r.b.WriteString(" " + part)
			}
			r.b.WriteByte('\n')
			shown = ""
		}
	}
}

// Title adds a line without a label, cut to the width.
func (r *Rows) Title(text string) {
	r.b.WriteString(r.Cut(text, r.Width))
	r.b.WriteByte('\n')
}

func (r *Rows) String() string { return r.b.String() }

// A Column of a [Table].
type Column struct {
	Name string
	// Drop is the order in which columns are left out where the terminal is too
	// narrow, 1 first; 0 stays.
	Drop int
}

// minText is what the last column of a table keeps before others are left out.
const minText = 24

// Table lays out cells in columns. On a terminal the last one is cut, columns are
// left out, and all is cut, until it fits; in a pipe all is there.
func (t Terminal) Table(columns []Column, rows [][]string) string {
	shown := make([]bool, len(columns))
	widths := make([]int, len(columns))
	for i, c := range columns {
		shown[i] = true
		widths[i] = Width(c.Name)
		for _, row := range rows {
			widths[i] = max(widths[i], Width(row[i]))
		}
	}
	total := func() int {
		n := -2
		for i, c := range columns {
			switch {
			case !shown[i]:
			case i == len(columns)-1 && c.Drop == 0:
				n += min(widths[i], minText) + 2
			default:
				n += widths[i] + 2
			}
		}
		return n
	}
	for order := 1; t.Width > 0 && order <= len(columns) && total() > t.Width; order++ {
		for i, c := range columns {
			if c.Drop == order {
				shown[i] = false
			}
		}
	}
	var b strings.Builder
	line := func(row []string, c Color) {
		cells := make([]string, 0, len(columns))
		for i := range columns {
			if shown[i] {
				cells = append(cells, Pad(row[i], widths[i]))
			}
		}
		text := strings.TrimRight(strings.Join(cells, "  "), " ")
		b.WriteString(t.Paint(c, t.Cut(text, t.Width)))
		b.WriteByte('\n')
	}
	head := make([]string, len(columns))
	for i, c := range columns {
		head[i] = c.Name
	}
	line(head, Bold)
	for _, row := range rows {
		line(row, Plain)
	}
	return b.String()
}
