// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control/command"
	"github.com/holdfast-go/holdfast/units/upgrade"
)

// unitCheck bounds the question whether a unit exists.
const unitCheck = 2 * time.Second

// runWait is [command.Wait], but it does not wait for a unit that does not exist:
// systemd, where it can be asked, knows that.
func runWait(ctx context.Context, connect connector, args []string, stdout, stderr io.Writer) int {
	if unit, userManager := soleUnit(args); unit != "" {
		if err := exists(ctx, connect, unit, userManager); err != nil {
			return sayError(command.NewFlags("wait", "", stdout, stderr), err)
		}
	}
	return command.Wait(ctx, args, stdout, stderr)
}

// soleUnit finds the operand. There is none if args are wrong, which command.Wait
// says.
func soleUnit(args []string) (unit string, userManager bool) {
	c := command.NewFlags("wait", "", io.Discard, io.Discard)
	socket := c.String("socket", "", "")
	c.String("version", "", "")
	timeout := c.Duration("timeout", 0, "")
	c.Var(new(command.JSONMode), "json", "")
	c.BoolVar(&userManager, "user", false, "")
	c.Bool("quiet", false, "")
	c.Bool("q", false, "")
	units, _, done := c.ReadMixed(args)
	if done || *timeout < 0 || len(units) != 1 || *socket != "" || strings.ContainsAny(units[0], "/*?[") {
		return "", false
	}
	return units[0], userManager
}

// exists returns the error that there is no such unit, and no other.
func exists(ctx context.Context, connect connector, unit string, userManager bool) error {
	h, err := connect(where{user: userManager})
	if err != nil {
		return nil
	}
	defer h.Close()
	ctx, cancel := context.WithTimeout(ctx, unitCheck)
	defer cancel()
	_, err = h.Status(ctx, unit)
	var none *upgrade.NoUnitError
	if errors.As(err, &none) {
		return err
	}
	return nil
}
