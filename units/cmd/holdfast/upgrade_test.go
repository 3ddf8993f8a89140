// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/control/command"
	"github.com/holdfast-go/holdfast/reexec/control/command/term"
	"github.com/holdfast-go/holdfast/units/bus"
	"github.com/holdfast-go/holdfast/units/upgrade"
)

// Every option arrives in the request; what is not given is zero, or what the help
// says.
func TestUpgradeRequest(t *testing.T) {
	plain := upgrade.Request{Units: []string{"myapp"}, By: caller(), Waves: upgrade.Waves{Ratio: 1, Canary: 1}}
	for args, change := range map[string]func(*upgrade.Request){
		"":                                      func(*upgrade.Request) {},
		"--version=2.1.0":                       func(r *upgrade.Request) { r.Version = "2.1.0" },
		"--dry-run":                             func(r *upgrade.Request) { r.DryRun = true },
		"--request-id=r1":                       func(r *upgrade.Request) { r.ID = "r1" },
		"--timeout=5s":                          func(r *upgrade.Request) { r.Timeout = 5 * time.Second },
		"--soak=1m":                             func(r *upgrade.Request) { r.Gates.Soak = time.Minute },
		"--soak=0":                              func(r *upgrade.Request) { r.Gates.Soak = -1 },
		"--interval=2s":                         func(r *upgrade.Request) { r.Gates.Interval = 2 * time.Second },
		"--health-url=http://x/":                func(r *upgrade.Request) { r.Gates.HealthURL = "http://x/" },
		"--metrics-url=http://x/m":              func(r *upgrade.Request) { r.Gates.MetricsURL = "http://x/m" },
		"--requests=a --errors=b{c=\"1\"}":      func(r *upgrade.Request) { r.Gates.Requests, r.Gates.Errors = "a", `b{c="1"}` },
		"--max-error-rate=0.01":                 func(r *upgrade.Request) { r.Gates.MaxErrorRate = 0.01 },
		"--max-failures=3":                      func(r *upgrade.Request) { r.Gates.MaxFailures = 3 },
		"--canary=2 --wave=3":                   func(r *upgrade.Request) { r.Waves.Canary, r.Waves.Size = 2, 3 },
		"--canary=0":                            func(r *upgrade.Request) { r.Waves.Canary = -1 },
		"--pause=30s --max-failed=1 --ratio=.5": func(r *upgrade.Request) { r.Waves.Pause, r.Waves.MaxFailed, r.Waves.Ratio = 30*time.Second, 1, 0.5 },
	} {
		h := &fakeHelper{report: done()}
		o := h.run(t, append([]string{"upgrade", "myapp"}, strings.Fields(args)...)...)
		o.Want(t, command.ExitOK, "Upgraded", "")
		want := plain
		change(&want)
		if h.action != "rollout" || !reflect.DeepEqual(h.request, want) {
			t.Errorf("%s: %s of %+v, want %+v", args, h.action, h.request, want)
		}
	}
	h := &fakeHelper{report: done()}
	h.run(t, "upgrade", "--user", "myapp", "--quiet", "other").Want(t, command.ExitOK, "", "")
	if !h.userManager || !reflect.DeepEqual(h.request.Units, []string{"myapp", "other"}) {
		t.Errorf("user manager %v, units %v", h.userManager, h.request.Units)
	}
	h.run(t, "rollback", "myapp", "--dry-run", "--reason=it is slow").Want(t, command.ExitOK, "Rolled back myapp.service", "")
	if h.action != "rollback" || !h.request.DryRun || h.request.Reason != "it is slow" {
		t.Errorf("%s of %+v", h.action, h.request)
	}
}

