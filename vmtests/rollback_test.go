// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
)

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
		if out := m.run("/usr/bin/holdfast", "rollback", "--reason=orders are lost", myappUnit); !strings.Contains(out, "Rolled myapp back from 2.0.0 to 1.0.0 in ") {
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
		m.run("/usr/bin/holdfast", "rollback", myappUnit)
		m.mustRunFile("2.0.0")
		m.run("/usr/bin/holdfast", "rollback", myappUnit)
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
