// SPDX-License-Identifier: Apache-2.0

// Package reexectest tests how a service is upgraded, in an ordinary go test:
// without root, without systemd, in a few seconds. It is for tests only.
//
// In the package of the service's main function, with its units in ../systemd:
//
//	func TestMain(m *testing.M) { reexectest.Main(m, main) }
//
//	func TestUpgrade(t *testing.T) {
//		reexectest.TestUpgrade(t, reexectest.Service{
//			Options: reexectest.Options{Units: "../systemd"},
//			Clients: reexectest.HTTP{Socket: "http"}, // FileDescriptorName= of the socket unit
//		})
//	}
//
// [TestUpgrade] tries what every handover must keep: nothing is lost under load,
// the old version serves until the next one is ready, failed versions change
// nothing, a crash refuses no connection, a stop is graceful, nothing leaks. It looks from the
// outside and works for services that do not use package reexec.
// Clients of other protocols than HTTP are written in a few lines: see [Kind].
//
// The suite upgrades the service some forty times. If the service tries each new
// version for seconds, shorten that with a drop-in in [Options].Files, as the examples do.
//
// # Examples
//
// They are complete services with their units and tests, in the directory examples:
//
//   - [github.com/holdfast-go/holdfast/reexec/reexectest/examples/http], with package reexec
//   - [github.com/holdfast-go/holdfast/reexec/reexectest/examples/udp], with a client of its own
//   - [github.com/holdfast-go/holdfast/reexec/reexectest/examples/session], whose connections
//     live through upgrades
//   - [github.com/holdfast-go/holdfast/reexec/reexectest/examples/limiter], which keeps a limit
//     for each client, and .../examples/counters, which is scraped by Prometheus
//   - [github.com/holdfast-go/holdfast/reexec/reexectest/examples/config], which reads its
//     configuration again at SIGHUP
//   - [github.com/holdfast-go/holdfast/reexec/reexectest/examples/restart], without package
//     reexec: systemd holds its socket, and an upgrade is a restart
//   - examples/grpc and examples/websocket, which are modules of their own
//
// # What is looked up where
//
// A stand-in for systemd runs the service from its real unit files: sockets,
// Type=, NotifyAccess=, MAINPID=, ExecReload=, Restart=, the descriptor store,
// timeouts, the watchdog. It behaves like the version of systemd that it is told,
// which is tested against the real ones.
//
//   - [Options].Units names the directory of the unit files, relative to that of the
//     test. Files adds drop-ins and replaces files, as /etc does for /usr/lib.
//   - The program of ExecStart= is the test binary, which [Main] makes the service, so
//     there is nothing to build and to install. [Options].Programs says what else
//     stands behind a path in the units: a [File], what [Build] builds.
//     The command holdfast is there. Other paths are those of this machine, such as /bin/kill.
//   - All that the units name below /run, /var and /etc is below a directory of its own,
//     [Unit.Root]: Unix sockets, PIDFile=, RuntimeDirectory= and the like. So are the programs.
//     [Unit.Path] tells where.
//   - TCP and UDP ports of socket units are replaced by free ones on the loopback: ask
//     [Unit.Addr], by FileDescriptorName=. A service that binds an address itself
//     is told one of [FreeAddress], which is named in [Options].Addresses.
//
// The processes are children of a manager process, which is the test binary, too;
// it runs as the user of the test. When the test process ends, however it ends, the manager kills
// every process of the unit, removes the directory and exits.
//
// # Tests of your own
//
// [Start] starts a unit for a test, [New] one without a test. A [Unit] does what
// systemctl does, tells what there is to see, and puts faults in:
//
//	u := reexectest.Start(t, reexectest.Options{Units: "../systemd"})
//	if err := u.Install("/usr/bin/myapp", reexectest.Version("2")); err != nil {
//		t.Fatal(err)
//	}
//	if err := u.Reload(t.Context()); err != nil {
//		t.Fatal(err)
//	}
//	conn, err := u.Dial(t.Context(), "http")
//
// Calls that wait take a context; without a deadline of its own it is bounded by
// Options.Patience, and ends sooner when the service is dead. Units do not share anything, so
// tests can run in parallel. When a test fails, the story of its units is printed: what the test
// did, every change of state, notification, birth and death of a process, and the journal.
//
// # What the stand-in does not do
//
// It supervises, but it does not confine. User=, DynamicUser=, capabilities,
// namespaces, SystemCallFilter=, resource control and all other sandboxing are
// known and accepted, and have no effect: that a service works inside its
// sandbox is for a test on real systemd. There are no control groups: the
// processes of the unit are the descendants of the manager, which nothing can
// leave. Dependencies on units other than the service and its sockets are not
// followed, and Type=dbus, Type=idle and Accept=yes are refused. The journal drops no line, as
// journald does above its rate limit: a service that writes faster than the test reads has to wait.
//
// Nothing is ignored in silence. An option that is unknown, or newer than the
// systemd that is stood in for, is an error of type [UnitError] with file and line.
package reexectest