func TestUpgradeUsage(t *testing.T) {
	for args, want := range map[string]string{
		"upgrade":                     "name the UNIT, or several",
		"upgrade --canary=-1 a":       "--canary=-1: must not be negative",
		"upgrade --soak=-1s a":        "--soak=-1s: must not be negative",
		"upgrade --wave=0 a":          "--wave=0: must be a positive number",
		"upgrade --interval=0 a":      "--interval=0s: must be a positive time",
		"upgrade --ratio=0 a":         "--ratio=0: must be more than 0",
		"upgrade --timeout=0 a":       "--timeout=0s: must be a positive time",
		"upgrade --soak=x a":          `invalid value "x" for flag --soak: must be a time with its unit, as in 10s`,
		"upgrade --soak 5 a":          `invalid value "5" for flag --soak: must be a time with its unit, as in 10s`,
		"upgrade --wave=x a":          `invalid value "x" for flag --wave: must be a whole number`,
		"upgrade --quiet=x a":         `for --quiet: must be true or false`,
		"upgrade --update a":          "flag provided but not defined: --update",
		"rollback":                    "name the UNIT, or its control socket",
		"rollback --socket=/x a":      `UNIT "a" and --socket="/x": use one of them`,
		"rollback --soak=1s a":        "flag provided but not defined: --soak",
		"history":                     "name the UNIT",
		"history a b":                 `one UNIT at a time: "b" is too many`,
		"history --lines=-1 a":        "--lines=-1: must not be negative",
		"history --timeout=-1s a":     "--timeout=-1s: must not be negative",
		"freeze":                      "name the UNIT, or several",
		"thaw":                        "name the UNIT, or several",
		"wait":                        "name the UNIT, or its control socket",
		"wait a b":                    `one UNIT at a time: "b" is too many`,
		"wait --timeout=-1s myapp":    "--timeout=-1s: must not be negative",
		"upgrade --max-error-rate= a": `invalid value "" for flag --max-error-rate: must be a number`,
	} {
		o := (&fakeHelper{}).run(t, strings.Fields(args)...)
		o.Want(t, command.ExitUsage, "", want)
		name, _, _ := strings.Cut(args, " ")
		if want := `Try "holdfast ` + name + ` --help".`; o.LastLine() != want {
			t.Errorf("%s: last line %q, want %q", args, o.LastLine(), want)
		}
	}
}

// Each error has its exit code, says itself, and has what to type next as its last
// line.
func TestErrors(t *testing.T) {
	hint := func(text string) string { return `Try "` + text + `".` }
	for _, tt := range []struct {
		err  error
		code int
		want string
		last string
	}{
		{&upgrade.NoUnitError{Unit: "a.service"}, 5, `unit "a.service": there is none`, hint("systemctl list-units --type=service")},
		{&upgrade.PermissionError{Op: "reload", Unit: "a.service", Err: errors.New("denied")}, 4, "reload a.service", hint("sudo holdfast upgrade a.service")},
		{&upgrade.PermissionError{Op: "write the journal below", Unit: "/var/lib/holdfast", Err: errors.New("denied")}, 4, "the journal below /var/lib/holdfast", hint("sudo holdfast upgrade UNIT")},
		{&upgrade.PreconditionError{Unit: "a.service", What: "it is not active (failed)", Hint: "systemctl start a.service", Inactive: true}, 3, "it is not active", hint("systemctl start a.service")},
		{&upgrade.PreconditionError{Unit: "a.service", What: "it has no ExecReload=", Hint: "holdfast check a.service", Unfit: true}, 6, "no ExecReload=", hint("holdfast check a.service")},
		{&upgrade.PreconditionError{Unit: "a.service", What: "an upgrade of it is under way"}, 1, "holdfast upgrade: unit a.service: an upgrade of it is under way", "holdfast upgrade: unit a.service: an upgrade of it is under way"},
		{&upgrade.BusyError{Unit: "a.service", Holder: upgrade.Holder{ID: "r1", By: "alice\x1b[2J", PID: 7}}, 1, `alice\x1b[2J`, hint("holdfast wait a.service")},
		{&upgrade.FrozenError{Unit: "a.service", Freeze: upgrade.Freeze{By: "alice", Reason: "audit"}}, 1, "frozen", hint("holdfast thaw a.service")},
		{&upgrade.RequestError{Field: "gates.health_url", Value: "x", Want: "must be a URL"}, 2, `--health-url "x": must be a URL`, hint("holdfast upgrade --help")},
		{&bus.AwayError{Op: "connect", Err: errors.New("no bus")}, 1, "no bus", hint("holdfast reload UNIT")},
		{fmt.Errorf("wait: %w", context.DeadlineExceeded), 8, "deadline", "holdfast upgrade: wait: context deadline exceeded"},
		{errors.New("disk full"), 1, "disk full", "holdfast upgrade: disk full"},
	} {
		h := &fakeHelper{err: tt.err}
		o := h.run(t, "upgrade", "a")
		o.Want(t, tt.code, "", tt.want)
		if o.LastLine() != tt.last {
			t.Errorf("%v: last line %q, want %q", tt.err, o.LastLine(), tt.last)
		}
		// The same when there is no helper at all.
		if o := (&fakeHelper{connectErr: tt.err}).run(t, "upgrade", "a"); o.Code != tt.code {
			t.Errorf("%v: exit code %d without a helper, want %d", tt.err, o.Code, tt.code)
		}
	}

	// Who only looks is not told to upgrade.
	noBus := &fakeHelper{connectErr: &bus.AwayError{Op: "connect", Err: errors.New("no bus")}}
	for _, command := range []string{"history", "freeze", "thaw", "rollback"} {
		if o := noBus.run(t, command, "a"); o.LastLine() != hint("systemctl status dbus") {
			t.Errorf("%s: last line %q", command, o.LastLine())
		}
	}

	// Of several, each has its line, and each hint is there once.
	unfit := func(unit string) error {
		return &upgrade.PreconditionError{Unit: unit, What: "it is not active", Hint: "systemctl start 'a@*'", Inactive: true}
	}
	o := (&fakeHelper{err: errors.Join(unfit("a@1.service"), unfit("a@2.service"))}).run(t, "upgrade", "a@*")
	o.Want(t, command.ExitNotRunning, "", "holdfast upgrade: unit a@1.service: it is not active\nholdfast upgrade: unit a@2.service: it is not active\nTry")
	if n := strings.Count(o.Stderr, "Try"); n != 1 {
		t.Errorf("%d hints:\n%s", n, o.Stderr)
	}
}

