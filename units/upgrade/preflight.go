// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/units/bus"
)

// found is what a unit was found to be.
type found struct {
	unit   bus.Unit
	socket string
	status control.Status
}

// mark is what f is told from others by.
func (f found) mark() *mark {
	m := &mark{
		Version: versionOf(f.status), Instance: f.status.Instance,
		MainPID: f.unit.MainPID, Restarts: f.unit.NRestarts, InvocationID: f.unit.InvocationID,
	}
	if f.status.Last != nil {
		m.Verdict = f.status.Last.Started
	}
	return m
}

// preflight checks all units; the error has what is wrong with each.
func (u *Upgrader) preflight(ctx context.Context, action string, names []string) (map[string]found, error) {
	founds := make(map[string]found)
	var errs []error
	for _, name := range names {
		f, err := u.check(ctx, action, name)
		if err != nil {
			errs = append(errs, err)
		}
		founds[name] = f
	}
	return founds, errors.Join(errs...)
}

// check says whether a unit can be upgraded, or rolled back, now.
func (u *Upgrader) check(ctx context.Context, action, name string) (found, error) {
	var f found
	if action == "rollout" {
		freeze, err := u.journal.freeze(name)
		if err != nil {
			return f, u.journalError(err)
		}
		if freeze != nil {
			return f, &FrozenError{name, *freeze}
		}
	}
	unit, err := u.manager.Unit(ctx, name)
	if err != nil {
		return f, err
	}
	f.unit = unit
	systemctl := "systemctl"
	if u.options.User {
		systemctl = "systemctl --user"
	}
	switch {
	case unit.LoadState != "loaded":
		return f, &PreconditionError{Unit: name, What: fmt.Sprintf("its unit file is not loaded (LoadState=%s)", unit.LoadState), Hint: systemctl + " status " + name, Unfit: true}
	case unit.ActiveState == "reloading" || unit.ActiveState == "refreshing":
		return f, &PreconditionError{Unit: name, What: "a reload of it is under way", Hint: "holdfast status " + name}
	case unit.ActiveState != "active":
		return f, &PreconditionError{Unit: name, What: fmt.Sprintf("it is not active (%s)", unit.ActiveState), Hint: systemctl + " start " + name, Inactive: true}
	case unit.Job != 0:
		return f, &PreconditionError{Unit: name, What: fmt.Sprintf("systemd has a job for it (%d)", unit.Job), Hint: systemctl + " list-jobs"}
	case action == "rollout" && !unit.CanReload:
		return f, &PreconditionError{Unit: name, What: "it cannot be reloaded: it has no ExecReload=", Hint: "holdfast check " + name, Unfit: true}
	}
	if f.socket, err = u.controlSocket(unit); err != nil {
		return f, err
	}
	f.status, err = u.dial(f.socket, unit.UID).status(ctx)
	if err != nil {
		return f, u.controlError(ctx, name, err)
	}
	switch {
	case underWay(f.status):
		return f, &PreconditionError{Unit: name, What: fmt.Sprintf("an upgrade of it is under way (%s)", f.status.State), Hint: "holdfast status " + name}
	case f.status.State != "running":
		return f, &PreconditionError{Unit: name, What: fmt.Sprintf("it is %s", f.status.State), Hint: "holdfast status " + name}
	case action == "rollback" && f.status.Previous == nil:
		return f, &PreconditionError{Unit: name, What: fmt.Sprintf("no version before %s is kept", f.status.Version), Hint: "holdfast check " + name}
	case action == "rollout" && f.status.Mode == "restart":
		return f, &PreconditionError{Unit: name, What: "it is upgraded by a restart only (Mode: Restart)", Hint: systemctl + " restart " + name, Unfit: true}
	}
	return f, nil
}

// controlError says what it means that the control socket did not answer.
func (u *Upgrader) controlError(ctx context.Context, name string, err error) error {
	if ctx.Err() != nil {
		return err
	}
	var (
		permission *control.PermissionError
		foreign    *control.OwnerError
		notRunning *control.NotRunningError
		version    *control.VersionError
		protocol   *control.ProtocolError
	)
	switch {
	case errors.As(err, &permission):
		return &PermissionError{Op: "use the control socket of", Unit: name, Err: err}
	case errors.As(err, &notRunning):
		return &PreconditionError{Unit: name, What: fmt.Sprintf("nobody serves its control socket %s", notRunning.Socket), Hint: "holdfast check " + name, Err: err, Unfit: true}
	case errors.As(err, &version), errors.As(err, &protocol), errors.As(err, &foreign):
		return &PreconditionError{Unit: name, What: err.Error(), Hint: "holdfast check " + name, Err: err, Unfit: true}
	default:
		return &PreconditionError{Unit: name, What: "it does not answer on its control socket: " + err.Error(), Hint: "holdfast status " + name, Err: err}
	}
}
