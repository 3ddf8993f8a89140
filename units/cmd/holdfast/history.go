// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control/command"
	"github.com/holdfast-go/holdfast/reexec/control/command/term"
	"github.com/holdfast-go/holdfast/units/upgrade"
)

const historyHelp = `Show the upgrades and rollbacks of a unit, the newest first: those of "holdfast
upgrade", and those that the service itself remembers.

  holdfast history myapp
  holdfast history --json=short --lines=1 myapp

Usage: holdfast history [OPTIONS] UNIT

Options:
  -n, --lines=N              so many at most (20); 0 is all
` + whereHelp + `      --timeout=TIME         how long to wait for an answer (5s); 0 is without end
      --json=MODE            print them as JSON: short, pretty or off; an object for
                             each, one after the other
  -h, --help                 show this help

` + command.ExitCodesHelp

func runHistory(ctx context.Context, connect connector, args []string, stdout, stderr io.Writer) int {
	c := command.NewFlags("history", historyHelp, stdout, stderr)
	var asJSON command.JSONMode
	lines := c.Int("lines", 20, "")
	c.IntVar(lines, "n", 20, "")
	var w where
	w.flags(c)
	timeout := c.Duration("timeout", 5*time.Second, "")
	c.Var(&asJSON, "json", "")
	units, code, done := c.ReadMixed(args)
	switch {
	case done:
		return code
	case *timeout < 0:
		return c.Wrong("--timeout=%v: must not be negative", *timeout)
	case *lines < 0:
		return c.Wrong("--lines=%d: must not be negative", *lines)
	case len(units) == 0:
		return c.Wrong("name the UNIT")
	case len(units) > 1:
		return c.Wrong("one UNIT at a time: %q is too many", units[1])
	}
	if code, wrong := w.wrong(c); wrong {
		return code
	}
	ctx, cancel := command.WithTimeout(ctx, *timeout)
	defer cancel()
	h, err := connect(w)
	if err != nil {
		return sayError(c, err)
	}
	defer h.Close()
	attempts, err := history(ctx, h, units[0])
	if err != nil {
		return sayError(c, err)
	}
	if *lines > 0 {
		attempts = attempts[:min(*lines, len(attempts))]
	}
	if err := writeHistory(stdout, attempts, asJSON); err != nil {
		c.Say("%s: write the history: %v", c.Name(), err)
		return command.ExitFailed
	}
	if len(attempts) == 0 && !asJSON.On() {
		c.Say("%s was not upgraded yet.", units[0])
	}
	return command.ExitOK
}

// history asks the helper and the service.
func history(ctx context.Context, h helper, unit string) ([]command.Attempt, error) {
	reports, err := h.History(ctx, unit)
	if err != nil {
		return nil, err
	}
	s := unitStatus{Upgrades: reports}
	st, err := h.Status(ctx, unit)
	// A unit that is gone has a history all the same.
	var none *upgrade.NoUnitError
	if err != nil && !errors.As(err, &none) {
		return nil, err
	}
	s.Status = st.Service
	return s.attempts(), nil
}

func writeHistory(w io.Writer, attempts []command.Attempt, asJSON command.JSONMode) error {
	if asJSON.On() {
		for _, a := range attempts {
			if err := asJSON.Write(w, a); err != nil {
				return err
			}
		}
		return nil
	}
	if len(attempts) == 0 {
		return nil
	}
	t := term.Of(w)
	_, err := io.WriteString(w, historyTable(attempts, t))
	return err
}

func historyTable(attempts []command.Attempt, t term.Terminal) string {
	columns := []term.Column{{Name: "STARTED"}, {Name: "OUTCOME"}, {Name: "VERSION"}, {Name: "TOOK", Drop: 2}, {Name: "BY", Drop: 1}, {Name: "REASON"}}
	rows := make([][]string, len(attempts))
	for i, a := range attempts {
		rows[i] = []string{
			a.At.Local().Format(time.DateTime), t.Paint(outcomeColor(upgrade.Outcome(a.Outcome)), term.Line(a.Outcome)),
			cmp.Or(a.Versions(t), "-"), fmt.Sprintf("%.1fs", a.Seconds), cmp.Or(term.Line(a.By), "-"), term.Line(a.Reason),
		}
	}
	return t.Table(columns, rows)
}
