// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
)

// ErrNotRoot is the error of everything here that needs root when called as another user.
var ErrNotRoot = errors.New("real systemd needs root: containers and their images are made with mount(2) and control groups")

// A MissingError says what this machine lacks for a lane.
type MissingError struct {
	Lane     string   // "container lane" or "virtual-machine lane"
	Target   string   // of make, to install it and run the lane
	Missing  []string // one phrase for each thing
	Packages []string // the Debian packages that bring what packages can bring
}

func (e *MissingError) Error() string {
	text := fmt.Sprintf("%s: missing %s", e.Lane, strings.Join(e.Missing, "; "))
	if len(e.Packages) > 0 {
		text += fmt.Sprintf("; as root run `make %s`, or install %s", e.Target, strings.Join(e.Packages, " "))
	}
	return text
}

func (e *MissingError) need(ok bool, what, debianPackage string) {
	if ok {
		return
	}
	e.Missing = append(e.Missing, what)
	if debianPackage != "" && !slices.Contains(e.Packages, debianPackage) {
		e.Packages = append(e.Packages, debianPackage)
	}
}

func (e *MissingError) needProgram(name, debianPackage string) {
	_, err := exec.LookPath(name)
	e.need(err == nil, name+"(1)", debianPackage)
}

func (e *MissingError) needImageBuilder() {
	e.needProgram("unshare", "util-linux")
	e.needProgram("mmdebstrap", "mmdebstrap")
	keyrings := 0
	for _, name := range []string{"debian-archive-keyring.gpg", "debian-archive-keyring.pgp"} {
		if _, err := os.Stat("/usr/share/keyrings/" + name); err == nil {
			keyrings++
		}
	}
	e.need(keyrings > 0, "the keys of Debian's archive", "debian-archive-keyring")
}

func (e *MissingError) err() error {
	if len(e.Missing) == 0 {
		return nil
	}
	return e
}

// RequireContainers returns nil where the container lane can run. Otherwise it returns [ErrNotRoot], or a
// [*MissingError] that names everything missing. Images are no part of this: [Boot] builds them.
func RequireContainers() error {
	if os.Geteuid() != 0 {
		return ErrNotRoot
	}
	e := &MissingError{Lane: "container lane", Target: "vmtests-prepare"}
	e.needImageBuilder()
	e.needProgram("systemd-nspawn", "systemd-container")
	e.needProgram("nsenter", "util-linux")
	e.needProgram("mount", "mount")
	e.needProgram("ip", "iproute2")
	_, err := cgroup2Mount()
	e.need(err == nil, "a writable cgroup2 mount", "")
	return e.err()
}

// RequireVMs is [RequireContainers] for the virtual-machine lane.
func RequireVMs() error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("virtual-machine lane: %w on %s: its kernel and devices are those of amd64", errors.ErrUnsupported, runtime.GOARCH)
	}
	if os.Geteuid() != 0 {
		return ErrNotRoot
	}
	e := &MissingError{Lane: "virtual-machine lane", Target: "test-vm"}
	e.needImageBuilder()
	e.needProgram("qemu-system-x86_64", "qemu-system-x86")
	e.needProgram("mke2fs", "e2fsprogs")
	return e.err()
}
