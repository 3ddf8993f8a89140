// SPDX-License-Identifier: Apache-2.0

package upgrade1

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/holdfast-go/holdfast/units/upgrade"
)

// manager has the methods of org.holdfast.Upgrade1.Manager.
type manager struct{ *session }

func (m manager) Rollout(msg dbus.Message, unit, version string, ratio float64, options map[string]dbus.Variant) (string, *dbus.Error) {
	return m.begin(msg, rollout, unit, version, ratio, options)
}

func (m manager) Rollback(msg dbus.Message, unit string, options map[string]dbus.Variant) (string, *dbus.Error) {
	return m.begin(msg, rollback, unit, "", 1, options)
}

// begin starts a rollout or a rollback, and returns its id once the units are checked.
func (m manager) begin(msg dbus.Message, action, unit, version string, ratio float64, options map[string]dbus.Variant) (string, *dbus.Error) {
	c, fault := m.enter(msg)
	if fault != nil {
		return "", fault
	}
	defer c.leave()
	asked, fault := newRequest(action, unit, version, ratio, options, c.uid == 0)
	if fault != nil {
		return "", fault
	}
	// Before polkit shows it to an administrator, and all of the bus hears of the id.
	if err := asked.Check(); err != nil {
		return "", asError(err)
	}
	names, err := m.Upgrader.Match(c.ctx, asked.Units)
	if err != nil {
		return "", asError(err)
	}
	if asked.ID != "" {
		if found, fault := m.known(c, action, asked, names); found || fault != nil {
			return asked.ID, fault
		}
	}
	polkitAction := actionRollout
	if action == rollback {
		polkitAction = actionRollback
	}
	if fault := c.authorize(polkitAction, action, version, names); fault != nil {
		return "", fault
	}
	request := asked
	// Those that were authorised, and no others that match by now.
	request.Units = names
	request.By = c.by
	if request.ID == "" {
		request.ID = upgrade.NewID()
	}
	j := newJob(request.ID, action, c.by, asked)
	existing, fault := m.rollouts.add(j)
	if fault != nil {
		return "", fault
	}
	if existing != nil {
		if fault := existing.same(c, action, asked); fault != nil {
			return "", fault
		}
		j = existing
	} else {
		m.launch(j, request)
	}
	return m.accepted(c, j)
}

// accepted waits for the checks.
func (m manager) accepted(c *call, j *rolloutJob) (string, *dbus.Error) {
	timeout := time.NewTimer(m.acceptTimeout)
	defer timeout.Stop()
	select {
	case <-j.accepted:
	case <-timeout.C:
		m.rollouts.promise(j)
		return j.id, nil
	case <-c.ctx.Done():
		return "", c.interrupted(j.id)
	}
	if j.ended() && j.err != nil {
		return "", asError(j.err)
	}
	return j.id, nil
}

// known finds a request of the same id. It starts nothing, so nobody has to be asked for it.
func (m manager) known(c *call, action string, asked upgrade.Request, names []string) (bool, *dbus.Error) {
	if j := m.rollouts.find(asked.ID); j != nil && !j.resumed && !j.void() {
		if fault := j.same(c, action, asked); fault != nil {
			return true, fault
		}
		_, fault := m.accepted(c, j)
		return true, fault
	}
	found, err := m.Upgrader.Find(c.ctx, asked.ID)
	var none *upgrade.NoRequestError
	switch {
	case errors.As(err, &none):
		return false, nil
	case err != nil:
		return true, asError(err)
	case found.Request.By != c.by:
		return true, foreign(asked.ID)
	case found.Report.Action != action || found.Request.Version != asked.Version || !covers(found.Request.Units, names):
		return true, another(asked.ID)
	}
	return true, nil
}

// same is nil if the job is what this caller asks for once more.
func (j *rolloutJob) same(c *call, action string, asked upgrade.Request) *dbus.Error {
	switch {
	case j.by != c.by:
		return foreign(j.id)
	case j.action != action || !sameRequest(j.asked, asked):
		return another(j.id)
	}
	return nil
}

func foreign(id string) *dbus.Error {
	return fail(ErrorPermissionDenied, "request-id %q: it is that of another user's request: take another one", id)
}

func another(id string) *dbus.Error {
	return fail(ErrorInvalidArgument, "request-id %q: it is that of another request, for other units or with other options: take another one", id)
}

