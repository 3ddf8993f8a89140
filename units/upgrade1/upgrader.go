// SPDX-License-Identifier: Apache-2.0

package upgrade1

import (
	"context"

	"github.com/holdfast-go/holdfast/units/upgrade"
)

// Upgrader does the work. [upgrade.Upgrader] is one; a test has another.
type Upgrader interface {
	// Match returns the names of the units that names, aliases and patterns stand for.
	Match(ctx context.Context, units []string) ([]string, error)
	// Find returns what is known of a request; [upgrade.NoRequestError] if nothing is.
	Find(ctx context.Context, id string) (upgrade.Found, error)
	Rollout(ctx context.Context, request upgrade.Request, onEvent func(upgrade.Event)) (upgrade.Report, error)
	Rollback(ctx context.Context, request upgrade.Request, onEvent func(upgrade.Event)) (upgrade.Report, error)
	Resume(ctx context.Context, onEvent func(upgrade.Event)) ([]upgrade.Report, error)
	Status(ctx context.Context, unit string) (upgrade.UnitStatus, error)
	History(ctx context.Context, unit string) ([]upgrade.Report, error)
	Freeze(ctx context.Context, unit, by, reason string) error
	Thaw(ctx context.Context, unit, by, reason string) error
}
