// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/vmtests"
)

// Promise 6: stop always wins, and is graceful in every phase of an upgrade.
func TestStopDuringUpgrade(t *testing.T) {
	phases := []struct {
		name string
		next build
		line string // of the journal: the phase has begun
	}{
		{"start", build{version: "2.0.0", damage: "hang-at-start"}, "checking -> starting"},
		{"probation", v2, "starting -> probation"},
	}
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startMyapp(t, v, timing{probation: 30 * time.Second, start: 30 * time.Second, drain: 20 * time.Second})
		for _, phase := range phases {
			m.put(v1)
			m.systemctl("start", myappSocket, myappUnit)
			slow := m.slowRequest(2 * time.Second)
			m.put(phase.next)
			reload := m.reloadInBackground()
			m.waitLine(phase.line)
			// One that the successor accepted, where it does.
			second := m.slowRequest(2 * time.Second)
			begin := time.Now()
			m.systemctl("stop", myappUnit)
			t.Logf("%s: stop took %v", phase.name, time.Since(begin).Round(time.Millisecond))
			slow.mustAnswer()
			second.mustAnswer()
			if err := <-reload; err == nil {
				t.Errorf("%s: systemctl reload succeeded, the service was stopped", phase.name)
			}
			if s, r := m.prop("ActiveState"), m.prop("Result"); s != "inactive" || r != "success" {
				t.Errorf("%s: ActiveState=%s Result=%s after stop", phase.name, s, r)
			}
			m.noProcessLeft()
		}
		m.quietJournal()
	})
}

// A stop while an old generation drains lets both answer.
func TestStopDuringDrain(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startMyapp(t, v, brisk)
		old := m.slowRequest(5 * time.Second)
		m.put(v2)
		m.mustReload()
		if st := m.status(); len(st.Draining) != 1 || st.Version != "2.0.0" {
			t.Errorf("draining %+v, version %s; want one and 2.0.0", st.Draining, st.Version)
		}
		young := m.slowRequest(2 * time.Second)
		m.systemctl("stop", myappUnit)
		old.mustAnswer()
		young.mustAnswer()
		if s, r := m.prop("ActiveState"), m.prop("Result"); s != "inactive" || r != "success" {
			t.Errorf("ActiveState=%s Result=%s after stop", s, r)
		}
		m.noProcessLeft()
		m.quietJournal()
	})
}

// The new main dies during a long drain: systemd, whose child it is, notices
// at once and starts the service again; the drain finishes.
func TestNewMainDiesDuringDrain(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startMyapp(t, v, brisk)
		old := m.slowRequest(6 * time.Second)
		m.put(v2)
		m.mustReload()
		main := m.mainPID()
		// A client that comes meanwhile waits in the socket's queue.
		if err := m.Kill(m.ctx, main, "KILL"); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		m.slowRequest(10 * time.Millisecond).mustAnswer()
		t.Logf("answered again %v after the death of main", time.Since(begin).Round(time.Millisecond))
		old.mustAnswer()
		if n := m.prop("NRestarts"); n != "1" {
			t.Errorf("NRestarts=%s, want 1", n)
		}
		if now := m.mainPID(); now == main || now == 0 {
			t.Errorf("MainPID=%d", now)
		}
	})
}

// Promise 4: a crash loop does not close the socket.
func TestCrashLoopKeepsTheSocket(t *testing.T) {
	const loop = time.Minute
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		// The launcher would end the loop.
		m := installMyapp(t, vmtests.BootTest(t, v), brisk, func(o *units.Options) { o.Launcher = units.LauncherOff })
		m.systemctl("start", myappSocket, myappUnit)
		m.put(build{version: "2.0.0", damage: "crash-always"})
		if err := m.Kill(m.ctx, m.mainPID(), "KILL"); err != nil {
			t.Fatal(err)
		}
		l, err := m.StartLoad(m.ctx, vmtests.LoadOptions{URL: myappURL + "/", Connect: 1, Think: 20 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(loop) // the minute is what is tested
		s, err := l.Stop(m.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if s.Failed > 0 || s.OK == 0 {
			t.Errorf("connections: %d ok, %s", s.OK, s.FailureText(5))
		}
		if state := m.systemctl("show", "-P", "ActiveState", myappSocket); state != "active" {
			t.Errorf("%s is %s", myappSocket, state)
		}
		t.Logf("%s restarts in a minute; %d connections, none refused", m.prop("NRestarts"), s.OK)
		// A good version mends it without a further command.
		m.put(v2)
		m.slowRequest(10 * time.Millisecond).mustAnswer()
	})
}

// noProcessLeft says that the unit's control group is empty.
func (m *myapp) noProcessLeft() {
	m.t.Helper()
	if left := m.run("bash", "-c", "pgrep -x myapp || true"); strings.TrimSpace(left) != "" {
		m.t.Errorf("processes left: %s", left)
	}
}
