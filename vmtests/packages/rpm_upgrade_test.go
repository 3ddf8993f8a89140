// SPDX-License-Identifier: Apache-2.0

package packages_test

import (
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/packages"
)

// A packager changes myapp to the release in a file, newer or older, and returns what was said.
type packager struct {
	name   string
	change func(s *rpmService, file string, newer bool) string
	make   func(*rpmService, packages.Release) string // the file
}

var packagers = []packager{
	{"dnf", func(s *rpmService, file string, newer bool) string {
		s.offer(file)
		if newer {
			return s.dnf("upgrade", "myapp")
		}
		return s.dnf("downgrade", "myapp")
	}, (*rpmService).rpm},
	{"rpm", func(s *rpmService, file string, newer bool) string {
		if newer {
			return s.succeed("rpm", "--upgrade", file)
		}
		return s.succeed("rpm", "--upgrade", "--oldpackage", file)
	}, (*rpmService).spec},
}

// Promise: dnf and rpm upgrade, downgrade and refuse without a lost request. After a bad version the one before
// serves, rpm's database is in order, and the operator reads why and what to do. So it is with our package and with
// one that is built by a spec file.
func TestRPMUpgrades(t *testing.T) {
	for _, p := range packagers {
		t.Run(p.name, func(t *testing.T) {
			eachRPM(t, func(t *testing.T, v vmtests.Version) {
				s := bootRPM(t, v)
				s.installRPM(p.make(s, v1))
				first, invocation := s.status(), s.prop(myappUnit, "InvocationID")
				l := s.load()

				p.change(s, p.make(s, v2), true)
				s.mustHave("2.0.0", "2.0.0")
				p.change(s, p.make(s, v1), false)
				s.mustHave("1.0.0", "1.0.0")

				for _, bad := range []struct {
					release packages.Release
					reason  string
				}{
					{packages.Release{Version: "3.0.0", Damage: "ill-in-probation", After: "1ms"}, "the database is gone"},
					{packages.Release{Version: "3.0.1", Damage: "crash-always"}, "crash at every start"},
				} {
					said := p.change(s, p.make(s, bad.release), true)
					s.mustHave("1.0.0", bad.release.Version)
					mustSay(t, said, bad.reason, "1.0.0", "holdfast upgrade")
					t.Logf("%s:\n%s", bad.release.Damage, ours(said))
				}

				p.change(s, p.make(s, v4), true)
				s.mustHave("4.0.0", "4.0.0")
				s.nothingLost(l)

				// Nobody has restarted it, and nobody will: nothing is marked.
				if now := s.status(); now.Instance != first.Instance {
					t.Errorf("the service was started again: instance %s, then %s", first.Instance, now.Instance)
				}
				if now := s.prop(myappUnit, "InvocationID"); now != invocation {
					t.Errorf("systemd has started the unit again: invocation %s, then %s", invocation, now)
				}
				s.mustBeUnmarked()
			})
		})
	}
}
