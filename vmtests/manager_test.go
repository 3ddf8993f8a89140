// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/vmtests"
)

// A reload during a reload waits for the first and then runs.
func TestReloadDuringReload(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		// Long enough for both others to ask while the first is under way.
		m := startMyapp(t, v, timing{probation: 4 * time.Second, start: 10 * time.Second, drain: 20 * time.Second})
		l := m.load()
		m.put(v2)
		first := m.reloadInBackground()
		m.waitLine("checking -> starting")
		second := m.reloadInBackground()
		// One that does not go through systemd is told that it came second.
		_, direct := m.Output(m.ctx, "/usr/bin/holdfast", "reload", "--json=short", myappUnit)
		if err := <-first; err != nil {
			t.Errorf("first reload: %v", err)
		}
		if err := <-second; err != nil {
			t.Errorf("second reload: %v", err)
		}
		if direct == nil {
			t.Error("a reload beside them was not refused")
		}
		m.waitAnswers(l, "2.0.0", 20)
		m.nothingLost(l)
		if n := m.prop("NRestarts"); n != "0" {
			t.Errorf("NRestarts=%s", n)
		}
		m.quietJournal()
	})
}

// daemon-reload in the middle of an upgrade changes nothing.
func TestDaemonReloadDuringUpgrade(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startMyapp(t, v, timing{probation: 3 * time.Second, start: 10 * time.Second, drain: 20 * time.Second})
		l := m.load()
		for i, next := range []build{v2, v1} {
			before := m.mainPID()
			m.put(next)
			reload := m.reloadInBackground()
			m.waitAnswers(l, next.version, 200*(i+1)+l.Progress().Versions[next.version])
			m.systemctl("daemon-reload")
			if err := <-reload; err != nil {
				t.Errorf("reload to %s: %v", next.version, err)
			}
			if m.mainPID() == before {
				t.Errorf("MainPID is still %d", before)
			}
		}
		m.nothingLost(l)
		m.quietJournal()
		m.systemctl("stop", myappUnit)
		if r := m.prop("Result"); r != "success" {
			t.Errorf("Result=%s after stop", r)
		}
	})
}

// daemon-reexec cuts systemctl's own connection, so systemctl fails whatever
// becomes of the upgrade. The service comes out right, and holdfast, which
// asks the service itself, finds out how it ended.
func TestDaemonReexecDuringUpgrade(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startMyapp(t, v, timing{probation: 3 * time.Second, start: 10 * time.Second, drain: 20 * time.Second})
		l := m.load()
		before := m.mainPID()
		m.put(v2)
		reload := m.reloadInBackground()
		m.waitAnswers(l, "2.0.0", 20)
		m.systemctl("daemon-reexec")
		t.Logf("systemctl reload: %v", <-reload)
		m.waitLine("draining -> gone")
		st := m.status()
		if st.Version != "2.0.0" || st.State != "running" || st.Last == nil || st.Last.Outcome != "upgraded" {
			t.Errorf("holdfast status: %+v", st)
		}
		if main := m.mainPID(); main == before || main != st.PID {
			t.Errorf("MainPID=%d, was %d; the service says %d", main, before, st.PID)
		}
		if state := m.prop("SubState"); state != "running" {
			t.Errorf("SubState=%s", state)
		}

		// The same, asked for by holdfast.
		m.put(v1)
		done := make(chan error, 1)
		go func() { done <- m.Run(m.ctx, "/usr/bin/holdfast", "reload", myappUnit) }()
		m.waitAnswers(l, "1.0.0", l.Progress().Versions["1.0.0"]+20)
		m.systemctl("daemon-reexec")
		if err := <-done; err != nil {
			t.Errorf("holdfast reload: %v", err)
		}
		m.nothingLost(l)
		if n := m.prop("NRestarts"); n != "0" {
			t.Errorf("NRestarts=%s", n)
		}
		m.systemctl("stop", myappUnit)
		if r := m.prop("Result"); r != "success" {
			t.Errorf("Result=%s after stop", r)
		}
	})
}

