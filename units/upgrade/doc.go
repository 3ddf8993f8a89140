// SPDX-License-Identifier: Apache-2.0

// Package upgrade is the helper of an operator: it upgrades units through
// systemd's D-Bus interface, watches what becomes of them, and undoes what does
// not hold.
//
//	u, err := upgrade.New(upgrade.Options{})
//	defer u.Close()
//	report, err := u.Rollout(ctx, upgrade.Request{Units: []string{"myapp.service"}}, nil)
//
// A rollout goes in waves. In each, every unit is checked first (is it active,
// can it be upgraded, would the new file do), then reloaded by a job of systemd,
// and then watched for the time of its soak: its gates say whether the new version
// holds. A unit whose gate fails is rolled back. A wave with too many failures is
// the last one, and all its units are rolled back.
//
// What is under way is written to a journal before it is done, so that a helper
// that was killed can be started again: it finds out where things stand, and
// finishes or undoes.
package upgrade
