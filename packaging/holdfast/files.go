// SPDX-License-Identifier: Apache-2.0

// Package holdfast has the files that are installed with the command holdfast, beside it
// and its man pages: what makes `holdfast serve` a service of systemd, D-Bus and polkit.
//
//	holdfast-upgrade.service         /usr/lib/systemd/system/
//	org.holdfast.Upgrade1.service    /usr/share/dbus-1/system-services/
//	org.holdfast.Upgrade1.conf       /usr/share/dbus-1/system.d/
//	org.holdfast.Upgrade1.xml        /usr/share/dbus-1/interfaces/
//	org.holdfast.upgrade1.policy     /usr/share/polkit-1/actions/
//	50-deploy.rules.example          /usr/share/doc/holdfast/
//	deploy.pkla.example              /usr/share/doc/holdfast/
//	deploy.sudoers.example           /usr/share/doc/holdfast/
package holdfast

import "embed"

// Files are those files, by the names above.
//
//go:embed *.service *.conf *.xml *.policy *.example
var Files embed.FS

// Interface is the introspection data of org.holdfast.Upgrade1, the same as the
// installed file.
//
//go:embed org.holdfast.Upgrade1.xml
var Interface string
