// SPDX-License-Identifier: Apache-2.0

package packages_test

import (
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/packages"
)

// rpmStates are what an upgrade may find the service in.
var rpmStates = []struct {
	name    string
	make    [][]string // arguments of systemctl
	active  bool
	enabled string // the state of the unit's file
}{
	{"running", nil, true, "enabled"},
	{"disabled and running", [][]string{{"disable", myappUnit, myappSocket}}, true, "disabled"},
	{"disabled and stopped", [][]string{{"disable", "--now", myappUnit, myappSocket}}, false, "disabled"},
	{"stopped", [][]string{{"stop", myappUnit, myappSocket}}, false, "enabled"},
	{"masked", [][]string{{"mask", "--now", myappUnit, myappSocket}}, false, "masked"},
}

// Promise: an upgrade leaves the service in the state in which it has found it.
func TestRPMStates(t *testing.T) {
	eachRPM(t, func(t *testing.T, v vmtests.Version) {
		s := bootRPM(t, v)
		s.installRPM(s.rpm(v1))
		for i, state := range rpmStates {
			release, newer := v2, i%2 == 0
			if !newer {
				release = v1
			}
			for _, args := range state.make {
				s.systemctl(args...)
			}
			said := packagers[i%2].change(s, s.rpm(release), newer)
			s.mustBeWhole("myapp", release.Version)
			if state.active {
				s.mustHave(release.Version, release.Version)
			} else {
				s.mustBe("inactive", "inactive")
			}
			if got := s.prop(myappUnit, "UnitFileState"); got != state.enabled {
				t.Errorf("the unit is %s after the upgrade, want %s", got, state.enabled)
			}
			if t.Failed() {
				t.Fatalf("%s:\n%s", state.name, said)
			}
			t.Logf("%s: %s", state.name, ours(said))
			// Whoever starts it has the new version.
			s.systemctl("unmask", myappUnit, myappSocket)
			s.systemctl("enable", "--now", myappUnit, myappSocket)
			s.mustServe(release.Version)
		}
	})
}

// Promise: what is erased leaves nothing but its user, which rpm never removes.
func TestRPMErase(t *testing.T) {
	eachRPM(t, func(t *testing.T, v vmtests.Version) {
		s := bootRPM(t, v)
		s.offer(s.rpm(v1), s.holdfastRPM("1.0.0"))
		// Fedora's package filesystem and that of D-Bus have these.
		s.run("mkdir", "-p", "/usr/share/licenses", "/usr/share/man/man1", "/usr/share/man/man8", "/usr/share/dbus-1/interfaces",
			"/usr/share/fish/vendor_completions.d", "/usr/share/zsh/site-functions")
		before := s.everything()
		for range 2 { // the second time it finds what the first has left
			s.installRPM(s.rpm(v1))
			s.offer(s.rpm(packages.Release{Version: "3.0.0", Damage: "crash-always"}))
			s.dnf("upgrade", "myapp") // so that there is a last good version
			s.mustHave("1.0.0", "3.0.0")
			s.dnf("remove", "myapp", "holdfast")
			if left := s.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "*myapp*", "*holdfast*"); left != "" {
				t.Errorf("units are left:\n%s", left)
			}
			for _, name := range s.everything() {
				if !slices.Contains(before, name) {
					t.Errorf("%s is left", name)
				}
			}
		}
	})
}

// everything lists the files but for those that others write when a package comes or goes.
func (s *rpmService) everything() []string {
	s.t.Helper()
	return strings.Split(s.sh(`
		find /etc /opt /root /run /srv /usr /var \
			\( -path /root/.rpmdb -o -path /var/lib/rpm -o -path /root/packages -o -path "$1" -o -path /var/cache/dnf -o -path /var/lib/dnf -o -path /var/log \
			-o -path /run/systemd -o -path /run/log -o -path /run/holdfast-vmtests \) -prune -o -print
		find /run/systemd -name "*myapp*" -o -name "*holdfast*"`, rpmRepository), "\n")
}

// Promise: an image of a system, where systemd does not run, gets the package, enabled, and nothing is started.
func TestRPMInImage(t *testing.T) {
	eachRPM(t, func(t *testing.T, v vmtests.Version) {
		s := bootRPM(t, v)
		const root, changed = "/mnt/root", "/mnt/overlay/upper"
		// The files of the machine itself, without what is mounted on them, such as /run.
		s.sh(`set -e; mkdir -p "$1" /mnt/overlay; mount -t tmpfs tmpfs /mnt/overlay; mkdir "$2" /mnt/overlay/work
			mount -t overlay -o "lowerdir=/,upperdir=$2,workdir=/mnt/overlay/work" overlay "$1"`, root, changed)
		rpm := func(args ...string) {
			t.Helper()
			if said := s.succeed(append([]string{"rpm", "--root", root}, args...)...); strings.Contains(said, "failed") {
				t.Errorf("rpm %s:\n%s", strings.Join(args, " "), said)
			}
		}
		rpm("--install", s.holdfastRPM("1.0.0"), s.rpm(v1))
		for _, unit := range []string{myappUnit, myappSocket} {
			if got := s.run("systemctl", "--root", root, "is-enabled", unit); got != "enabled" {
				t.Errorf("%s is %s in the image, want enabled", unit, got)
			}
		}
		s.run("grep", "-q", "^myapp:", path.Join(root, "etc/passwd"))
		rpm("--upgrade", s.rpm(v2))
		rpm("--erase", "myapp", "holdfast")
		if left := s.sh(`find "$1" -type f -name "*myapp*" -o -type f -name "*holdfast*"`, changed); left != "" {
			t.Errorf("files are left in the image:\n%s", left)
		}
		if got := s.prop(myappUnit, "LoadState"); got != "not-found" {
			t.Errorf("%s is %s in the machine", myappUnit, got)
		}
	})
}

// Promise: with ON_FAILURE=fail rpm is told that the service was not upgraded, and its database is in order all the same.
func TestRPMOnFailure(t *testing.T) {
	eachRPM(t, func(t *testing.T, v vmtests.Version) {
		s := bootRPM(t, v)
		s.installRPM(s.rpm(v1))
		s.sh(`echo ON_FAILURE=fail >>/etc/holdfast/package.d/myapp.conf`)
		file := s.rpm(packages.Release{Version: "3.0.0", Damage: "crash-always"})
		said := s.succeed("rpm", "--upgrade", file) // all that rpm makes of it is a warning
		mustSay(t, said, "DOES NOT RUN", "%posttrans(myapp-3.0.0-1."+rpmArch+") scriptlet failed, exit status 1")
		s.mustHave("1.0.0", "3.0.0")
	})
}
