// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Systemctl runs systemctl with the given arguments and returns its standard output.
func (m *Machine) Systemctl(ctx context.Context, args ...string) (string, error) {
	return m.Output(ctx, append([]string{"systemctl", "--no-pager"}, args...)...)
}

// Prop returns one property of a unit as "systemctl show" prints it, such as Prop(ctx, "myapp.service", "MainPID").
// A property that this systemd does not know is an error, unlike for systemctl.
func (m *Machine) Prop(ctx context.Context, unit, name string) (string, error) {
	props, err := m.Props(ctx, unit, name)
	if err != nil {
		return "", err
	}
	return props[name], nil
}

// Props returns several properties of a unit, all of the same moment.
func (m *Machine) Props(ctx context.Context, unit string, names ...string) (map[string]string, error) {
	out, err := m.Systemctl(ctx, "show", "--property="+strings.Join(names, ","), "--", unit)
	if err != nil {
		return nil, err
	}
	props := make(map[string]string)
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		props[name] = value
	}
	for _, name := range names {
		if _, ok := props[name]; !ok {
			return nil, fmt.Errorf("%s: %s has no property %s under %v", m.Name, unit, name, m.Version)
		}
	}
	return props, nil
}

// MainPID returns the PID inside of the main process of a unit, 0 when it has none.
func (m *Machine) MainPID(ctx context.Context, unit string) (int, error) {
	text, err := m.Prop(ctx, unit, "MainPID")
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("%s: MainPID=%q of %s: %w", m.Name, text, unit, err)
	}
	return pid, nil
}

// failedUnits lists what systemd says failed, for messages.
func (m *Machine) failedUnits(ctx context.Context) string {
	out, err := m.Systemctl(ctx, "list-units", "--failed", "--no-legend", "--plain")
	if err != nil {
		return err.Error()
	}
	return out
}
