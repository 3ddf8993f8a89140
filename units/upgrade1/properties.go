// SPDX-License-Identifier: Apache-2.0

package upgrade1

import "github.com/godbus/dbus/v5"

// properties is org.freedesktop.DBus.Properties.
type properties struct{ *session }

func (p properties) all() map[string]dbus.Variant {
	return map[string]dbus.Variant{
		"Version": dbus.MakeVariant(p.Version),
		"Active":  dbus.MakeVariant(p.rollouts.ids()),
	}
}

func (p properties) Get(iface, name string) (dbus.Variant, *dbus.Error) {
	all, err := p.GetAll(iface)
	if err != nil {
		return dbus.Variant{}, err
	}
	value, ok := all[name]
	if !ok {
		return dbus.Variant{}, fail("org.freedesktop.DBus.Error.UnknownProperty", "property %q: there are only Version and Active", name)
	}
	return value, nil
}

func (p properties) GetAll(iface string) (map[string]dbus.Variant, *dbus.Error) {
	// An empty name stands for all interfaces.
	if iface != Interface && iface != "" {
		return nil, fail("org.freedesktop.DBus.Error.UnknownInterface", "interface %q: it has no properties, %s has", iface, Interface)
	}
	return p.all(), nil
}

func (p properties) Set(_, name string, _ dbus.Variant) *dbus.Error {
	return fail("org.freedesktop.DBus.Error.PropertyReadOnly", "property %q: it can only be read", name)
}
