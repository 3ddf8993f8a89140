// SPDX-License-Identifier: Apache-2.0

// Package bus asks systemd over D-Bus about units and has it reload them, as
// org.freedesktop.systemd1(5) describes. It never runs systemctl.
//
//	conn, err := bus.Connect(ctx, bus.Options{})
//	defer conn.Close()
//	unit, err := conn.Unit(ctx, "myapp.service")
//	job, err := conn.Reload(ctx, unit.Name)
//	result, err := job.Wait(ctx) // "done", or why not
//
// # Connections
//
// A [Conn] goes to the system bus or to the bus of the user's own service manager.
// While the system bus is away, root is served by /run/systemd/private, the
// socket of systemd itself. A connection that is lost is made again: dbus may be
// restarted, and systemd executes itself anew (systemctl daemon-reexec). A question
// is asked again for as long as Options.Patience; then the error is an
// [*AwayError]. A request that changes something is sent once. If the connection
// ends before its answer, an AwayError with MaybeSent says that it may have
// been heard: the caller has to look.
//
// Package dbus of go-systemd does not tell a connection that was lost from a job that
// failed, and takes a JobRemoved from anybody. So this one stands on godbus alone, and
// believes signals of whoever owns the name of systemd.
//
// # Errors
//
// They are [*NoUnitError], [*PermissionError], [*AwayError], for a job also
// [*LostError] and [*ResultError], or those of systemd with what was asked. Each
// call ends at the latest with its context.
package bus
