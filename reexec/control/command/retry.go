// SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/holdfast-go/holdfast/reexec/internal/lastgood"
)

const retryHelp = `Forget which files of a service have failed, so that the file that is now
installed starts again. What runs is not touched: "systemctl restart" then starts
the file, and "systemctl reload" upgrades to it also without this.

  holdfast retry myapp

Usage: holdfast retry [OPTIONS] [UNIT]

The record of UNIT is in /var/lib/UNIT.holdfast, or in --state.

Options:
      --state=DIR       the state directory, as "holdfast launch" has it
  -h, --help            show this help

` + ExitCodesHelp

// stateRoot is where the units that "holdfast render" writes have the records, in
// UNIT.holdfast.
const stateRoot = "/var/lib"

// Retry is "holdfast retry": it clears the record of failed files and returns
// the exit code.
func Retry(args []string, stdout, stderr io.Writer) int {
	c := NewFlags("retry", retryHelp, stdout, stderr)
	state := c.String("state", "", "")
	operands, code, done := c.ReadMixed(args)
	if done {
		return code
	}
	switch {
	case len(operands) > 1:
		return c.Wrong("one UNIT at a time: %q is too many", operands[1])
	case len(operands) == 1 && *state != "":
		return c.Wrong("UNIT %q and --state=%q: use one of them", operands[0], *state)
	case len(operands) == 1:
		socket, err := target{}.ofUnit(operands[0])
		if err != nil {
			return c.Wrong("%v", err)
		}
		*state = filepath.Join(stateRoot, filepath.Base(filepath.Dir(socket))+".holdfast")
	case *state == "":
		return c.Wrong("name the UNIT, or its state directory with --state=")
	}
	fail := func(err error) int {
		c.Say("%s: %v", c.Name(), err)
		if errors.Is(err, fs.ErrPermission) {
			return ExitNoPermission
		}
		return ExitFailed
	}
	dir, err := lastgood.Existing(*state)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("there is no record %s: is it started by \"holdfast launch\"? If its state directory is another one, name that with --state=", *state)
	}
	if err != nil {
		return fail(err)
	}
	var forgotten []lastgood.Failure
	warn := func(err error) { c.Say("%s: %v", c.Name(), err) }
	if _, err := dir.Update(warn, func(r *lastgood.Record) error {
		forgotten = r.Retry()
		return nil
	}); err != nil {
		return fail(err)
	}
	for _, f := range forgotten {
		fmt.Fprintln(stdout, printable("forgotten: "+f.String()))
	}
	if len(forgotten) == 0 {
		fmt.Fprintln(stdout, "nothing was marked as failed")
	}
	return ExitOK
}
