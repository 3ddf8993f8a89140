// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/notify/notifytest"
	"github.com/holdfast-go/holdfast/reexec/control"
)

// fields writes a message as its fields in a row, without what differs from
// run to run.
func fields(m *notifytest.Message) string {
	var out []string
	for _, f := range m.Fields {
		name, value, _ := strings.Cut(string(f), "=")
		if name == "MONOTONIC_USEC" {
			if _, err := strconv.ParseUint(value, 10, 64); err == nil {
				value = "now"
			}
		}
		out = append(out, name+"="+value)
	}
	return strings.Join(out, " ")
}

// mustBeHeard checks that only main has spoken: with NotifyAccess=main systemd
// drops everything else and says so in the journal. main is the first one, and
// from each MAINPID= on the next. A barrier is for whoever asks.
func mustBeHeard(t *testing.T, messages []*notifytest.Message, main int) {
	t.Helper()
	for _, m := range messages {
		if m.IsBarrier() {
			continue
		}
		if m.Err != nil || m.Sender.PID != main {
			t.Errorf("main is PID %d; systemd would drop %v", main, m)
		}
		if value, ok := m.Value("MAINPID"); ok {
			main, _ = strconv.Atoi(value)
			if !m.Has("READY=1") {
				t.Errorf("MAINPID= without READY=1: %v", m)
			}
		}
	}
}

