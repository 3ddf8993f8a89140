// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"fmt"
	"os"
)

// ErrClosed is wrapped by the errors of a [Notifier] that was closed. It is
// [os.ErrClosed].
var ErrClosed = os.ErrClosed

// EnvError says that a variable set by the service manager cannot be used.
type EnvError struct {
	Variable string // NOTIFY_SOCKET, WATCHDOG_USEC or WATCHDOG_PID
	Value    string
	Reason   string // what the value must be
}

func (e *EnvError) Error() string {
	return fmt.Sprintf("%s=%q: %s", e.Variable, e.Value, e.Reason)
}

// FieldError says that a field cannot be sent: its value breaks a rule of
// sd_notify(3), or it does not fit to the fields beside it. Nothing was sent.
type FieldError struct {
	Name   string // such as STATUS
	Value  string // cut to a readable length
	Reason string // what the value must be
}

func (e *FieldError) Error() string {
	if e.Name == "" {
		return "notify: " + e.Reason
	}
	return fmt.Sprintf("%s=%q: %s", e.Name, e.Value, e.Reason)
}

// SendError says that the service manager's socket did not take a message.
//
// Err wraps [os.ErrDeadlineExceeded] if the socket's queue stayed full for the
// whole send timeout, [ErrClosed] if the Notifier was closed, and otherwise
// the error of the system call.
type SendError struct {
	Address string // the value of NOTIFY_SOCKET
	Fields  string // the names of the fields, separated by commas
	Err     error
}

func (e *SendError) Error() string {
	return fmt.Sprintf("send %s to NOTIFY_SOCKET=%q: %v", e.Fields, e.Address, e.Err)
}

func (e *SendError) Unwrap() error { return e.Err }

// fieldError builds a FieldError whose value stays readable in a log line.
func fieldError(name, value, reason string) *FieldError {
	const longest = 64
	if len(value) > longest {
		value = value[:longest] + "..."
	}
	return &FieldError{Name: name, Value: value, Reason: reason}
}
