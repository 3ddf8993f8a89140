// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/reexec/reexectest"
	"github.com/holdfast-go/holdfast/units"
)

const (
	// answerTimeout bounds what a manager that works does at once.
	answerTimeout = 5 * time.Second
	// stopTimeout is longer than the unit's TimeoutStopSec=.
	stopTimeout = time.Minute
)

// A userManager is the service manager of this login, which the demo borrows: its units have a name of their
// own, and everything is removed at the end.
type userManager struct {
	manager
	here
	runtime  string   // $XDG_RUNTIME_DIR
	programs string   // directory below it
	made     []string // files and directories, in the order in which they were made
	started  bool     // the manager knows the units
}

func newUserManager() *userManager {
	random := make([]byte, 4)
	_, _ = rand.Read(random) // never fails
	m := &userManager{runtime: os.Getenv("XDG_RUNTIME_DIR")}
	m.manager = manager{run: runHere, scope: "--user", unit: "holdfast-demo-" + hex.EncodeToString(random)}
	// Not the name of the service's own runtime directory, which comes and goes with it.
	m.programs = filepath.Join(m.runtime, m.unit+"-programs")
	return m
}

// userManagerAnswers returns nil where this login has a service manager.
func userManagerAnswers(ctx context.Context) error {
	runtime := os.Getenv("XDG_RUNTIME_DIR")
	if runtime == "" {
		return errors.New("no service manager of this login: $XDG_RUNTIME_DIR is not set")
	}
	if _, err := os.Stat(filepath.Join(runtime, "systemd/private")); err != nil {
		return fmt.Errorf("no service manager of this login: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if _, err := newUserManager().managerVersion(ctx); err != nil {
		return fmt.Errorf("no service manager of this login: %w", err)
	}
	return nil
}

// runHere runs a command on this machine.
func runHere(ctx context.Context, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "SYSTEMD_COLORS=0")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("%s: %w", strings.Join(argv, " "), context.Cause(ctx))
	case errors.As(err, &exit):
		err = fmt.Errorf("%s: %w: %w: %s", strings.Join(argv, " "), errExit, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimRight(stdout.String(), "\n"), err
}

// managerVersion is such as "257.9-1~deb13u1".
func (m *userManager) managerVersion(ctx context.Context) (string, error) {
	out, err := m.systemctl(ctx, "show", "--property=Version")
	return strings.TrimPrefix(out, "Version="), err
}

func (m *userManager) title() string { return "systemd --user" }

func (m *userManager) boot(ctx context.Context) (systemd string, err error) {
	version, err := m.managerVersion(ctx)
	if err != nil {
		return "", err
	}
	if err := m.mkdir(m.programs); err != nil {
		return "", err
	}
	return fmt.Sprintf("systemd %d (%s), the manager of this login", majorVersion(version), version), nil
}

// majorVersion is the number that a version begins with; 0 where there is none.
func majorVersion(version string) int {
	digits := len(version) - len(strings.TrimLeft(version, "0123456789"))
	n, _ := strconv.Atoi(version[:digits])
	return n
}

// mkdir makes a directory unless it is there.
func (m *userManager) mkdir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err == nil {
		m.made = append(m.made, dir)
	}
	return err
}

func (m *userManager) put(_ context.Context, name, file string) error {
	content, err := os.Open(file)
	if err != nil {
		return err
	}
	defer content.Close()
	return m.write(filepath.Join(m.programs, name), content, 0o755)
}

// write writes a file at once.
func (m *userManager) write(name string, content io.Reader, mode os.FileMode) error {
	next := name + ".next"
	m.made = append(m.made, next, name)
	file, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	if err := errors.Join(err, file.Chmod(mode), file.Close()); err != nil {
		return err
	}
	return os.Rename(next, name)
}

func (m *userManager) start(ctx context.Context) (string, error) {
	version, err := m.managerVersion(ctx)
	if err != nil {
		return "", err
	}
	address := reexectest.FreeAddress()
	files, err := myappUnits(units.Options{
		Name: m.unit, Exec: filepath.Join(m.programs, "myapp"), Holdfast: filepath.Join(m.programs, "holdfast"),
		Systemd: majorVersion(version), User: true, Sockets: []units.Socket{{Name: "http", Address: address}},
	})
	if err != nil {
		return "", err
	}
	dir := filepath.Join(m.runtime, "systemd/user") // systemd.unit(5): runtime units
	if err := m.mkdir(dir); err != nil {
		return "", err
	}
	for _, f := range files {
		if err := m.write(filepath.Join(dir, f.Name), strings.NewReader(f.Content), 0o644); err != nil {
			return "", err
		}
	}
	m.started = true
	return address, m.startUnits(ctx, files)
}

func (m *userManager) runtimeFile(_ context.Context, name string) ([]byte, error) {
	return os.ReadFile(filepath.Join(m.runtime, m.unit, name))
}

func (m *userManager) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var errs []error
	if m.started {
		_, err := m.systemctl(ctx, "stop", m.unit+".socket", m.unit+".service")
		errs = append(errs, err)
	}
	for _, file := range slices.Backward(m.made) {
		// One that was renamed is gone, and in a directory there may be something of others by now.
		_ = os.Remove(file)
	}
	m.made = nil
	if m.started {
		_, err := m.systemctl(ctx, "daemon-reload")
		errs = append(errs, err)
		// What is left of a unit that failed; an error says that nothing is.
		_, _ = m.systemctl(ctx, "reset-failed", m.unit+".service", m.unit+".socket")
		m.started = false
	}
	return errors.Join(errs...)
}
