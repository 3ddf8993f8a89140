// SPDX-License-Identifier: Apache-2.0

// Package unit reads a service and its sockets from their unit files, as the
// systemd of a version told would: typed, with its defaults, and with the checks
// that it makes. What systemd has and the stand-in has not is in one table, with
// the reason; an option that is in no table is an error.
package unit

import "github.com/holdfast-go/holdfast/units/unitfile"

// File is one unit file or drop-in.
type File struct {
	Name string // "myapp.service", or "myapp.service.d/10-limits.conf"
	Text string
}

// Options say what to load, and for which systemd.
type Options struct {
	Systemd int    // the version: 239 to 262
	Files   []File // one service, the socket units that start it, drop-ins of them
	// Instance is what a template is loaded for: it stands between the "@" and
	// the dot of the names.
	Instance   string
	Specifiers Specifiers
	// Relocate is applied to absolute paths of the host's file system that are
	// not programs: PIDFile=, WorkingDirectory=, EnvironmentFile=, OpenFile=,
	// Unix sockets and FIFOs. Nil leaves them alone. Programs of Exec options
	// are never relocated: whoever starts them looks them up.
	Relocate func(path string) string
}

// Specifiers are the values of the "%" specifiers of systemd.unit(5) that are
// not made of the unit's name. An empty one has a default.
type Specifiers struct {
	Runtime       string // %t: /run
	State         string // %S: /var/lib
	Cache         string // %C: /var/cache
	Logs          string // %L: /var/log
	Configuration string // %E: /etc
	Credentials   string // %d: Runtime/credentials/UNIT
	Tmp           string // %T: /tmp
	VarTmp        string // %V: /var/tmp
	Home          string // %h: /root
	User          string // %u: root
	UID           string // %U: 0
	Group         string // %g: root
	GID           string // %G: 0
	Shell         string // %s: /bin/sh
	Host          string // %H: that of the machine; %l is its first label, and %q the same
	MachineID     string // %m: that of the machine
	BootID        string // %b: that of the machine
	Kernel        string // %v: that of the machine
	Fragments     string // the directory of the unit files, %Y; %y is the file: /etc/systemd/system
}

// Set is what belongs to one service.
type Set struct {
	Service *Service
	Sockets []*Socket // by name
	// Warnings are what systemd logs when it loads the units, and goes on as
	// this does.
	Warnings unitfile.Faults
}

// Error is a fault in a unit file.
type Error = unitfile.Error

// Faults are all faults of the files of Load, which is the error that it returns.
type Faults = unitfile.Faults
