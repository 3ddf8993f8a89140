// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"
)

// NoUnitError says that systemd has no such unit: there is no unit file, or, for
// a pattern, nothing matches.
type NoUnitError struct{ Unit string }

func (e *NoUnitError) Error() string { return fmt.Sprintf("unit %q: there is none", e.Unit) }

// PermissionError says that this user may not do it.
type PermissionError struct {
	Op   string // "reload", "ask for", …
	Unit string
	// Interactive: polkit would let the user do it after a password, and nobody
	// could be asked for one.
	Interactive bool
	Err         error
}

func (e *PermissionError) Error() string {
	if e.Interactive {
		return fmt.Sprintf("%s %s: this user has to give a password first: %v", e.Op, e.Unit, e.Err)
	}
	return fmt.Sprintf("%s %s: this user may not: %v", e.Op, e.Unit, e.Err)
}

func (e *PermissionError) Unwrap() error { return e.Err }

// AwayError says that systemd could not be asked: there is no bus, or systemd is
// not on it, or does not answer. It says nothing about any unit.
type AwayError struct {
	Op string
	// MaybeSent: the request may have reached systemd before.
	MaybeSent bool
	Err       error
}

func (e *AwayError) Error() string {
	text := "systemd cannot be asked over D-Bus"
	if e.MaybeSent {
		text = "the connection to systemd ended before its answer"
	}
	return fmt.Sprintf("%s: %s: %v", e.Op, text, e.Err)
}

func (e *AwayError) Unwrap() error { return e.Err }

// errGone is the end of a connection that came without an error of its own.
var errGone = errors.New("the connection ended")

// awayNames are errors of the bus that say that systemd is not there just now. It
// is absent from the bus while it executes itself anew, and after a restart of the bus.
var awayNames = []string{
	"org.freedesktop.DBus.Error.NoReply", "org.freedesktop.DBus.Error.ServiceUnknown",
	"org.freedesktop.DBus.Error.NameHasNoOwner", "org.freedesktop.DBus.Error.Disconnected",
	"org.freedesktop.DBus.Error.Timeout", "org.freedesktop.DBus.Error.TimedOut",
	"org.freedesktop.DBus.Error.NoServer",
}

// isAway tells a lost connection from an answer that is an error.
func isAway(err error) bool {
	var e dbus.Error
	if errors.As(err, &e) {
		return slices.Contains(awayNames, e.Name) || strings.HasPrefix(e.Name, "org.freedesktop.DBus.Error.Spawn.")
	}
	var op *net.OpError
	return errors.Is(err, dbus.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, errGone) || errors.As(err, &op) || errors.Is(err, errNoAnswer)
}

// errNoAnswer is the cause when systemd takes longer than callTimeout.
var errNoAnswer = fmt.Errorf("no answer within %v", callTimeout)

// fault turns an error of a call into one of this package.
func fault(ctx context.Context, op, unit string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", op, unit, context.Cause(ctx))
	}
	var away *AwayError
	if errors.As(err, &away) {
		away.Op = op + " " + unit
		return away
	}
	var e dbus.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("%s %s: %w", op, unit, err)
	}
	switch e.Name {
	case destination + ".NoSuchUnit":
		return &NoUnitError{unit}
	case "org.freedesktop.DBus.Error.AccessDenied", "org.freedesktop.DBus.Error.AuthFailed", "System.Error.EACCES", "System.Error.EPERM":
		return &PermissionError{Op: op, Unit: unit, Err: err}
	case "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired":
		return &PermissionError{Op: op, Unit: unit, Interactive: true, Err: err}
	default:
		return fmt.Errorf("%s %s: %w (%s)", op, unit, err, e.Name)
	}
}
