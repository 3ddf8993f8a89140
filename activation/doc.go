// SPDX-License-Identifier: Apache-2.0

// Package activation gives a service the descriptors that systemd, or the service's predecessor, passed to it.
//
// For most services:
//
//	passed, err := activation.FromEnv()
//	ln, err := passed.Listener("http")  // FileDescriptorName=http in the .socket unit
//
// and for one that shall also start without systemd, [Set.Listen], which binds what was not passed.
//
// # Names
//
// Descriptors are claimed by name, never by number: the order of several .socket units is undefined, and what
// comes from the file descriptor store comes in arbitrary order. All Listen*= lines of one .socket unit share
// one name, so a name stands for a group: [Set.Listeners] claims the whole group, [Set.Listener] insists on
// exactly one. Without FileDescriptorName= the name is that of the unit, with its ".socket" (or "connection"
// with Accept=yes, "stored" from the store, "unknown" without LISTEN_FDNAMES, see [sd_listen_fds(3)]).
//
// # Kinds
//
// Each descriptor has one [Kind], and each kind one pair of methods that claims it:
//
//	ListenStream=, ListenSequentialPacket=              Listeners, Listener
//	the same with Accept=yes                            Conns, Conn
//	ListenDatagram=                                     PacketConns, PacketConn
//	ListenFIFO=, ListenSpecial=, ListenNetlink=,
//	ListenMessageQueue=, OpenFile=, memfds, and
//	everything that this package does not know          Files, File
//
// TCP, UDP and Unix sockets are claimed as the types of package net; AF_VSOCK, which package net does not know,
// as [*VsockListener] and [*VsockConn].
//
// # A process for each connection
//
// With Accept=yes systemd accepts, and starts an instance of the service for each connection, whose name is
// "connection" (since systemd 257 FileDescriptorName= changes it):
//
//	conn, err := passed.Conn("connection")
//
// Such a service is upgraded by a new file alone, put in place by rename: the next connection gets the new version,
// those that are open keep theirs. Nothing checks it before: a version that cannot start fails each of them.
// [github.com/holdfast-go/holdfast/activation/examples/accept] is such a service, with its units.
//
// # Ownership of descriptors
//
// What was claimed belongs to the caller, who closes it. Closing it does not close systemd's copy: systemd goes
// on listening. For the same reason never call shutdown(2) on a listener, which works on all copies. What was
// not claimed stays open in the [Set] until [Set.Close], and [Set.Unclaimed] lists it. No descriptor is
// claimed twice: the second attempt is a [*ClaimedError].
//
// Every descriptor is close-on-exec from the first call of [FromEnv] on; call it before you start processes.
//
// # Blocking mode
//
// O_NONBLOCK belongs to the open file description, which all copies of a descriptor share, systemd's too.
// systemd clears it at each start of a service, unless the unit says NonBlocking=yes. Claiming a socket or FIFO
// sets it again, which is what deadlines, and Close while another goroutine waits, depend on. If one socket is
// passed to several services at once, set NonBlocking=yes in all of them: otherwise the start of one turns the
// sockets of the others back to blocking.
//
// # The file descriptor store
//
// The environment does not say which descriptors come from the store. This package goes by the name: "stored",
// and names of the form name@seq with a decimal seq, which is what package notify uses. Everything behind the
// first such descriptor is not a socket unit's either, because systemd passes those first. A store that uses
// other names has to be declared with [Set.DeclareStored]; until then its entries count as those of a socket
// unit. A socket unit must not use such a name. [Info.Source] has the result; it does not matter for claiming.
//
// A listener of a socket unit that was also put into the store arrives twice. It is shown once, under the
// name of the socket unit; see [Info.Aliases].
//
// [sd_listen_fds(3)]: https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html
package activation
