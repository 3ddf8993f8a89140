// SPDX-License-Identifier: Apache-2.0

package packages_test

import (
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/packages"
)

// chroot is a system below the one that runs, in which no systemd does.
const chroot = "/run/chroot/root"

// In a chroot, as images are made, apt installs, upgrades and purges, and nothing is started: neither there nor in the
// system around it.
func TestAptChroot(t *testing.T) {
	onVersions(t, func(t *testing.T, v vmtests.Version) {
		s := newService(t, vmtests.BootTest(t, v))
		s.sh(`mkdir -p /run/chroot/upper /run/chroot/work "$1" && mount -t overlay -o lowerdir=/,upperdir=/run/chroot/upper,workdir=/run/chroot/work overlay "$1" &&
mount -t proc proc "$1/proc" && mkdir -p "$1/dev" && mount --bind /dev "$1/dev"`, chroot)
		in := func(args ...string) string {
			t.Helper()
			said, err := s.says(append([]string{"env", "DEBIAN_FRONTEND=noninteractive", "chroot", chroot}, args...)...)
			if err != nil {
				t.Fatalf("%v\n%s", err, said)
			}
			return said
		}
		apt := func(args ...string) string {
			t.Helper()
			return in(append([]string{"apt-get", "--yes", "-o", "Dpkg::Use-Pty=0", "-o", "Dpkg::Options::=--force-confold", "--allow-downgrades"}, args...)...)
		}
		add := func(r packages.Release) {
			t.Helper()
			if err := s.repository.Add(s.ctx, deb(t, r)); err != nil {
				t.Fatal(err)
			}
			if err := s.repository.PublishIn(s.ctx, s.Machine, chroot); err != nil {
				t.Fatal(err)
			}
		}
		add(v1)
		story := func() {
			t.Helper()
			// Nothing else is needed.
			if said := apt("install", "myapp"); !strings.Contains(said, "2 newly installed") {
				t.Errorf("apt-get install myapp:\n%s", said)
			}
			for _, link := range []string{"multi-user.target.wants/myapp.service", "sockets.target.wants/myapp.socket"} {
				if err := s.Run(s.ctx, "test", "-L", chroot+"/etc/systemd/system/"+link); err != nil {
					t.Errorf("not enabled: %v", err)
				}
			}
			add(v2)
			said := apt("upgrade")
			if status := in("dpkg-query", "--show", "--showformat=${Version} ${Status}", "myapp"); status != "2.0.0 install ok installed" {
				t.Errorf("dpkg says %q\n%s", status, said)
			}
			if left := s.sh(`systemctl list-units --all --plain --no-legend 'myapp*'; pgrep -x myapp || true`); left != "" {
				t.Errorf("outside there are:\n%s", left)
			}
			apt("purge", "myapp", "holdfast")
			if left := s.sh(`find "$1/etc/systemd" "$1/var/lib" -name '*myapp*' ! -path '*/dpkg/*' ! -path '*/apt/*'`, chroot); left != "" {
				t.Errorf("purge has left:\n%s", left)
			}
		}
		story()

		// The same where not even systemd is installed: a bare Debian. holdfast and myapp need nothing that is not Essential.
		in("sh", "-c", `apt-get --yes --allow-remove-essential --auto-remove purge systemd systemd-sysv libpam-systemd libnss-systemd dbus iproute2 procps`)
		if err := s.Run(s.ctx, "test", "-e", chroot+"/usr/bin/systemctl"); err == nil {
			t.Error("systemd is still there")
		}
		s.run("rm", "-rf", chroot+"/srv/repository")
		var err error
		if s.repository, err = packages.NewRepository(s.ctx, t.TempDir()); err != nil {
			t.Fatal(err)
		}
		if err := s.repository.Add(s.ctx, holdfastDeb(t, "1.0.0")); err != nil {
			t.Fatal(err)
		}
		add(v1)
		story()
	}, vmtests.Systemd247, vmtests.Systemd257)
}
