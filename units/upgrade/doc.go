// SPDX-License-Identifier: Apache-2.0

// Package upgrade is the helper of an operator: it upgrades units through
// systemd's D-Bus interface, watches what becomes of them, and undoes what does
// not hold.
//
//	u, err := upgrade.New(upgrade.Options{})
//	defer u.Close()
//	report, err := u.Rollout(ctx, upgrade.Request{Units: []string{"myapp.service"}}, nil)
//
// # A rollout
//
// All units are checked first: are they active, can they be upgraded, does
// their control socket answer. If one is not fit, nothing is started, and
// the error says what to do about each. Then it goes in waves. In each, every unit
// is checked once more, reloaded by a job of systemd, and watched for the time
// of its soak: its gates say whether the new version holds. A unit whose gate fails is
// rolled back to the version before. A wave with too many failures is the last one: its
// units are rolled back, all of them; what earlier waves did stays, and the report says so.
//
// What the service itself says about an upgrade counts, not what became of the job: the
// connection to systemd may be lost, systemd may execute itself anew, and the
// job of a service of Type=notify-reload is always done. See [control.Status.Last].
//
// # Errors and reports
//
// An error means that nothing was started: [*NoUnitError], [*PreconditionError],
// [*BusyError], [*FrozenError], [*PermissionError], [*RequestError], or several of them
// joined, or one of package bus. Otherwise there is a [Report], whose Outcome says how it
// went, also when the context ended ([Interrupted]).
//
// # The journal
//
// What is under way is written to a journal before it is done, so that a helper
// that was killed can be started again: [Upgrader.Resume] finds out where things
// stand, and finishes or undoes. Below Options.Directory there are
//
//	requests/ID/record.json   a request, what was found, and how far it is (mode 0600)
//	requests/ID/lock          held by the helper that works on it
//	locks/UNIT                the same for a unit (mode 0600: who reads it could hold it)
//	holders/UNIT.json         who holds it
//	history/UNIT.json         the last reports of a unit, the newest first
//	frozen/UNIT.json          who has frozen the unit, and why
//
// Files are replaced by rename and are on the disk before the step that they announce.
// Locks end with their holder.
package upgrade
