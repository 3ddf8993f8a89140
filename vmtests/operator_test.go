// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"bufio"
	"encoding/json"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/units/upgrade"
	"github.com/holdfast-go/holdfast/vmtests"
)

const upgraderPath = "/usr/bin/upgrader"

// helper is one run of the operator's helper inside a machine.
type helper struct {
	t       *testing.T
	process *vmtests.Process
	done    chan struct{} // its output is over

	mu     sync.Mutex
	change chan struct{} // closed and replaced with each event
	events []upgrade.Event
	answer json.RawMessage
	err    string
	kind   string
}

// operator installs the helper.
func (m *myapp) operator() {
	m.t.Helper()
	m.copy(program(m.t, "github.com/holdfast-go/holdfast/vmtests/cmd/upgrader", build{}), upgraderPath, 0o755)
}

// help starts the helper; request may be nil.
func (m *myapp) help(verb string, request *upgrade.Request, args ...string) *helper {
	m.t.Helper()
	argv := append([]string{upgraderPath, verb}, args...)
	if request != nil {
		text, err := json.Marshal(request)
		if err != nil {
			m.t.Fatal(err)
		}
		argv = append(argv, string(text))
	}
	out, in := io.Pipe()
	h := &helper{t: m.t, done: make(chan struct{}), change: make(chan struct{})}
	var err error
	if h.process, err = m.Start(m.ctx, vmtests.Command{Args: argv, Stdout: in}); err != nil {
		m.t.Fatal(err)
	}
	go func() {
		err := h.process.Wait()
		in.CloseWithError(err)
	}()
	go h.read(out)
	return h
}

func (h *helper) read(out io.Reader) {
	defer close(h.done)
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var line struct {
			Event  *upgrade.Event
			Answer json.RawMessage
			Error  string
			Type   string
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			h.t.Errorf("helper: %v: %s", err, lines.Bytes())
			continue
		}
		h.mu.Lock()
		if line.Event != nil {
			h.events = append(h.events, *line.Event)
		} else {
			h.answer, h.err, h.kind = line.Answer, line.Error, line.Type
		}
		close(h.change)
		h.change = make(chan struct{})
		h.mu.Unlock()
	}
}

// wait waits for an event that is as wanted.
func (h *helper) wait(what string, as func(upgrade.Event) bool) upgrade.Event {
	h.t.Helper()
	timeout := time.After(2 * time.Minute)
	for seen := 0; ; {
		h.mu.Lock()
		events, change := h.events, h.change
		h.mu.Unlock()
		for ; seen < len(events); seen++ {
			if as(events[seen]) {
				return events[seen]
			}
		}
		select {
		case <-change:
		case <-h.done:
			h.mu.Lock()
			defer h.mu.Unlock()
			if len(h.events) == seen {
				h.t.Fatalf("the helper has ended without %s: %s %s\n%s", what, h.kind, h.err, h.story())
			}
		case <-timeout:
			h.t.Fatalf("no %s within two minutes\n%s", what, h.story())
		}
	}
}

// phase waits until a unit has come to a phase.
func (h *helper) phase(phase string) {
	h.t.Helper()
	h.wait("the phase "+phase, func(e upgrade.Event) bool { return e.Kind == "unit" && e.Phase == phase })
}

func (h *helper) story() string {
	var text strings.Builder
	for _, e := range h.events {
		text.WriteString(e.At.Format("05.000") + " " + strings.Join([]string{e.Kind, e.Unit, e.Phase, e.State, e.Text}, " ") + "\n")
	}
	return text.String()
}

// ends waits for the end of the helper and reads its answer into into, unless nil.
func (h *helper) ends(into any) {
	h.t.Helper()
	<-h.done
	if h.err != "" {
		h.t.Fatalf("helper: %s: %s\n%s", h.kind, h.err, h.story())
	}
	if into == nil {
		return
	}
	if err := json.Unmarshal(h.answer, into); err != nil {
		h.t.Fatalf("helper: answer %q: %v\n%s", h.answer, err, h.story())
	}
}

// reports waits for the end and wants an outcome.
func (h *helper) reports(want upgrade.Outcome) upgrade.Report {
	h.t.Helper()
	var report upgrade.Report
	h.ends(&report)
	if report.Outcome != want {
		text, _ := json.MarshalIndent(report, "", "  ")
		h.t.Fatalf("outcome %q (%s), want %q\n%s\n%s", report.Outcome, report.Reason, want, h.story(), text)
	}
	return report
}

// refuses waits for the end and wants an error of a type that says text.
func (h *helper) refuses(kind, text string) {
	h.t.Helper()
	<-h.done
	if h.kind != kind || !strings.Contains(h.err, text) {
		h.t.Errorf("error %s: %q, want %s with %q\n%s", h.kind, h.err, kind, text, h.story())
	}
}

// startOperated boots v with myapp and the helper.
func startOperated(t *testing.T, v vmtests.Version, tm timing) *myapp {
	t.Helper()
	m := startMyapp(t, v, tm)
	m.operator()
	return m
}

