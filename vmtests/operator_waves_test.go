// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/units/upgrade"
	"github.com/holdfast-go/holdfast/vmtests"
)

const fleet = 10

// startFleet starts ten instances behind one port: each has a socket of its own with
// SO_REUSEPORT, and the kernel deals out the connections.
func startFleet(t *testing.T, v vmtests.Version) *myapp {
	t.Helper()
	m := installMyapp(t, vmtests.BootTest(t, v), timing{probation: time.Second, start: 20 * time.Second, drain: 20 * time.Second}, func(o *units.Options) {
		o.Template = true
		o.Sockets = []units.Socket{{Name: "http", Address: "127.0.0.1:80%i"}}
	})
	m.operator()
	one := "[Socket]\nReusePort=yes\nListenStream=\nListenStream=127.0.0.1:8080\n"
	if err := m.WriteFile(m.ctx, "/etc/systemd/system/myapp@.socket.d/one-port.conf", []byte(one), 0o644); err != nil {
		t.Fatal(err)
	}
	m.systemctl("daemon-reload")
	var all []string
	for i := range fleet {
		all = append(all, fmt.Sprintf("myapp@%d.socket", i+1))
	}
	m.systemctl(append([]string{"start"}, all...)...)
	for i := range all {
		all[i] = strings.TrimSuffix(all[i], ".socket") + ".service"
	}
	m.systemctl(append([]string{"start"}, all...)...)
	return m
}

// fleetVersions counts the instances by the version that they serve.
func (m *myapp) fleetVersions() map[string]int {
	m.t.Helper()
	versions := make(map[string]int)
	for i := range fleet {
		var st control.Status
		text := m.run("/usr/bin/holdfast", "status", "--json=short", fmt.Sprintf("myapp@%d.service", i+1))
		if err := json.Unmarshal([]byte(text), &st); err != nil {
			m.t.Fatalf("holdfast status: %v\n%s", err, text)
		}
		versions[st.Version]++
	}
	return versions
}

// Ten instances behind one port are upgraded in waves under load, and no request is
// lost. A bad version stops at the canary and is undone.
func TestOperatorWaves(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startFleet(t, v)
		l := m.load()
		r := request("waves")
		r.Units = []string{"myapp@*"}
		r.Waves = upgrade.Waves{Size: 3, Pause: time.Second}
		r.Timeout = 2 * time.Minute // all at once, on a small machine

		// It is well in its probation, and not any more in the soak.
		m.put(build{version: "3.0.0", damage: "ill-in-probation", after: "6s"})
		bad := *r
		bad.ID, bad.Gates.Soak = "bad", 20*time.Second
		report := m.help("rollout", &bad).reports(upgrade.RolledBack)
		if !strings.Contains(report.Reason, "wave 1 has failed: myapp@1.service") || len(report.Units) != fleet {
			t.Errorf("reason %q, %d units", report.Reason, len(report.Units))
		}
		for i, unit := range report.Units {
			want := upgrade.Skipped
			if i == 0 {
				want = upgrade.RolledBack
			}
			if unit.Unit != fmt.Sprintf("myapp@%d.service", i+1) || unit.Outcome != want {
				t.Errorf("unit %d: %+v", i, unit)
			}
		}
		if got := m.fleetVersions(); got["1.0.0"] != fleet {
			t.Errorf("versions %v after the bad one", got)
		}

		m.put(v2)
		h := m.help("rollout", r)
		report = h.reports(upgrade.Done)
		sizes := map[int]int{}
		for _, unit := range report.Units {
			sizes[unit.Wave]++
			if unit.Outcome != upgrade.Done || unit.To.Version != "2.0.0" {
				t.Errorf("unit %+v", unit)
			}
		}
		if fmt.Sprint(sizes) != "map[0:1 1:3 2:3 3:3]" {
			t.Errorf("waves of %v", sizes)
		}
		if got := m.fleetVersions(); got["2.0.0"] != fleet {
			t.Errorf("versions %v", got)
		}
		before := l.Progress().Versions["2.0.0"]
		m.waitAnswers(l, "2.0.0", before+50)
		s := m.nothingLost(l)
		t.Logf("%d instances in %d waves within %.0fs: %d requests, %d failed", fleet, len(sizes), report.Seconds, s.OK+s.Failed, s.Failed)
	})
}