// covers says whether all units are among those of a request.
func covers(requested, units []string) bool {
	for _, unit := range units {
		if !slices.Contains(requested, unit) {
			return false
		}
	}
	return true
}

// Wait returns the report when the rollout is over.
func (m manager) Wait(msg dbus.Message, id string) (string, *dbus.Error) {
	c, fault := m.enter(msg)
	if fault != nil {
		return "", fault
	}
	defer c.leave()
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	for {
		if j := m.rollouts.find(id); j != nil {
			select {
			case <-j.done:
			case <-c.ctx.Done():
				return "", c.interrupted(id)
			}
			switch {
			case j.err != nil:
				return "", asError(j.err)
			case j.report.Outcome == upgrade.Interrupted:
				return "", c.interrupted(id)
			}
			return asJSON(j.report)
		}
		// It was before this process, or it is another one's.
		found, err := m.Upgrader.Find(c.ctx, id)
		if err != nil {
			return "", asError(err)
		}
		if found.Finished {
			return asJSON(found.Report)
		}
		select {
		case <-look.C:
		case <-c.ctx.Done():
			return "", c.interrupted(id)
		}
	}
}

func (c *call) interrupted(id string) *dbus.Error {
	return fail(ErrorInterrupted, "request %q: the service ends or the caller has left: it goes on when the service is started again: ask again", id)
}

// lookInterval is between two looks at what another process does.
const lookInterval = 250 * time.Millisecond

func (m manager) Status(msg dbus.Message, unit string) (string, *dbus.Error) {
	c, fault := m.enter(msg)
	if fault != nil {
		return "", fault
	}
	defer c.leave()
	status, err := m.Upgrader.Status(c.ctx, unit)
	if err != nil {
		return "", asError(err)
	}
	return asJSON(status)
}

// History returns the last reports, at most limit of them; 0 is all.
func (m manager) History(msg dbus.Message, unit string, limit uint32) (string, *dbus.Error) {
	c, fault := m.enter(msg)
	if fault != nil {
		return "", fault
	}
	defer c.leave()
	reports, err := m.Upgrader.History(c.ctx, unit)
	if err != nil {
		return "", asError(err)
	}
	if limit > 0 && int64(len(reports)) > int64(limit) {
		reports = reports[:limit]
	}
	if reports == nil {
		reports = []upgrade.Report{} // an array, also of none
	}
	return asJSON(reports)
}

func (m manager) Freeze(msg dbus.Message, unit, reason string) *dbus.Error {
	return m.change(msg, "freeze", unit, func(c *call, name string) error {
		return m.Upgrader.Freeze(c.ctx, name, c.by, reason)
	})
}

func (m manager) Thaw(msg dbus.Message, unit string) *dbus.Error {
	return m.change(msg, "thaw", unit, func(c *call, name string) error {
		return m.Upgrader.Thaw(c.ctx, name, c.by, "")
	})
}

func (m manager) change(msg dbus.Message, verb, unit string, do func(c *call, name string) error) *dbus.Error {
	c, fault := m.enter(msg)
	if fault != nil {
		return fault
	}
	defer c.leave()
	name, err := m.freezable(c.ctx, unit)
	if err != nil {
		return asError(err)
	}
	if fault := c.authorize(actionFreeze, verb, "", []string{name}); fault != nil {
		return fault
	}
	if err := do(c, name); err != nil {
		return asError(err)
	}
	m.Logger.Info(verb, "unit", name, "by", c.by)
	return nil
}

// freezable is the name that is asked about and frozen: that of a template, or the unit's own
// one. A template has no state of its own that could be asked for.
func (m manager) freezable(ctx context.Context, unit string) (string, error) {
	if strings.ContainsAny(unit, "*?[ ") {
		return "", fail(ErrorInvalidArgument, "unit %q: name one unit, or a template as in myapp@.service for all its instances", unit)
	}
	if name := strings.TrimSuffix(unit, ".service"); strings.HasSuffix(name, "@") {
		// Polkit shows it to an administrator.
		if err := (upgrade.Request{Units: []string{name + "1"}}).Check(); err != nil {
			return "", fail(ErrorInvalidArgument, "unit %q: is not the name of a template", unit)
		}
		return name + ".service", nil
	}
	names, err := m.Upgrader.Match(ctx, []string{unit})
	if err != nil {
		return "", err
	}
	return names[0], nil
}

func asJSON(value any) (string, *dbus.Error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return "", fail(ErrorFailed, "%v", err)
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}
