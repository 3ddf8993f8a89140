// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/holdfast-go/holdfast/vmtests/internal/guest"
)

// portName is the name that package vmtests gives the port.
const portName = "holdfast"

// serve runs commands from the host until the port closes. The unit has Delegate=yes, so that the
// control group below is ours to divide.
func serve() error {
	device, err := findPort("/sys/class/virtio-ports", portName)
	if err != nil {
		return err
	}
	port, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer port.Close()
	group, err := ownGroup()
	if err != nil {
		return err
	}
	commands := filepath.Join(group, "commands")
	if err := os.Mkdir(commands, 0o755); err != nil && !os.IsExist(err) {
		return err
	}
	return (&guest.Server{Groups: commands}).Serve(port)
}

// findPort returns the device of the virtio-serial port called name. The links in /dev/virtio-ports are
// udev's work, which is not here.
func findPort(class, name string) (string, error) {
	ports, err := filepath.Glob(filepath.Join(class, "*"))
	if err != nil {
		return "", err
	}
	for _, port := range ports {
		got, err := os.ReadFile(filepath.Join(port, "name"))
		if err == nil && strings.TrimSpace(string(got)) == name {
			return "/dev/" + filepath.Base(port), nil
		}
	}
	return "", fmt.Errorf("no virtio-serial port is called %s: found %q", name, ports)
}

// ownGroup returns the directory of the control group of this process, cgroups(7).
func ownGroup() (string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Join("/sys/fs/cgroup", path), nil
		}
	}
	return "", fmt.Errorf("/proc/self/cgroup: no line of the unified hierarchy in %q", text)
}
