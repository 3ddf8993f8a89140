// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/vmtests"
)

// controlSocket has a command ask the service itself, without D-Bus.
const controlSocket = "--socket=/run/myapp/control.sock"

// Promise: a version that has passed its probation can be left as it came, without a
// request lost; the version before then starts whatever happens, until a newer file
// is there.
func TestRollback(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startMyapp(t, v, brisk)
		m.waitLine(becameGood)
		m.fastRestart("")
		l := m.load()
		m.put(v2)
		m.mustReload()
		m.waitLine(becameGood + " version=2.0.0")
		if out := m.run("/usr/bin/holdfast", "rollback", controlSocket, "--reason=orders are lost"); !strings.Contains(out, "Rolled myapp back from 2.0.0 to 1.0.0 in ") {
			t.Errorf("holdfast rollback says %q", out)
		}
		m.waitAnswers(l, "1.0.0", 20)
		m.nothingLost(l)
		st := m.status()
		if st.Version != "1.0.0" || st.Generation != 3 || st.PID != m.mainPID() || st.Previous == nil || st.Previous.Version != "2.0.0" || m.prop("NRestarts") != "0" {
			t.Errorf("after the rollback: %+v, previous %+v; MainPID=%d NRestarts=%s", st, st.Previous, m.mainPID(), m.prop("NRestarts"))
		}
		m.quietJournal()
		for _, next := range []string{"crash", "restart"} {
			m.startAgain(next)
			m.mustFallBack("rolled back, "+next, "rolled back by the operator: orders are lost")
			if st := m.status(); st.Version != "1.0.0" {
				t.Fatalf("after the rollback and a %s version %s runs", next, st.Version)
			}
		}

		// Forth and back again, from a process that the launcher has started.
		l = m.load()
		m.run("/usr/bin/holdfast", "rollback", controlSocket)
		m.mustRunFile("2.0.0")
		m.run("/usr/bin/holdfast", "rollback", controlSocket)
		if st := m.status(); st.Version != "1.0.0" || st.Generation != 3 {
			t.Errorf("forth and back: %+v", st)
		}
		m.put(build{version: "3.0.0"})
		m.mustReload()
		m.nothingLost(l)
		m.mustRunFile("3.0.0")
		m.waitLine(becameGood + " version=3.0.0")
		m.startAgain("crash")
		m.mustRunFile("3.0.0")
		m.startAgain("restart")
		m.mustRunFile("3.0.0")
	})
}

const (
	sidePath = "/usr/lib/myapp"
	// sideProgram is what the unit starts.
	sideProgram = sidePath + "/current/myapp"
)

// startSideBySide starts myapp 1.0.0 of three versions that are side by side.
func startSideBySide(t *testing.T, v vmtests.Version, launcher units.Launcher) *myapp {
	t.Helper()
	m := installMyapp(t, vmtests.BootTest(t, v), brisk, func(o *units.Options) {
		o.Exec, o.ExecDirectories, o.Launcher = sideProgram, []string{sidePath + "/versions"}, launcher
	})
	m.run("mkdir", sidePath)
	for _, b := range []build{v1, v2, {version: "3.0.0", damage: "ill-in-probation", after: "1ms"}} {
		m.put(b)
		m.run("/usr/bin/holdfast", "versions", "install", sidePath, b.version, myappPath)
	}
	m.run("rm", myappPath)
	m.run("/usr/bin/holdfast", "versions", "switch", sidePath, "1.0.0")
	m.systemctl("start", myappSocket, myappUnit)
	return m
}

// switchTo is "holdfast versions switch"; what it prints is in the error, too.
func (m *myapp) switchTo(version string) (string, error) {
	m.t.Helper()
	return m.Output(m.ctx, "/usr/bin/holdfast", "versions", "switch", "--unit="+myappUnit, sidePath, version)
}

// mustLead says where the links lead, and which version runs.
func (m *myapp) mustLead(current, previous, runs string) {
	m.t.Helper()
	if got := m.run("readlink", sidePath+"/current", sidePath+"/previous"); got != "versions/"+current+"\nversions/"+previous {
		m.t.Errorf("the links lead to %q, want %s and %s", got, current, previous)
	}
	if st := m.status(); st.Version != runs || st.State != "running" {
		m.t.Errorf("version %s is %s, want %s", st.Version, st.State, runs)
	}
}

