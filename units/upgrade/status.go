// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"context"
	"errors"
	"io/fs"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/units/bus"
)

// recentReports is how many reports are in a status.
const recentReports = 5

// UnitStatus is all that is known of a unit.
type UnitStatus struct {
	Unit bus.Unit `json:"unit"`
	// Sockets are the socket units that trigger it.
	Sockets []bus.Socket `json:"sockets,omitempty"`
	// Socket is the path of its control socket.
	Socket string `json:"socket,omitempty"`
	// Service is what it says of itself, or ServiceError why it does not.
	Service      *control.Status `json:"service,omitempty"`
	ServiceError string          `json:"service_error,omitempty"`
	// Err is ServiceError as it was.
	Err error `json:"-"`
	// Frozen: its upgrades are refused. Busy: a helper works on it.
	Frozen *Freeze `json:"frozen,omitempty"`
	Busy   *Holder `json:"busy,omitempty"`
	// Last are the last reports, the newest first.
	Last []Report `json:"last,omitempty"`
	// JournalError says why Frozen, Busy and Last are not known.
	JournalError string `json:"journal_error,omitempty"`
}

// Status asks systemd, the service and the journal about a unit. That the service
// or the journal does not answer is no error, but said in the status.
func (u *Upgrader) Status(ctx context.Context, unit string) (UnitStatus, error) {
	name, err := serviceName(unit)
	if err != nil {
		return UnitStatus{}, err
	}
	if isPattern(name) {
		return UnitStatus{}, &RequestError{"unit", unit, "is a pattern: name one unit"}
	}
	var s UnitStatus
	if s.Unit, err = u.manager.Unit(ctx, name); err != nil {
		return s, err
	}
	name = s.Unit.Name
	if s.Sockets, err = u.manager.Sockets(ctx, s.Unit); err != nil {
		return s, err
	}
	if s.Socket, err = u.controlSocket(s.Unit); err == nil {
		var st control.Status
		if st, err = u.dial(s.Socket, s.Unit.UID).status(ctx); err == nil {
			s.Service = &st
		}
	}
	if err != nil {
		s.Err, s.ServiceError = err, err.Error()
	}
	var freezeErr, busyErr, historyErr error
	s.Frozen, freezeErr = u.journal.freeze(name)
	s.Busy, busyErr = u.journal.busy(name)
	s.Last, historyErr = u.journal.reports(name)
	s.Last = s.Last[:min(len(s.Last), recentReports)]
	if err := errors.Join(freezeErr, busyErr, historyErr); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.JournalError = err.Error()
	}
	return s, nil
}

// Match returns the names of the active services that patterns and names stand for.
func (u *Upgrader) Match(ctx context.Context, units []string) ([]string, error) {
	var full []string
	var errs []error
	for _, unit := range units {
		name, err := serviceName(unit)
		full, errs = append(full, name), append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return u.resolve(ctx, full)
}
