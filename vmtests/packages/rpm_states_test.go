// SPDX-License-Identifier: Apache-2.0

package packages_test

import (
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
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
