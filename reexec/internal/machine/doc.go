// SPDX-License-Identifier: Apache-2.0

// Package machine is the core of an upgrade as a pure table: what a
// generation of the service does in every state on every event. There is no
// I/O, no clock and no goroutine in it. Package reexec runs the table; package
// model explores it exhaustively together with models of systemd and of the
// reload client.
//
// A generation starts in [Booting] when systemd started it, in [Joining] when a
// predecessor did, and in [Renewed] when it was executed in its predecessor's
// process. It is main from [Serving] on, plays the
// predecessor's part from [Checking] to [Promoting], and ends in [Gone].
//
// # Rules that the table keeps
//
// The order of the actions in a cell is part of the protocol:
//
//   - MAINPID= moves once per upgrade, after probation, and never back: with
//     NotifyAccess=main the old process is not heard afterwards (systemd's
//     service_notify_message_authorized), so it could never take the service
//     back.
//   - The PID file names the successor from the moment it accepts until it is
//     undone: should the predecessor die, systemd reads the file and adopts
//     the successor instead of stopping the unit (service_sigchld_event).
//   - The file names the predecessor again before an undone successor goes
//     away and before the reload command ends, because systemd reads it on
//     both occasions.
//   - The predecessor drops the lease on the service's state before it tells
//     the successor that it is main, so there is never a second writer.
//   - In place, states are committed when nothing is left that could change
//     them, and before execve(2): what comes after it may crash.
//   - Once told to stop, a generation never accepts again.
package machine
