// SPDX-License-Identifier: Apache-2.0

package packages_test

import (
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/packages"
)

// Promise: a reboot after a version that apt could not upgrade to starts the last good one.
func TestVMLanePackages(t *testing.T) {
	for _, test := range []struct {
		on     vmtests.Version
		bad    packages.Release
		reason string
	}{
		{vmtests.Systemd257, packages.Release{Version: "3.0.0", Damage: "crash-at-start"}, "crash at start"},
		{vmtests.Systemd262, packages.Release{Version: "3.0.1", Damage: "ill-in-probation", After: "1ms"}, "the database is gone"},
	} {
		t.Run(test.on.String(), func(t *testing.T) {
			// Named apart, so that who runs other stories only boots nothing.
			t.Run("reboot", func(t *testing.T) {
				t.Parallel()
				s := newService(t, vmtests.BootVMTest(t, test.on))
				// Software emulation is slow, and a busy host holds it up for seconds.
				s.write("/etc/myapp/myapp.conf", "probation = 6s\nbeat = 3s\nstart-timeout = 60s\ncheck-timeout = 60s\n")
				s.write("/etc/systemd/system/myapp.service.d/patient.conf", "[Service]\nTimeoutStartSec=300s\nExecReload=\nExecReload=/usr/bin/holdfast reload --socket=%t/myapp/control.sock --timeout=280s\n")
				s.publish(deb(t, v1))
				s.apt("install", "myapp")
				s.mustServe("1.0.0")
				l := s.loadOf(vmtests.LoadOptions{New: 1, KeepAlive: 1})
				said := s.upgrade(test.bad)
				mustSay(t, said, test.reason)
				s.mustServe("1.0.0")
				s.nothingLost(l)
				if err := s.Reboot(s.ctx); err != nil {
					t.Fatal(err)
				}
				s.mustFallBack("a reboot", "1.0.0", test.reason)
				s.mustBe("active", "active")
				s.upgrade(v4)
				s.mustServe("4.0.0")
				if err := s.Reboot(s.ctx); err != nil {
					t.Fatal(err)
				}
				s.mustServe("4.0.0")
			})
		})
	}
}
