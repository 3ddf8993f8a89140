// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/control/command"
	"github.com/holdfast-go/holdfast/reexec/control/command/term"
	"github.com/holdfast-go/holdfast/units/upgrade"
)

const upgradeHelp = `Upgrade units to the binary that is now installed, watch the new version for a
while, and go back to the version before if it does not hold. Several units are
upgraded in waves, the first of which is a canary; the first bad wave is undone and
ends it.

  holdfast upgrade myapp
  holdfast upgrade --version=2.1.0 --soak=1m --health-url=http://127.0.0.1:8080/ myapp
  holdfast upgrade --canary=1 --wave=3 --pause=30s 'myapp@*'
  holdfast upgrade --dry-run 'myapp@*'

Usage: holdfast upgrade [OPTIONS] UNIT...

UNIT is the name of a service ("myapp", "myapp@1.service"), or a pattern, which
stands for the units that are active. It works through systemd. Who may not reload
the unit has org.holdfast.Upgrade1 do it.

What:
      --version=VERSION      the version that must serve in the end; a unit that
                             serves it is left alone
      --dry-run              check the units, say what would be done, do nothing
      --request-id=ID        name of the request: the same one again starts nothing
                             new, but waits for the first and has its result

Gates, that a new version must pass:
      --soak=TIME            how long it is watched (10s); 0 trusts the verdict of
                             the service
      --interval=TIME        time between two looks (1s, at most a tenth of the soak)
      --health-url=URL       must answer 2xx: http, https, or unix:PATH:/path; %i is
                             the instance (/healthz and /readyz of the control
                             socket)
      --metrics-url=URL      where its Prometheus metrics are (/metrics of the
                             control socket)
      --requests=COUNTER     the counter of requests, as in http_requests_total
      --errors=COUNTER       that of errors, as in http_requests_total{code="500"}
      --max-error-rate=RATE  how many errors there may be to a request (0), 0 to 1
      --max-failures=N       how many looks in a row may fail (0)

Waves:
      --canary=N             units of the first wave (1); 0 is no canary
      --wave=N               units of each other wave (a quarter of all)
      --pause=TIME           time between two waves (0s)
      --max-failed=N         units of a wave that may fail (0); none of the canary
      --ratio=RATE           end when so many of all have the new version (1), 0 to 1

Options:
` + whereHelp + `      --timeout=TIME         bound of the reload of one unit (that of the unit)
  -q, --quiet                print errors only
      --json=MODE            print the result as JSON: short, pretty or off
  -h, --help                 show this help

` + command.ExitCodesHelp

const rollbackHelp = `Have units go back to the version before, which each has kept. It is done as an
upgrade is: checked, on trial, and without losing a connection. The file that is
installed then counts as failed, until it is replaced or "holdfast retry" is called.

  holdfast rollback myapp
  holdfast rollback --dry-run 'myapp@*'
  holdfast rollback --socket=/run/myapp/control.sock

Usage: holdfast rollback [OPTIONS] UNIT...
       holdfast rollback [OPTIONS] --socket=PATH

UNIT is the name of a service, or a pattern, which stands for the units that are
active. Units whose upgrades are frozen can be rolled back, too. With --socket
neither systemd nor D-Bus is asked; in a command of the service $RUNTIME_DIRECTORY
names the socket.

Options:
      --socket=PATH          the control socket of the service, instead of UNIT
      --reason=TEXT          why, for the log and the status
      --dry-run              check the units, say what would be done, do nothing
      --request-id=ID        name of the request: the same one again starts nothing
                             new, but waits for the first and has its result
` + whereHelp + `      --timeout=TIME         bound of the rollback of one unit (that of its reload)
  -q, --quiet                print errors only
      --json=MODE            print the result as JSON: short, pretty or off
  -h, --help                 show this help

` + command.ExitCodesHelp

// rolling is one run of "upgrade" or "rollback".
type rolling struct {
	*command.Flags
	request upgrade.Request
	where   where
	quiet   bool
	asJSON  command.JSONMode
	// noun is what it is called, verb what has happened.
	noun, verb     string
	stdout, stderr io.Writer
}

