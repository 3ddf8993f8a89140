// SPDX-License-Identifier: Apache-2.0

// Package packages has the stories about packages: real apt and dpkg, real dnf and rpm, in machines of
// package vmtests. What stories need to make is here: packages of myapp in any version and with any damage
// ([Builder]), the same service packaged as debhelper does by default ([Builder.Debhelper]), and a signed
// repository of apt ([Repository]).
//
// What it runs on the host is installed by the script install beside it.
package packages

import "github.com/holdfast-go/holdfast/vmtests"

// Needrestart is the package of Debian that restarts services whose file or libraries were replaced.
const Needrestart = "needrestart"

// NeedrestartVersions are those on which there are stories with it, each with its image.
func NeedrestartVersions() []vmtests.Version {
	return []vmtests.Version{vmtests.Systemd252, vmtests.Systemd257}
}
