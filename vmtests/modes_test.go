// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"errors"
	"strconv"
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
		// With status 0 it is no failure to systemd, which has seen it ready long ago.
		for _, how := range []string{"crash-always", "exit-always"} {
			before, restarts := m.mainPID(), m.prop("NRestarts")
			m.put(build{version: "3.0.0", damage: how})
			err := m.reload()
			var exit *vmtests.ExitError
			if how == "crash-always" && !errors.As(err, &exit) {
				t.Errorf("%s: systemctl reload: %v; want a failure", how, err)
			}
			m.put(v1)
			if _, err := m.WaitProps(m.ctx, myappUnit, []string{"SubState", "MainPID"}, func(p map[string]string) bool {
				return p["SubState"] == "running" && p["MainPID"] != strconv.Itoa(before)
			}); err != nil {
				t.Fatalf("%s: %v", how, err)
			}
			if st := m.status(); st.Version != "1.0.0" || st.Generation != 1 || st.PID != m.mainPID() {
				t.Errorf("after %s: %+v", how, st)
			}
			if n := m.prop("NRestarts"); n == restarts {
				t.Errorf("%s: NRestarts=%s, as before", how, n)
			}
		}
		// A stop stays one.
		m.systemctl("stop", myappUnit, myappSocket)
		if r, state := m.prop("Result"), m.prop("ActiveState"); r != "success" || state != "inactive" {
			t.Errorf("Result=%s ActiveState=%s after stop", r, state)
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