func newRolling(noun, verb, help string, stdout, stderr io.Writer) *rolling {
	r := &rolling{Flags: command.NewFlags(noun, help, stdout, stderr), noun: noun, verb: verb, stdout: stdout, stderr: stderr}
	r.BoolVar(&r.request.DryRun, "dry-run", false, "")
	r.StringVar(&r.request.ID, "request-id", "", "")
	r.DurationVar(&r.request.Timeout, "timeout", 0, "")
	r.where.flags(r.Flags)
	r.BoolVar(&r.quiet, "quiet", false, "")
	r.BoolVar(&r.quiet, "q", false, "")
	r.Var(&r.asJSON, "json", "")
	return r
}

func runUpgrade(ctx context.Context, connect connector, args []string, stdout, stderr io.Writer) int {
	r := newRolling("upgrade", "Upgraded", upgradeHelp, stdout, stderr)
	gates, waves := &r.request.Gates, &r.request.Waves
	r.StringVar(&r.request.Version, "version", "", "")
	soak := r.Duration("soak", -1, "")
	r.DurationVar(&gates.Interval, "interval", 0, "")
	r.StringVar(&gates.HealthURL, "health-url", "", "")
	r.StringVar(&gates.MetricsURL, "metrics-url", "", "")
	r.StringVar(&gates.Requests, "requests", "", "")
	r.StringVar(&gates.Errors, "errors", "", "")
	r.Float64Var(&gates.MaxErrorRate, "max-error-rate", 0, "")
	r.IntVar(&gates.MaxFailures, "max-failures", 0, "")
	canary := r.Int("canary", 1, "")
	r.IntVar(&waves.Size, "wave", 0, "")
	r.DurationVar(&waves.Pause, "pause", 0, "")
	r.IntVar(&waves.MaxFailed, "max-failed", 0, "")
	r.Float64Var(&waves.Ratio, "ratio", 1, "")
	if code, done := r.read(args); done {
		return code
	}
	// In a request 0 is the default, and less than 0 is none.
	switch {
	case *canary < 0:
		return r.Wrong("--canary=%d: must not be negative", *canary)
	case *canary == 0:
		waves.Canary = -1
	default:
		waves.Canary = *canary
	}
	switch given := r.given("soak"); {
	case given && *soak < 0:
		return r.Wrong("--soak=%v: must not be negative", *soak)
	case given && *soak == 0:
		gates.Soak = -1
	case given:
		gates.Soak = *soak
	}
	for _, f := range []struct {
		name string
		ok   bool
		want string
	}{
		{"wave", waves.Size > 0, "must be a positive number"},
		{"interval", gates.Interval > 0, "must be a positive time"},
		{"ratio", waves.Ratio > 0, "must be more than 0, and 1 at most"},
		{"timeout", r.request.Timeout > 0, "must be a positive time"},
	} {
		if r.given(f.name) && !f.ok {
			return r.Wrong("--%s=%v: %s", f.name, r.Lookup(f.name).Value, f.want)
		}
	}
	return r.run(ctx, connect, helper.Rollout)
}

func runRollback(ctx context.Context, connect connector, args []string, stdout, stderr io.Writer) int {
	r := newRolling("rollback", "Rolled back", rollbackHelp, stdout, stderr)
	socket := r.String("socket", "", "")
	reason := r.String("reason", "", "")
	units, code, done := r.ReadMixed(args)
	switch {
	case done:
		return code
	case len(units) == 0 || *socket != "":
		// A service, and not a unit: that needs no systemd.
		return command.Rollback(ctx, args, stdout, stderr)
	}
	r.request.Reason = *reason
	if code, done := r.read(args); done {
		return code
	}
	return r.run(ctx, connect, helper.Rollback)
}

// read parses args, of which the operands are units.
func (r *rolling) read(args []string) (code int, done bool) {
	units, code, done := r.ReadMixed(args)
	if done {
		return code, true
	}
	if len(units) == 0 {
		return r.Wrong("name the UNIT, or several"), true
	}
	if code, wrong := r.where.wrong(r.Flags); wrong {
		return code, true
	}
	r.request.Units, r.request.By = units, caller()
	return 0, false
}

