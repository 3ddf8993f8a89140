// SPDX-License-Identifier: Apache-2.0

package upgrade1

import (
	"context"
	"errors"
	"fmt"

	"github.com/godbus/dbus/v5"

	"github.com/holdfast-go/holdfast/units/upgrade"
)

// The names of errors. The first group is this service's own: of an AccessDenied of D-Bus, busctl
// would not show the text, which says what is missing.
const (
	ErrorInvalidArgument    = Name + ".Error.InvalidArgument"
	ErrorNotFound           = Name + ".Error.NotFound"
	ErrorFailedPrecondition = Name + ".Error.FailedPrecondition"
	ErrorBusy               = Name + ".Error.Busy"
	ErrorFrozen             = Name + ".Error.Frozen"
	ErrorPermissionDenied   = Name + ".Error.PermissionDenied"
	ErrorInterrupted        = Name + ".Error.Interrupted"

	ErrorInteractiveAuthorization = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
	ErrorLimitsExceeded           = "org.freedesktop.DBus.Error.LimitsExceeded"
	ErrorFailed                   = "org.freedesktop.DBus.Error.Failed"
)

// fail makes an error of the bus.
func fail(name, format string, args ...any) *dbus.Error {
	return dbus.NewError(name, []any{printable(fmt.Sprintf(format, args...), maxErrorText)})
}

// asError makes an error of the bus of one of package upgrade. Of several that are joined, the
// name is that of the one which the caller can do most about; the text has all.
func asError(err error) *dbus.Error {
	var (
		already      *dbus.Error
		request      *upgrade.RequestError
		noUnit       *upgrade.NoUnitError
		noRequest    *upgrade.NoRequestError
		frozen       *upgrade.FrozenError
		busy         *upgrade.BusyError
		precondition *upgrade.PreconditionError
	)
	name := ErrorFailed
	switch {
	case errors.As(err, &already):
		return already
	case errors.As(err, &request):
		name = ErrorInvalidArgument
	case errors.As(err, &noUnit), errors.As(err, &noRequest):
		name = ErrorNotFound
	case errors.As(err, &frozen):
		name = ErrorFrozen
	case errors.As(err, &busy):
		name = ErrorBusy
	case errors.As(err, &precondition):
		name = ErrorFailedPrecondition
	case errors.Is(err, context.Canceled), errors.Is(err, errEnds):
		name = ErrorInterrupted
	}
	text := err.Error()
	if precondition != nil && precondition.Hint != "" {
		text += "; next: " + precondition.Hint
	}
	return fail(name, "%s", text)
}