// done is the report of one unit that was upgraded.
func done() upgrade.Report {
	return upgrade.Report{
		ID: "r1", Action: "rollout", Outcome: upgrade.Done, Started: now, Seconds: 15.4,
		Units: []upgrade.UnitReport{{
			Unit: "myapp.service", Outcome: upgrade.Done, Started: now, Seconds: 15.4,
			From:   upgrade.Version{Version: "1.0.0", PID: 88, Generation: 1},
			To:     upgrade.Version{Version: "2.0.0", PID: 133, Generation: 2},
			Phases: []control.Phase{{Name: "check", Seconds: 0.02}, {Name: "reload", Seconds: 5.3}, {Name: "soak", Seconds: 10.04}},
		}},
	}
}

// ended is the report of one unit with another end.
func ended(outcome upgrade.Outcome, reason string, to upgrade.Version) upgrade.Report {
	r := done()
	r.Outcome, r.Reason = outcome, "myapp.service: "+reason
	u := &r.Units[0]
	u.Outcome, u.Reason, u.To = outcome, reason, to
	return r
}

// several is the report of four units of which the third failed.
func several() upgrade.Report {
	unit := func(i, wave int, outcome upgrade.Outcome, reason, to string, took float64) upgrade.UnitReport {
		return upgrade.UnitReport{
			Unit: fmt.Sprintf("myapp@%d.service", i), Wave: wave, Outcome: outcome, Reason: reason, Seconds: took, Started: now,
			From: upgrade.Version{Version: "2.0.0", PID: 100 + i, Generation: 4}, To: upgrade.Version{Version: to, PID: 200 + i, Generation: 5},
		}
	}
	return upgrade.Report{
		ID: "r1", Action: "rollout", Outcome: upgrade.RolledBack, Seconds: 68.4, Started: now,
		Reason: "wave 2 has failed: myapp@3.service: errors: 12 of 100 requests failed, more than 0.01\x1b[2J; 1 units that were upgraded before stay so",
		Units: []upgrade.UnitReport{
			unit(1, 0, upgrade.Done, "", "2.1.0", 15.5),
			unit(2, 1, upgrade.RolledBack, "its wave has failed", "2.0.0", 22.7),
			unit(3, 1, upgrade.RolledBack, "errors: 12 of 100 requests failed, more than 0.01\x1b[2J", "2.0.0", 17.4),
			unit(4, 2, upgrade.Skipped, "the rollout ended before its turn", "2.0.0", 0),
		},
	}
}