// given says whether a flag is on the command line.
func (r *rolling) given(name string) bool {
	found := false
	r.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}

// run has the helper do it and says how it ended.
func (r *rolling) run(ctx context.Context, connect connector, act func(helper, context.Context, upgrade.Request, func(upgrade.Event)) (upgrade.Report, error)) int {
	h, err := connect(r.where)
	if err != nil {
		return sayError(r.Flags, err)
	}
	defer h.Close()
	var onEvent func(upgrade.Event)
	end := func() {}
	if !r.quiet && !r.asJSON.On() {
		p := newProgress(r.stderr, term.Of(r.stderr), time.Now)
		p.run()
		onEvent, end = p.event, p.end
	}
	report, err := act(h, ctx, r.request, onEvent)
	end()
	if err != nil {
		return sayError(r.Flags, err)
	}
	code := reportCode(report)
	if r.asJSON.On() {
		if err := r.asJSON.Write(r.stdout, report); err != nil {
			r.Say("%s: write the result: %v", r.Name(), err)
		}
		if code != command.ExitOK {
			r.sayFailure(report)
		}
		return code
	}
	if !r.quiet {
		_, _ = io.WriteString(r.stdout, r.result(report, term.Of(r.stdout)))
	}
	if code != command.ExitOK {
		r.sayFailure(report)
	}
	return code
}

// reportCode is the exit code of a report.
func reportCode(report upgrade.Report) int {
	switch report.Outcome {
	case upgrade.Done, upgrade.Unchanged:
		return command.ExitOK
	case upgrade.Broken:
		for _, u := range report.Units {
			if u.Outcome == upgrade.Broken && u.To.PID == 0 {
				return command.ExitDown
			}
		}
		return command.ExitFailed // another version serves than should
	case upgrade.Interrupted:
		return command.ExitUnknown
	default:
		return command.ExitFailed
	}
}

// result is what goes to stdout: what was done, of one unit as a sentence and of
// several as a table. Nothing of a single unit that failed: sayFailure has it all.
func (r *rolling) result(report upgrade.Report, t term.Terminal) string {
	if len(report.Units) != 1 {
		return unitTable(report, t)
	}
	u := report.Units[0]
	switch {
	case r.request.DryRun && u.Outcome == upgrade.Skipped:
		return term.Line(fmt.Sprintf("%s: %s", u.Unit, u.Reason)) + "\n"
	case u.Outcome == upgrade.Unchanged:
		return term.Line(fmt.Sprintf("%s serves %s already: nothing was done.", u.Unit, orUnknown(u.To.Version))) + "\n"
	case u.Outcome != upgrade.Done:
		return ""
	}
	text := r.verb + " " + u.Unit
	if u.From.Version != u.To.Version {
		text += fmt.Sprintf(" from %s to %s", orUnknown(u.From.Version), orUnknown(u.To.Version))
	}
	text += fmt.Sprintf(" in %.1fs", u.Seconds)
	if len(u.Phases) > 0 {
		text += " (" + phaseTimes(u.Phases) + ")"
	}
	return term.Line(text+"; it is served by "+describe(u.To)+".") + "\n"
}

// unitTable has a line for each unit.
func unitTable(report upgrade.Report, t term.Terminal) string {
	columns := []term.Column{{Name: "UNIT"}, {Name: "WAVE", Drop: 1}, {Name: "OUTCOME"}, {Name: "SERVES", Drop: 3}, {Name: "TOOK", Drop: 2}, {Name: "REASON"}}
	rows := make([][]string, len(report.Units))
	for i, u := range report.Units {
		rows[i] = []string{
			term.Line(u.Unit), fmt.Sprint(u.Wave + 1), t.Paint(outcomeColor(u.Outcome), term.Line(string(u.Outcome))),
			cmp.Or(term.Line(u.To.Version), "-"), fmt.Sprintf("%.1fs", u.Seconds), term.Line(u.Reason),
		}
	}
	return t.Table(columns, rows)
}

func outcomeColor(o upgrade.Outcome) term.Color {
	if o == upgrade.Skipped {
		return term.Yellow
	}
	return command.OutcomeColor(string(o))
}

