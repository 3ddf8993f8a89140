// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"io"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/control/command/term"
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
	ctx, cancel := WithTimeout(ctx, q.timeout)
	defer cancel()
	st, err := control.NewClient(q.socket).Status(ctx)
	if err != nil {
		c.Say("%s: %v", c.Name(), err)
		return ExitCode(err)
	}
	if q.asJSON.On() {
		err = q.asJSON.Write(stdout, st)
	} else {
		_, err = io.WriteString(stdout, View{Service: &st}.Screen(term.Of(stdout), time.Now()))
	}
	if err != nil {
		c.Say("%s: write the status: %v", c.Name(), err)
		return ExitFailed
	}
	return ExitOK
}
