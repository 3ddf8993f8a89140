// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
)

// Promise 1: nothing is lost to an upgrade, twenty times in a row.
func TestUpgradeUnderLoad(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startMyapp(t, v, brisk)
		l := m.load()
		next := []build{v2, v1}
		for i := range 20 {
			before := m.mainPID()
			m.put(next[i%2])
			m.mustReload()
			if m.mainPID() == before {
				t.Fatalf("upgrade %d: MainPID is still %d", i+1, before)
			}
			if st := m.status(); st.Version != next[i%2].version || st.Generation != i+2 || st.PID != m.mainPID() {
				t.Fatalf("upgrade %d: %+v", i+1, st)
			}
		}
		m.nothingLost(l)
		if n := m.prop("NRestarts"); n != "0" {
			t.Errorf("NRestarts=%s", n)
		}
		m.quietJournal()
		m.ownLines()
		m.systemctl("stop", myappUnit, myappSocket)
		if r := m.prop("Result"); r != "success" {
			t.Errorf("Result=%s after stop", r)
		}
	})
}

// Idle connections move to the new version, in the sandbox of the rendered units.
func TestIdleConnectionsMove(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		const clients = 50
		m := startMyapp(t, v, brisk)
		// Each asks once, and again after the upgrade.
		l, err := m.StartLoad(m.ctx, vmtests.LoadOptions{
			URL: myappURL + "/echo", KeepAlive: clients, Think: 8 * time.Second, Timeout: 15 * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		m.waitAnswers(l, "1.0.0", clients)
		// On a busy machine the first ones ask again before the last one is there.
		m.run("timeout", "60", "sh", "-c", fmt.Sprintf(
			"until [ $(ss -Htn state established sport = :8080 | wc -l) = %d ]; do sleep 0.1; done", clients))
		m.put(v2)
		m.mustReload()
		m.waitLine("idle connections have moved")
		if st := m.status(); st.Adopted != clients {
			t.Errorf("%d connections were adopted, want %d", st.Adopted, clients)
		}
		m.waitAnswers(l, "2.0.0", clients)
		m.nothingLost(l)
		m.quietJournal()
	})
}

// testUpgradeInVirtualMachine is an upgrade under load with a kernel and a boot of its own: one upgrade, one
// refused version, one undone one, and a stop.
func testUpgradeInVirtualMachine(t *testing.T, on *vmtests.Machine) {
	m := installMyapp(t, on, patient, nil)
	defer m.uninstall()
	m.systemctl("start", myappSocket, myappUnit)
	l := m.load()
	before := m.mainPID()
	m.put(v2)
	m.mustReload()
	if now := m.mainPID(); now == before {
		t.Errorf("MainPID is still %d", now)
	}
	m.waitAnswers(l, "2.0.0", 20)
	m.put(build{version: "3.0.0", goarch: otherArchitecture()})
	m.mustRefuse("is built for")
	m.put(build{version: "3.0.0", damage: "ill-in-probation"})
	m.mustRefuse("damaged on purpose: the database is gone")
	m.nothingLost(l)
	m.ownLines()
	m.systemctl("stop", myappUnit)
	if r := m.prop("Result"); r != "success" {
		t.Errorf("Result=%s after stop", r)
	}
	m.quietJournal()
}
