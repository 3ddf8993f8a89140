// SPDX-License-Identifier: Apache-2.0

// Package upgrade1 is org.holdfast.Upgrade1, the D-Bus service by which those who are not
// root upgrade units: polkit says who may do what with which unit. `holdfast serve` runs it.
//
//	err := upgrade1.Serve(ctx, upgrade1.Options{Upgrader: u, Idle: 30 * time.Second})
//
// The interface, its errors, polkit rules and examples are in units/UPGRADE1.md; the
// introspection data is packaging/holdfast/org.holdfast.Upgrade1.xml.
//
// # Rollouts
//
// Rollout and Rollback return the id of what they have started, once package upgrade has
// checked the units; what is wrong before that is the error of the call. From then on it
// belongs to the service and not to the caller, who may leave the bus. Its end is in the signal
// Done and in the answer of Wait. It outlives the connection to the bus: [Serve] connects again.
// When ctx ends, what is under way is left for the next [Serve], which resumes it.
//
// # Who may do what
//
// Root may do everything, without polkit. For others each unit is one question to polkit
// after its pattern or alias was resolved, and all are asked before anything is done. Without
// polkit they are denied. What only reads is for everybody.
//
// # Bounds
//
// No more than 256 calls are answered at a time, 32 of them from one sender and 64 from one
// user other than root, and 64 rollouts go on at a time. Texts in signals have at most 1024 bytes, with control characters
// escaped: they come from the services.
package upgrade1
