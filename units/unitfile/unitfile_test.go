// SPDX-License-Identifier: Apache-2.0

package unitfile_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/units/unitfile"
)

// show writes what was parsed as "line Section.Key=Value".
func show(p *unitfile.Parsed) []string {
	var out []string
	for _, a := range p.Assignments {
		out = append(out, fmt.Sprintf("%d %s.%s=%s", a.Line, a.Section, a.Key, a.Value))
	}
	for _, f := range p.Faults {
		out = append(out, fmt.Sprintf("%d! %s", f.Line, f.Reason))
	}
	return out
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string // a fault by how its reason begins
	}{
		{"", nil},
		{"[A]\nB=c\n", []string{"2 A.B=c"}},
		{"[A]\nB=c", []string{"2 A.B=c"}},
		{"  [A]  \n \t B \t = \t c d \t \n", []string{"2 A.B=c d"}},
		{"[A]\nB=\nB=c=d\n", []string{"2 A.B=", "3 A.B=c=d"}},
		{"[A]\nB=1\n[C]\nB=2\n[A]\nB=3", []string{"2 A.B=1", "4 C.B=2", "6 A.B=3"}},
		{"[A]\n# x\n; y\n  # z\nB=c # no comment\n", []string{"5 A.B=c # no comment"}},
		{"[A]\r\nB=c\r\nD=e\r", []string{"2 A.B=c", "3 A.D=e"}},
		{"[A]\n\rB=c\n\n\nD=e", []string{"2 A.B=c", "5 A.D=e"}},
		// systemd.syntax(7), example 1
		{
			"[Section B]\nKeyTwo=value 2 \\\n       value 2 continued\n\n[Section C]\nKeyThree=value 3\\\n# this line is ignored\n; this line is ignored too\n       value 3 continued\n",
			[]string{"2 Section B.KeyTwo=value 2         value 2 continued", "6 Section C.KeyThree=value 3        value 3 continued"},
		},
		{"[A]\nB=c\\\n", []string{"2 A.B=c"}},
		{"[A]\nB=c\\\\\nD=e", []string{`2 A.B=c\\`, "3 A.D=e"}},
		{"[A]\nB=c\\\\\\\nD=e", []string{`2 A.B=c\\ D=e`}},
		{"[A]\nB=\\\n\\\n\\\nc", []string{"2 A.B=c"}},
		{"[A]\nB=c\\\n\nD=e", []string{"2 A.B=c", "4 A.D=e"}},
		{"[A\\\n]\nB=c", []string{"3 A .B=c"}},
		{"\uFEFF[A]\nB=c", []string{"2 A.B=c"}},
		{"[A]\n\uFEFFB=c\n\uFEFFD=e", []string{"2 A.B=c", "3 A.\uFEFFD=e"}},
		{"[A]\nB=ä€😀\u00a0\n", []string{"2 A.B=ä€😀\u00a0"}},

		{"B=c\n[A]\nD=e", []string{"3 A.D=e", "1! the assignment is outside of a section"}},
		{"[A]\nB\n=c\n", []string{`2! the line has no "="`, `3! there is no name before`}},
		{"[A]\nB=\xff\nD=e", []string{"3 A.D=e", "2! the line is not valid UTF-8"}},
		{"[A]\nB=\xed\xa0\x80\nC=\xef\xbf\xbf\nD=\xef\xb7\x90", []string{"2! the line is not valid UTF-8", "3! the line is not valid UTF-8", "4! the line is not valid UTF-8"}},
		{"[A]\nB=c\x00D=e\n", []string{"2 A.B=c", "3 A.D=e", "2! the line has a NUL byte"}},
		{"[A]\nB=c\n[D\nE=f\n", []string{"2 A.B=c", `3! the section header does not end in "]"`}},
		{"[A\"]\nE=f\n", []string{"1! the section header has a quote"}},
		{"[A\x01]\nE=f\n", []string{"1! the section header has a quote"}},
		{"[]\nB=c\n", []string{"2 .B=c"}},
		{"[A]\nB=a\x01b\tc\n", []string{"2 A.B=a\x01b\tc"}},
	} {
		got := show(unitfile.Parse("f", c.text))
		ok := len(got) == len(c.want)
		for i := 0; ok && i < len(got); i++ {
			ok = got[i] == c.want[i] || strings.Contains(c.want[i], "! ") && strings.HasPrefix(got[i], c.want[i])
		}
		if !ok {
			t.Errorf("%q:\ngot  %q\nwant %q", c.text, got, c.want)
		}
	}
}

