// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"fmt"
	"strconv"
	"strings"
)

// Version is a systemd version that stories run on: one of the constants below.
type Version int

// The versions stories run on, each the one of a Debian suite.
const (
	Systemd247 Version = 247 // Debian 11 bullseye
	Systemd252 Version = 252 // Debian 12 bookworm; also RHEL 9
	Systemd257 Version = 257 // Debian 13 trixie; also RHEL 10
	Systemd262 Version = 262 // Debian testing, forky
)

// Versions returns every version, oldest first.
func Versions() []Version {
	return []Version{Systemd247, Systemd252, Systemd257, Systemd262}
}

// ParseVersion returns the version that text names, such as "257".
func ParseVersion(text string) (Version, error) {
	n, err := strconv.Atoi(text)
	if err == nil {
		for _, v := range Versions() {
			if int(v) == n {
				return v, nil
			}
		}
	}
	var known []string
	for _, v := range Versions() {
		known = append(known, strconv.Itoa(int(v)))
	}
	return 0, fmt.Errorf("systemd version %q: must be one of %s", text, strings.Join(known, ", "))
}

// String returns "systemd 257".
func (v Version) String() string { return fmt.Sprintf("systemd %d", int(v)) }

// suite returns the Debian suite that carries v.
func (v Version) suite() (string, error) {
	switch v {
	case Systemd247:
		return "bullseye", nil
	case Systemd252:
		return "bookworm", nil
	case Systemd257:
		return "trixie", nil
	case Systemd262:
		return "forky", nil
	}
	return "", fmt.Errorf("%v: no Debian suite is known to carry it", v)
}
