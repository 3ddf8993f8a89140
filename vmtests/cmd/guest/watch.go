// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"

	"github.com/godbus/dbus/v5"
)

// Names of org.freedesktop.systemd1(5).
const (
	manager     = "org.freedesktop.systemd1"
	managerPath = dbus.ObjectPath("/org/freedesktop/systemd1")
	properties  = "org.freedesktop.DBus.Properties"
)

// watch writes the named properties of unit, and again after each change, until ctx ends.
func watch(ctx context.Context, unit string, names []string, out io.Writer) error {
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("connect to the system bus: %w", err)
	}
	defer bus.Close()
	systemd := bus.Object(manager, managerPath)
	var path dbus.ObjectPath
	if err := systemd.CallWithContext(ctx, manager+".Manager.LoadUnit", 0, unit).Store(&path); err != nil {
		return fmt.Errorf("load %s: %w", unit, err)
	}
	// First the signals, then the values: so no change falls in between.
	changes := make(chan *dbus.Signal, 64)
	bus.Signal(changes)
	if err := bus.AddMatchSignalContext(ctx, dbus.WithMatchObjectPath(path), dbus.WithMatchInterface(properties), dbus.WithMatchMember("PropertiesChanged")); err != nil {
		return fmt.Errorf("match signals of %s: %w", unit, err)
	}
	if err := systemd.CallWithContext(ctx, manager+".Manager.Subscribe", 0).Err; err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}

	lines := json.NewEncoder(out)
	var last map[string]string
	for {
		all := make(map[string]dbus.Variant)
		if err := bus.Object(manager, path).CallWithContext(ctx, properties+".GetAll", 0, "").Store(&all); err != nil {
			return fmt.Errorf("get properties of %s: %w", unit, err)
		}
		values := make(map[string]string)
		for _, name := range names {
			value, ok := all[name]
			if !ok {
				return fmt.Errorf("%s has no property %s", unit, name)
			}
			values[name] = text(value)
		}
		if last == nil || !maps.Equal(last, values) {
			if err := lines.Encode(values); err != nil {
				return err
			}
			last = values
		}
		if _, ok := <-changes; !ok {
			return errors.New("the bus closed the connection")
		}
		for len(changes) > 0 { // one look answers for all of them
			<-changes
		}
	}
}

// text formats a property as "systemctl show" does, for the simple types.
func text(value dbus.Variant) string {
	if b, ok := value.Value().(bool); ok {
		if b {
			return "yes"
		}
		return "no"
	}
	return fmt.Sprint(value.Value())
}
