// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"errors"
	"fmt"
	"strings"
)

// ErrNotActivated is wrapped by [Set.Reason], and by every [*NotPassedError] of a set without descriptors:
// nothing was passed to this process.
var ErrNotActivated = errors.New("no descriptors were passed")

// ErrClosed is wrapped by claims on a [Set] after [Set.Close].
var ErrClosed = errors.New("activation: set is closed")

// EnvError reports a variable that does not follow sd_listen_fds(3).
type EnvError struct {
	Var   string // LISTEN_PID, LISTEN_PIDFDID, LISTEN_FDS or LISTEN_FDNAMES
	Value string
	Err   error // what is wrong, and what it has to be
}

func (e *EnvError) Error() string { return fmt.Sprintf("%s=%q: %v", e.Var, e.Value, e.Err) }

// Unwrap returns what is wrong with the value.
func (e *EnvError) Unwrap() error { return e.Err }

// NotPassedError reports a claim of a name that no descriptor has.
type NotPassedError struct {
	Want   string   // "listener", "connection", "packet socket" or "file"
	Name   string   // the name that was claimed
	Passed []string // the names that exist, each once, in their order
	Reason error    // why there are no descriptors at all; nil if there are some
}

func (e *NotPassedError) Error() string {
	if e.Reason != nil {
		return fmt.Sprintf("%s %q was not passed: %v", e.Want, e.Name, e.Reason)
	}
	quoted := make([]string, len(e.Passed))
	for i, name := range e.Passed {
		quoted[i] = fmt.Sprintf("%q", name)
	}
	where := fmt.Sprintf("set FileDescriptorName=%s in the .socket unit", e.Name)
	if e.Want == wantFile.noun {
		where += fmt.Sprintf(", or OpenFile=path:%s in the .service unit", e.Name)
	}
	return fmt.Sprintf("%s %q was not passed: %s (passed: %s)", e.Want, e.Name, where, strings.Join(quoted, ", "))
}

// Unwrap returns the reason for a set without descriptors, which wraps [ErrNotActivated].
func (e *NotPassedError) Unwrap() error { return e.Reason }

// KindError reports a claim of a name whose descriptors are all of another kind.
type KindError struct {
	Want string // "listener", "connection", "packet socket" or "file"
	Name string
	Got  []Info // the descriptors of that name; at least one
}

func (e *KindError) Error() string {
	got := e.Got[0]
	return fmt.Sprintf("%s %q: descriptor %d is of kind %s: %s", e.Want, e.Name, got.FD, got.what(), e.remedy(got.Kind))
}

func (e *KindError) remedy(got Kind) string {
	claim := "claim it with " + claimOf(got).method
	option := ""
	switch {
	case e.Want == wantListener.noun && got == KindConn:
		option = "set Accept=no in the .socket unit"
	case e.Want == wantListener.noun && got == KindSocket:
		option = "do not call shutdown on the listeners of a .socket unit"
	case e.Want == wantListener.noun:
		option = "use ListenStream= in the .socket unit"
	case e.Want == wantConn.noun && got == KindListener:
		option = "set Accept=yes in the .socket unit"
	case e.Want == wantPacket.noun:
		option = "use ListenDatagram= in the .socket unit"
	}
	if option == "" {
		return claim
	}
	return option + ", or " + claim
}

// CountError reports a claim of exactly one descriptor under a name that stands for several.
type CountError struct {
	Want  string // "listener", "connection", "packet socket" or "file"
	Name  string
	Count int
}

func (e *CountError) Error() string {
	return fmt.Sprintf("%s %q: %d were passed under this name: claim all of them with %s, or leave one Listen*= line in the .socket unit",
		e.Want, e.Name, e.Count, claimNamed(e.Want).method)
}

// ClaimedError reports a claim of what was claimed before.
type ClaimedError struct {
	Want string // "listener", "connection", "packet socket" or "file"
	Name string
	By   string // where it was claimed, as file:line
}

func (e *ClaimedError) Error() string {
	return fmt.Sprintf("%s %q is already claimed, at %s: claim it once and share it, or give each part of the program a name of its own",
		e.Want, e.Name, e.By)
}
