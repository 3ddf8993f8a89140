// SPDX-License-Identifier: Apache-2.0

package packages

// ReleaseProgram compiles the program of a release, for a package that others make of it.
func (b *Builder) ReleaseProgram(r Release) (string, error) { return b.program(r) }
