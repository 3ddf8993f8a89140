// SPDX-License-Identifier: Apache-2.0

package upgrade1

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/godbus/dbus/v5"
)

// The actions of polkit, as in packaging/holdfast/org.holdfast.upgrade1.policy.
const (
	actionRollout  = "org.holdfast.upgrade1.rollout"
	actionRollback = "org.holdfast.upgrade1.rollback"
	actionFreeze   = "org.holdfast.upgrade1.freeze"
)

// Names of polkit(8).
const (
	polkitName    = "org.freedesktop.PolicyKit1"
	polkitPath    = dbus.ObjectPath("/org/freedesktop/PolicyKit1/Authority")
	polkitIface   = "org.freedesktop.PolicyKit1.Authority"
	polkitAsk     = uint32(1) // AllowUserInteraction
	maxCheckUnits = 1000
)

var messages = map[string]string{
	"rollout":  "Authentication is required to upgrade '$(unit)'.",
	"rollback": "Authentication is required to roll back '$(unit)'.",
	"freeze":   "Authentication is required to freeze the upgrades of '$(unit)'.",
	"thaw":     "Authentication is required to thaw the upgrades of '$(unit)'.",
}

var cancellations atomic.Uint64

// authorize asks polkit whether the caller may do it with each of the units, and returns at the
// first no. Nothing is asked for root.
func (c *call) authorize(action, verb, version string, units []string) *dbus.Error {
	if c.uid == 0 {
		return nil
	}
	if len(units) > maxCheckUnits {
		return fail(ErrorInvalidArgument, "%d units: must be at most %d", len(units), maxCheckUnits)
	}
	for _, unit := range units {
		if err := c.authorizeUnit(action, verb, version, unit); err != nil {
			return err
		}
	}
	return nil
}

func (c *call) authorizeUnit(action, verb, version, unit string) *dbus.Error {
	details := map[string]string{"unit": unit, "verb": verb, "version": version, "polkit.message": messages[verb]}
	subject := struct {
		Kind    string
		Details map[string]dbus.Variant
	}{"system-bus-name", map[string]dbus.Variant{"name": dbus.MakeVariant(c.sender)}}
	var flags uint32
	if c.interactive {
		flags |= polkitAsk
	}
	var result struct {
		Authorized, Challenge bool
		Details               map[string]string
	}
	id := "holdfast-" + strconv.FormatUint(cancellations.Add(1), 10)
	authority := c.session.conn.Object(polkitName, polkitPath)
	err := authority.CallWithContext(c.ctx, polkitIface+".CheckAuthorization", 0, subject, action, details, flags, id).Store(&result)
	what := fmt.Sprintf("%s of %s by %s", verb, unit, c.by)
	switch {
	case c.ctx.Err() != nil:
		// Whoever was asked for a password is no longer.
		authority.Go(polkitIface+".CancelCheckAuthorization", dbus.FlagNoReplyExpected, nil, id)
		return fail(ErrorFailed, "%s: the caller has left, or the service ends", what)
	case noPolkit(err):
		return fail(ErrorPermissionDenied, "%s: polkit is not there to say who may, so only root may: install polkit, or use sudo", what)
	case err != nil:
		return fail(ErrorPermissionDenied, "%s: polkit cannot be asked: %v", what, err)
	case result.Authorized:
		return nil
	case result.Challenge && !c.interactive:
		return fail(ErrorInteractiveAuthorization, "%s: polkit wants a password first, and the call does not allow for that: a rule for action %s and unit %s is needed", what, action, unit)
	default:
		return fail(ErrorPermissionDenied, "%s: polkit says no: a rule for action %s and unit %s is needed", what, action, unit)
	}
}

// noPolkit: polkit is not installed, masked, or cannot be started.
func noPolkit(err error) bool {
	var e dbus.Error
	if !errors.As(err, &e) {
		return false
	}
	return e.Name == "org.freedesktop.DBus.Error.ServiceUnknown" || e.Name == "org.freedesktop.DBus.Error.NameHasNoOwner" ||
		e.Name == "org.freedesktop.systemd1.NoSuchUnit" || e.Name == "org.freedesktop.systemd1.UnitMasked" ||
		strings.HasPrefix(e.Name, "org.freedesktop.DBus.Error.Spawn.")
}

// userOf asks the bus who a sender is.
func (s *session) userOf(ctx context.Context, sender string) (uint32, error) {
	if s.Options.userOf != nil {
		return s.Options.userOf(sender)
	}
	var uid uint32
	err := s.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetConnectionUnixUser", 0, sender).Store(&uid)
	return uid, err
}
