// SPDX-License-Identifier: Apache-2.0

// Package guidetest does what a guide says, word by word, as a reader does who has Go, a published Holdfast and
// an empty directory. It is for tests only.
package guidetest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-go/holdfast/packaging/guides/page"
)

// A Reader is somebody at a shell who reads a page.
type Reader struct {
	Page *page.Page
	Dir  string   // where they are
	Env  []string // NAME=value; they inherit the rest

	// Instead are commands of the page that cannot be had in a test, and what is done in their place. One that
	// the page does not have is an error.
	Instead map[string]func(t testing.TB)

	// Root runs a command for root, and returns what it prints; with All it runs every command. Default: those of the
	// page are run as others are.
	Root func(t testing.TB, command string) (printed string, err error)
	All  bool

	used map[string]bool
}

// New returns a reader of a page, in an empty directory, with the command holdfast installed.
func New(t testing.TB, name string) *Reader {
	t.Helper()
	p, err := page.Read(name)
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(t.TempDir(), "bin")
	Build(t, Root(t), "./units/cmd/holdfast", filepath.Join(bin, "holdfast"))
	return &Reader{
		Page: p,
		Dir:  t.TempDir(),
		Env:  append(GoEnv(t), "PATH="+bin+":"+os.Getenv("PATH")),
		used: make(map[string]bool),
	}
}

// Build builds a program in dir and puts it at a path.
func Build(t testing.TB, dir, pkg, to string, flags ...string) {
	t.Helper()
	build(t, dir, nil, pkg, to, flags...)
}

// Build builds a program where the reader is, as Build does.
func (r *Reader) Build(t testing.TB, pkg, to string, flags ...string) {
	t.Helper()
	build(t, r.Dir, r.Env, pkg, to, flags...)
}

func build(t testing.TB, dir string, env []string, pkg, to string, flags ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append(append([]string{"build", "-o", to}, flags...), pkg)...)
	cmd.Dir, cmd.Env = dir, append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s in %s: %v\n%s", pkg, dir, err, out)
	}
	// With a wide umask others could write it, and an upgrade would refuse it.
	if err := os.Chmod(to, 0o755); err != nil {
		t.Fatal(err)
	}
}

// Follow does what the page says under a heading, or on the whole page for "": writes the files, applies the diffs, runs the
// commands, and compares what they print.
func (r *Reader) Follow(t testing.TB, heading string) {
	t.Helper()
	done := 0
	for _, s := range r.Page.Steps {
		if heading != "" && s.Heading != heading {
			continue
		}
		switch s.Kind {
		case page.File:
			r.write(t, s)
		case page.Diff:
			r.patch(t, s)
		case page.Command:
			r.run(t, s)
		default:
			continue
		}
		done++
	}
	if done == 0 {
		t.Fatalf("%s: nothing is to be done under %q", r.Page.Name, heading)
	}
}

// Finish checks that nothing was replaced that the page does not say.
func (r *Reader) Finish(t testing.TB) {
	t.Helper()
	for command := range r.Instead {
		if !r.used[command] {
			t.Errorf("%s does not say %q, which the test does in another way", r.Page.Name, command)
		}
	}
}

func (r *Reader) write(t testing.TB, s page.Step) {
	t.Helper()
	name := filepath.Join(r.Dir, s.Name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	mode := os.FileMode(0o644)
	if strings.HasPrefix(s.Text, "#!") {
		mode = 0o755
	}
	if err := os.WriteFile(name, []byte(s.Text), mode); err != nil {
		t.Fatal(err)
	}
}

func (r *Reader) patch(t testing.TB, s page.Step) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", "apply", "-p1", "-")
	cmd.Dir, cmd.Stdin = r.Dir, strings.NewReader(s.Text)
	// A directory below somebody's repository is none of it.
	cmd.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(r.Dir))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s:%d: the diff does not apply: %v\n%s", r.Page.Name, s.Line, err, out)
	}
}

func (r *Reader) run(t testing.TB, s page.Step) {
	t.Helper()
	if instead := r.Instead[s.Text]; instead != nil {
		r.used[s.Text] = true
		instead(t)
		return
	}
	if (s.Root || r.All) && r.Root != nil {
		printed, err := r.Root(t, s.Text)
		if err != nil {
			t.Fatalf("%s:%d: %s: %v\n%s", r.Page.Name, s.Line, s.Text, err, printed)
		}
		r.compare(t, s, printed)
		return
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-euc", s.Text)
	cmd.Dir, cmd.Env = r.Dir, append(os.Environ(), r.Env...)
	var out, all bytes.Buffer
	var mu sync.Mutex
	cmd.Stdout, cmd.Stderr = &both{&mu, &out, &all}, &both{&mu, nil, &all}
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s:%d: %s: %v\n%s", r.Page.Name, s.Line, s.Text, err, all.String())
	}
	r.compare(t, s, out.String())
}

// compare compares what a command printed with what the page shows. One of which it shows nothing may print.
func (r *Reader) compare(t testing.TB, s page.Step, printed string) {
	t.Helper()
	if s.Output == "" {
		return
	}
	if why := page.Differ(s.Output, printed); why != "" {
		t.Errorf("%s:%d: %s: %s", r.Page.Name, s.Line, s.Text, why)
	}
}

// both writes to two buffers, of which another may write to the second.
type both struct {
	mu       *sync.Mutex
	out, all *bytes.Buffer
}

func (b *both) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.out != nil {
		b.out.Write(p)
	}
	return b.all.Write(p)
}
