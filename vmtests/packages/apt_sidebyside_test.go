// SPDX-License-Identifier: Apache-2.0

package packages_test

import (
	"fmt"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/packages"
)

// sideBySideUpgrades is how often apt upgrades. Each of debhelper's has lost about twelve requests.
const sideBySideUpgrades = 3

// Side by side: the same program in the same units, packaged by debhelper's defaults and as ours, through the same
// upgrades by apt under the same load. It prints what each has lost.
func TestSideBySide(t *testing.T) {
	onVersions(t, func(t *testing.T, v vmtests.Version) {
		var table string
		for _, by := range []struct {
			name  string
			make  func(packages.Release) (string, error)
			loses bool
		}{
			{"debhelper", made.Debhelper, true},
			{"holdfast", made.Deb, false},
		} {
			s := newService(t, vmtests.BootTest(t, v))
			publish := func(version string) {
				t.Helper()
				deb, err := by.make(packages.Release{Version: version})
				if err != nil {
					t.Fatal(err)
				}
				s.publish(deb)
			}
			publish("1.0.0")
			s.apt("install", "myapp")
			l := s.load()
			for i := range sideBySideUpgrades {
				version := fmt.Sprintf("1.%d.0", i+1)
				publish(version)
				s.apt("upgrade")
				s.mustBeInstalled(version)
				if _, err := l.WaitVersion(s.ctx, version, 10); err != nil {
					t.Fatal(err)
				}
			}
			sum := s.end(l)
			table += fmt.Sprintf("\n%-10s %7d requests, failed=%d, longest gap %v", by.name, sum.OK+sum.Failed, sum.Failed, sum.LongestGap.Duration)
			if lost := sum.Failed > 0; lost != by.loses {
				t.Errorf("%s: failed=%d\n%s", by.name, sum.Failed, sum.FailureText(10))
			}
		}
		t.Logf("%v, %d upgrades each:%s", v, sideBySideUpgrades, table)
	}, vmtests.Systemd252, vmtests.Systemd257)
}
