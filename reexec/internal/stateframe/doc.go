// SPDX-License-Identifier: Apache-2.0

// Package stateframe is the form in which a state of the service goes to the
// next version and into the fd store: one frame in a sealed memfd.
//
// [Write] makes one, [Open] checks one. What is in a sealed memfd cannot change
// any more, not even by who made it, so that a frame which was checked stays
// good, and may be read where it is: in a mapping, however large it is. The
// layout is at [Parse].
package stateframe
