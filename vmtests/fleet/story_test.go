// SPDX-License-Identifier: Apache-2.0

package fleet_test

import (
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/packages"
)

// What the service is in the stories.
var (
	good1 = packages.Release{Version: "1.0.0"}
	good2 = packages.Release{Version: "2.0.0"}
	bad3  = packages.Release{Version: "3.0.0", Damage: "ill-in-probation"}
)

// startFleet boots a fleet on which the first release serves.
func startFleet(t *testing.T, versions ...vmtests.Version) *fleet {
	t.Helper()
	f := bootFleet(t, versions...)
	f.firstRelease()
	return f
}

func (f *fleet) firstRelease() {
	f.t.Helper()
	f.serve()
	f.admin()
	f.install()
	f.balance()
}

// in is the fleet for a part of a test.
func (f *fleet) in(t *testing.T) *fleet {
	part := *f
	part.t, part.ctx = t, t.Context()
	return &part
}

// TestFleet: a good release comes to every host, one that is bad to none but the canary, and nobody loses a request.
func TestFleet(t *testing.T) {
	tellFleet(t, startFleet(t, sixHosts...))
}

func tellFleet(t *testing.T, f *fleet) {
	ok := t.Run("good release", func(t *testing.T) { goodRelease(f.in(t), good2) })
	if !ok {
		return // the next part goes on from there
	}
	t.Run("bad at the canary", func(t *testing.T) { badAtTheCanary(f.in(t), good2, bad3) })
}

func goodRelease(f *fleet, r packages.Release) {
	t := f.t
	tr := f.startTraffic()
	before := f.states()
	p := f.upgrade(r)
	tr.stop()
	if p.err != nil || p.report.Outcome != "done" || p.report.Counts["done"] != len(f.hosts) {
		t.Errorf("the play: %v, report %+v", p.err, p.report)
	}
	for i, h := range f.hosts {
		f.mustServe(h, r)
		want := hostReport{
			Host: h.name, Wave: waveOf(i), Canary: i == 0, Outcome: "done",
			VersionBefore: before[h.name].Serves, VersionAfter: r.Version,
		}
		p.mustReport(f, want)
		f.waitBalancer(h, "enters drain state")
	}
	f.mustBalance()
}

// waveOf returns the wave of a host by its number: the canary alone, and then two by two.
func waveOf(i int) int { return (i + 1) / 2 }

func badAtTheCanary(f *fleet, serves, bad packages.Release) {
	t := f.t
	tr := f.startTraffic()
	before := f.states()
	p := f.upgrade(bad)
	tr.stop()
	if p.err == nil || p.report.Outcome != "failed" {
		t.Errorf("the play: %v, report %+v; want it failed", p.err, p.report)
	}
	after := f.states()
	for i, h := range f.hosts {
		want := hostReport{Host: h.name, Wave: waveOf(i), Canary: i == 0, Outcome: "skipped"}
		if i == 0 {
			want.Outcome, want.VersionBefore, want.VersionAfter = "failed", serves.Version, serves.Version
			if got := after[h.name]; got.Serves != serves.Version || got.PID != before[h.name].PID || got.Restarts != 0 {
				t.Errorf("%s: got %+v, want the process of before %+v", h.name, got, before[h.name])
			}
		} else if after[h.name] != before[h.name] {
			t.Errorf("%s was touched: from %+v to %+v", h.name, before[h.name], after[h.name])
		}
		p.mustReport(f, want)
	}
	f.mustBalance()
}
