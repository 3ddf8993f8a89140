// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// sources are the main package of each package, and its manual pages.
var sources = map[string]struct{ pkg, man string }{
	"holdfast": {"./units/cmd/holdfast", "packaging/holdfast/man/*.1"},
	"myapp":    {"./packaging/myapp", "packaging/myapp/*.8"},
}

// builder builds packages of one version.
type builder struct {
	root    string // of the module
	work    string // what is prepared for nfpm, gone in the end
	version string // of the programs
	epoch   time.Time
}

func newBuilder(ctx context.Context, version string) (*builder, error) {
	out, err := output(exec.CommandContext(ctx, "go", "env", "GOMOD"))
	if err != nil {
		return nil, err
	}
	b := &builder{root: filepath.Dir(out)}
	if out == "" || out == os.DevNull {
		return nil, errors.New("go env GOMOD: no module: run it inside the checkout of Holdfast")
	}
	if b.version, err = programVersion(ctx, b.root, version); err != nil {
		return nil, err
	}
	if b.epoch, err = sourceDate(ctx, b.root); err != nil {
		return nil, err
	}
	b.work, err = os.MkdirTemp("", "packages-*")
	return b, err
}

func (b *builder) close() { os.RemoveAll(b.work) }

// sourceDate is the time of everything in the packages.
func sourceDate(ctx context.Context, root string) (time.Time, error) {
	text, from := os.Getenv("SOURCE_DATE_EPOCH"), "SOURCE_DATE_EPOCH"
	if text == "" {
		from = "time of the commit"
		var err error
		if text, err = git(ctx, root, "log", "-1", "--format=%ct"); err != nil {
			return time.Time{}, fmt.Errorf("%w; outside of git set SOURCE_DATE_EPOCH", err)
		}
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", from, err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// prepare makes what is the same for all architectures.
func (b *builder) prepare(ctx context.Context, name string) error {
	dir := filepath.Join(b.work, name)
	for _, d := range []string{"man", "completion"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	pages, err := filepath.Glob(filepath.Join(b.root, sources[name].man))
	if err != nil {
		return err
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			return err
		}
		if err := writeGzip(filepath.Join(dir, "man", filepath.Base(page)+".gz"), text); err != nil {
			return err
		}
	}
	changelog := fmt.Sprintf("%s (%s) unstable; urgency=medium\n\n  * Version %s.\n\n -- Holdfast <holdfast@example.org>  %s\n",
		name, packageVersion(b.version), b.version, b.epoch.Format(time.RFC1123Z))
	if err := writeGzip(filepath.Join(dir, "changelog.gz"), []byte(changelog)); err != nil {
		return err
	}
	if name != "holdfast" {
		return nil
	}
	// For the .deb only, so it is not among the others.
	page, err := os.ReadFile(filepath.Join(b.root, "packaging/debhelper/dh_holdfast.1"))
	if err != nil {
		return err
	}
	if err := writeGzip(filepath.Join(dir, "dh_holdfast.1.gz"), page); err != nil {
		return err
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		script, err := output(b.goCommand(ctx, nil, "run", sources[name].pkg, "completion", shell))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "completion", "holdfast."+shell), []byte(script+"\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// program builds the program of a package, or takes the one that is there.
func (b *builder) program(ctx context.Context, name, arch, built string) error {
	to := filepath.Join(b.work, name, name)
	if built != "" {
		content, err := os.ReadFile(built)
		if err != nil {
			return err
		}
		return os.WriteFile(to, content, 0o755)
	}
	_, err := output(b.goCommand(ctx, []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + arch},
		"build", "-trimpath", "-ldflags=-s -w -X main.version="+b.version, "-o", to, sources[name].pkg))
	return err
}

// pack has nfpm make one package, and says what it is.
func (b *builder) pack(ctx context.Context, name, arch, format, dir string) (string, error) {
	release := ""
	if format == "rpm" {
		release = "1"
	}
	// Into an empty directory, so that it is known what the package is called.
	into, err := os.MkdirTemp(dir, ".new-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(into)
	if _, err := output(b.goCommand(ctx, []string{
		"VERSION=" + packageVersion(b.version), "RELEASE=" + release, "ARCH=" + arch, "BUILD=" + filepath.Join(b.work, name),
		"SOURCE_DATE_EPOCH=" + strconv.FormatInt(b.epoch.Unix(), 10),
	}, "tool", "-modfile=packaging/tools/go.mod", "nfpm", "package", "--config=packaging/nfpm/"+name+".yaml", "--packager="+format, "--target="+into)); err != nil {
		return "", err
	}
	made, err := filepath.Glob(filepath.Join(into, "*."+format))
	if err != nil || len(made) != 1 {
		return "", fmt.Errorf("nfpm made %q (%w), want one file", made, err)
	}
	file := filepath.Join(dir, filepath.Base(made[0]))
	if err := os.Rename(made[0], file); err != nil {
		return "", err
	}
	return describe(ctx, file, format)
}

// describe is a line about a package: its name, size, and what it depends on, if a tool is there that says it.
func describe(ctx context.Context, file, format string) (string, error) {
	info, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	query := []string{"dpkg-deb", "-f", file, "Depends"}
	if format == "rpm" {
		query = []string{"rpm", "-qp", "--requires", file}
	}
	needs, err := output(exec.CommandContext(ctx, query[0], query[1:]...))
	switch {
	case errors.Is(err, exec.ErrNotFound):
		needs = "not known, " + query[0] + " is not installed"
	case err != nil:
		return "", err
	case needs == "":
		needs = "nothing"
	}
	return fmt.Sprintf("%s: %.1f MB, depends on %s", file, float64(info.Size())/1e6, strings.ReplaceAll(needs, "\n", ", ")), nil
}

// goCommand is the go command at the root of the module.
func (b *builder) goCommand(ctx context.Context, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = b.root
	cmd.Env = append(os.Environ(), env...)
	return cmd
}

// output runs a command and returns what it prints, without the last newline.
func output(cmd *exec.Cmd) (string, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(append(out, stderr.Bytes()...)))
	}
	return strings.TrimRight(string(out), "\n"), nil
}

func git(ctx context.Context, dir string, args ...string) (string, error) {
	return output(exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...))
}

// writeGzip compresses as gzip -9n does: without a time, so that the bytes are always the same.
func writeGzip(path string, text []byte) error {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), fs.FileMode(0o644))
}