// A signal is a reload that nobody waits for: systemd is told that it begins
// and ends.
func TestUpgradeBySignal(t *testing.T) {
	t.Parallel()
	s := start(t, setup{plan: quick(), managed: true})
	s.notify.Want(t, "READY=1", "STATUS=running: v1 (generation 1)")
	h := s.hold(s.url(""))
	s.release("v2", func(p *plan) { p.Built = "stage" })
	s.signal(s.first, syscall.SIGUSR2)
	building := s.waitStage("built")
	begin := time.Now()
	building.release("")
	moved := s.notify.Want(t, "MAINPID="+fmt.Sprint(building.PID))
	if took := time.Since(begin); took < s.base.Probation {
		t.Errorf("MAINPID= moved after %v, within the probation of %v", took, s.base.Probation)
	}
	last := s.notify.Want(t, "READY=1", "STATUS=running: v2 (generation 2)")
	if moved.Sender.PID != s.first || last.Sender.PID != building.PID {
		t.Errorf("%v, %v: want the first of PID %d and the second of its successor", moved, last, s.first)
	}
	s.mustServe(building.PID)

	// The old one drains. Whatever it is told, systemd hears nothing of it.
	s.signal(s.first, syscall.SIGTERM)
	s.waitLog(s.first, "draining -> stopping")
	h.answerNow(t)
	s.waitDeath(s.first)
	s.signal(building.PID, syscall.SIGTERM)
	s.notify.Want(t, "STOPPING=1")
	s.mustEnd()

	messages := s.notify.Messages()
	mustBeHeard(t, messages, s.first)
	var got []string
	for _, m := range messages {
		got = append(got, fields(m))
	}
	// Nor what goes to the fd store, each time with a barrier behind it.
	stores := func(m string) bool { return strings.HasPrefix(m, "FDSTORE") }
	for i := len(got) - 1; i > 0; i-- {
		if got[i] == "BARRIER=1" && stores(got[i-1]) {
			got = slices.Delete(got, i, i+1)
		}
	}
	got = slices.DeleteFunc(got, stores)
	next := fmt.Sprintf("v2 (PID %d) is next", building.PID)
	// The same text twice in a row says nothing new.
	got = slices.Compact(slices.DeleteFunc(got, func(m string) bool {
		return m == "STATUS=running: v1 (generation 1)" || m == "STATUS=running: v2 (generation 2)"
	}))
	want := []string{
		"READY=1 STATUS=running: v1 (generation 1)",
		"RELOADING=1 MONOTONIC_USEC=now STATUS=running: v1 (generation 1)",
		"STATUS=pre-check: v1 (generation 1)",
		"STATUS=starting: v1 (generation 1); " + next,
		"STATUS=probation: v1 (generation 1); " + next,
		fmt.Sprintf("MAINPID=%d READY=1 STATUS=running: v2 (generation 2)", building.PID),
		"BARRIER=1",
		"READY=1 STATUS=running: v2 (generation 2)",
		"STOPPING=1 STATUS=stopping: SIGTERM",
	}
	if !slices.Equal(got, want) {
		t.Errorf("systemd was told\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// An upgrade by signal that fails ends the reload, and the status says why.
func TestRefusedBySignal(t *testing.T) {
	t.Parallel()
	p := quick()
	p.Probation = patience
	s := start(t, setup{plan: p, managed: true})
	s.notify.Want(t, "READY=1")
	s.release("v2", func(p *plan) { p.Check = "exit: no such colour" })
	s.signal(s.first, syscall.SIGUSR2)
	s.notify.Want(t, "RELOADING=1", "MONOTONIC_USEC")
	m := s.notify.Want(t, "READY=1", "STATUS")
	if status, _ := m.Value("STATUS"); !strings.HasPrefix(status, "running: v1 (generation 1); upgrade to v2 refused at ") ||
		!strings.HasSuffix(status, "self-check of "+s.path+": no such colour") {
		t.Errorf("status %q", status)
	}

	health := filepath.Join(s.dir, "health")
	writeFile(t, health, "")
	s.release("v3", func(p *plan) { p.HealthFile = health })
	s.signal(s.first, syscall.SIGUSR2)
	successor := s.waitLog(0, "offered -> trial").PID
	s.notify.Want(t, "RELOADING=1")
	writeFile(t, health, "feverish")
	m = s.notify.Want(t, "READY=1", "STATUS")
	if status, _ := m.Value("STATUS"); !strings.Contains(status, "upgrade to v3 rolled back at ") || !strings.HasSuffix(status, "is not healthy: feverish") {
		t.Errorf("status %q", status)
	}
	s.waitDeath(successor)
	mustBeHeard(t, s.notify.Messages(), s.first)
	for _, m := range s.notify.Messages() {
		if m.Has("MAINPID") || m.Has("STOPPING=1") {
			t.Errorf("systemd was told %v", m)
		}
	}
	s.mustServe(s.first)
}

// With a reload command under way, RELOADING=1 is not sent: the unit would
// stay in reload if main died.
func TestUpgradeByControlSocketIsNoReload(t *testing.T) {
	t.Parallel()
	s := start(t, setup{plan: quick(), managed: true})
	s.release("v2", nil)
	st := s.mustUpgrade()
	s.notify.Want(t, "MAINPID="+fmt.Sprint(st.PID))
	for _, m := range s.notify.Messages() {
		if m.Has("RELOADING=1") {
			t.Errorf("systemd was told %v", m)
		}
	}
	mustBeHeard(t, s.notify.Messages(), s.first)
}

// A service manager that cannot be told of the successor keeps the old main.
func TestMainCannotMove(t *testing.T) {
	t.Parallel()
	p := quick()
	p.Probation = time.Second
	s := start(t, setup{plan: p, managed: true})
	s.notify.Want(t, "READY=1")
	successor, verdict := s.onTrial(nil)
	if err := s.notify.Close(); err != nil {
		t.Fatal(err)
	}
	v, _ := verdict()
	want := fmt.Sprintf("systemd could not be told of successor (PID %d): ", successor)
	if v.Outcome != control.RolledBack || !strings.HasPrefix(v.Reason, want) {
		t.Errorf("verdict %q: %s; want rolled back: %s", v.Outcome, v.Reason, want)
	}
	s.mustServe(s.first)
	s.waitDeath(successor)
}

// The watchdog is fed by main alone, through an upgrade.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	p := quick()
	p.Probation = 500 * time.Millisecond
	s := start(t, setup{plan: p, managed: true, environ: []string{"WATCHDOG_USEC=200000"}})
	if m := s.notify.Want(t, "WATCHDOG=1"); m.Sender.PID != s.first {
		t.Errorf("%v is not of PID %d", m, s.first)
	}
	health := filepath.Join(s.dir, "health")
	writeFile(t, health, "")
	s.release("v2", func(p *plan) { p.HealthFile = health })
	st := s.mustUpgrade()
	s.notify.Want(t, "MAINPID="+fmt.Sprint(st.PID))
	if m := s.notify.Want(t, "WATCHDOG=1"); m.Sender.PID != st.PID {
		t.Errorf("%v is not of PID %d", m, st.PID)
	}
	mustBeHeard(t, s.notify.Messages(), s.first)
	// Ill health keeps the ping back; systemd then ends the process.
	writeFile(t, health, "ill")
	s.log.wait(t, "the watchdog to say why it is not fed", func(l line) bool {
		return l.PID == st.PID && l.Msg == "watchdog" && strings.Contains(l.Error, "ill")
	})
}
