// SPDX-License-Identifier: Apache-2.0

package units

import (
	"time"
)

// Flavour is how `systemctl reload` upgrades the service.
type Flavour string

const (
	// ExecReload has `holdfast reload` ask the service and wait for the
	// verdict, so that `systemctl reload` fails when the upgrade failed. It is
	// the default.
	ExecReload Flavour = "exec-reload"
	// NotifyReload is Type=notify-reload, for systemd 253 and later: systemd
	// sends SIGUSR2 and waits for READY=1. It needs no holdfast at runtime, but
	// a failed upgrade looks like a successful reload; only the status text
	// tells.
	NotifyReload Flavour = "notify-reload"
)

// Mode is how one version follows another: the same as reexec.Options.Mode of
// the service.
type Mode string

const (
	// Overlap runs the new version beside the old one.
	Overlap Mode = "overlap"
	// InPlace executes it in the process of the old one.
	InPlace Mode = "in-place"
	// Restart is `systemctl restart`: there is no reload.
	Restart Mode = "restart"
)

// Launcher says whether the unit starts the service by `holdfast launch`.
type Launcher string

const (
	// LauncherOn has `holdfast launch` start the last good version while the
	// service's file is one that failed. It keeps a copy of the program, in a
	// state directory of its own, from which the service may execute. It is the
	// default of the flavour ExecReload.
	LauncherOn Launcher = "on"
	// LauncherOff starts the file as it is. It is the default of the flavour
	// NotifyReload, which needs no holdfast at runtime, and right for a service
	// that must not be able to write what it executes.
	LauncherOff Launcher = "off"
)

// SocketType is the kind of socket, by the name of its option.
type SocketType string

// The kinds of sockets of systemd.socket(5).
const (
	Stream           SocketType = "ListenStream"
	Datagram         SocketType = "ListenDatagram"
	SequentialPacket SocketType = "ListenSequentialPacket"
)

// Socket is one socket that systemd holds for the service.
type Socket struct {
	// Name is what the service asks for (FileDescriptorName=). Required.
	// Sockets with the same name share a .socket unit.
	Name string
	// Type is Stream when empty.
	Type SocketType
	// Address is as in ListenStream=: "127.0.0.1:8080", "[::1]:8080", "8080"
	// for a port on all addresses, "/run/myapp.sock", "@abstract" or
	// "vsock:2:1234". Required.
	Address string
}

// Options say what to render. The zero value of a field that is not marked as
// required means its default.
//
// Text is taken literally: a value cannot bring in a second line, a second
// argument or a specifier. In Args, the addresses of Sockets and
// StateDirectory two of systemd's specifiers are let through, %t (the
// runtime directory: /run, or $XDG_RUNTIME_DIR of a user manager) and, in a
// template, %i (the instance); %% stands for a percent sign there.
type Options struct {
	// Name of the service, without a suffix. Required.
	Name string
	// Exec is the absolute path of the service's binary. Required. If an
	// upgrade switches a symbolic link in it, name the directory that holds
	// all versions in ExecDirectories.
	Exec string
	Args []string
	// Description defaults to Name.
	Description string
	// Documentation are URIs (http, https, file, info, man).
	Documentation []string

	// Systemd is the oldest version of systemd that the units are for, from
	// OldestSystemd. Required. Later versions understand what is rendered.
	Systemd int
	// Mode defaults to Overlap.
	Mode Mode
	// Flavour defaults to ExecReload.
	Flavour Flavour
	// Launcher defaults to LauncherOn or LauncherOff, as the flavour has it.
	Launcher Launcher
	// Template renders myapp@.service and its sockets instead of
	// myapp.service. Every instance has a runtime directory of its own,
	// myapp@INSTANCE.
	Template bool
	// User renders for the manager of a user (systemctl --user) instead of
	// the system's: without DynamicUser= and without any option that needs
	// privileges.
	User bool

	Sockets []Socket

	// CheckTimeout, StartTimeout, Probation and DrainTimeout are those of
	// reexec.Options, with the same defaults: 10 s, 30 s, 5 s and 30 s. The
	// timeouts of the unit follow from them.
	CheckTimeout, StartTimeout, Probation, DrainTimeout time.Duration
	// Watchdog defaults to 30 s.
	Watchdog time.Duration
	// NoWatchdog renders no WatchdogSec=.
	NoWatchdog bool

	// StateDirectory is a directory below /var/lib (or a user's
	// $XDG_STATE_HOME) that outlives restarts. A template's must contain %i.
	// The launcher has another one, which comes after it in $STATE_DIRECTORY.
	StateDirectory string
	// SoftReboot lets the sockets, and what the service has stored, outlive
	// "systemctl soft-reboot": clients wait until the service is there again
	// instead of being refused. It needs systemd 254. A stop then keeps what is
	// stored as well; "systemctl clean --what=fdstore" lets go of it. Before
	// 258 the service itself also runs on until systemd kills what is left: it
	// can rely on nothing that stops before (DefaultDependencies=no).
	SoftReboot bool
	// FileDescriptorStoreMax defaults to 64.
	FileDescriptorStoreMax int
	// ExecDirectories are further directories from which the service may
	// execute files, beside those of Exec and Holdfast: of versions, of
	// helpers, of the dynamic loader for a binary that uses cgo.
	ExecDirectories []string
	// Holdfast is the path of the holdfast command; /usr/bin/holdfast.
	Holdfast string

	// UnitLines, ServiceLines and SocketLines are added at the end of their
	// sections, as they are: "Environment=LEVEL=debug". Lines that would
	// break upgrades are refused.
	UnitLines, ServiceLines, SocketLines []string
}

