// SPDX-License-Identifier: Apache-2.0

package command

import (
	"cmp"
	"context"
	"io"

	"github.com/holdfast-go/holdfast/reexec/control"
)

const rollbackHelp = `Take a running service back to the version before, and wait for the verdict. It
goes as an upgrade does: that version is checked and is on trial, no connection is
lost, and if it does not do well the present one serves on. What runs now then
counts as failed: a crash, a restart or a reboot starts the version before, until a
newer file is installed, or "holdfast retry" is called.

  holdfast rollback myapp
  holdfast rollback --reason="orders are lost, see #17" myapp

Usage: holdfast rollback [OPTIONS] [UNIT]

` + targetHelpText + `
"holdfast status" shows the version before. To go forth again, roll back once more,
or upgrade to a newer file.

Options:
      --socket=PATH     the control socket
      --user            UNIT is one of your own service manager
      --reason=TEXT     why, for the log and the status
      --timeout=TIME    how long to wait (2m); 0 is without end
  -q, --quiet           print errors only
      --json=MODE       print the result as JSON: short, pretty or off
  -h, --help            show this help

` + ExitCodesHelp

const rollbackNoun = "rollback"

// Rollback is "holdfast rollback" over the control socket: it asks a service to go
// back to the version before, waits for the verdict and returns the exit code. Args,
// environment and ctx are as for [Reload].
func Rollback(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c := NewFlags("rollback", rollbackHelp, stdout, stderr)
	var q question
	a := attempt{Flags: c, noun: rollbackNoun, follow: rollBack}
	c.BoolVar(&a.quiet, "quiet", false, "")
	c.BoolVar(&a.quiet, "q", false, "")
	c.StringVar(&a.reason, "reason", "", "")
	if code, done := q.read(c, defaultReloadTimeout, args); done {
		return code
	}
	if n := len(a.reason); n > control.MaxReason {
		return c.Wrong("--reason= has %d bytes: must have %d at most", n, control.MaxReason)
	}
	a.question = q
	return a.run(ctx)
}

// rollBack says, too, if a restart would start something else than what then runs.
func rollBack(c *control.Client, ctx context.Context, opts control.FollowOptions) (control.Result, error) {
	r, err := c.RollbackAndFollow(ctx, opts)
	if err != nil || r.Verdict.Outcome != control.Upgraded {
		return r, err
	}
	// The verdict is there: a service that does not say more takes nothing from it.
	if st, err := c.Status(ctx); err == nil {
		r.Now = &st
		if g := st.LastGood; g == nil || g.Version != st.Version {
			r.Note = cmp.Or(r.Note, "a restart starts the file that is installed: put the version that runs now in its place")
		}
	}
	return r, nil
}
