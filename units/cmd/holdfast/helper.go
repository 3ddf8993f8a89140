// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"

	"github.com/holdfast-go/holdfast/reexec/control/command"
	"github.com/holdfast-go/holdfast/units/bus"
	"github.com/holdfast-go/holdfast/units/upgrade"
)

// helper does what systemd and the journal of upgrades are needed for. It is an
// [upgrade.Upgrader], the service on the bus that has one, or one in a test.
type helper interface {
	Rollout(ctx context.Context, request upgrade.Request, onEvent func(upgrade.Event)) (upgrade.Report, error)
	Rollback(ctx context.Context, request upgrade.Request, onEvent func(upgrade.Event)) (upgrade.Report, error)
	Status(ctx context.Context, unit string) (upgrade.UnitStatus, error)
	Match(ctx context.Context, units []string) ([]string, error)
	History(ctx context.Context, unit string) ([]upgrade.Report, error)
	Freeze(ctx context.Context, unit, by, reason string) error
	Thaw(ctx context.Context, unit, by, reason string) error
	Close() error
}

// A connector connects to a helper.
type connector func(where) (helper, error)

// direct works on systemd itself.
func direct(w where) (helper, error) {
	u, err := upgrade.New(upgrade.Options{User: w.user})
	if err != nil {
		return nil, err
	}
	return u, nil
}

// with makes a command of one that needs a helper.
func with(connect connector, run func(ctx context.Context, connect connector, args []string, stdout, stderr io.Writer) int) func(context.Context, []string, io.Writer, io.Writer) int {
	return func(ctx context.Context, args []string, stdout, stderr io.Writer) int {
		return run(ctx, connect, args, stdout, stderr)
	}
}

// caller is who types the command: behind sudo, the one that called it.
func caller() string {
	if name := os.Getenv("SUDO_USER"); name != "" && os.Geteuid() == 0 {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprintf("uid %d", os.Getuid())
}

// exitCode is that of an error of a helper, before anything was started.
func exitCode(err error) int {
	var (
		noUnit       *upgrade.NoUnitError
		permission   *upgrade.PermissionError
		precondition *upgrade.PreconditionError
		request      *upgrade.RequestError
	)
	var (
		lost *lostError
		said *serviceError
	)
	switch {
	case errors.As(err, &lost):
		return command.ExitUnknown
	case errors.As(err, &said):
		return said.exitCode()
	case errors.As(err, &request):
		return command.ExitUsage
	case errors.As(err, &noUnit):
		return command.ExitNoSuchUnit
	case errors.As(err, &permission):
		return command.ExitNoPermission
	case errors.As(err, &precondition) && precondition.Inactive:
		return command.ExitNotRunning
	case errors.As(err, &precondition) && precondition.Unfit:
		return command.ExitNotSuitable
	default:
		return command.ExitCode(err)
	}
}

// sayError says why nothing was started, and what to type next: one line for each
// error that was joined, and each hint once.
func sayError(c *command.Flags, err error) int {
	var hints []string
	hint := func(text string) {
		for _, known := range hints {
			if known == text {
				return
			}
		}
		hints = append(hints, text)
	}
	for _, fault := range split(err) {
		c.Say("%s: %v", c.Name(), flagged(fault))
		var (
			noUnit       *upgrade.NoUnitError
			permission   *upgrade.PermissionError
			precondition *upgrade.PreconditionError
			busy         *upgrade.BusyError
			frozen       *upgrade.FrozenError
			away         *bus.AwayError
			lost         *lostError
		)
		switch {
		case errors.As(fault, &lost):
			// With the same id and not all of the same options it would be refused.
			hint("holdfast status " + strings.Join(lost.units, " "))
		case errors.As(fault, &precondition):
			if precondition.Hint != "" {
				hint(precondition.Hint)
			}
		case errors.As(fault, &noUnit):
			hint("systemctl list-units --type=service")
		case errors.As(fault, &permission):
			unit := permission.Unit
			if strings.HasPrefix(unit, "/") { // that of the journal
				unit = "UNIT"
			}
			hint(strings.TrimSpace("sudo " + c.Name() + " " + unit))
		case errors.As(fault, &busy):
			hint("holdfast wait " + busy.Unit)
		case errors.As(fault, &frozen):
			hint("holdfast thaw " + frozen.Unit)
		case errors.As(fault, &away):
			if c.Name() == "holdfast upgrade" {
				hint("holdfast reload UNIT")
			} else {
				// What was to be looked at must not be upgraded instead.
				hint("systemctl status dbus")
			}
		}
	}
	code := exitCode(err)
	if code == command.ExitUsage {
		hints = append(hints, c.Name()+" --help")
	}
	for _, text := range hints {
		c.Say("Try \"%s\".", text)
	}
	return code
}

// split returns the errors that were joined.
func split(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, e := range joined.Unwrap() {
			all = append(all, split(e)...)
		}
		return all
	}
	return []error{err}
}

// requestFlags has the flag for each field of a request.
var requestFlags = map[string]string{
	"id": "--request-id", "units": "UNIT", "version": "--version", "timeout": "--timeout",
	"gates.interval": "--interval", "gates.soak": "--soak", "gates.health_url": "--health-url", "gates.metrics_url": "--metrics-url",
	"gates.requests": "--requests", "gates.errors": "--errors", "gates.max_error_rate": "--max-error-rate", "gates.max_failures": "--max-failures",
	"waves.ratio": "--ratio", "waves.canary": "--canary", "waves.size": "--wave", "waves.pause": "--pause", "waves.max_failed": "--max-failed",
	"reason": "--reason",
}

// flagged is an error in the words of the command line.
func flagged(err error) error {
	var request *upgrade.RequestError
	if !errors.As(err, &request) {
		return err
	}
	name := cmp.Or(requestFlags[request.Field], request.Field)
	return fmt.Errorf("%s %q: %s", name, fmt.Sprint(request.Value), request.Want)
}