// File is one rendered unit.
type File struct {
	Name    string // "myapp.service"
	Content string
}

const (
	// clientMargin is how much longer than all phases of an upgrade the reload
	// client waits, and reloadMargin how much longer than the client systemd
	// waits for the client.
	clientMargin = 15 * time.Second
	reloadMargin = 30 * time.Second
	// stopMargin is how much longer than the drain systemd waits before
	// SIGKILL.
	stopMargin = 30 * time.Second
)

func (o Options) withDefaults() Options {
	setDefault(&o.Description, o.Name)
	setDefault(&o.Mode, Overlap)
	setDefault(&o.Flavour, ExecReload)
	if o.Flavour == ExecReload {
		setDefault(&o.Launcher, LauncherOn)
	}
	setDefault(&o.Launcher, LauncherOff)
	setDefault(&o.CheckTimeout, 10*time.Second)
	setDefault(&o.StartTimeout, 30*time.Second)
	setDefault(&o.Probation, 5*time.Second)
	setDefault(&o.DrainTimeout, 30*time.Second)
	setDefault(&o.Watchdog, 30*time.Second)
	setDefault(&o.FileDescriptorStoreMax, 64)
	setDefault(&o.Holdfast, "/usr/bin/holdfast")
	o.Sockets = append([]Socket(nil), o.Sockets...)
	for i := range o.Sockets {
		setDefault(&o.Sockets[i].Type, Stream)
	}
	return o
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// reloadTimeout is how long the reload client waits: every phase of an upgrade
// to its end, and then some.
func (o Options) reloadTimeout() time.Duration {
	switch o.Mode {
	case InPlace:
		return o.CheckTimeout + o.DrainTimeout + o.StartTimeout + clientMargin
	case Restart:
		return o.StartTimeout + clientMargin
	}
	return o.CheckTimeout + o.StartTimeout + o.Probation + clientMargin
}

// asksItself says whether `systemctl reload` runs holdfast reload.
func (o Options) asksItself() bool { return o.Flavour == ExecReload && o.Mode != Restart }

// unitName is the name of a unit of the service without its suffix, as units
// of the same instance refer to it.
func (o Options) unitName(part string) string {
	name := o.Name + part
	if o.Template {
		name += "@%i"
	}
	return name
}

// fileName is the name of the file of the same unit.
func (o Options) fileName(part, suffix string) string {
	name := o.Name + part
	if o.Template {
		name += "@"
	}
	return name + suffix
}

// launches says whether the holdfast command starts the service.
func (o Options) launches() bool { return o.Launcher == LauncherOn }

// launchDirectory is where the launcher has its record, relative to %S. It is
// not in the directory of the service, which may not execute what it writes there;
// and in no other one: under DynamicUser= and UMask=0077 systemd 247 makes the
// directories between with a mode that keeps the service out.
func (o Options) launchDirectory() string { return o.unitName("") + ".holdfast" }

// runtimeDirectory is relative to %t.
func (o Options) runtimeDirectory() string { return o.unitName("") }
