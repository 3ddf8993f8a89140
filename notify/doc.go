// SPDX-License-Identifier: Apache-2.0

// Package notify speaks the sd_notify(3) protocol: it tells the service
// manager that a service is ready, reloading, stopping or alive, hands it
// descriptors to keep across a restart, and waits until it has heard all of
// that. It covers every field that is documented up to systemd 262.
//
// Most services need this much:
//
//	n, err := notify.FromEnv()
//	...
//	err = n.Notify(notify.Ready(), notify.Status("serving on :8080"))
//
// [Notifier.Notify] sends its fields as one datagram. [Notifier.Store] keeps a
// descriptor in the manager, [Notifier.Barrier] waits until the manager has
// processed everything sent before, and [Watchdog] sends keep-alive pings for
// as long as a health check passes.
//
// # When systemd is not there
//
// Without $NOTIFY_SOCKET, [FromEnv] returns a Notifier that does nothing:
// [Notifier.Enabled] says false and every other method returns nil. So does
// the zero Notifier. A service needs no case of its own for a laptop.
//
// # What an answer means
//
// The protocol has no answers. A nil error says that the manager's socket took
// the datagram, not that the manager obeyed: a message from a process that
// NotifyAccess= does not admit, a field that is newer than the manager and a
// descriptor for which the store has no room are all dropped in silence. The
// fields that the manager would drop whatever its version and state are
// refused here, before anything is sent.
//
// # Blocking
//
// No method waits for the manager longer than the send timeout, except
// [Notifier.Barrier], which waits as long as its context lets it. A manager
// that no longer reads its socket costs a service one [SendError] a call.
package notify
