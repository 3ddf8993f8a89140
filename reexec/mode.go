// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"fmt"
	"slices"
)

// Mode is how one version follows another. Its text, as for a flag, is
// "overlap", "in-place" or "restart".
type Mode int

const (
	// Overlap runs the new version beside the old one, which takes over again
	// if the new one fails in its probation.
	Overlap Mode = iota
	// InPlace answers what is in flight and then executes the new version in the
	// same process: one PID, one writer, half the memory. Who connects meanwhile
	// waits. There is no way back once it is executed: a version that ends then is
	// the service manager's to start again.
	InPlace
	// Restart leaves it to systemd to stop and start the unit; sockets and
	// states cross in the fd store. An upgrade is refused with the command to type.
	Restart
)

var modeTexts = [...]string{Overlap: "overlap", InPlace: "in-place", Restart: "restart"}

func (m Mode) String() string {
	if m == InPlace {
		return "in place"
	}
	if m < 0 || int(m) >= len(modeTexts) {
		return fmt.Sprintf("Mode(%d)", int(m))
	}
	return modeTexts[m]
}

// MarshalText is for [flag.TextVar] and the like.
func (m Mode) MarshalText() ([]byte, error) {
	if m < 0 || int(m) >= len(modeTexts) {
		return nil, fmt.Errorf("reexec: %v is no mode", m)
	}
	return []byte(modeTexts[m]), nil
}

// UnmarshalText is the opposite.
func (m *Mode) UnmarshalText(text []byte) error {
	i := slices.Index(modeTexts[:], string(text))
	if i < 0 {
		return fmt.Errorf("reexec: mode %q: must be one of %q", text, modeTexts)
	}
	*m = Mode(i)
	return nil
}
