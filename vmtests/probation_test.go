// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
)

// Promise 3: a bad version is undone by itself. Only what a process that died
// was itself answering is lost; a version that is merely ill answers what it
// has.
func TestProbationIsUndone(t *testing.T) {
	kinds := []struct {
		damage, reason string
		mayCut         bool
	}{
		{"crash-in-probation", "a fatal error of the Go runtime", true},
		{"panic-in-probation", "panic: damaged on purpose: panic in probation", true},
		{"hang-in-probation", "hangs: no beat for", true},
		{"ill-in-probation", "damaged on purpose: the database is gone", false},
	}
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startMyapp(t, v, timing{probation: 4 * time.Second, start: 10 * time.Second, drain: 20 * time.Second})
		for _, k := range kinds {
			l := m.load()
			m.put(build{version: "2.0.0", damage: k.damage})
			m.mustRefuse(k.reason)
			m.put(v1)
			before := l.Progress().Versions["1.0.0"]
			m.waitAnswers(l, "1.0.0", before+50)
			s, err := l.Stop(m.ctx)
			if err != nil {
				t.Fatal(err)
			}
			if s.Failed > 0 && !k.mayCut || s.Failed > 7 { // workers of the load
				t.Errorf("%s: %s", k.damage, s.FailureText(10))
			}
			t.Logf("%s: %d requests, %d cut with the process that held them, longest gap in answers %v", k.damage, s.OK+s.Failed, s.Failed, s.LongestGap.Duration)
			if k.damage == "crash-in-probation" {
				t.Logf("%s: from the panic to accepting again %v", k.damage, m.between("fatal error:", "probation -> serving"))
			}
		}
		if n := m.prop("NRestarts"); n != "0" {
			t.Errorf("NRestarts=%s", n)
		}
		l := m.load()
		m.put(v2)
		m.mustReload()
		m.waitAnswers(l, "2.0.0", 50)
		m.nothingLost(l)
	})
}

// The predecessor dies in probation: systemd adopts the successor through the
// PID file; the unit is not restarted, and a later stop is graceful.
func TestPredecessorKilledInProbation(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startMyapp(t, v, timing{probation: 20 * time.Second, start: 10 * time.Second, drain: 20 * time.Second})
		l := m.load()
		old := m.mainPID()
		m.put(v2)
		reload := m.reloadInBackground()
		m.waitAnswers(l, "2.0.0", 20)
		if err := m.Kill(m.ctx, old, "KILL"); err != nil {
			t.Fatal(err)
		}
		if err := <-reload; err != nil {
			t.Errorf("systemctl reload: %v; want success: the new version took over", err)
		}
		if now := m.mainPID(); now == old || now == 0 {
			t.Errorf("MainPID=%d, was %d", now, old)
		}
		if n := m.prop("NRestarts"); n != "0" {
			t.Errorf("NRestarts=%s: the unit was restarted", n)
		}
		before := l.Progress().Versions["2.0.0"]
		m.waitAnswers(l, "2.0.0", before+50)
		s, err := l.Stop(m.ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range s.Failures {
			if strings.Contains(f.Error, "refused") {
				t.Errorf("a connection was refused: %+v", f)
			}
		}
		if s.Failed > 7 {
			t.Error(s.FailureText(10))
		}
		t.Logf("%d requests, %d cut with the predecessor; longest gap in answers %v", s.OK+s.Failed, s.Failed, s.LongestGap.Duration)

		// It is systemd's own: the next upgrade and a graceful stop work.
		slow := m.slowRequest(2 * time.Second)
		m.systemctl("stop", myappUnit, myappSocket)
		slow.mustAnswer()
		if r := m.prop("Result"); r != "success" {
			t.Errorf("Result=%s after stop", r)
		}
		m.quietJournal()
	})
}
