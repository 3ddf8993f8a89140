// SPDX-License-Identifier: Apache-2.0

package command

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

const statusHelp = `Show what a running service says about itself.

  holdfast status myapp
  holdfast status --json=short myapp@1

Usage: holdfast status [OPTIONS] [UNIT]

` + targetHelpText + `
Options:
      --socket=PATH     the control socket
      --user            UNIT is one of your own service manager
      --timeout=TIME    how long to wait for an answer (5s); 0 is without end
      --json=MODE       print the status as JSON: short, pretty or off
  -h, --help            show this help

` + ExitCodesHelp

const defaultStatusTimeout = 5 * time.Second

// Status is "holdfast status": it prints what a service says about itself and
// returns the exit code. Args are as for [Reload].
func Status(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c := NewFlags("status", statusHelp, stdout, stderr)
	var q question
	if code, done := q.read(c, defaultStatusTimeout, args); done {
		return code
	}
	ctx, cancel := withTimeout(ctx, q.timeout)
	defer cancel()
	st, err := control.NewClient(q.socket).Status(ctx)
	if err != nil {
		c.Say("%s: %v", c.Name(), err)
		return exitCode(err)
	}
	if q.asJSON.on() {
		err = q.asJSON.write(stdout, st)
	} else {
		_, err = io.WriteString(stdout, screen(st, time.Now()))
	}
	if err != nil {
		c.Say("%s: write the status: %v", c.Name(), err)
		return ExitFailed
	}
	return ExitOK
}

// screen lays a status out.
func screen(st control.Status, now time.Time) string {
	var b strings.Builder
	row := func(label string, format string, args ...any) {
		if label != "" {
			label += ":"
		}
		fmt.Fprintf(&b, "%14s %s\n", label, printable(fmt.Sprintf(format, args...)))
	}
	title := st.Name
	if st.Version != "" {
		title += " " + st.Version
	}
	fmt.Fprintf(&b, "%s\n", printable(title))
	row("State", "%s since %s", st.State, ago(st.Since, now))
	row("Served by", "%s", describe(processOf(st)))
	if st.Successor != nil {
		row("Successor", "%s", describe(*st.Successor))
	}
	for i, p := range st.Draining {
		row(firstOnly("Draining", i), "%s", describe(p))
	}
	for i, l := range st.Listeners {
		row(firstOnly("Listeners", i), "%s: %s %s (%s)", l.Name, l.Network, l.Address, l.Origin)
	}
	if s := st.Store; s != nil && (len(s.Entries) > 0 || s.Warning != "") {
		of := ""
		if s.Limit > 0 {
			of = fmt.Sprintf(" of %d", s.Limit)
		}
		row("FD store", "%d%s in use", len(s.Entries), of)
		if s.Warning != "" {
			row("", "warning: %s", s.Warning)
		}
	}
	if st.Adopted > 0 {
		row("Adopted", "%d connections", st.Adopted)
	}
	if d := st.LastDrain; d != nil {
		row("Last drain", "%s in %.1fs", describe(d.Process), d.Seconds)
		for _, h := range d.Holders {
			row("", "%s", h)
		}
	}
	if v := st.Last; v != nil {
		row("Last upgrade", "%s on %s", v.Outcome, ago(v.Started, now))
		if v.To != nil {
			row("", "from %s to %s", describe(v.From), describe(*v.To))
		}
		if v.Reason != "" {
			row("", "%s", v.Reason)
		}
		if len(v.Phases) > 0 {
			row("", "%s", phases(v.Phases))
		}
	}
	if g := st.LastGood; g != nil {
		if g.Fallback != "" {
			row("Runs instead", "the last good version, because %s", g.Fallback)
		}
		if g.Path != "" {
			row("Last good", "%s of %s, %s", g.Version, ago(g.Since, now), g.Path)
		}
		for i, f := range g.Failed {
			row(firstOnly("Failed", i), "%s on %s: %s", cmp.Or(f.Version, "a file"), ago(f.At, now), f.Reason)
		}
	}
	row("Instance", "%s", st.Instance)
	return b.String()
}

// firstOnly labels the first row of several.
func firstOnly(label string, i int) string {
	if i > 0 {
		return ""
	}
	return label
}
