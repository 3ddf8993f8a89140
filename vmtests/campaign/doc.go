// SPDX-License-Identifier: Apache-2.0

// Package campaign breaks a service in every way that it can think of, on real systemd and under load, and
// says what became of it. "make campaign" runs it.
//
// [Kill] kills processes of the service at random instants of upgrades and between them. Each round has a
// seed that decides all that is random in it, and can be run again alone. [Table] brings about every fault of a
// list, and compares what comes of it with what the table says must come of it.
//
// What clients lose is told apart exactly. A process is stopped before it is killed, and the connections that
// it has accepted are read from /proc: what it was answering on those is lost with it, as it is with any
// process. Everything else that fails is a fault of Holdfast.
//
// # What is tried where
//
// Rows are those of vmtests/faults.txt; what needs a kernel or a clock of its own is a story of TestVMLane
// (vmtests/lane_vm_test.go), on systemd 257 and 262.
//
//   - SIGKILL, SIGSTOP, SIGABRT, SIGSEGV to either process at a random instant: [Kill], vmtests/campaign.txt.
//   - Execution fails (missing, not executable, other architecture, cut off, empty, a directory, a script without
//     its interpreter, noexec): rows "the file is ..." and "systemctl restart, and the file is ...". Removed
//     between check and start: a row.
//   - A new version exits with 0, panics, hangs, never says ready: rows "it ... at start", "... when it is
//     executed" in place, and "systemctl restart, and it ..." in the mode restart; a hang before New is one of
//     them in each mode.
//   - It says ready twice, closes the socket pair, sends garbage, torn and unknown frames, floods, sends
//     descriptors, leaks: rows of the mode overlap, the only one with a handover socket.
//   - It eats memory until MemoryMax=, before it is ready, on trial and as main: the story "memory".
//   - Disk full in the runtime directory, descriptor limit, fd store full, NOTIFY_SOCKET gone: rows.
//   - The clock jumps an hour ahead and back, in all phases of overlap and in place: the story "clock".
//   - Reload storms from ten clients, a second SIGUSR2 to either process: rows.
//   - stop, restart, daemon-reload, daemon-reexec in each phase of each mode: rows "systemctl ...".
//   - The machine is rebooted, reset and soft-rebooted: the stories "reboot", "soft-reboot" and "counters across
//     a soft-reboot".
package campaign
