// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// size returns the columns and rows of a terminal; ok is false for anything else.
func size(file *os.File) (columns, rows int, ok bool) {
	if os.Getenv("TERM") == "dumb" {
		return 0, 0, false
	}
	if _, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS); err != nil {
		return 0, 0, false
	}
	window, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
	if err != nil || window.Col == 0 || window.Row == 0 {
		return 80, 24, true // a serial line does not know
	}
	return int(window.Col), int(window.Row), true
}

// newView returns the picture for a terminal that has room for it, else lines.
func newView(out *os.File, steps int) view {
	_, rows, ok := size(out)
	if !ok || rows < steps+8 {
		return &lines{out: out}
	}
	s := asciiStyle
	if isUTF8(os.Getenv) {
		s = unicodeStyle
	}
	s.colours = os.Getenv("NO_COLOR") == ""
	return &terminal{out: out, picture: picture{style: s}, width: func() int {
		columns, _, _ := size(out)
		return columns
	}}
}

// isUTF8 reports whether the locale's character set is UTF-8, locale(7).
func isUTF8(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if value := getenv(name); value != "" {
			value = strings.ToUpper(value)
			return strings.Contains(value, "UTF-8") || strings.Contains(value, "UTF8")
		}
	}
	return false
}

// A terminal redraws a picture in place.
type terminal struct {
	out     io.Writer
	picture picture
	width   func() int
	drawn   int // lines
}

const (
	hideCursor = "\x1b[?25l"
	showCursor = "\x1b[?25h"
	eraseLine  = "\x1b[K"
	eraseBelow = "\x1b[J"
)

func (t *terminal) show(e event) {
	t.picture.apply(e)
	var text strings.Builder
	text.WriteString(hideCursor)
	if t.drawn > 0 {
		fmt.Fprintf(&text, "\x1b[%dA\r", t.drawn)
	}
	// One column less: some terminals wrap at the last.
	frame := t.picture.frame(t.width() - 1)
	for _, line := range frame {
		text.WriteString(line + eraseLine + "\n")
	}
	text.WriteString(eraseBelow)
	t.drawn = len(frame)
	// One write, so that no half picture shows.
	_, _ = io.WriteString(t.out, text.String())
}

func (t *terminal) close() { _, _ = io.WriteString(t.out, showCursor) }

// lines write one line for each step that is over.
type lines struct {
	out   io.Writer
	steps []pictureStep
}

func (l *lines) show(e event) {
	switch e := e.(type) {
	case planned:
		for _, title := range e.Steps {
			l.steps = append(l.steps, pictureStep{title: title})
		}
	case booted:
		fmt.Fprintf(l.out, "under %s\n", e.Systemd)
	case began:
		l.steps[e.Step].begin = e.at()
	case ended:
		s := l.steps[e.Step]
		result := "ok"
		if !e.OK {
			result = "FAILED"
		}
		fmt.Fprintf(l.out, "%-6s  %-*s %5.1f s  %s\n", result, titleWidth, s.title, (e.at() - s.begin).Seconds(), e.Verdict)
	}
}

func (l *lines) close() {}