func TestParseSections(t *testing.T) {
	p := unitfile.Parse("f", "[A]\n[B C]\n\n[X-D]\nE=f")
	want := []unitfile.Section{{File: "f", Line: 1, Name: "A"}, {File: "f", Line: 2, Name: "B C"}, {File: "f", Line: 4, Name: "X-D"}}
	if !slices.Equal(p.Sections, want) {
		t.Errorf("%v, want %v", p.Sections, want)
	}
}

// A line may have just under a mebibyte, and a continued one as much in all.
func TestLongLines(t *testing.T) {
	const mebibyte = 1 << 20
	long := func(n int) string { return "K=" + strings.Repeat("x", n-2) }
	for _, c := range []struct {
		name, text string
		line       int // of the fault, 0 for none
	}{
		{"just under", "[A]\n" + long(mebibyte-1) + "\nB=c", 0},
		{"a mebibyte", "[A]\nC=d\n" + long(mebibyte) + "\nB=c", 3},
		{"a comment", "#" + strings.Repeat("x", mebibyte), 1},
		{"without an end", "[A]\n" + long(3*mebibyte), 2},
		{"continued", "[A]\n" + long(mebibyte/2) + "\\\n" + strings.Repeat("y", mebibyte/2), 2},
		{"continued just so", "[A]\n" + long(mebibyte/2) + "\\\n" + strings.Repeat("y", mebibyte/2-1), 0},
		{"continued often", "[A]\nB=" + strings.Repeat("x\\\n", mebibyte), 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Now()
			p := unitfile.Parse("f", c.text)
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			if c.line == 0 {
				if len(p.Faults) > 0 || len(p.Assignments) == 0 {
					t.Errorf("%v, %d assignments", p.Faults.Err(), len(p.Assignments))
				}
				return
			}
			if len(p.Faults) != 1 || p.Faults[0].Line != c.line || !strings.Contains(p.Faults[0].Reason, "1048576") {
				t.Fatalf("%v", p.Faults.Err())
			}
			if text := p.Faults.Error(); len(text) > 500 {
				t.Errorf("the error has %d bytes", len(text))
			}
		})
	}
}

// Time and memory are in proportion to the text.
func TestParseIsLinear(t *testing.T) {
	texts := map[string]func(n int) string{
		"assignments":   func(n int) string { return "[A]\n" + strings.Repeat("Key=value\n", n) },
		"continuations": func(n int) string { return "[A]\n" + strings.Repeat("Key=value \\\n  more\n", n) },
		"sections":      func(n int) string { return strings.Repeat("[A]\n", n) },
		"garbage":       func(n int) string { return strings.Repeat("\x00\xff=[\\\n\r", n) },
		"backslashes":   func(n int) string { return "[A]\nK=" + strings.Repeat("\\", n) },
	}
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			measure := func(s string) time.Duration {
				best := time.Hour
				for range 5 {
					start := time.Now()
					unitfile.Parse("f", s)
					best = min(best, time.Since(start))
				}
				return best
			}
			small, large := measure(text(4000)), measure(text(64000))
			if large > 16*small*8+50*time.Millisecond {
				t.Errorf("a text 16 times as large took %v instead of %v", large, small)
			}
		})
	}
}

// What has too many faults is not read to its end.
func TestTooManyFaults(t *testing.T) {
	for name, piece := range map[string]string{"NULs": "\x00", "lines": "[A]\nx\n"} {
		p := unitfile.Parse("f", strings.Repeat(piece, 100_000))
		if n := len(p.Faults); n != 10_001 || !strings.Contains(p.Faults[n-1].Reason, "more than 10000 faults") || len(p.Assignments) > 0 {
			t.Errorf("%s: %d faults, the last one: %v", name, n, p.Faults[n-1])
		}
	}
}

