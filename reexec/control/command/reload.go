// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/control/command/term"
)

const reloadHelp = `Upgrade a running service to the binary that is now installed, and wait for the
verdict. A failed upgrade changes nothing: the old version serves on.

  holdfast reload myapp
  holdfast reload --json=pretty --timeout=5m myapp@1
  holdfast reload --config myapp

Usage: holdfast reload [OPTIONS] [UNIT]

` + targetHelpText + `
Options:
      --socket=PATH     the control socket
      --config          no upgrade: have it read its configuration again, and wait
                        until that is in use or refused
      --user            UNIT is one of your own service manager
      --timeout=TIME    how long to wait (2m); 0 is without end
  -q, --quiet           print errors only
      --json=MODE       print the result as JSON: short, pretty or off
  -h, --help            show this help

` + ExitCodesHelp

const (
	defaultReloadTimeout = 2 * time.Minute
	// downAfter is how long a service that died in its upgrade may take to be
	// started anew.
	downAfter = 10 * time.Second
	// downAfterInUnit is the same in a command of ExecReload=: systemd starts a
	// dead service anew only when that command has ended.
	downAfterInUnit = 250 * time.Millisecond
	// stopNotice is how long main may take to notice that it is stopped.
	stopNotice = time.Second
	// signalNotice is how far apart the signals of one stop may arrive.
	signalNotice = 100 * time.Millisecond
)

// A timeoutError is the cause of a context that --timeout= ended.
type timeoutError struct{ after time.Duration }

func (e timeoutError) Error() string {
	return fmt.Sprintf("stopped waiting after --timeout=%v", e.after)
}

// WithTimeout bounds ctx by --timeout=, where 0 is no bound; the cause of its end says
// so.
func WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if d == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, d, timeoutError{d})
}

// reloadResult is what --json= prints. Exit is the exit code.
type reloadResult struct {
	Exit    int              `json:"exit"`
	Error   string           `json:"error,omitempty"`
	Verdict *control.Verdict `json:"verdict,omitempty"`
	Note    string           `json:"note,omitempty"`
	Now     *control.Status  `json:"now,omitempty"`
}

// Reload is "holdfast reload": it asks a service to upgrade, waits for the
// verdict and returns the exit code. Args come without the program and the word
// reload; --help has them. It takes from the environment RUNTIME_DIRECTORY,
// XDG_RUNTIME_DIR and, to know that it is a command of ExecReload=, MAINPID.
// The end of ctx, see [SignalContext], ends the waiting, not the upgrade.
func Reload(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c := NewFlags("reload", reloadHelp, stdout, stderr)
	var (
		q     question
		quiet bool
		again bool
	)
	c.BoolVar(&again, "config", false, "")
	c.BoolVar(&quiet, "quiet", false, "")
	c.BoolVar(&quiet, "q", false, "")
	if code, done := q.read(c, defaultReloadTimeout, args); done {
		return code
	}
	if again {
		return reloadConfig(ctx, c, q, quiet)
	}
	return attempt{Flags: c, question: q, quiet: quiet, noun: "upgrade", follow: (*control.Client).UpgradeAndFollow}.run(ctx)
}

// An attempt is the part of a command that asks for an upgrade or a rollback, and
// says how that ended.
type attempt struct {
	*Flags
	question
	quiet  bool
	noun   string // "upgrade" or "rollback"
	reason string
	follow func(*control.Client, context.Context, control.FollowOptions) (control.Result, error)
}

func (a attempt) run(ctx context.Context) int {
	c, q := a.Flags, a.question
	ctx, cancel := WithTimeout(ctx, q.timeout)
	defer cancel()
	p := &progress{command: c, started: time.Now(), show: !a.quiet && !q.asJSON.On() && term.Of(c.stderr).Width > 0}
	opts := control.FollowOptions{OnState: p.state, DownAfter: downAfter, Reason: a.reason}
	if os.Getenv("MAINPID") != "" { // systemd.exec(5): set for ExecReload=
		opts.DownAfter = downAfterInUnit
	}
	result, err := a.follow(control.NewClient(q.socket), ctx, opts)

	name := q.displayName(q.operands, q.socket, p.name)
	if os.Getenv("MAINPID") != "" && stoppedWithUnit(ctx, q.socket, result, err) {
		// Whatever else this command returned, systemd would call the stopped
		// unit a failed one; its reload job was cancelled by the stop.
		c.Say("The %s of %s was ended by a stop.", a.noun, name)
		return ExitOK
	}
	var out reloadResult
	if err != nil {
		out = a.reportError(name, err)
	} else {
		hint, _ := q.journalHint(q.socket)
		out = a.reportResult(name, hint, result)
		if v := result.Verdict; v.Outcome == control.Upgraded && !a.quiet && !q.asJSON.On() {
			a.reportUpgrade(name, v, time.Since(p.started))
		}
	}
	if q.asJSON.On() {
		if err := q.asJSON.Write(c.stdout, out); err != nil {
			c.Say("%s: write the result: %v", c.Name(), err)
		}
	}
	return out.Exit
}