// request is one for myapp with a short soak.
func request(id string) *upgrade.Request {
	return &upgrade.Request{
		ID: id, Units: []string{"myapp"}, By: "a story",
		Gates: upgrade.Gates{Soak: 2 * time.Second, Interval: 200 * time.Millisecond},
	}
}

// Two upgrades under load, each by a job of systemd and with a soak.
func TestOperatorUpgrades(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startOperated(t, v, brisk)
		l := m.load()
		m.put(v2)
		before := m.mainPID()
		h := m.help("rollout", request("first"))
		report := h.reports(upgrade.Done)
		if report.ID != "first" || report.Action != "rollout" || report.By != "a story" || len(report.Units) != 1 {
			t.Fatalf("report %+v", report)
		}
		unit := report.Units[0]
		if unit.Unit != myappUnit || unit.From.Version != "1.0.0" || unit.From.PID != before || unit.To.Version != "2.0.0" || unit.To.PID != m.mainPID() || unit.Verdict == nil {
			t.Errorf("unit %+v", unit)
		}
		states := map[string]bool{}
		for _, e := range h.events {
			states[e.State] = true
		}
		if !states["probation"] {
			t.Errorf("the state probation was not told:\n%s", h.story())
		}

		// The same request starts nothing, and one for the version that serves neither.
		if again := m.help("rollout", request("first")).reports(upgrade.Done); !again.Started.Equal(report.Started) {
			t.Errorf("the same ID has got another report: %+v", again)
		}
		same := request("same")
		same.Version = "2.0.0"
		m.help("rollout", same).reports(upgrade.Unchanged)
		dry := request("dry")
		dry.DryRun = true
		m.help("rollout", dry).reports(upgrade.Unchanged)
		if pid := m.mainPID(); pid != unit.To.PID {
			t.Errorf("MainPID is %d, was %d", pid, unit.To.PID)
		}

		m.put(v1)
		m.help("rollout", request("second")).reports(upgrade.Done)
		var history []upgrade.Report
		m.help("history", nil, "myapp").ends(&history)
		if len(history) != 3 || history[0].ID != "second" || history[1].ID != "same" || history[2].ID != "first" {
			t.Errorf("history %+v", history)
		}
		var status upgrade.UnitStatus
		m.help("status", nil, "myapp").ends(&status)
		if status.Unit.MainPID != m.mainPID() || status.Unit.Type != "notify" || len(status.Sockets) != 1 || len(status.Sockets[0].Listen) != 1 ||
			status.Sockets[0].Listen[0].Address != "127.0.0.1:8080" || status.Service == nil || status.Service.Version != "1.0.0" || len(status.Last) != 3 {
			t.Errorf("status %+v", status)
		}
		m.nothingLost(l)
		if n := m.prop("NRestarts"); n != "0" {
			t.Errorf("NRestarts=%s", n)
		}
		m.quietJournal()
	})
}

// What is not fit is refused before anything is done, and the error says why.
func TestOperatorRefuses(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startOperated(t, v, brisk)
		before := m.mainPID()
		of := func(units ...string) *upgrade.Request {
			r := request("")
			r.Units = units
			return r
		}
		m.help("rollout", of("nosuch")).refuses("*bus.NoUnitError", "nosuch.service")
		m.help("rollout", of("myapp@*")).refuses("*bus.NoUnitError", "myapp@*.service")
		m.help("rollout", of("myapp.socket")).refuses("*upgrade.RequestError", "name the service")
		plain := "[Service]\nExecStart=/bin/sleep infinity\n"
		if err := m.WriteFile(m.ctx, "/etc/systemd/system/plain.service", []byte(plain), 0o644); err != nil {
			t.Fatal(err)
		}
		m.systemctl("start", "plain.service")
		m.help("rollout", of("plain")).refuses("*upgrade.PreconditionError", "cannot be reloaded")
		m.help("freeze", nil, "myapp").ends(nil)
		m.help("rollout", of("myapp")).refuses("*upgrade.FrozenError", "frozen since")
		m.help("thaw", nil, "myapp").ends(nil)
		m.put(v2)
		first := m.help("rollout", request("first"))
		first.phase("reload")
		m.help("rollout", request("second")).refuses("*upgrade.BusyError", `request "first" by a story works on it`)
		first.reports(upgrade.Done)
		if m.mainPID() == before {
			t.Error("MainPID is the same")
		}
		m.systemctl("stop", myappUnit)
		m.help("rollout", of("myapp")).refuses("*upgrade.PreconditionError", "it is not active (inactive)")

		// The service itself refuses a version: nothing has changed.
		m.systemctl("start", myappUnit)
		m.put(build{version: "3.0.0", damage: "ill-at-start"})
		report := m.help("rollout", request("ill")).reports(upgrade.Failed)
		if unit := report.Units[0]; !strings.Contains(unit.Reason, "not ready within") || unit.To.Version != "2.0.0" || unit.To.PID != m.mainPID() {
			t.Errorf("unit %+v", unit)
		}
	})
}
