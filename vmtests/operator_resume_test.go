// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/units/upgrade"
	"github.com/holdfast-go/holdfast/vmtests"
)

// The helper is killed in each phase and started again: it finds out where things
// stand, and finishes what is good and undoes what is not. Nothing is lost, and no unit is
// reloaded twice.
func TestOperatorKilled(t *testing.T) {
	kills := []struct {
		name    string
		until   func(*helper)
		bad     bool
		outcome upgrade.Outcome
	}{
		{"reload", func(h *helper) { h.phase("reload") }, false, upgrade.Done},
		{"probation", func(h *helper) {
			h.wait("the probation", func(e upgrade.Event) bool { return e.State == "probation" })
		}, false, upgrade.Done},
		{"soak", func(h *helper) { h.phase("soak") }, false, upgrade.Done},
		{"bad-reload", func(h *helper) { h.phase("reload") }, true, upgrade.RolledBack},
		{"rollback", func(h *helper) { h.phase("rollback") }, true, upgrade.RolledBack},
	}
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startOperated(t, v, timing{probation: 2 * time.Second, start: 20 * time.Second, drain: 20 * time.Second})
		l := m.load()
		next := []build{v2, v1}
		upgrades := 0
		for _, k := range kills {
			before := m.status()
			m.put(next[upgrades%2])
			r := request(k.name)
			r.Gates.Soak = 5 * time.Second
			if k.bad {
				r.Gates.HealthURL = myappURL + "/nosuch"
			}
			h := m.help("rollout", r)
			k.until(h)
			if err := h.process.Kill(); err != nil {
				t.Fatal(err)
			}
			<-h.done
			var reports []upgrade.Report
			m.help("resume", nil).ends(&reports)
			if len(reports) != 1 || reports[0].ID != k.name || reports[0].Outcome != k.outcome || !reports[0].Resumed {
				t.Fatalf("%s: resumed %+v\n%s", k.name, reports, h.story())
			}
			after := m.status()
			steps := 1
			if k.bad {
				steps = 2 // there and back
			} else {
				upgrades++
			}
			if after.Generation != before.Generation+steps || (after.Version == before.Version) != k.bad {
				t.Errorf("%s: from %s (generation %d) to %s (generation %d)", k.name, before.Version, before.Generation, after.Version, after.Generation)
			}
			if unit := reports[0].Units[0]; unit.To.Version != after.Version || unit.To.PID != m.mainPID() {
				t.Errorf("%s: unit %+v", k.name, unit)
			}
			m.help("resume", nil).ends(&reports)
			if len(reports) != 0 {
				t.Errorf("%s: resumed again: %+v", k.name, reports)
			}
		}
		m.nothingLost(l)
		if n := m.prop("NRestarts"); n != "0" {
			t.Errorf("NRestarts=%s", n)
		}
	})
}

// systemd executes itself anew, and dbus is restarted, while the helper waits for a
// job, and while it watches: it connects again, and no upgrade fails because of that.
func TestOperatorWithoutBus(t *testing.T) {
	disturb := []struct {
		name string
		do   func(*myapp)
	}{
		{"reexec", func(m *myapp) { m.systemctl("daemon-reexec") }},
		{"dbus", func(m *myapp) { m.systemctl("restart", "dbus.service") }},
	}
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startOperated(t, v, timing{probation: 3 * time.Second, start: 20 * time.Second, drain: 20 * time.Second})
		l := m.load()
		next := []build{v2, v1}
		for i, d := range disturb {
			m.put(next[i%2])
			r := request(d.name)
			r.Gates.Soak = 5 * time.Second
			h := m.help("rollout", r)
			h.wait("the probation", func(e upgrade.Event) bool { return e.State == "probation" })
			d.do(m)
			h.phase("soak")
			d.do(m)
			report := h.reports(upgrade.Done)
			if unit := report.Units[0]; unit.To.Version != next[i%2].version || unit.To.PID != m.mainPID() {
				t.Errorf("%s: unit %+v", d.name, unit)
			}
		}
		// A bad one is found, too.
		m.put(build{version: "3.0.0", damage: "ill-in-probation", after: "1s"})
		h := m.help("rollout", request("bad"))
		h.wait("the probation", func(e upgrade.Event) bool { return e.State == "probation" })
		m.systemctl("daemon-reexec")
		if unit := h.reports(upgrade.Failed).Units[0]; unit.To.Version != "1.0.0" || unit.To.PID != m.mainPID() {
			t.Errorf("unit %+v", unit)
		}
		m.nothingLost(l)
		if n := m.prop("NRestarts"); n != "0" {
			t.Errorf("NRestarts=%s", n)
		}
	})
}
