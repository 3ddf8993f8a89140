// SPDX-License-Identifier: Apache-2.0

package packages_test

import (
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
)

// Promise: the upgrade from a version that knows nothing of Holdfast is one restart, which keeps the socket where
// systemd has it, and the way back works.
func TestAptAdoption(t *testing.T) {
	onVersions(t, func(t *testing.T, v vmtests.Version) {
		for _, before := range beforeHoldfast {
			t.Run(before.name, func(t *testing.T) {
				s := newService(t, vmtests.BootTest(t, v))
				plain, err := made.DebhelperPlain("0.9.0", before.units)
				if err != nil {
					t.Fatal(err)
				}
				s.publish(plain)
				s.apt("install", "myapp")
				s.mustAnswer("0.9.0")
				socket := s.listener(8080)

				l := s.newcomers()
				s.publish(deb(t, v1))
				said := s.apt("upgrade", "--with-new-pkgs") // holdfast is one
				s.mustBeInstalled("1.0.0")
				s.mustServe("1.0.0")
				s.mustBe("active", "active")
				if st := s.status(); len(st.Listeners) != 1 || st.Listeners[0].Origin != "socket unit" {
					t.Errorf("listeners: %+v, want that of the socket unit\n%s", st.Listeners, said)
				}
				s.upgrade(v2)
				s.mustServe("2.0.0")
				if now := s.listener(8080); now != socket && !before.loses {
					t.Errorf("the socket was opened anew: inode %s, then %s", socket, now)
				}

				sum := s.end(l)
				t.Logf("%v, %s: %d requests, failed=%d", v, before.name, sum.OK+sum.Failed, sum.Failed)
				if text := sum.FailureText(10); text != "" && !before.loses {
					t.Error(text)
				}

				// What that package's own scripts do closes the socket, as at each of its upgrades.
				s.apt("install", "myapp=0.9.0")
				s.mustAnswer("0.9.0")
				s.mustBeInstalled("0.9.0")
				s.apt("upgrade", "--with-new-pkgs")
				s.mustServe("2.0.0")
			})
		}
	}, vmtests.Systemd247, vmtests.Systemd257)
}
