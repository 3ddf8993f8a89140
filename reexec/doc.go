// SPDX-License-Identifier: Apache-2.0

// Package reexec lets a service re-execute itself into its next version while
// its sockets stay open and its clients notice nothing.
//
//	svc, err := reexec.New(reexec.Options{Name: "myapp"})
//	ln, err := svc.Listen("http", "tcp", "127.0.0.1:8080")
//	svc.Serve(&http.Server{Handler: mux}, ln)
//	err = svc.Run(ctx)
//
// [New] finds out how the process was started. [Service.Listen] returns the
// listener of that name: the predecessor's, or systemd's, or a new one.
// [Service.Run] says READY=1, pings the watchdog, upgrades on SIGUSR2 or on a
// request to the control socket, and stops gracefully.
//
// # An upgrade
//
// The predecessor checks the file behind [Options.Executable], lets it check
// itself, and starts it: as a child of systemd (CLONE_PARENT), so that systemd
// supervises it like any other main process. It hands every listener over.
// When the successor is ready it accepts, and the predecessor stops accepting
// but stays warm: the successor is on trial. If it dies, hangs or says that it
// is not healthy, the predecessor accepts again at once. Otherwise the
// predecessor tells systemd that the successor is main, answers what it has,
// moves idle HTTP/1 connections to it, leads other clients away by
// Connection: close or by HTTP/2's GOAWAY, and exits.
//
// The protocol is a table, in internal/machine; internal/model explores it
// exhaustively. [Service.Status] and the STATUS= line show the state.
//
// That is [Overlap]. With [InPlace] there is no second process: the service
// drains, and then executes the checked file in its own process, with its
// listeners, idle connections and states. With [Restart] it only checks the file,
// and says that systemd has to start it.
//
// # Guarantees
//
//   - The successor accepts nothing until it has said that it is ready, and
//     the predecessor nothing after it has handed over.
//   - At most one upgrade is under way. A further request is answered with
//     busy when that is over.
//   - Every request gets one verdict.
//   - A refused or undone version changes nothing but [control.Status.Last].
//   - Only main speaks to systemd, so NotifyAccess=main is enough.
//   - Once told to stop, a generation never accepts again.
//
// # What it shows
//
// The control socket, and [Service.Handler] for a port of the service's own, say
// whether the service is alive and able to serve, where an upgrade is, and what was
// counted; package metrics counts upgrades for Prometheus. [control.Status] has the
// last verdicts, also those of earlier generations and processes.
//
// # Descriptors
//
// What Listen and ListenPacket return is the service's until it drains; then
// Run closes it. systemd's copy and the other generation's are not affected.
// All descriptors that systemd passed are handed on to each successor, claimed
// or not. A child that the service starts inherits none of them.
//
// # States
//
// [Service.State] registers what the service knows: a [Snapshot] that the successor
// begins with, a [Merged] state to which two generations add, or an [Exclusive]
// one that has one writer at a time. [State.Commit] has systemd keep it, so that
// kill -9 restores the last commit. A version finds its own last frame again
// when it comes back after a newer one.
//
// # Configuration
//
// [Service.OnReload] registers what SIGHUP reads again, without another process.
// Package reexec/config has a typed configuration for it, whose parts are rebuilt
// when what they depend on has changed.
//
// # Without systemd
//
// Without NOTIFY_SOCKET nothing is announced, listeners are bound to the
// addresses given, and a successor is a plain child that the init process
// inherits. As PID 1 of a container no upgrade is possible: the container ends
// with its PID 1.
//
// # Compatibility
//
// A version speaks the handover protocol of the release before and after it.
// The pre-check refuses what is further away.
package reexec
