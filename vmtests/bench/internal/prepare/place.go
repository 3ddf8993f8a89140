// SPDX-License-Identifier: Apache-2.0

package prepare

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests"
)

// Where services that need systemd can run.
const (
	InContainer = "container"
	OnStandIn   = "stand-in"
)

// Where chooses where such services run, and says why. On is one of the two, or empty for what there is.
func Where(on string) (chosen, why string, err error) {
	switch on {
	case InContainer:
		return on, "asked for", vmtests.RequireContainers()
	case OnStandIn:
		return on, "asked for", nil
	case "":
		if err := vmtests.RequireContainers(); err != nil {
			return OnStandIn, err.Error(), nil
		}
		return InContainer, "this is root", nil
	}
	return "", "", fmt.Errorf("-on=%s: must be %s or %s", on, InContainer, OnStandIn)
}

// Kernel is the release of the running one.
func Kernel() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(name.Release[:])
}

// LastLines returns the last n lines of what a service has said.
func LastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