// Promise: versions side by side are switched together with what runs, without a
// request lost; what fails is switched back, and what is interrupted is found.
func TestVersionsSideBySide(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		// With the launcher on two of them, and without on the others.
		launcher := units.LauncherOn
		if v == 247 || v == 257 {
			launcher = units.LauncherOff
		}
		m := startSideBySide(t, v, launcher)
		m.fastRestart("")
		l := m.load()
		if out, err := m.switchTo("2.0.0"); err != nil || !strings.Contains(out, "Upgraded myapp from 1.0.0 to 2.0.0") {
			t.Fatalf("switch to 2.0.0: %v\n%s", err, out)
		}
		m.mustLead("2.0.0", "1.0.0", "2.0.0")
		out, err := m.switchTo("3.0.0")
		var exit *vmtests.ExitError
		if !errors.As(err, &exit) || !strings.Contains(out+err.Error(), "leads to 2.0.0 again") || !strings.Contains(out+err.Error(), "the database is gone") {
			t.Errorf("switch to a bad version: %v\n%s", err, out)
		}
		m.mustLead("2.0.0", "1.0.0", "2.0.0")
		if st := m.status(); st.Previous == nil || st.Previous.Version != "1.0.0" {
			t.Errorf("a rollback would start %+v", st.Previous)
		}
		if out, err := m.switchTo("previous"); err != nil || !strings.Contains(out, "Upgraded myapp from 2.0.0 to 1.0.0") {
			t.Fatalf("switch back: %v\n%s", err, out)
		}
		m.mustLead("1.0.0", "2.0.0", "1.0.0")
		// The service goes back by itself, too: the layout is there, or the copy.
		m.run("/usr/bin/holdfast", "rollback", controlSocket)
		m.mustLead("1.0.0", "2.0.0", "2.0.0")
		m.run("/usr/bin/holdfast", "rollback", controlSocket)
		m.mustLead("1.0.0", "2.0.0", "1.0.0")

		// The command is killed in the probation: the service goes on with its upgrade.
		m.run("timeout", "60", "bash", "-c", `
			/usr/bin/holdfast versions switch --unit="$1" "$2" 2.0.0 & pid=$!
			until /usr/bin/holdfast status --json=short --socket=/run/myapp/control.sock | grep -q '"state":"probation"'; do :; done
			kill -9 $pid; ! wait $pid`, "-", myappUnit, sidePath)
		if out := m.run("sh", "-c", "/usr/bin/holdfast versions prune --keep=9 "+sidePath+" 2>&1 || true"); !strings.Contains(out, "has not ended: its upgrade is under way (probation)") {
			t.Errorf("in the probation: %s", out)
		}
		m.waitAnswers(l, "2.0.0", 20)
		m.run("timeout", "60", "bash", "-c", `until /usr/bin/holdfast status --json=short --socket=/run/myapp/control.sock | grep -q '"state":"running".*"version":"2.0.0"'; do :; done`, "-", myappUnit)
		if out := m.run("sh", "-c", "/usr/bin/holdfast versions prune --keep=9 "+sidePath+" 2>&1"); !strings.Contains(out, "had not ended: it went on to 2.0.0") {
			t.Errorf("after the upgrade: %s", out)
		}
		m.mustLead("2.0.0", "1.0.0", "2.0.0")
		m.nothingLost(l)
		m.quietJournal()
		for _, next := range []string{"crash", "restart"} {
			m.startAgain(next)
			m.mustLead("2.0.0", "1.0.0", "2.0.0")
		}

		// Read-only, as a package may leave it: it is said what is in the way.
		m.run("mount", "--bind", sidePath, sidePath)
		m.run("mount", "-o", "remount,bind,ro", sidePath)
		if out, err := m.switchTo("1.0.0"); err == nil || !strings.Contains(out+err.Error(), "read-only file system") {
			t.Errorf("switch of a read-only directory: %v\n%s", err, out)
		}
		if out := m.run("/usr/bin/holdfast", "versions", "list", sidePath); !strings.Contains(out, "current, PID ") {
			t.Errorf("the list of a read-only directory: %s", out)
		}
		m.mustLead("2.0.0", "1.0.0", "2.0.0")
	})
}

// A disk without room for a third copy costs the last but one; without room for
// another one at all, the good version stays what it was. Either way the version
// before is one that has proven itself, and nothing is lost.
func TestRollbackOnAFullDisk(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := installMyapp(t, vmtests.BootTest(t, v), brisk, nil)
		const state = "/var/lib/private/myapp.holdfast"
		m.run("sh", "-c", `
			mkdir -p -m 0700 /var/lib/private && mkdir "$1" && ln -s private/myapp.holdfast /var/lib/myapp.holdfast
			mount -t tmpfs -o mode=0755,size=$(($(stat -c %s "$2") * 5 / 2)) tmpfs "$1"`, "-", state, myappPath)
		m.systemctl("start", myappSocket, myappUnit)
		m.waitLine(becameGood + " version=1.0.0")
		l := m.load()
		upgrade := func(b build) {
			m.put(b)
			m.mustReload()
		}
		upgrade(v2)
		m.waitLine(becameGood + " version=2.0.0")
		upgrade(build{version: "3.0.0"})
		m.waitLine(becameGood + " version=3.0.0")
		if st := m.status(); st.Previous == nil || st.Previous.Version != "2.0.0" {
			t.Errorf("with room for two copies a rollback would start %+v", st.Previous)
		}
		// Now there is room for one more, if one goes, and somebody else takes it.
		m.run("sh", "-c", `rm "$1"/good-* ; cp "$2" "$1"/filler; cat "$2" >>"$1"/filler; cat "$2" >>"$1"/filler || true`, "-", state, myappPath)
		upgrade(build{version: "4.0.0"})
		m.waitLine("the last good version stays what it was")
		m.waitLine("no space left on device")
		if st := m.status(); st.Version != "4.0.0" || st.Previous != nil {
			t.Errorf("version %s runs, and a rollback would start %+v: its copy was removed", st.Version, st.Previous)
		}
		m.run("rm", state+"/filler")
		upgrade(v1)
		m.waitLine(becameGood + " version=1.0.0")
		upgrade(v2)
		m.waitLine(becameGood + " version=2.0.0")
		m.run("/usr/bin/holdfast", "rollback", controlSocket)
		m.nothingLost(l)
		if st := m.status(); st.Version != "1.0.0" || st.LastGood == nil || st.LastGood.Version != "1.0.0" {
			t.Errorf("after the rollback %s runs: %s", st.Version, asJSON(st.LastGood))
		}
		m.fastRestart("")
		m.startAgain("crash")
		m.mustFallBack("rolled back", "rolled back by the operator")
	})
}
