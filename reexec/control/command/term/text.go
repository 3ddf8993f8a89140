// SPDX-License-Identifier: Apache-2.0

package term

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Printable escapes what could move the cursor or change the terminal: a
// service is another user's program, and its words are shown to root. Lines
// after the first are indented, so that none can pass for one of ours.
func Printable(s string) string {
	var b strings.Builder
	for _, r := range strings.TrimRight(s, "\n") {
		switch {
		case r == '\n':
			b.WriteString("\n    ")
		case r == '\t':
			b.WriteByte(' ')
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// Line is Printable for one line: what follows in s is part of it.
func Line(s string) string {
	return Printable(strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), " "))
}

// wide are the ranges that take two columns (Unicode's East Asian Width W and F,
// and emoji).
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0x1100, 0x115f, 1},
		{0x231a, 0x231b, 1},
		{0x2329, 0x232a, 1},
		{0x23e9, 0x23ec, 1},
		{0x23f0, 0x23f3, 3},
		{0x25fd, 0x25fe, 1},
		{0x2614, 0x2615, 1},
		{0x2648, 0x2653, 1},
		{0x267f, 0x267f, 1},
		{0x2693, 0x26a1, 14},
		{0x26aa, 0x26ab, 1},
		{0x26bd, 0x26be, 1},
		{0x26c4, 0x26c5, 1},
		{0x26ce, 0x26d4, 6},
		{0x26ea, 0x26ea, 1},
		{0x26f2, 0x26f3, 1},
		{0x26f5, 0x26fa, 5},
		{0x26fd, 0x2705, 8},
		{0x270a, 0x270b, 1},
		{0x2728, 0x274c, 36},
		{0x274e, 0x274e, 1},
		{0x2753, 0x2755, 1},
		{0x2757, 0x2757, 1},
		{0x2795, 0x2797, 1},
		{0x27b0, 0x27bf, 15},
		{0x2b1b, 0x2b1c, 1},
		{0x2b50, 0x2b55, 5},
		{0x2e80, 0x303e, 1},
		{0x3041, 0x33ff, 1},
		{0x3400, 0x4dbf, 1},
		{0x4e00, 0xa4cf, 1},
		{0xa960, 0xa97f, 1},
		{0xac00, 0xd7a3, 1},
		{0xf900, 0xfaff, 1},
		{0xfe10, 0xfe19, 1},
		{0xfe30, 0xfe6f, 1},
		{0xff00, 0xff60, 1},
		{0xffe0, 0xffe6, 1},
	},
	R32: []unicode.Range32{
		{0x16fe0, 0x18aff, 1},
		{0x1aff0, 0x1b2ff, 1},
		{0x1f004, 0x1f0cf, 203},
		{0x1f18e, 0x1f18e, 1},
		{0x1f191, 0x1f19a, 1},
		{0x1f200, 0x1f320, 1},
		{0x1f32d, 0x1f64f, 1},
		{0x1f680, 0x1f6ff, 1},
		{0x1f7e0, 0x1f7eb, 1},
		{0x1f90c, 0x1f9ff, 1},
		{0x1fa70, 0x1faff, 1},
		{0x20000, 0x3fffd, 1},
	},
}

func runeWidth(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case unicode.Is(wide, r):
		return 2
	default:
		return 1
	}
}

// Width is how many columns text takes on a terminal, without what Paint adds.
func Width(text string) int {
	n := 0
	for len(text) > 0 {
		if skip := escape(text); skip > 0 {
			text = text[skip:]
			continue
		}
		r, size := utf8.DecodeRuneInString(text)
		n += runeWidth(r)
		text = text[size:]
	}
	return n
}

// escape is the length of the sequence of Paint that text begins with.
func escape(text string) int {
	if !strings.HasPrefix(text, "\x1b[") {
		return 0
	}
	return strings.IndexByte(text, 'm') + 1
}

// Cut makes text no wider than width; 0 is any width. A text that was cut ends
// in an ellipsis.
func (t Terminal) Cut(text string, width int) string {
	if width <= 0 || Width(text) <= width {
		return text
	}
	end := t.ellipsis()
	room := width - Width(end)
	if room < 1 {
		end, room = "", width
	}
	var (
		b       strings.Builder
		painted bool
	)
	for len(text) > 0 {
		if skip := escape(text); skip > 0 {
			b.WriteString(text[:skip])
			painted = text[:skip] != "\x1b[0m"
			text = text[skip:]
			continue
		}
		r, size := utf8.DecodeRuneInString(text)
		if room -= runeWidth(r); room < 0 {
			break
		}
		b.WriteString(text[:size])
		text = text[size:]
	}
	b.WriteString(end)
	if painted {
		b.WriteString("\x1b[0m")
	}
	return b.String()
}

// Pad fills text up to width.
func Pad(text string, width int) string {
	return text + strings.Repeat(" ", max(width-Width(text), 0))
}

// wrap breaks one line at spaces, so that no line is wider than width; a word
// that is wider is broken itself. It drops the spaces at a break only.
func wrap(text string, width int) []string {
	if width <= 0 {
		return []string{text}
	}
	lines := make([]string, 0, 1)
	for {
		end, all := fitting(text, width)
		if all {
			return append(lines, text)
		}
		lines = append(lines, strings.TrimRight(text[:end], " "))
		if text = strings.TrimLeft(text[end:], " "); text == "" {
			return lines
		}
	}
}

// fitting is where the first line of text ends; all says that it fits.
func fitting(text string, width int) (end int, all bool) {
	lastSpace, column := 0, 0
	for end < len(text) {
		if skip := escape(text[end:]); skip > 0 {
			end += skip
			continue
		}
		r, size := utf8.DecodeRuneInString(text[end:])
		if r == ' ' && column > 0 {
			lastSpace = end
		}
		if column+runeWidth(r) > width && column > 0 {
			if lastSpace > 0 {
				return lastSpace, false
			}
			return end, false
		}
		column += runeWidth(r)
		end += size
	}
	return end, true
}
