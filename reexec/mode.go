// SPDX-License-Identifier: Apache-2.0

package reexec

import "fmt"

// Mode is how one version follows another.
type Mode int

const (
	// Overlap runs the new version beside the old one, which takes over again
	// if the new one fails in its probation.
	Overlap Mode = iota
	// InPlace drains and then executes the new version in the same process.
	InPlace
	// Restart leaves it to systemd to stop and start the unit; sockets and
	// states cross in the fd store.
	Restart
)

func (m Mode) String() string {
	switch m {
	case Overlap:
		return "overlap"
	case InPlace:
		return "in place"
	case Restart:
		return "restart"
	}
	return fmt.Sprintf("Mode(%d)", int(m))
}