// Type=notify-reload: systemd sends SIGUSR2 and waits for READY=1. It cannot
// report a failure; the status text does.
func TestNotifyReload(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		if v < 253 {
			_, err := units.Render(units.Options{Name: "myapp", Exec: myappPath, Systemd: int(v), Flavour: units.NotifyReload})
			if err == nil || !strings.Contains(err.Error(), "253") {
				t.Fatalf("render for %v: %v; want an error that names 253", v, err)
			}
			return
		}
		m := installMyapp(t, vmtests.BootTest(t, v), brisk, func(o *units.Options) { o.Flavour = units.NotifyReload })
		m.systemctl("start", myappSocket, myappUnit)
		l := m.load()
		for _, next := range []build{v2, v1} {
			before := m.mainPID()
			m.put(next)
			generation := m.status().Generation
			m.mustReload()
			// systemd is done with READY=1, a moment before both versions are.
			m.waitLine(fmt.Sprintf("trial -> serving generation=%d ", generation+1))
			if st := m.status(); m.mainPID() == before || st.Version != next.version {
				t.Errorf("after a reload to %s: %+v", next.version, st)
			}
		}
		m.put(build{version: "2.0.0", damage: "ill-at-start"})
		before := m.mainPID()
		m.mustReload() // a success, as far as systemd can know
		if text := m.prop("StatusText"); !strings.Contains(text, "not ready within") || m.mainPID() != before {
			t.Errorf("StatusText=%q, MainPID %d -> %d", text, before, m.mainPID())
		}
		m.nothingLost(l)
		m.quietJournal()
		m.systemctl("stop", myappUnit)
	})
}

// A template: two instances upgrade apart from each other.
func TestInstances(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := installMyapp(t, vmtests.BootTest(t, v), brisk, func(o *units.Options) {
			o.Template = true
			o.Sockets = []units.Socket{{Name: "http", Address: "127.0.0.1:80%i"}}
		})
		m.systemctl("start", "myapp@81.socket", "myapp@81.service", "myapp@82.socket", "myapp@82.service")
		m.put(v2)
		m.systemctl("reload", "myapp@81.service")
		for unit, want := range map[string]string{"myapp@81.service": "2.0.0", "myapp@82.service": "1.0.0"} {
			if text := m.run("/usr/bin/holdfast", "status", "--json=short", unit); !strings.Contains(text, `"version":"`+want+`"`) {
				t.Errorf("%s: %s; want version %s", unit, text, want)
			}
		}
		m.systemctl("stop", "myapp@81.service", "myapp@82.service")
	})
}

// Two reloads at once with Type=notify-reload: systemd sends the second signal
// as soon as it has read MAINPID=, when the new version does not know yet that
// it is main.
func TestNotifyReloadDuringReload(t *testing.T) {
	for _, v := range []vmtests.Version{vmtests.Systemd257, vmtests.Systemd262} {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			m := installMyapp(t, vmtests.BootTest(t, v), brisk, func(o *units.Options) { o.Flavour = units.NotifyReload })
			m.systemctl("start", myappSocket, myappUnit)
			l := m.load()
			for range 3 {
				before := m.status().Generation
				first := m.reloadInBackground()
				m.waitLine(fmt.Sprintf("starting -> probation generation=%d ", before))
				second := m.reloadInBackground()
				if err := errors.Join(<-first, <-second); err != nil {
					t.Fatal(err)
				}
				m.waitLine(fmt.Sprintf("trial -> serving generation=%d ", before+2))
				if st := m.status(); st.Generation != before+2 || st.PID != m.mainPID() {
					t.Errorf("generation %d after two reloads of generation %d; MainPID %d, PID %d", st.Generation, before, m.mainPID(), st.PID)
				}
			}
			m.nothingLost(l)
			m.quietJournal()
			m.systemctl("stop", myappUnit)
		})
	}
}