// How each end looks, and its exit code.
func TestUpgradeResults(t *testing.T) {
	old := upgrade.Version{Version: "1.0.0", PID: 88, Generation: 1}
	refused := ended(upgrade.Failed, "refused: successor (PID 812) exited with status 3 before it was ready:\nno configuration\x1b[2J", old)
	refused.Units[0].Verdict = &control.Verdict{Outcome: control.Refused, To: &control.Process{PID: 812, Generation: 2}}
	unchanged := ended(upgrade.Unchanged, "", upgrade.Version{Version: "2.0.0", PID: 133, Generation: 2})
	unchanged.Reason = ""
	dry := ended(upgrade.Skipped, "dry run: it would be upgraded now", old)
	dry.Outcome, dry.Reason = upgrade.Unchanged, ""
	interrupted := ended(upgrade.Interrupted, "the rollout was interrupted", upgrade.Version{})
	interrupted.Reason = "stopped waiting by signal: terminated"
	inReload := ended(upgrade.Interrupted, "the rollout was interrupted", done().Units[0].From)
	inReload.Reason = interrupted.Reason
	var got strings.Builder
	for _, tt := range []struct {
		name   string
		args   string
		report upgrade.Report
		code   int
	}{
		{"done", "upgrade myapp", done(), command.ExitOK},
		{"unchanged", "upgrade --version=2.0.0 myapp", unchanged, command.ExitOK},
		{"dry run", "upgrade --dry-run myapp", dry, command.ExitOK},
		{"refused", "upgrade myapp", refused, command.ExitFailed},
		{"rolled back", "upgrade myapp", ended(upgrade.RolledBack, "health: http://127.0.0.1:8080/ answers 500", upgrade.Version{Version: "1.0.0", PID: 140, Generation: 3}), command.ExitFailed},
		{"broken", "upgrade --user myapp", ended(upgrade.Broken, "it is not active (failed)", upgrade.Version{}), command.ExitDown},
		{"broken, and up", "upgrade myapp", ended(upgrade.Broken, "process: 500; the rollback failed, and version 2.0.0 serves: damaged", upgrade.Version{Version: "2.0.0", PID: 133, Generation: 2}), command.ExitFailed},
		{"interrupted in the reload", "upgrade myapp", inReload, command.ExitUnknown},
		{"interrupted", "upgrade myapp", interrupted, command.ExitUnknown},
		{"rollback", "rollback myapp", done(), command.ExitOK},
		{"rollback refused", "rollback myapp", refused, command.ExitFailed},
		{"several", "upgrade myapp@*", several(), command.ExitFailed},
	} {
		o := (&fakeHelper{report: tt.report}).run(t, strings.Fields(tt.args)...)
		fmt.Fprintf(&got, "== %s ==\n$ holdfast %s\n%s-- stderr, exit code %d\n%s", tt.name, tt.args, o.Stdout, o.Code, o.Stderr)
		if o.Code != tt.code {
			t.Errorf("%s: exit code %d, want %d", tt.name, o.Code, tt.code)
		}
		if strings.ContainsAny(o.Stdout+o.Stderr, "\x1b") {
			t.Errorf("%s: has an escape sequence: %q %q", tt.name, o.Stdout, o.Stderr)
		}
		if last := o.LastLine(); tt.code == command.ExitFailed && len(tt.report.Units) == 1 && !strings.Contains(last, "served by PID") {
			t.Errorf("%s: the last line does not say who serves: %q", tt.name, last)
		}

		var report upgrade.Report
		j := (&fakeHelper{report: tt.report}).run(t, append(strings.Fields(tt.args), "--json=short")...)
		if err := json.Unmarshal([]byte(j.Stdout), &report); err != nil || !reflect.DeepEqual(report, tt.report) {
			t.Errorf("%s: JSON %s: %v", tt.name, j.Stdout, err)
		}
		if j.Code != tt.code || j.Stderr != o.Stderr {
			t.Errorf("%s: with JSON exit code %d and stderr %q", tt.name, j.Code, j.Stderr)
		}
		q := (&fakeHelper{report: tt.report}).run(t, append(strings.Fields(tt.args), "-q")...)
		if q.Code != tt.code || q.Stdout != "" || q.Stderr != o.Stderr {
			t.Errorf("%s: with -q %+v", tt.name, q)
		}
	}
	golden(t, "upgrade-results.golden", got.String())
}

