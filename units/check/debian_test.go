// SPDX-License-Identifier: Apache-2.0

package check_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/units/check"
)

var update = flag.Bool("update", false, "write the golden files")

// minDebian is how many units of Debian there are at least.
const minDebian = 20

// TestDebian judges units that are in use, none of which has ever heard of Holdfast. Each of
// the golden files was read with its unit beside it: what it says is so.
func TestDebian(t *testing.T) {
	files, err := filepath.Glob("testdata/debian/*/*.service")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < minDebian {
		t.Fatalf("%d units of Debian in testdata/debian, want %d and more", len(files), minDebian)
	}
	root := os.DirFS("testdata/debian")
	for _, file := range files {
		name := strings.Replace(filepath.Base(file), "@.", "@1.", 1)
		t.Run(name, func(t *testing.T) {
			r, err := check.Files(t.Context(), root, name, check.Options{
				Systemd: 252, Directories: []string{"/" + filepath.Base(filepath.Dir(file))},
			})
			if err != nil {
				t.Fatal(err)
			}
			if r.Holdfast || r.Mode != "" {
				t.Errorf("taken for a Holdfast service of the mode %q", r.Mode)
			}
			for _, f := range r.Findings {
				if f.Level == check.Error {
					t.Errorf("%s=: an error in a unit whose upgrade is its own matter: %s", f.Option, f.Why)
				}
			}
			golden(t, file+".golden", text(r))
		})
	}
}

// text is a report as the golden files have it.
func text(r *check.Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d errors, %d warnings, %d notes\n", r.Unit, r.Count(check.Error), r.Count(check.Warning), r.Count(check.Note))
	for _, f := range r.Findings {
		found := f.Found
		if found == "" {
			found = "no " + f.Option + "="
		}
		fmt.Fprintf(&b, "\n%s: [%s] %s (%s:%d)\n  %s\n", f.Level, f.Section, found, f.File, f.Line, f.Why)
		for _, w := range f.Write {
			fmt.Fprintf(&b, "  write: %s\n", w)
		}
	}
	return b.String()
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v: run go test with -update, and read what it writes", err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
