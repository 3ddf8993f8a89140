// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
)

const (
	myappPackage    = "github.com/holdfast-go/holdfast/packaging/myapp"
	holdfastPackage = "github.com/holdfast-go/holdfast/units/cmd/holdfast"
)

// A program is one build of a command.
type program struct {
	Package string
	Version string // of myapp
	Damage  string // a kind of packaging/myapp/damage.go; empty for a good one
	Arch    string // GOARCH; empty for this machine's
}

var (
	holdfast         = program{Package: holdfastPackage}
	version1         = program{Package: myappPackage, Version: "1.0.0"}
	version2         = program{Package: myappPackage, Version: "2.0.0"}
	crashAtStart     = program{Package: myappPackage, Version: "2.0.1", Damage: "crash-at-start"}
	crashInProbation = program{Package: myappPackage, Version: "2.0.2", Damage: "crash-in-probation"}
	hangAtStart      = program{Package: myappPackage, Version: "2.0.3", Damage: "hang-at-start"}
	otherArch        = program{Package: myappPackage, Version: "2.0.4", Arch: otherArchitecture()}
)

func allPrograms() []program {
	return []program{holdfast, version1, version2, crashAtStart, crashInProbation, hangAtStart, otherArch}
}

// otherArchitecture returns one that this machine cannot run.
func otherArchitecture() string {
	if runtime.GOARCH == "arm64" {
		return "amd64"
	}
	return "arm64"
}

// file returns the path of the program below dir.
func (p program) file(dir string) string {
	name := path.Base(p.Package)
	for _, part := range []string{p.Version, p.Damage, p.Arch} {
		if part != "" {
			name += "-" + part
		}
	}
	return filepath.Join(dir, name)
}

// build compiles the program into dir. The go command does nothing where the file is up to date.
func (p program) build(ctx context.Context, dir string) error {
	args := []string{"build", "-trimpath", "-buildvcs=false", "-o", p.file(dir)}
	ldflags := []string{"-s", "-w"}
	if p.Version != "" {
		ldflags = append(ldflags, "-X", "main.version="+p.Version)
	}
	if p.Damage != "" {
		args = append(args, "-tags=damage")
		ldflags = append(ldflags, "-X", "main.damageKind="+p.Damage)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "-ldflags="+strings.Join(ldflags, " "), p.Package)...)
	// Statically linked, so that it runs on every version's image.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if p.Arch != "" {
		cmd.Env = append(cmd.Env, "GOARCH="+p.Arch)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", filepath.Base(p.file(dir)), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// buildPrograms compiles what the demo runs into dir. Of several errors, which tend to be the same, it
// returns one.
func buildPrograms(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	all := allPrograms()
	errs := make([]error, len(all))
	var building sync.WaitGroup
	for i, p := range all {
		building.Go(func() { errs[i] = p.build(ctx, dir) })
	}
	building.Wait()
	return cmp.Or(errs...)
}

// findPrograms returns an error unless all programs are in dir.
func findPrograms(dir string) error {
	for _, p := range allPrograms() {
		if _, err := os.Stat(p.file(dir)); err != nil {
			return fmt.Errorf("-programs=%s: %w: use -prepare first", dir, err)
		}
	}
	return nil
}

// programsDir returns where the programs are kept: .build/demo in the module's directory.
func programsDir(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if !filepath.IsAbs(mod) || mod == os.DevNull {
		return "", errors.New("not in the module's directory: run it with `make demo` there")
	}
	return filepath.Join(filepath.Dir(mod), ".build", "demo"), nil
}
