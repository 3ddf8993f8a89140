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
package campaign
