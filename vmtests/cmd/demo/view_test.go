// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares got with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s (go test -update rewrites it); got:\n%s", file, got)
	}
}

// story is a demo of a few steps, as a view is told it.
func story() []event {
	at := func(ms int) moment { return moment(time.Duration(ms) * time.Millisecond) }
	count := func(ms, old, new int) traffic {
		versions := map[string]int{}
		if old > 0 {
			versions["1.0.0"] = old
		}
		if new > 0 {
			versions["2.0.0"] = new
		}
		return traffic{at(ms + 10), time.Duration(ms) * time.Millisecond, old + new, versions}
	}
	events := []event{
		planned{at(0), []string{"boot systemd 257, start myapp 1.0.0", "upgrade to 2.0.0", "a version that crashes at start", "SIGKILL to the main process"}},
		began{at(0), 0},
		count(250, 0, 0),
		booted{at(900), "systemd 257 (257.9-1)"},
		count(1000, 0, 0),
		count(1250, 100, 0),
		ended{at(1300), 0, true, "PID 71"},
		began{at(1300), 1},
		count(1500, 400, 0),
		count(1750, 800, 50),
		count(2000, 900, 450),
		count(2250, 910, 940),
		ended{at(2400), 1, true, "upgraded: PID 71, now 85"},
		settled{at(2400), 0, 0},
		began{at(2400), 2},
		count(2500, 910, 1440),
		count(2750, 910, 1940),
		ended{at(2800), 2, false, "systemctl reload succeeded with version 2.0.1, which nobody would have thought possible"},
		settled{at(2800), 3, 0},
		began{at(2800), 3},
		count(3000, 910, 2040),
		count(3250, 910, 2040),
		count(3500, 910, 2040),
		count(3750, 910, 2040),
		count(4000, 910, 2040),
		count(4250, 910, 12100),
		ended{at(4300), 3, true, "restarted: PID 85, now 99"},
		settled{at(4300), 3, 6},
	}
	return events
}

// The picture after each event, and the very bytes at the end.
func TestPicture(t *testing.T) {
	for name, s := range map[string]style{"unicode": unicodeStyle, "ascii": asciiStyle} {
		t.Run(name, func(t *testing.T) {
			p := picture{style: s}
			var all strings.Builder
			for _, e := range story() {
				p.apply(e)
				for _, line := range p.frame(79) {
					if n := utf8.RuneCountInString(line); n > 79 {
						t.Errorf("line of %d characters: %q", n, line)
					}
					all.WriteString(line + "\n")
				}
				all.WriteString(strings.Repeat("-", 79) + "\n")
			}
			golden(t, "picture-"+name+".golden", all.String())
		})
	}
}

func TestTerminal(t *testing.T) {
	s := unicodeStyle
	s.colours = true
	var out bytes.Buffer
	v := &terminal{out: &out, picture: picture{style: s}, width: func() int { return 100 }}
	for _, e := range story() {
		v.show(e)
	}
	v.close()
	golden(t, "terminal.golden", strings.ReplaceAll(out.String(), "\x1b", "ESC"))

	// What a terminal shows of it is the last frame and nothing else.
	screen := replay(t, out.String())
	want := v.picture
	want.style.colours = false
	if frame := strings.Join(want.frame(99), "\n"); screen != frame {
		t.Errorf("the terminal shows:\n%s\nwant:\n%s", screen, frame)
	}
}

// replay is a terminal that knows what [terminal] uses. Columns are counted in characters.
func replay(t *testing.T, output string) string {
	t.Helper()
	screen := [][]rune{nil}
	row, column := 0, 0
	for output != "" {
		c, size := utf8.DecodeRuneInString(output)
		sequence := output[:size]
		if c == '\x1b' {
			end := strings.IndexFunc(output[2:], func(r rune) bool { return r >= '@' && r <= '~' }) + 3
			sequence = output[:end]
		}
		output = output[len(sequence):]
		switch last := sequence[len(sequence)-1]; {
		case sequence == "\n":
			row, column = row+1, 0
			if row == len(screen) {
				screen = append(screen, nil)
			}
		case sequence == "\r":
			column = 0
		case c != '\x1b':
			screen[row] = append(screen[row][:min(column, len(screen[row]))], append([]rune{c}, screen[row][min(column+1, len(screen[row])):]...)...)
			column++
		case last == 'A':
			up, err := strconv.Atoi(sequence[2 : len(sequence)-1])
			if err != nil || up > row {
				t.Fatalf("%q in row %d", sequence, row)
			}
			row -= up
		case last == 'K':
			screen[row] = screen[row][:min(column, len(screen[row]))]
		case last == 'J':
			screen = screen[:row+1]
			screen[row] = screen[row][:min(column, len(screen[row]))]
		case last != 'm' && last != 'h' && last != 'l':
			t.Fatalf("unknown sequence %q", sequence)
		}
	}
	var text strings.Builder
	for _, line := range screen {
		text.WriteString(string(line) + "\n")
	}
	return strings.TrimRight(text.String(), "\n")
}

func TestLines(t *testing.T) {
	var out bytes.Buffer
	v := &lines{out: &out}
	for _, e := range story() {
		v.show(e)
	}
	v.close()
	golden(t, "lines.golden", out.String())
}

func TestTable(t *testing.T) {
	rows := []row{
		{Title: "upgrade to 2.0.0", Reload: 1234 * time.Millisecond, Gap: 5600 * time.Microsecond, NewGap: 12 * time.Millisecond, Verdict: verdict{"upgraded", "PID 71, now 85"}},
		{Title: "a version that crashes at start", Reload: 95 * time.Millisecond, Gap: time.Millisecond, NewGap: 2 * time.Millisecond, Problem: "systemctl reload succeeded with version 2.0.1"},
		{Title: "SIGKILL to the main process", Gap: 1100 * time.Millisecond, NewGap: 1200 * time.Millisecond, Verdict: verdict{"restarted", "PID 85, now 99"}},
	}
	var out bytes.Buffer
	if err := writeTable(&out, rows, []string{"SIGKILL: a note"}, []string{"request at 1.500 s: new, port 40001: no process that died held it"}); err != nil {
		t.Fatal(err)
	}
	golden(t, "table.golden", out.String())
}

func TestNewView(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if v, ok := newView(file, 9).(*lines); !ok {
		t.Errorf("for a file: got %T, want lines", v)
	}
}

func TestIsUTF8(t *testing.T) {
	for _, tt := range []struct {
		env  map[string]string
		want bool
	}{
		{nil, false},
		{map[string]string{"LANG": "C"}, false},
		{map[string]string{"LANG": "C.UTF-8"}, true},
		{map[string]string{"LANG": "de_DE.utf8"}, true},
		{map[string]string{"LANG": "C.UTF-8", "LC_ALL": "C"}, false},
		{map[string]string{"LANG": "C", "LC_CTYPE": "C.UTF-8"}, true},
	} {
		if got := isUTF8(func(name string) string { return tt.env[name] }); got != tt.want {
			t.Errorf("%v: got %t, want %t", tt.env, got, tt.want)
		}
	}
}
