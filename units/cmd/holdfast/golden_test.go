// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control/command/term"
)

var update = flag.Bool("update", false, "write the golden files, the pictures, the man pages")

// screens are where output is looked at.
var screens = []struct {
	name string
	term term.Terminal
}{
	{"wide", term.Terminal{Width: 100, Height: 30, Color: true, Redraw: true}},
	{"narrow", term.Terminal{Width: 48, Height: 30, Color: true, Redraw: true}},
	{"no colour", term.Terminal{Width: 100, Height: 30, Redraw: true}},
	{"ASCII", term.Terminal{Width: 100, Height: 30, Redraw: true, ASCII: true}},
	{"pipe", term.Terminal{}},
}

// onScreens is the output of show on all screens.
func onScreens(show func(t term.Terminal) string) string {
	var b strings.Builder
	for _, s := range screens {
		b.WriteString("== " + s.name + " ==\n" + show(s.term))
	}
	return b.String()
}

// part is one of the outputs of onScreens.
func part(t *testing.T, text, name string) string {
	t.Helper()
	_, rest, ok := strings.Cut(text, "== "+name+" ==\n")
	if !ok {
		t.Fatalf("no part %q in\n%s", name, text)
	}
	rest, _, _ = strings.Cut(rest, "\n== ")
	return strings.TrimSuffix(rest, "\n") + "\n"
}

// golden compares got with a file of testdata, or writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	goldenFile(t, filepath.Join("testdata", name), got)
}

func goldenFile(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v: go test -update writes it", err)
	}
	if got != string(want) {
		t.Errorf("%s differs: go test -update writes it. Got\n%s\nwant\n%s", path, got, want)
	}
}

// now is when the screens are looked at.
var now = time.Date(2026, 11, 22, 19, 2, 23, 0, time.UTC)
