// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/holdfast-go/holdfast/units"
)

// A manager is a systemd that is told what to do by systemctl.
type manager struct {
	// run runs a command and returns its standard output. The error wraps errExit when the command ran and
	// had another exit status than 0.
	run func(ctx context.Context, argv ...string) (string, error)
	// scope is "--system" or "--user".
	scope string
	// unit is the name of the service, without ".service", and of its socket.
	unit string
}

var errExit = errors.New("exit status is not 0")

func (m *manager) systemctl(ctx context.Context, args ...string) (string, error) {
	return m.run(ctx, append([]string{"systemctl", m.scope, "--no-pager"}, args...)...)
}

// startUnits has the manager read the units and starts them.
func (m *manager) startUnits(ctx context.Context, files []units.File) error {
	if _, err := m.systemctl(ctx, "daemon-reload"); err != nil {
		return err
	}
	args := []string{"start"}
	for _, f := range files {
		args = append(args, f.Name)
	}
	_, err := m.systemctl(ctx, args...)
	return err
}

func (m *manager) reload(ctx context.Context) error {
	_, err := m.systemctl(ctx, "reload", m.unit+".service")
	if errors.Is(err, errExit) {
		return fmt.Errorf("%w: %w", errReload, err)
	}
	return err
}

func (m *manager) properties(ctx context.Context, names ...string) (map[string]string, error) {
	out, err := m.systemctl(ctx, "show", "--property="+strings.Join(names, ","), "--", m.unit+".service")
	if err != nil {
		return nil, err
	}
	properties := make(map[string]string)
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		properties[name] = value
	}
	return properties, nil
}

func (m *manager) journal(ctx context.Context) (string, error) {
	unit := "--unit="
	if m.scope == "--user" {
		unit = "--user-unit="
	}
	return m.run(ctx, "journalctl", unit+m.unit+".service", "--lines=15",
		"--no-pager", "--quiet", "--output=short-monotonic", "--no-hostname")
}
