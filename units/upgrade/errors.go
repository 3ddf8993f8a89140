// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"fmt"
	"time"

	"github.com/holdfast-go/holdfast/units/bus"
)

// NoUnitError says that there is no such unit, or that nothing matches a pattern.
type NoUnitError = bus.NoUnitError

// PermissionError says that this user may not do it.
type PermissionError = bus.PermissionError

// PreconditionError says that a unit is not in the state for what was asked.
type PreconditionError struct {
	Unit string
	What string // as in "it is not active"
	// Hint is the next command to type, or what else to do. It may be empty.
	Hint string
	// Inactive: the service does not run.
	Inactive bool
	// Unfit: the unit, or what runs there, is not made for upgrades.
	Unfit bool
	Err   error // what was seen, if it was an error
}

func (e *PreconditionError) Error() string { return fmt.Sprintf("unit %s: %s", e.Unit, e.What) }

func (e *PreconditionError) Unwrap() error { return e.Err }

// BusyError says that another helper works on the unit.
type BusyError struct {
	Unit   string
	Holder Holder
}

func (e *BusyError) Error() string {
	by := ""
	if e.Holder.By != "" {
		by = " by " + e.Holder.By
	}
	return fmt.Sprintf("unit %s: request %q%s works on it since %s (PID %d)", e.Unit, e.Holder.ID, by, e.Holder.Since.Format(time.RFC3339), e.Holder.PID)
}

// FrozenError says that upgrades of the unit were frozen.
type FrozenError struct {
	Unit string
	Freeze
}

func (e *FrozenError) Error() string {
	text := fmt.Sprintf("unit %s: its upgrades are frozen since %s", e.Unit, e.Since.Format(time.RFC3339))
	if e.By != "" {
		text += " by " + e.By
	}
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

// RequestError says that a request makes no sense.
type RequestError struct {
	Field string // as in JSON
	Value any
	Want  string // as in "must be positive"
}

func (e *RequestError) Error() string {
	return fmt.Sprintf("request: %s=%v: %s", e.Field, show(e.Value), e.Want)
}

func show(value any) string {
	if text, ok := value.(string); ok {
		return fmt.Sprintf("%q", text)
	}
	return fmt.Sprint(value)
}
