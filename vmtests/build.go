// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// Build compiles the main package pkg, an import path of this module, for a machine: statically linked,
// so that it runs on every version. It puts the program into dir under the last element of pkg and
// returns its path. Flags go to "go build", such as "-ldflags=-X main.version=2". The go command must be
// in PATH, and the working directory inside the module, as it is in tests.
func Build(ctx context.Context, dir, pkg string, flags ...string) (string, error) {
	program := filepath.Join(dir, path.Base(pkg))
	args := append([]string{"build", "-trimpath", "-buildvcs=false", "-o", program}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, strings.TrimSpace(string(out)))
	}
	return program, nil
}

// install compiles a program and puts it into the machine, once for each machine.
func (m *Machine) install(ctx context.Context, pkg, to string) error {
	m.installed.mu.Lock()
	defer m.installed.mu.Unlock()
	if m.installed.paths[to] {
		return nil
	}
	dir, err := os.MkdirTemp(filepath.Join(runDirs, m.Name), "build-*") // swept if we die
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program, err := Build(ctx, dir, pkg, "-ldflags=-s -w")
	if err != nil {
		return err
	}
	if err := m.Copy(ctx, program, to, 0o755); err != nil {
		return err
	}
	if m.installed.paths == nil {
		m.installed.paths = make(map[string]bool)
	}
	m.installed.paths[to] = true
	return nil
}

// forgetInstalled says that the programs of ours are gone with /run, or may be.
func (m *Machine) forgetInstalled() {
	m.installed.mu.Lock()
	defer m.installed.mu.Unlock()
	m.installed.paths = nil
}