// stoppedWithUnit says whether this command of ExecReload= ends because its unit
// is stopped. systemd sends SIGTERM to main first and to this command next, so
// main may need a moment to say so.
func stoppedWithUnit(ctx context.Context, socket string, r control.Result, err error) bool {
	if err == nil {
		switch r.Verdict.Outcome {
		case control.Stopped:
			return true
		case control.Upgraded:
			return false
		}
		// The new version may have got its SIGTERM first, and failed by it. Then ours is on its way.
		select {
		case <-ctx.Done():
		case <-time.After(signalNotice):
		}
	}
	var signal signalError
	if !errors.As(context.Cause(ctx), &signal) || signal.signal != syscall.SIGTERM {
		return false
	}
	ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopNotice)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := control.NewClient(socket).Status(ask)
		var gone *control.NotRunningError
		if errors.As(err, &gone) || err == nil && st.State == "stopping" {
			return true
		}
		select {
		case <-tick.C:
		case <-ask.Done():
			return false
		}
	}
}

// progress shows the states of an upgrade to somebody who watches.
type progress struct {
	command *Flags
	started time.Time
	show    bool
	name    string
	last    string
}

func (p *progress) state(st control.Status) {
	if st.Name != "" {
		p.name = st.Name
	}
	first := p.last == ""
	if st.State == p.last {
		return
	}
	p.last = st.State
	if !p.show {
		return
	}
	if first {
		p.command.Say("%s is served by %s", p.name, describe(processOf(st)))
		return
	}
	line := fmt.Sprintf("%6.1fs  %s", time.Since(p.started).Seconds(), st.State)
	if st.Successor != nil {
		line += ": " + describe(*st.Successor)
	}
	p.command.Say("%s", line)
}

// reportError says why there is no result.
func (a attempt) reportError(name string, err error) reloadResult {
	out := reloadResult{Exit: ExitCode(err), Error: err.Error()}
	var unknown *control.UnknownError
	if !errors.As(err, &unknown) {
		a.Say("%s: %v", a.Name(), err)
		a.Say("No %s was started.", a.noun)
		return out
	}
	out.Exit, out.Now = ExitUnknown, unknown.Last
	a.Say("The outcome of the %s of %s is unknown: %v", a.noun, name, unknown.Err)
	if unknown.Last != nil {
		a.Say("It goes on without this command; its last known state is %q.", unknown.Last.State)
	}
	a.Say("See \"holdfast status\" for its end.")
	return out
}

// outcomeTexts begin the line that says how an attempt failed.
var outcomeTexts = map[control.Outcome]string{
	control.Refused:    "The %s of %s was refused",
	control.RolledBack: "The %s of %s was rolled back",
	control.Busy:       "No %s of %s was started",
	control.Stopped:    "The %s of %s was ended by a stop",
	control.Restarted:  "The %s of %s failed",
	control.Down:       "The %s of %s failed",
	control.Undecided:  "The %s of %s was not completed",
}

// reportResult says how an attempt ended, unless it went well without a remark.
func (a attempt) reportResult(name, hint string, r control.Result) reloadResult {
	v := r.Verdict
	out := reloadResult{Verdict: &v, Note: r.Note, Now: r.Now}
	if v.Outcome == control.Upgraded {
		if r.Note != "" {
			a.Say("Note: %s.", r.Note)
		}
		return out
	}

	text, known := outcomeTexts[v.Outcome]
	if !known {
		// A service newer than this command: whatever it means, it is not
		// "upgraded".
		text = "The %s of %s ended as " + strings.ReplaceAll(fmt.Sprintf("%q", v.Outcome), "%", "%%")
	}
	reason := v.Reason
	if reason == "" {
		reason = "the service gave no reason"
	}
	a.Say(text+": %s", a.noun, name, reason)
	if r.Note != "" {
		a.Say("Note: %s.", r.Note)
	}
	if hint != "" {
		a.Say("See \"%s\" for what both versions wrote.", hint)
	}

	// The state of the service comes last: that is where the eye goes.
	out.Exit = ExitFailed
	switch {
	case r.Down:
		out.Exit = ExitDown
		a.Say("%s is down.", name)
	case v.Outcome == control.Stopped, r.Now != nil && r.Now.State == "stopping":
		out.Exit = ExitDown
		a.Say("%s is stopping.", name)
	case r.Now != nil:
		a.Say("%s is served by %s.", name, describe(processOf(*r.Now)))
	default:
		a.Say("%s does not say who serves it now.", name)
	}
	return out
}

// reportUpgrade tells of a success, on stdout: it is the result.
func (a attempt) reportUpgrade(name string, v control.Verdict, took time.Duration) {
	text := "Upgraded " + name
	if a.noun == rollbackNoun {
		text = "Rolled " + name + " back"
	}
	if v.To != nil && v.To.Version != "" && v.To.Version != v.From.Version {
		text += fmt.Sprintf(" from %s to %s", orUnknown(v.From.Version), v.To.Version)
	}
	text += fmt.Sprintf(" in %.1fs", took.Seconds())
	if len(v.Phases) > 0 {
		text += " (" + phases(v.Phases) + ")"
	}
	if v.To != nil {
		text += "; it is served by " + describe(*v.To)
	}
	fmt.Fprintln(a.stdout, printable(text+"."))
}

func phases(all []control.Phase) string {
	texts := make([]string, len(all))
	for i, p := range all {
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
