// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
)

// output runs f with files for standard output and error, and returns what it wrote there.
func output(t *testing.T, f func(stdout, stderr *os.File)) (out, errs string) {
	t.Helper()
	var files [2]*os.File
	for i := range files {
		file, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		files[i] = file
	}
	f(files[0], files[1])
	var texts [2]string
	for i, file := range files {
		text, err := os.ReadFile(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		texts[i] = string(text)
	}
	return texts[0], texts[1]
}

func TestUsage(t *testing.T) {
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"-h"}, 0, "usage: prepare"},
		{[]string{"-nonsense"}, 2, "usage: prepare"},
		{[]string{"-lane=both"}, 2, `prepare: -lane="both": must be all, containers or vm`},
		{[]string{"258"}, 2, `prepare: systemd version "258": must be one of 247, 252, 257, 262`},
	} {
		out, errs := output(t, func(stdout, stderr *os.File) {
			if code := run(t.Context(), test.args, stdout, stderr); code != test.code {
				t.Errorf("%q: got exit status %d, want %d", test.args, code, test.code)
			}
		})
		if out != "" || !strings.Contains(errs, test.want) {
			t.Errorf("%q: got %q and %q, want nothing and %q", test.args, out, errs, test.want)
		}
	}
}

// In a pipe there is one line for each step, when it is over, and nothing else.
func TestReportInPipe(t *testing.T) {
	out, errs := output(t, func(stdout, stderr *os.File) {
		r := newReport(stdout, stderr)
		one, two := r.begin("one"), r.begin("two")
		fmt.Fprintln(one, "I: working")
		two.end("built")
		one.end("failed")
		r.close()
	})
	if want := regexp.MustCompile(`^two +built, 0\.\d s\none +failed, 0\.\d s\n$`); !want.MatchString(out) || errs != "" {
		t.Errorf("got %q and %q, want %v and nothing", out, errs, want)
	}
}

// On a terminal there is one more line, which shows what goes on and is gone at the end.
func TestReportOnTerminal(t *testing.T) {
	var out, terminal bytes.Buffer
	r := &report{stdout: io.MultiWriter(&out, &terminal), stop: make(chan struct{}), terminal: &terminal}
	s := r.begin("image")
	fmt.Fprint(s, "I: extracting\nI: installing a package with a name that goes on and on beyond the edge of the screen\n")
	r.mu.Lock()
	r.draw()
	r.mu.Unlock()
	s.end("built")
	r.close()

	// A line as a terminal shows it: what follows the last erasure.
	var shown []string
	for line := range strings.SplitSeq(terminal.String(), "\n") {
		shown = append(shown, line[strings.LastIndex(line, "\x1b[K")+len("\x1b[K"):])
	}
	if len(shown) != 2 || !strings.HasPrefix(shown[0], "image ") || !strings.Contains(shown[0], "built") || shown[1] != "" {
		t.Errorf("the terminal shows %q, want the step and an empty line", shown)
	}
	if !strings.Contains(terminal.String(), "image 0 s: I: installing") {
		t.Errorf("the terminal did not show what goes on: %q", terminal.String())
	}
	for line := range strings.SplitSeq(terminal.String(), "\x1b[K") {
		if line, _, _ = strings.Cut(line, "\n"); len(line) > 80 {
			t.Errorf("%q is wider than a terminal", line)
		}
	}
	if out.String() == "" || strings.Contains(out.String(), "\x1b") {
		t.Errorf("standard output: got %q, want lines", out.String())
	}
}
