// SPDX-License-Identifier: Apache-2.0

// Package lastgood remembers which program of a service has proven itself, and
// which files must not start. The command "holdfast launch" reads it before each
// start and chooses; the service writes it when a version has proven itself,
// was refused, or was undone.
//
// A directory holds a record, a copy of the last good program, and one of the good
// program before that, to which an operator may roll back. Both sides
// may be of different releases of Holdfast: the record has a format version, and
// what is not known in it is kept out of harm's way (see [ErrFuture]).
//
// It is built from the standard library alone, since it is in the path of each
// start.
package lastgood
