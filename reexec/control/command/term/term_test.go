// SPDX-License-Identifier: Apache-2.0

package term

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestSettle(t *testing.T) {
	for _, tt := range []struct {
		name        string
		env         string
		cols, lines int
		tty         bool
		want        Terminal
	}{
		{"terminal", "TERM=xterm", 100, 30, true, Terminal{Width: 100, Height: 30, Color: true, Redraw: true}},
		{"COLUMNS and LINES", "TERM=xterm COLUMNS=60 LINES=10", 100, 30, true, Terminal{Width: 60, Height: 10, Color: true, Redraw: true}},
		{"bad COLUMNS", "COLUMNS=-3 LINES=x", 100, 30, true, Terminal{Width: 100, Height: 30, Color: true, Redraw: true}},
		{"no size", "TERM=xterm", 0, 0, true, Terminal{Width: 80, Height: 24, Color: true, Redraw: true}},
		{"tiny", "COLUMNS=3", 0, 0, true, Terminal{Width: 20, Height: 24, Color: true, Redraw: true}},
		{"NO_COLOR", "TERM=xterm NO_COLOR=1", 100, 30, true, Terminal{Width: 100, Height: 30, Redraw: true}},
		{"dumb", "TERM=dumb", 100, 30, true, Terminal{Width: 100, Height: 30}},
		{"SYSTEMD_COLORS=0", "SYSTEMD_COLORS=0", 100, 30, true, Terminal{Width: 100, Height: 30, Redraw: true}},
		{"SYSTEMD_COLORS before NO_COLOR", "NO_COLOR=1 SYSTEMD_COLORS=16", 100, 30, true, Terminal{Width: 100, Height: 30, Color: true, Redraw: true}},
		{"SYSTEMD_COLORS=auto-16", "SYSTEMD_COLORS=auto-16", 0, 0, false, Terminal{}},
		{"pipe", "TERM=xterm COLUMNS=60", 0, 0, false, Terminal{}},
		{"pipe with colours", "SYSTEMD_COLORS=1", 0, 0, false, Terminal{Color: true}},
		{"locale C", "LANG=C.UTF-8 LC_ALL=C", 0, 0, false, Terminal{ASCII: true}},
		{"locale", "LANG=C.UTF-8", 0, 0, false, Terminal{}},
		{"LC_CTYPE", "LANG=de_DE.UTF-8 LC_CTYPE=POSIX", 0, 0, false, Terminal{ASCII: true}},
	} {
		env := make(map[string]string)
		for _, pair := range strings.Fields(tt.env) {
			name, value, _ := strings.Cut(pair, "=")
			env[name] = value
		}
		if got := settle(tt.cols, tt.lines, tt.tty, func(name string) string { return env[name] }); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// What is no terminal is a pipe.
func TestOf(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	nothing := func(string) string { return "" }
	if got := of(null, nothing); got != (Terminal{}) {
		t.Errorf("/dev/null is %+v", got)
	}
	if got := of(new(bytes.Buffer), nothing); got != (Terminal{}) {
		t.Errorf("a buffer is %+v", got)
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain":             "plain",
		"größe → 1":         "größe → 1",
		"\x1b]0;x\x07":      `\x1b]0;x\x07`,
		"a\nb\n":            "a\n    b",
		"a\tb\r":            `a b\x0d`,
		"\u009b2J\u202e":    `\u009b2J\u202e`,
		string([]byte{255}): "\ufffd",
	} {
		if got := Printable(in); got != want {
			t.Errorf("Printable(%q) = %q, want %q", in, got, want)
		}
	}
	if got, want := Line("a\n\nb\r\nc\x1b[2J\n"), `a b c\x1b[2J`; got != want {
		t.Errorf("Line: %q, want %q", got, want)
	}
}

func TestWidthAndCut(t *testing.T) {
	color := Terminal{Color: true}
	for _, tt := range []struct {
		text  string
		width int
		cut   string // to 4
	}{
		{"", 0, ""},
		{"abcd", 4, "abcd"},
		{"abcde", 5, "abc…"},
		{"日本", 4, "日本"},
		{"日本語", 6, "日…"},
		{"e\u0301tude", 5, "e\u0301tu…"},
		{color.Paint(Green, "abcd"), 4, "\x1b[1;32mabcd\x1b[0m"},
		{color.Paint(Green, "abcde"), 5, "\x1b[1;32mabc…\x1b[0m"},
	} {
		if got := Width(tt.text); got != tt.width {
			t.Errorf("Width(%q) = %d, want %d", tt.text, got, tt.width)
		}
		if got := color.Cut(tt.text, 4); got != tt.cut {
			t.Errorf("Cut(%q, 4) = %q, want %q", tt.text, got, tt.cut)
		}
	}
	if got := (Terminal{ASCII: true}).Cut("abcdef", 5); got != "ab..." {
		t.Errorf("in ASCII: %q", got)
	}
}

func TestRows(t *testing.T) {
	r := Rows{Terminal: Terminal{Width: 24}, Labels: 8}
	r.Title("a title that is far too long")
	r.Add("One", "several words that do not fit")
	r.Add("One", "again")
	r.Add("", "more\n    of it")
	r.Add("Two", "averylongwordwithoutspaces")
	want := "a title that is far too…\n" +
		"    One: several words\n         that do not fit\n         again\n         more\n             of it\n" +
		"    Two: averylongwordwi\n         thoutspaces\n"
	if got := r.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestTable(t *testing.T) {
	columns := []Column{{Name: "UNIT"}, {Name: "PID", Drop: 1}, {Name: "AGE", Drop: 2}, {Name: "LAST"}}
	rows := [][]string{{"a.service", "640", "5min", "upgraded"}, {"b@1.service", "7", "-", "the version was refused"}}
	for width, want := range map[int]string{
		0:  "UNIT         PID  AGE   LAST\na.service    640  5min  upgraded\nb@1.service  7    -     the version was refused\n",
		44: "UNIT         AGE   LAST\na.service    5min  upgraded\nb@1.service  -     the version was refused\n",
		36: "UNIT         LAST\na.service    upgraded\nb@1.service  the version was refused\n",
		20: "UNIT         LAST\na.service    upgrad…\nb@1.service  the ve…\n",
	} {
		if got := (Terminal{Width: width}).Table(columns, rows); got != want {
			t.Errorf("width %d: got\n%s\nwant\n%s", width, got, want)
		}
	}
}

// Whatever a service says and however narrow the terminal is: nothing is wider
// than that, nothing moves the cursor, and nothing but spaces is lost by wrapping.
func FuzzLayout(f *testing.F) {
	f.Add("the health check failed:\nno database", 20)
	f.Add("\x1b[2J日本語 e\u0301", 5)
	f.Add("  a  b  ", 3)
	f.Fuzz(func(t *testing.T, text string, width int) {
		width = 2 + (width%80+80)%80
		shown := Printable(text)
		for _, r := range shown {
			if r != '\n' && !unicode.IsPrint(r) {
				t.Fatalf("%q is not printable in %q", r, shown)
			}
		}
		term := Terminal{Width: width}
		for line := range strings.SplitSeq(shown, "\n") {
			if cut := term.Cut(line, width); Width(cut) > width || !utf8.ValidString(cut) {
				t.Errorf("Cut(%q, %d) = %q", line, width, cut)
			}
			parts := wrap(line, width)
			for _, part := range parts {
				if Width(part) > width {
					t.Errorf("wrap(%q, %d) has %q", line, width, part)
				}
			}
			squeeze := func(s string) string { return strings.ReplaceAll(s, " ", "") }
			if got := strings.Join(parts, ""); squeeze(got) != squeeze(line) {
				t.Errorf("wrap(%q, %d) = %q", line, width, parts)
			}
		}
	})
}
