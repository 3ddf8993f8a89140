// SPDX-License-Identifier: Apache-2.0

// Package wire is what a test and the manager process of its unit say to each
// other: JSON objects, one a line, over one stream socket.
//
// The test sends a [Config] first and then any number of [Request] values. The
// manager sends [Message] values: the answer to the Config, which has the ID 0;
// the answer to each Request, under its ID; and events of its own accord.
// Several requests may be under way. What the manager sends is in the order in
// which it happened: when the answer to a job arrives, every event that led to
// it has arrived.
//
// The manager lives as long as the connection: when that ends, however it
// ends, the manager kills every process of the unit, removes what it made and
// exits.
//
// Names of states, results, properties and errors are those of systemd's
// D-Bus API, org.freedesktop.systemd1(5).
package wire
