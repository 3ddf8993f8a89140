// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/holdfast-go/holdfast/reexec/control/command"
	"github.com/holdfast-go/holdfast/reexec/control/command/term"
)

const freezeHelp = `Have upgrades of units refused until "holdfast thaw". An upgrade under way goes on,
and a rollback is still possible. "systemctl reload" does not ask, and upgrades all
the same.

  holdfast freeze --reason="audit until Friday" myapp
  holdfast freeze myapp@

Usage: holdfast freeze [OPTIONS] UNIT...

UNIT is the name of a service; that of a template, "myapp@", stands for all its
instances.

Options:
      --reason=TEXT          why, for those who are refused
` + whereHelp + `  -q, --quiet                print errors only
  -h, --help                 show this help

` + command.ExitCodesHelp

const thawHelp = `Allow upgrades of units again after "holdfast freeze".

  holdfast thaw myapp

Usage: holdfast thaw [OPTIONS] UNIT...

UNIT is the name as it was frozen.

Options:
      --reason=TEXT          why, for the log
` + whereHelp + `  -q, --quiet                print errors only
  -h, --help                 show this help

` + command.ExitCodesHelp

func runFreeze(ctx context.Context, connect connector, args []string, stdout, stderr io.Writer) int {
	return eachUnit(ctx, connect, command.NewFlags("freeze", freezeHelp, stdout, stderr), args, stdout, helper.Freeze, "Upgrades of %s are frozen.")
}

func runThaw(ctx context.Context, connect connector, args []string, stdout, stderr io.Writer) int {
	return eachUnit(ctx, connect, command.NewFlags("thaw", thawHelp, stdout, stderr), args, stdout, helper.Thaw, "Upgrades of %s are allowed.")
}

// eachUnit does one thing to each unit, and says so.
func eachUnit(ctx context.Context, connect connector, c *command.Flags, args []string, stdout io.Writer,
	act func(h helper, ctx context.Context, unit, by, reason string) error, said string,
) int {
	var quiet bool
	reason := c.String("reason", "", "")
	var w where
	w.flags(c)
	c.BoolVar(&quiet, "quiet", false, "")
	c.BoolVar(&quiet, "q", false, "")
	units, code, done := c.ReadMixed(args)
	switch {
	case done:
		return code
	case len(units) == 0:
		return c.Wrong("name the UNIT, or several")
	}
	if code, wrong := w.wrong(c); wrong {
		return code
	}
	h, err := connect(w)
	if err != nil {
		return sayError(c, err)
	}
	defer h.Close()
	by := caller()
	var errs []error
	for _, unit := range units {
		if err := act(h, ctx, unit, by, *reason); err != nil {
			errs = append(errs, err)
			continue
		}
		if !quiet {
			fmt.Fprintln(stdout, term.Line(fmt.Sprintf(said, unit)))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return sayError(c, err)
	}
	return command.ExitOK
}
