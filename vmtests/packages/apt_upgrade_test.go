// SPDX-License-Identifier: Apache-2.0

package packages_test

import (
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/packages"
)

// badReleases are upgrades that must not happen, and what is said about each. They sort after each other.
var badReleases = []struct {
	name, reason string
	release      packages.Release
}{
	{"exits at once", "crash at start", packages.Release{Version: "3.0.0", Damage: "crash-at-start"}},
	{"never ready", "not ready within", packages.Release{Version: "3.0.1", Damage: "hang-at-start"}},
	{"another architecture", "is built for", packages.Release{Version: "3.0.2", GOARCH: packages.OtherGOARCH()}},
	{"unhealthy in probation", "the database is gone", packages.Release{Version: "3.0.3", Damage: "ill-in-probation", After: "1ms"}},
	{"cut off", "", packages.Release{Version: "3.0.4", Size: 1_000_000}},
}

// Promise: apt upgrades, downgrades and refuses without a lost request. After a bad version the one before
// serves, dpkg is content, and the operator reads why and what to do.
func TestAptUpgrades(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		s := install(t, v)
		socket := s.listener(8080)
		l := s.load()

		s.upgrade(v2)
		s.mustServe("2.0.0")
		s.apt("install", "myapp=1.0.0")
		s.mustBeInstalled("1.0.0")
		s.mustServe("1.0.0")

		for _, bad := range badReleases {
			before := s.mainPID()
			said := s.upgrade(bad.release) // apt-get has exited with 0
			mustSay(t, said, bad.reason, "1.0.0", "holdfast upgrade")
			s.mustServe("1.0.0")
			if now := s.mainPID(); now != before {
				t.Errorf("%s: MainPID went from %d to %d", bad.name, before, now)
			}
			if t.Failed() {
				t.Fatalf("%s:\n%s", bad.name, said)
			}
		}

		s.upgrade(v4)
		s.mustServe("4.0.0")
		s.nothingLost(l)
		if now := s.listener(8080); now != socket {
			t.Errorf("the socket was opened anew: inode %s, then %s", socket, now)
		}
		if n := s.prop(myappUnit, "NRestarts"); n != "0" {
			t.Errorf("NRestarts=%s", n)
		}
	})
}
