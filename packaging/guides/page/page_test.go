// SPDX-License-Identifier: Apache-2.0

package page_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/packaging/guides/page"
)

const text = "# A guide\n\nWrite `a/b.go`, as always:\n\n```go\npackage b\n```\n\n## Try it\n\nThen:\n\n" +
	"```console\n$ make \\\n>   all\nmade\n# make install\n```\n\n```diff\n-old\n+new\n```\n\n````text\n```\n````\n"

func read(t *testing.T, text string) (*page.Page, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return page.Read(name)
}

func TestRead(t *testing.T) {
	p, err := read(t, text)
	if err != nil {
		t.Fatal(err)
	}
	want := []page.Step{
		{Kind: page.File, Line: 5, Heading: "A guide", Name: "a/b.go", Language: "go", Text: "package b\n"},
		{Kind: page.Command, Line: 14, Heading: "Try it", Text: "make \\\n  all", Output: "made\n"},
		{Kind: page.Command, Line: 17, Heading: "Try it", Text: "make install", Root: true},
		{Kind: page.Diff, Line: 20, Heading: "Try it", Language: "diff", Text: "-old\n+new\n"},
		{Kind: page.Sample, Line: 25, Heading: "Try it", Language: "text", Text: "```\n"},
	}
	if !slices.Equal(p.Steps, want) {
		t.Errorf("steps:\n%+v\nwant:\n%+v", p.Steps, want)
	}
	if _, err := p.File("a/c.go"); err == nil {
		t.Error("a file that the page does not have was found")
	}
}

func TestReadErrors(t *testing.T) {
	for name, text := range map[string]string{
		"does not end":                    "```go\npackage b\n",
		"a session begins with a command": "```console\nmade\n```\n",
	} {
		if _, err := read(t, text); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("want an error with %q, got %v", name, err)
		}
	}
}

func TestDiffer(t *testing.T) {
	for _, c := range []struct {
		shown, printed string
		differs        bool
	}{
		{"", "", false},
		{"a\n", "a", false},
		{"a\n[...]\nd\n", "a\nb\nc\nd\n", false},
		{"a\n[...]\n", "a\n", false},
		{"took ... s\n", "took 1.5 s\n", false},
		{"took ... s\n", "took 1.5 s\nb\n", true},
		{"a\n", "", true},
		{"a.c\n", "abc\n", true},
	} {
		if why := page.Differ(c.shown, c.printed); (why != "") != c.differs {
			t.Errorf("Differ(%q, %q): %q", c.shown, c.printed, why)
		}
	}
}
