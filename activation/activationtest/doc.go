// SPDX-License-Identifier: Apache-2.0

// Package activationtest starts processes the way systemd starts a socket-activated service ([Command]), and
// checks that a package's tests leave nothing behind ([Main]). It is for tests only.
//
// The service may be a program, or the test binary itself: Command(t, options, "/proc/self/exe"), with a TestMain
// that runs the service when a variable or an argument says so.
//
// # The trampoline
//
// LISTEN_PID is the number of the receiving process, which nobody knows before it exists. systemd sets it
// between fork and exec. A Go program cannot run code there, so Command starts the test binary once more; the
// initialisation of this package recognises that by the first argument, sets the variables for its own process
// and replaces itself with the program. It needs no TestMain, no shell and no help from the program.
//
// A name with a colon makes LISTEN_FDNAMES malformed, for tests of what a service does then.
package activationtest
