// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/units/upgrade"
	"github.com/holdfast-go/holdfast/vmtests"
)

// A version that passes its probation and fails in the soak is rolled back, by each
// of the gates.
func TestOperatorSoakFails(t *testing.T) {
	gates := []struct {
		gate, reason string
		bad          build
		change       func(*upgrade.Request)
		// loses: what the bad version does to requests.
		loses bool
	}{
		{gate: "health", reason: "/nosuch answers 404", bad: v2, change: func(r *upgrade.Request) { r.Gates.HealthURL = myappURL + "/nosuch" }},
		{gate: "version", reason: "the file is version 2.0.0, and 9.9.9 was asked for", bad: v2, change: func(r *upgrade.Request) { r.Version = "9.9.9" }},
		{
			gate: "errors", reason: "at most 1.00 % may be", bad: build{version: "4.0.0", damage: "fail-requests", after: "3s"}, loses: true,
			change: func(r *upgrade.Request) {
				r.Gates.MetricsURL, r.Gates.MaxErrorRate = myappURL+"/metrics", 0.01
				r.Gates.Requests, r.Gates.Errors = "myapp_requests_total", `myapp_requests_total{code="500"}`
			},
		},
		{gate: "ready", reason: "damaged on purpose: the database is gone", bad: build{version: "3.0.0", damage: "ill-in-probation", after: "4s"}},
		{gate: "process", bad: build{version: "5.0.0", damage: "panic-in-probation", after: "4s"}, loses: true},
	}
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startOperated(t, v, brisk)
		for _, g := range gates {
			l := m.load()
			m.put(g.bad)
			r := request("bad-" + g.gate)
			r.Gates.Soak = 20 * time.Second
			if g.change != nil {
				g.change(r)
			}
			report := m.help("rollout", r).reports(upgrade.RolledBack)
			unit := report.Units[0]
			if unit.Gate != g.gate || !strings.Contains(unit.Reason, g.reason) || unit.From.Version != "1.0.0" || unit.To.Version != "1.0.0" || unit.To.PID != m.mainPID() {
				t.Errorf("%s: unit %+v", g.gate, unit)
			}
			if st := m.status(); st.Version != "1.0.0" || st.State != "running" {
				t.Errorf("%s: status %+v", g.gate, st)
			}
			if state := m.prop("ActiveState") + "/" + m.prop("SubState"); state != "active/running" {
				t.Errorf("%s: state %s", g.gate, state)
			}
			before := l.Progress().Versions["1.0.0"]
			m.waitAnswers(l, "1.0.0", before+50)
			if !g.loses {
				m.nothingLost(l)
			} else if s, err := l.Stop(m.ctx); err != nil {
				t.Error(err)
			} else if s.OK == 0 || strings.Contains(s.FailureText(1000), "refused") {
				t.Errorf("%s: %s", g.gate, s.FailureText(10))
			}
		}
		var history []upgrade.Report
		m.help("history", nil, "myapp").ends(&history)
		if len(history) != len(gates) || history[0].Units[0].Gate != "process" {
			t.Errorf("history %+v", history)
		}
		// Then a good one.
		m.put(build{version: "6.0.0"})
		m.help("rollout", request("good")).reports(upgrade.Done)
	})
}

// Somebody does not like the new version: the one before serves again, and nothing
// is lost. Where there is none, that is said before.
func TestOperatorRollsBack(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startOperated(t, v, brisk)
		m.help("rollback", request("")).refuses("*upgrade.PreconditionError", "no version before 1.0.0 is kept")
		l := m.load()
		m.put(v2)
		m.help("rollout", request("up")).reports(upgrade.Done)
		down := request("down")
		down.Reason = "it is slow"
		report := m.help("rollback", down).reports(upgrade.Done)
		if unit := report.Units[0]; report.Action != "rollback" || unit.From.Version != "2.0.0" || unit.To.Version != "1.0.0" || unit.To.PID != m.mainPID() {
			t.Errorf("report %+v", report)
		}
		if st := m.status(); st.Version != "1.0.0" || st.Last == nil || !st.Last.Rollback {
			t.Errorf("status %+v", st)
		}
		if g := m.status().LastGood; g == nil || len(g.Failed) == 0 || !strings.Contains(g.Failed[0].Reason, "by a story: it is slow") {
			t.Errorf("the record is %s", asJSON(g))
		}
		// It is done once.
		if again := m.help("rollback", down).reports(upgrade.Done); !again.Started.Equal(report.Started) {
			t.Errorf("the same ID has got another report: %+v", again)
		}
		m.nothingLost(l)
		if n := m.prop("NRestarts"); n != "0" {
			t.Errorf("NRestarts=%s", n)
		}
		m.quietJournal()
	})
}