func TestUpgradeTable(t *testing.T) {
	got := onScreens(func(t term.Terminal) string { return unitTable(several(), t) })
	golden(t, "upgrade-table.golden", got)
	wantTame(t, got)
}

// What the helper tells goes to stderr, unless there is JSON or silence is wanted.
func TestUpgradeProgress(t *testing.T) {
	h := &fakeHelper{report: several(), events: rollout()}
	o := h.run(t, "upgrade", "myapp@*")
	if !strings.Contains(o.Stderr, "  wave 1 of 2: myapp@1.service\n") || strings.Contains(o.Stdout, "wave 1 of 2") {
		t.Errorf("stdout\n%s\nstderr\n%s", o.Stdout, o.Stderr)
	}
	for _, flag := range []string{"--json=short", "--quiet"} {
		if o := h.run(t, "upgrade", "myapp@*", flag); strings.Contains(o.Stderr, "wave 1 of 2") {
			t.Errorf("%s: stderr\n%s", flag, o.Stderr)
		}
	}
}

func TestHistory(t *testing.T) {
	s := serving()
	h := &fakeHelper{units: []upgrade.UnitStatus{s}, history: s.Last}
	golden(t, "history.golden", onScreens(func(where term.Terminal) string {
		attempts, err := history(t.Context(), h, "myapp")
		if err != nil {
			t.Fatal(err)
		}
		return historyTable(attempts, where)
	}))
	h.run(t, "history", "myapp").Want(t, command.ExitOK, "upgraded     1.0.0 → 2.0.0  5.0s", "")
	o := h.run(t, "history", "--json=short", "-n", "1", "myapp")
	o.Want(t, command.ExitOK, `"outcome":"upgraded","from":"1.0.0","to":"2.0.0"`, "")
	if n := strings.Count(o.Stdout, "\n"); n != 1 {
		t.Errorf("-n 1 has %d lines", n)
	}
	h.run(t, "history", "--json=pretty", "myapp").Want(t, command.ExitOK, "\n\t\"outcome\": \"upgraded\",\n", "")

	// A unit that is gone, and one that was never upgraded.
	(&fakeHelper{history: s.Last}).run(t, "history", "myapp").Want(t, command.ExitOK, "rolled back", "")
	(&fakeHelper{}).run(t, "history", "myapp").Want(t, command.ExitOK, "", "myapp was not upgraded yet.")
	(&fakeHelper{err: &upgrade.NoUnitError{Unit: "a.service"}}).run(t, "history", "a").Want(t, command.ExitNoSuchUnit, "", "there is none")
}

// A verdict that is part of a report is listed once, with what came of it.
func TestMergeAttempts(t *testing.T) {
	verdict := control.Verdict{Outcome: control.Upgraded, Started: now, From: control.Process{Version: "1"}, To: &control.Process{Version: "2"}}
	other := verdict
	other.Started = now.Add(time.Hour)
	report := ended(upgrade.RolledBack, "health: 500", upgrade.Version{Version: "1"})
	report.Units[0].Verdict = &verdict
	got := mergeAttempts([]upgrade.Report{report}, []control.Verdict{other, verdict})
	if len(got) != 2 || got[0].Outcome != "upgraded" || !got[0].At.Equal(other.Started) || got[1].Outcome != "rolled back" {
		t.Errorf("%+v", got)
	}
}

func TestFreezeAndThaw(t *testing.T) {
	h := &fakeHelper{}
	h.run(t, "freeze", "--reason=audit", "myapp", "other@").Want(t, command.ExitOK, "Upgrades of myapp are frozen.\nUpgrades of other@ are frozen.\n", "")
	h.run(t, "thaw", "myapp", "--user").Want(t, command.ExitOK, "Upgrades of myapp are allowed.\n", "")
	h.run(t, "freeze", "-q", "x").Want(t, command.ExitOK, "", "")
	want := []string{"myapp by " + caller() + ": audit", "other@ by " + caller() + ": audit", "not myapp", "x by " + caller() + ": "}
	if !reflect.DeepEqual(h.frozen, want) {
		t.Errorf("frozen %q, want %q", h.frozen, want)
	}
	h.err = &upgrade.PermissionError{Op: "freeze", Unit: "myapp.service", Err: errors.New("denied")}
	h.run(t, "freeze", "myapp").Want(t, command.ExitNoPermission, "", "denied")
}
