// SPDX-License-Identifier: Apache-2.0

// Package model explores every interleaving of an upgrade: up to three
// generations that run the table of package machine, systemd, and the reload
// client, with crashes, hangs, ill health, lost messages, stray signals and
// stops at every step. The promises of the design are its properties.
//
// systemd's part follows the rules collected from its sources: a notification
// counts only when main sent it; MAINPID= is refused for a process that is
// dead; notifications are handled before deaths; when main dies, and when the
// reload command ends, the PID file is read, and a living process in it
// becomes main; otherwise main's death ends the unit. Its fd store holds the
// entries of one state, each commit of which is a push, a barrier, and then the
// removal of what it replaces; the service may commit at any time, and any
// process may die in between.
//
// A version that is fit follows beside the old one, in its process, or not at
// all, by the mode; in the mixed mode each version does as it likes.
//
// Time is left out: a deadline may pass at any moment in a timed state, which
// covers every speed of every process.
package model
