// SPDX-License-Identifier: Apache-2.0

package packages_test

import (
	"fmt"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
)

// witness returns a package with a service of its own, which the usual macro restarts at an upgrade.
func (s *rpmService) witness(version string) string {
	s.t.Helper()
	root := "/root/fedora/witness"
	s.write(root+"/usr/lib/systemd/system/witness.service",
		fmt.Sprintf("[Unit]\nDescription=Witness %s\n[Service]\nExecStart=/usr/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n", version))
	return s.fedoraTree("witness", version, root, "witness.service", "systemd_postun_with_restart witness.service")
}

// Promise: what systemd's file triggers do at the end of a transaction, to all units that are marked, they do not to ours.
func TestRPMMarkers(t *testing.T) {
	eachRPM(t, func(t *testing.T, v vmtests.Version) {
		s := bootRPM(t, v)
		witness := []string{s.witness("1"), s.witness("2")}
		s.offer(s.rpm(v1), s.holdfastRPM("1.0.0"), witness[0])
		s.dnf("install", "myapp", "witness")
		s.systemctl("start", myappUnit, "witness.service")
		s.mustHave("1.0.0", "1.0.0")
		first, invocation := s.status(), s.prop("witness.service", "InvocationID")

		// Somebody marked it, which on 252 is a restart whatever the mark, and the next transaction would do it.
		s.systemctl("set-property", myappUnit, "Markers=+needs-reload")
		s.offer(s.rpm(v2), s.holdfastRPM("2.0.0"), witness[1]) // all in one transaction
		l := s.load()
		said := s.dnf("upgrade")
		s.nothingLost(l)
		s.mustHave("2.0.0", "2.0.0")
		s.mustBeWhole("holdfast", "2.0.0")
		if now := s.prop("witness.service", "InvocationID"); now == invocation {
			t.Errorf("the file triggers have not restarted witness.service, which was marked:\n%s", said)
		}
		if now := s.status(); now.Instance != first.Instance {
			t.Errorf("%s was restarted:\n%s", myappUnit, said)
		}
		s.mustBeUnmarked()
	})
}

// Promise: a package with the usual macros goes over to ours without a lost request, if the program knows Holdfast: what
// marks the unit for a restart is the old package, and it does so before the new one upgrades it.
func TestRPMAdoptedByMacros(t *testing.T) {
	eachRPM(t, func(t *testing.T, v vmtests.Version) {
		s := bootRPM(t, v)
		s.installRPM(s.fedora(s.rpm(v1), "systemd_postun_with_restart myapp.service myapp.socket"))
		first := s.status()
		l := s.load()
		s.offer(s.rpm(v2))
		said := s.dnf("upgrade")
		s.nothingLost(l)
		s.mustHave("2.0.0", "2.0.0")
		if now := s.status(); now.Instance != first.Instance {
			t.Errorf("%s was restarted:\n%s", myappUnit, said)
		}
	})
}
