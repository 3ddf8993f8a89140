// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/vmtests"
)

// testMemory shows who pays for memory that is not there. It needs the memory controller, so it runs in virtual
// machines.
func testMemory(t *testing.T, on *vmtests.Machine) {
	// It ends with the death that comes; how long a busy machine takes to that is not known.
	trial := patient
	trial.probation = 2 * time.Minute
	m := installMyapp(t, on, trial, func(o *units.Options) { o.ServiceLines = []string{"MemoryMax=160M"} })
	defer m.uninstall()
	m.systemctl("start", myappSocket, myappUnit)

	// A successor that eats before it is ready has served nobody.
	l := m.load()
	m.put(build{version: "2.0.0", damage: "eat-at-start"})
	m.mustRefuse("successor (PID")
	m.mustHaveKilled(1)
	m.nothingLost(l)
	if last := m.status().Last; last == nil || last.Outcome != "refused" {
		t.Errorf("the verdict is %+v, want refused", last)
	}

	// One that eats in its probation has: what it was answering is lost, as with any death.
	l = m.load()
	old := m.mainPID()
	m.put(build{version: "2.0.0", damage: "eat-memory"})
	m.mustRefuse("successor (PID")
	m.mustHaveKilled(2)
	m.waitAnswers(l, "1.0.0", 50+l.Progress().Versions["1.0.0"])
	m.cutAtMost(l, 7) // workers of the load
	if last := m.status().Last; last == nil || last.Outcome != "rolled back" {
		t.Errorf("the verdict is %+v, want rolled back", last)
	}
	if now, n := m.mainPID(), m.prop("NRestarts"); now != old || n != "0" {
		t.Errorf("MainPID=%d NRestarts=%s, want %d and 0: the old version was to serve on", now, n, old)
	}

	// The kernel has nobody else to choose when main eats, and systemd starts the service again.
	m.put(build{version: "2.0.0", damage: "eat-memory", after: "3s"})
	m.systemctl("restart", myappUnit)
	m.put(v1)
	l = m.load()
	m.waitAnswers(l, "1.0.0", 50)
	m.cutAtMost(l, 7)
	if n := m.prop("NRestarts"); n != "1" {
		t.Errorf("NRestarts=%s, want 1", n)
	}
	journal, err := m.Journal(m.ctx, "-u", myappUnit)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(journal, "has been killed by the OOM killer"); n != 3 {
		t.Errorf("systemd has seen the OOM killer %d times, want 3:\n%s", n, journal)
	}

	// OOMPolicy=stop, which units refuses to render, ends the version that serves with the one that eats. Not so
	// while systemd reloads the unit: it does not act on it then.
	if err := m.WriteFile(m.ctx, "/etc/systemd/system/myapp.service.d/policy.conf", []byte("[Service]\nOOMPolicy=stop\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m.systemctl("daemon-reload")
	l = m.load()
	old = m.mainPID()
	m.put(build{version: "4.0.0", damage: "eat-memory"})
	reload := make(chan error, 1)
	go func() { reload <- m.Run(m.ctx, "/usr/bin/holdfast", "reload", myappUnit) }()
	m.waitAnswers(l, "4.0.0", 1)
	m.put(v1) // for the start that comes
	if err := <-reload; err == nil {
		t.Error("with OOMPolicy=stop the reload to a version that eats memory succeeded")
	}
	if _, err := m.WaitProps(m.ctx, myappUnit, []string{"MainPID", "SubState"}, func(p map[string]string) bool {
		return p["SubState"] == "running" && p["MainPID"] != strconv.Itoa(old)
	}); err != nil {
		t.Errorf("with OOMPolicy=stop the version that served is still there: %v", err)
	}
	if _, err := l.Stop(m.ctx); err != nil {
		t.Error(err)
	}
}

// mustHaveKilled says how many processes of the unit the kernel has killed for want of memory.
func (m *myapp) mustHaveKilled(want int) {
	m.t.Helper()
	text := m.run("cat", "/sys/fs/cgroup"+m.prop("ControlGroup")+"/memory.events")
	for line := range strings.Lines(text) {
		if got, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			if got != strconv.Itoa(want) {
				m.t.Errorf("the kernel has killed %s processes for want of memory, want %d", got, want)
			}
			return
		}
	}
	m.t.Errorf("no oom_kill in memory.events:\n%s", text)
}

// cutAtMost ends the load and fails for every refused connection, and for more failed requests than n.
func (m *myapp) cutAtMost(l *vmtests.Load, n int) {
	m.t.Helper()
	s, err := l.Stop(m.ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	refused := 0
	for _, f := range s.Failures {
		if strings.Contains(f.Error, "refused") {
			refused++
		}
	}
	if refused > 0 || s.Failed > n {
		m.t.Errorf("%d connections were refused, want none; of %d failures at most %d:\n%s", refused, s.Failed, n, s.FailureText(10))
	}
	m.t.Logf("%d requests, %d cut with the process that held them, longest gap in answers %v", s.OK+s.Failed, s.Failed, s.LongestGap.Duration)
}
