// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// RPMVersions are the versions of machines with rpm: those of RHEL 9 and 10.
func RPMVersions() []Version { return []Version{Systemd252, Systemd257} }

// What [RPMImage] has of systemd's own src/rpm, beside the command systemd-update-helper that they call.
const (
	// SystemdMacros are the macros of spec files; rpmbuild(8) reads them by itself.
	SystemdMacros = "/usr/lib/rpm/macros.d/macros.systemd"
	// SystemdTriggers are the file triggers of systemd's package, for the %include of a spec file.
	SystemdTriggers = "/usr/lib/rpm/triggers.systemd"
)

// rpmPackages are rpm, rpmbuild, dnf, and what makes a repository.
var rpmPackages = []string{"rpm", "dnf", "createrepo-c"}

// systemdRPMPaths are the values that systemd's meson.build gives to what stands in src/rpm/*.in, on a system of rpm.
var systemdRPMPaths = []struct{ name, value string }{
	{"BINFMT_DIR", "/usr/lib/binfmt.d"},
	{"ENVIRONMENT_DIR", "/usr/lib/environment.d"},
	{"KERNEL_INSTALL_DIR", "/usr/lib/kernel/install.d"},
	{"LIBEXECDIR", "/usr/lib/systemd"},
	{"MODPROBE_DIR", "/usr/lib/modprobe.d"},
	{"MODULESLOAD_DIR", "/usr/lib/modules-load.d"},
	{"ROOTLIBEXECDIR", "/usr/lib/systemd"},
	{"SYSCTL_DIR", "/usr/lib/sysctl.d"},
	{"SYSTEMD_CATALOG_DIR", "/usr/lib/systemd/catalog"},
	{"SYSTEMD_UPDATE_HELPER_PATH", "/usr/lib/systemd/systemd-update-helper"},
	{"SYSTEM_DATA_UNIT_DIR", "/usr/lib/systemd/system"},
	{"SYSTEM_ENV_GENERATOR_DIR", "/usr/lib/systemd/system-environment-generators"},
	{"SYSTEM_GENERATOR_DIR", "/usr/lib/systemd/system-generators"},
	{"SYSTEM_PRESET_DIR", "/usr/lib/systemd/system-preset"},
	{"SYSUSERS_DIR", "/usr/lib/sysusers.d"},
	{"TMPFILES_DIR", "/usr/lib/tmpfiles.d"},
	{"UDEV_HWDB_DIR", "/usr/lib/udev/hwdb.d"},
	{"UDEV_RULES_DIR", "/usr/lib/udev/rules.d"},
	{"UPDATE_HELPER_USER_TIMEOUT", "15s"},
	{"UPDATE_HELPER_USER_TIMEOUT_SEC", "15"},
	{"USER_DATA_UNIT_DIR", "/usr/lib/systemd/user"},
	{"USER_ENV_GENERATOR_DIR", "/usr/lib/systemd/user-environment-generators"},
	{"USER_GENERATOR_DIR", "/usr/lib/systemd/user-generators"},
	{"USER_PRESET_DIR", "/usr/lib/systemd/user-preset"},
	{"USER_TMPFILES_DIR", "/usr/share/user-tmpfiles.d"},
}

// systemdRPMHook installs systemd's macros, triggers and helper for rpm, which Debian does not package, from the
// source package of the systemd in the image. It comes before [baseHooks], which remove the way to the mirror.
func systemdRPMHook() string {
	var values strings.Builder
	for _, p := range systemdRPMPaths {
		fmt.Fprintf(&values, "s|{{%s}}|%s|g;", p.name, p.value)
	}
	return fmt.Sprintf(`set -e
root=$1
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
version=$(dpkg-query --admindir="$root/var/lib/dpkg" -W -f '${source:Version}' systemd)
sources=$root/etc/apt/sources.list.d/source-of-systemd.list
sed -n 's/^deb /deb-src /p' "$root/etc/apt/sources.list" >"$sources"
apt-get -q update
work=$root/tmp/source-of-systemd
mkdir "$work"
cd "$work"
apt-get -q source --download-only "systemd=$version"
tar -xf systemd_*.orig.tar.* --wildcards --no-wildcards-match-slash --strip-components=3 '*/src/rpm/*.in'
sed -i '%s' ./*.in
if grep -n '{[{%%]' ./*.in; then
	echo 'systemd has placeholders that vmtests/image_rpm.go does not know' >&2
	exit 1
fi
install -D -m 644 macros.systemd.in "$root%s"
install -D -m 644 triggers.systemd.sh.in "$root%s"
install -D -m 755 systemd-update-helper.in "$root/usr/lib/systemd/systemd-update-helper"
cd /
rm -rf "$work" "$sources"`, values.String(), SystemdMacros, SystemdTriggers)
}

func rpmRecipe(v Version) (recipe, error) {
	if !slices.Contains(RPMVersions(), v) {
		return recipe{}, fmt.Errorf("%v: there are machines with rpm of %v only", v, RPMVersions())
	}
	r, err := containerRecipe(v)
	r.Packages = slices.Concat(r.Packages, rpmPackages)
	r.Hooks = slices.Concat([]string{systemdRPMHook()}, r.Hooks)
	return r, err
}

// RPMImage is [ContainerImage] with rpm, dnf and createrepo_c, for one of [RPMVersions]. It is a Debian all the same:
// rpm's database is empty. What systemd brings along for rpm is there as [SystemdMacros] and [SystemdTriggers],
// of the same version.
func RPMImage(ctx context.Context, v Version, log io.Writer) (*Image, error) {
	r, err := rpmRecipe(v)
	if err != nil {
		return nil, err
	}
	return r.image(ctx, log)
}

// BootRPM is [Boot] with what [RPMImage] has in the machine.
func BootRPM(ctx context.Context, v Version) (*Machine, error) {
	return bootImage(ctx, v, Setup{}, func(ctx context.Context) (*Image, error) { return RPMImage(ctx, v, nil) })
}

// BootRPMTest is [BootRPM] for a test, as [BootTest] is [Boot].
func BootRPMTest(tb testing.TB, v Version) *Machine {
	tb.Helper()
	return bootTest(tb, func(ctx context.Context) (*Machine, error) { return BootRPM(ctx, v) })
}
