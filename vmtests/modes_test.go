// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/vmtests"
)

// inMode starts myapp in another mode than overlap.
func inMode(t *testing.T, v vmtests.Version, mode units.Mode) *myapp {
	t.Helper()
	m := installMyapp(t, vmtests.BootTest(t, v), brisk, func(o *units.Options) {
		o.Mode = mode
		o.Args = append(o.Args, "-mode="+string(mode))
	})
	m.systemctl("start", myappSocket, myappUnit)
	return m
}

// In place nothing is lost to an upgrade either, and systemd sees one process
// from the start to the end. A bad version is refused before, or is systemd's to
// start again.
func TestInPlace(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := inMode(t, v, units.InPlace)
		pid := m.mainPID()
		l := m.load()
		for i, next := range []build{v2, v1, v2} {
			m.put(next)
			m.mustReload()
			if st := m.status(); st.Version != next.version || st.Generation != i+2 || st.PID != pid || st.Mode != "in place" {
				t.Fatalf("upgrade %d: %+v", i+1, st)
			}
		}
		m.put(build{version: "3.0.0", goarch: otherArchitecture()})
		m.mustRefuse("is built for")
		m.nothingLost(l)
		if now := m.mainPID(); now != pid || m.prop("NRestarts") != "0" {
			t.Errorf("MainPID=%d, was %d; NRestarts=%s", now, pid, m.prop("NRestarts"))
		}
		m.quietJournal()

		// It comes to an end in the process of the old version: the reload fails,
		// and systemd starts whatever file is there then.
		m.put(build{version: "3.0.0", damage: "crash-at-start"})
		err := m.reload()
		var exit *vmtests.ExitError
		if !errors.As(err, &exit) {
			t.Errorf("systemctl reload: %v; want a failure", err)
		}
		m.put(v1)
		m.run("timeout", "60", "bash", "-c", "until [ \"$(systemctl is-active "+myappUnit+")\" = active ]; do sleep 0.1; done")
		if st := m.status(); st.Version != "1.0.0" || st.Generation != 1 || st.PID != m.mainPID() {
			t.Errorf("after the crash: %+v", st)
		}
		if n := m.prop("NRestarts"); n == "0" {
			t.Errorf("NRestarts=%s after a crash", n)
		}
		m.systemctl("stop", myappUnit, myappSocket)
		if r := m.prop("Result"); r != "success" {
			t.Errorf("Result=%s after stop", r)
		}
	})
}

// A restart refuses no connection: systemd holds the socket meanwhile. A reload
// says what to type instead.
func TestRestartMode(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := inMode(t, v, units.Restart)
		pid := m.mainPID()
		l := m.load()
		m.put(v2)
		out, err := m.Output(m.ctx, "/usr/bin/holdfast", "reload", myappUnit)
		var exit *vmtests.ExitError
		if !errors.As(err, &exit) || !strings.Contains(out+err.Error(), "systemctl restart "+myappUnit) {
			t.Errorf("holdfast reload: %v\n%s", err, out)
		}
		if now := m.mainPID(); now != pid {
			t.Errorf("MainPID went from %d to %d", pid, now)
		}
		m.systemctl("restart", myappUnit)
		if st := m.status(); st.Version != "2.0.0" || st.Generation != 1 || st.PID == pid || st.Mode != "restart" {
			t.Errorf("after the restart: %+v", st)
		}
		m.waitAnswers(l, "2.0.0", 20)
		s, err := l.Stop(m.ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range s.Failures {
			if strings.Contains(f.Error, "refused") {
				t.Errorf("a connection was refused: %+v", f)
			}
		}
		t.Logf("%d requests, %d failed, longest gap %v", s.OK+s.Failed, s.Failed, s.LongestGap.Duration)
		m.quietJournal()
	})
}