func TestFaultsPrinted(t *testing.T) {
	p := unitfile.Parse("f", "[A]\n"+strings.Repeat("x\xff"+strings.Repeat("y", 1000)+"\n", 5000))
	if len(p.Faults) != 5000 {
		t.Fatalf("%d faults", len(p.Faults))
	}
	text := p.Faults.Error()
	if strings.Count(text, "\n") != 20 || !strings.HasSuffix(text, "\nand 4980 more") || len(text) > 20*600 {
		t.Errorf("%d bytes:\n%.2000s", len(text), text)
	}
	if !strings.HasPrefix(text, `f:2: [A] x\xffyyyy`) {
		t.Errorf("%.300s", text)
	}
	if unitfile.Faults(nil).Err() != nil {
		t.Error("no faults are an error")
	}
}

func TestErrorText(t *testing.T) {
	for _, c := range []struct {
		err  unitfile.Error
		want string
	}{
		{unitfile.Error{File: "a.service", Line: 12, Section: "Service", Key: "FooBar", Value: "x", Reason: "no"}, "a.service:12: [Service] FooBar=x: no"},
		{unitfile.Error{File: "a.service", Line: 12, Section: "Service", Key: "FooBar", Reason: "no"}, "a.service:12: [Service] FooBar=: no"},
		{unitfile.Error{File: "a.service", Section: "Service", Reason: "no"}, "a.service: [Service] no"},
		{unitfile.Error{File: "a.service", Reason: "no"}, "a.service: no"},
		{unitfile.Error{File: "a.service", Line: 1, Value: "x\ny", Reason: "no"}, `a.service:1: x\ny: no`},
		{unitfile.Error{File: "a", Key: "K", Value: strings.Repeat("ä", 101), Reason: "no"}, "a: K=" + strings.Repeat("ä", 100) + "…: no"},
		{unitfile.Error{File: "a", Key: "K", Value: "x" + strings.Repeat("ä", 101), Reason: "no"}, "a: K=x" + strings.Repeat("ä", 99) + "…: no"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// The units of this machine, if it has any, have no fault of syntax.
func TestUnitsOfTheMachine(t *testing.T) {
	var paths []string
	for _, kind := range []string{"service", "socket", "timer", "target", "mount", "slice", "path"} {
		found, err := filepath.Glob("/lib/systemd/system/*." + kind)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, found...)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // a link to nowhere
		}
		if p := unitfile.Parse(path, string(b)); len(p.Faults) > 0 {
			t.Error(p.Faults)
		}
	}
	t.Logf("%d units", len(paths))
}

func FuzzParse(f *testing.F) {
	f.Add("[Service]\nExecStart=/bin/true \\\n  x\n# c\nA=b\r\nC=\x00d\n")
	f.Add("\uFEFF[Unit]\n=\n[\nx")
	f.Add("[A]\\\n\\\\\\\n;x\nB=c")
	f.Fuzz(func(t *testing.T, text string) {
		p := unitfile.Parse("f", text)
		lines := 1 + strings.Count(text, "\n") + strings.Count(text, "\r") + strings.Count(text, "\x00")
		sections := 0
		for _, s := range p.Sections {
			if s.Line < 1 || s.Line > lines || s.Line < sections {
				t.Fatalf("%+v of %d lines", s, lines)
			}
			sections = s.Line
		}
		last := 0
		var b strings.Builder
		for _, a := range p.Assignments {
			if a.Line <= last || a.Line > lines || a.Key == "" || strings.ContainsAny(a.Key+a.Value, "\n\x00") || strings.Trim(a.Value, " \t") != a.Value {
				t.Fatalf("%+v of %d lines", a, lines)
			}
			last = a.Line
			fmt.Fprintf(&b, "[%s]\n%s=%s\n", a.Section, a.Key, a.Value)
		}
		for _, fault := range p.Faults {
			if fault.Line < 1 || fault.Line > lines || strings.Contains(fault.Error(), "\n") {
				t.Fatalf("%v of %d lines", fault, lines)
			}
		}
		// What was read is read again when it is written.
		again := unitfile.Parse("f", b.String())
		if strings.Contains(b.String(), "\uFEFF") || strings.Contains(b.String(), "\\\n") || len(b.String()) >= 1<<20 {
			return
		}
		if len(again.Faults) > 0 || len(again.Assignments) != len(p.Assignments) {
			t.Fatalf("%q\nis read as %+v\nand %v", b.String(), again.Assignments, again.Faults.Err())
		}
		for i, a := range again.Assignments {
			if w := p.Assignments[i]; a.Section != w.Section || a.Key != w.Key || a.Value != w.Value {
				t.Fatalf("%+v is read again as %+v", w, a)
			}
		}
	})
}