// sayFailure says what failed, what to type next, and last what serves now.
func (r *rolling) sayFailure(report upgrade.Report) {
	object := fmt.Sprintf("%d units", len(report.Units))
	if len(report.Units) == 1 {
		object = report.Units[0].Unit
	}
	reason := strings.TrimPrefix(report.Reason, object+": ")
	if reason == "" {
		reason = "no reason was given"
	}
	journalctl := "journalctl"
	if r.where.user {
		journalctl += " --user"
	}
	switch report.Outcome {
	case upgrade.Interrupted:
		r.Say("The %s of %s was interrupted: %s", r.noun, object, reason)
		r.Say("Try \"holdfast %s --request-id=%s %s\": it goes on from there.", r.noun, report.ID, strings.Join(r.request.Units, " "))
	case upgrade.RolledBack:
		r.Say("The %s of %s was rolled back: %s", r.noun, object, reason)
	default:
		r.Say("The %s of %s failed: %s", r.noun, object, reason)
	}
	bad := 0
	for _, u := range report.Units {
		if u.Outcome == upgrade.Done || u.Outcome == upgrade.Unchanged || u.Outcome == upgrade.Skipped {
			continue
		}
		if bad++; bad > 3 {
			break
		}
		hint := fmt.Sprintf("%s -e -u %s", journalctl, u.Unit)
		if v := u.Verdict; v != nil && v.To != nil && v.To.PID > 0 {
			hint += fmt.Sprintf(" _PID=%d", v.To.PID)
		}
		r.Say("Try \"%s\".", hint)
	}
	if bad > 3 {
		r.Say("Try \"holdfast status %s\".", strings.Join(r.request.Units, " "))
	}
	if len(report.Units) == 1 {
		u := report.Units[0]
		switch {
		case u.To.PID == 0, u.Outcome == upgrade.Interrupted:
			r.Say("It is not known who serves %s now: try \"holdfast status %s\".", u.Unit, u.Unit)
		case u.To.PID == u.From.PID:
			r.Say("%s is still served by %s.", u.Unit, describe(u.To))
		default:
			r.Say("%s is served by %s.", u.Unit, describe(u.To))
		}
		return
	}
	r.Say("%s", summary(report))
}

// summary counts the units by their outcome: "Of 10 units 1 was rolled back, 9 were skipped."
func summary(report upgrade.Report) string {
	count := make(map[upgrade.Outcome]int)
	for _, u := range report.Units {
		count[u.Outcome]++
	}
	var parts []string
	for _, o := range []upgrade.Outcome{upgrade.Done, upgrade.Unchanged, upgrade.Failed, upgrade.RolledBack, upgrade.Broken, upgrade.Skipped, upgrade.Interrupted} {
		if n := count[o]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, o))
		}
	}
	return fmt.Sprintf("Of %d units: %s.", len(report.Units), strings.Join(parts, ", "))
}

// describe names what serves: "PID 640, version 1.2 (generation 3)".
func describe(v upgrade.Version) string {
	return control.Process{PID: v.PID, Generation: v.Generation, Version: v.Version}.String()
}

func phaseTimes(phases []control.Phase) string {
	texts := make([]string, len(phases))
	for i, p := range phases {
		texts[i] = fmt.Sprintf("%s %.1fs", p.Name, p.Seconds)
	}
	return strings.Join(texts, ", ")
}

func orUnknown(version string) string {
	if version == "" {
		return "an unknown version"
	}
	return version
}

// unitAttempt is a unit's part of a report. Its versions are those between which it
// was to go, also if it did not stay so.
func unitAttempt(report upgrade.Report, u upgrade.UnitReport) command.Attempt {
	to := u.To.Version
	if u.Verdict != nil && u.Verdict.To != nil {
		to = cmp.Or(u.Verdict.To.Version, to)
	}
	return command.Attempt{
		At: u.Started, Outcome: string(u.Outcome), From: u.From.Version, To: to,
		Seconds: u.Seconds, Reason: u.Reason, By: report.By, Phases: u.Phases,
	}
}
