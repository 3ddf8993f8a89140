// SPDX-License-Identifier: Apache-2.0

package fleet_test

import (
	"testing"

	"github.com/holdfast-go/holdfast/vmtests/packages"
)

// badWithCache is well in the first two waves, and ill where the service has a cache, which is in the third.
var badWithCache = packages.Release{Version: "3.1.0", Damage: "ill-with-cache"}

// TestFleetThirdWave: a release that is bad in the third wave only. It stays where it is good; nothing of the third wave
// has it in the end, and of the host after that nothing has changed.
func TestFleetThirdWave(t *testing.T) {
	f := bootFleet(t, sixHosts...)
	for _, h := range f.hosts[3:5] {
		if err := h.WriteFile(f.ctx, "/etc/systemd/system/myapp.service.d/cache.conf", []byte("[Service]\nEnvironment=MYAPP_CACHE=/var/cache/myapp\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f.firstRelease()
	tr := f.startTraffic()
	before := f.states()
	p := f.upgrade(badWithCache)
	tr.stop()
	if p.err == nil || p.report.Outcome != "failed" {
		t.Errorf("the play: %v, report %+v; want it failed", p.err, p.report)
	}
	after := f.states()
	for i, h := range f.hosts {
		want := hostReport{Host: h.name, Wave: waveOf(i), Canary: i == 0, VersionBefore: good1.Version, VersionAfter: good1.Version}
		switch waveOf(i) {
		case 0, 1:
			want.Outcome, want.VersionAfter = "done", badWithCache.Version
			f.mustServe(h, badWithCache)
		case 2:
			want.Outcome = "failed"
			if got := after[h.name]; got.Serves != good1.Version || got.PID != before[h.name].PID || got.Restarts != 0 {
				t.Errorf("%s: got %+v, want the process of before %+v", h.name, got, before[h.name])
			}
		case 3:
			want.Outcome, want.VersionBefore, want.VersionAfter = "skipped", "", ""
			if after[h.name] != before[h.name] {
				t.Errorf("%s was touched: from %+v to %+v", h.name, before[h.name], after[h.name])
			}
		}
		p.mustReport(f, want)
	}
	f.mustBalance()
}
