// SPDX-License-Identifier: Apache-2.0

// Package holdfast has the files that are installed with the command holdfast, beside it
// and its man pages. Files has what makes `holdfast serve` a service of systemd, D-Bus and
// polkit:
//
//	holdfast-upgrade.service         /usr/lib/systemd/system/
//	org.holdfast.Upgrade1.service    /usr/share/dbus-1/system-services/
//	org.holdfast.Upgrade1.conf       /usr/share/dbus-1/system.d/
//	org.holdfast.Upgrade1.xml        /usr/share/dbus-1/interfaces/
//	org.holdfast.upgrade1.policy     /usr/share/polkit-1/actions/
//	50-deploy.rules.example          /usr/share/doc/holdfast/
//	deploy.pkla.example              /usr/share/doc/holdfast/
//	deploy.sudoers.example           /usr/share/doc/holdfast/
//
// Beside them is what makes the upgrade of a package a hot upgrade:
//
//	package                          /usr/libexec/holdfast/, called by maintainer scripts
//	needrestart                      /usr/libexec/holdfast/, called by needrestart
//	needrestart.conf                 /etc/needrestart/conf.d/holdfast.conf
package holdfast

import "embed"

// Files are those files, by the names above.
//
//go:embed *.service org.holdfast.Upgrade1.conf *.xml *.policy *.example
var Files embed.FS

// Interface is the introspection data of org.holdfast.Upgrade1, the same as the
// installed file.
//
//go:embed org.holdfast.Upgrade1.xml
var Interface string
