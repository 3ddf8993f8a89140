// SPDX-License-Identifier: Apache-2.0

package units

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Render returns the .service unit and its .socket units. All faults of opts
// are in the error at once, joined: each is an [*OptionError] or a
// [*VersionError].
func Render(opts Options) ([]File, error) {
	o := opts.withDefaults()
	if err := o.check(); err != nil {
		return nil, err
	}
	sockets := o.socketUnits()
	files := []File{{o.fileName("", ".service"), o.service(sockets)}}
	for _, s := range sockets {
		files = append(files, File{o.fileName(s.part, ".socket"), o.socket(s)})
	}
	return files, nil
}

// socketUnit is one .socket: all Listen*= lines of a unit share one name.
type socketUnit struct {
	part    string // what its name has after that of the service
	sockets []Socket
}

func (o Options) socketUnits() []socketUnit {
	var units []socketUnit
	for _, s := range o.Sockets {
		i := slices.IndexFunc(units, func(u socketUnit) bool { return u.sockets[0].Name == s.Name })
		if i < 0 {
			units = append(units, socketUnit{part: "-" + s.Name})
			i = len(units) - 1
		}
		units[i].sockets = append(units[i].sockets, s)
	}
	// The only one is called like the service, which is where people look.
	if len(units) == 1 {
		units[0].part = ""
	}
	return units
}

func (o Options) service(sockets []socketUnit) string {
	u := o.newUnit(o.fileName("", ".service"))
	var socketNames []string
	for _, s := range sockets {
		socketNames = append(socketNames, o.unitName(s.part)+".socket")
	}
	all := strings.Join(socketNames, " ")

	u.section("Unit")
	o.describe(u)
	if len(sockets) > 0 {
		u.set("Requires", all)
		u.set("After", all)
	}
	if o.SoftReboot && !u.knows("DeferTrigger") {
		u.note("A socket that outlives its service in a soft-reboot fails with the next connection: so neither stops before.")
		outliveSoftReboot(u)
		u.set("After", "basic.target")
	}
	u.note("A service that hits its start limit takes its sockets down with it.")
	u.set("StartLimitIntervalSec", "0")
	u.lines(o.UnitLines)

	u.section("Service")
	o.lifecycle(u)
	if len(sockets) > 1 {
		u.set("Sockets", all)
	}
	u.section("")
	o.directories(u)
	u.section("")
	o.hardening(u)
	u.lines(o.ServiceLines)

	u.section("Install")
	if o.User {
		u.set("WantedBy", "default.target")
	} else {
		u.set("WantedBy", "multi-user.target")
	}
	if len(sockets) > 0 {
		u.set("Also", all)
	}
	return u.String()
}

// describe sets what is common to the [Unit] sections.
func (o Options) describe(u *unit) {
	description := escapePercent(o.Description)
	if o.Template {
		description += " (%i)"
	}
	u.set("Description", description)
	if len(o.Documentation) > 0 {
		uris := make([]string, len(o.Documentation))
		for i, uri := range o.Documentation {
			uris[i] = escapePercent(uri)
		}
		u.set("Documentation", strings.Join(uris, " "))
	}
}

// outliveSoftReboot replaces the default dependencies: shutdown.target, which is part of them, is
// reached in a soft-reboot too (systemd-soft-reboot.service(8)).
func outliveSoftReboot(u *unit) {
	const others = "reboot.target kexec.target poweroff.target halt.target"
	u.set("DefaultDependencies", "no")
	u.set("Conflicts", others)
	u.set("Before", others)
}

func (o Options) lifecycle(u *unit) {
	if o.Flavour == NotifyReload {
		u.note("systemd waits for the end of an upgrade, but does not learn whether it failed.")
		u.set("Type", "notify-reload")
		u.set("ReloadSignal", "SIGUSR2")
	} else {
		u.set("Type", "notify")
	}
	u.set("NotifyAccess", "main")
	if o.Mode == Overlap {
		u.note("Names the new version in its probation: it stays if the old one dies.")
		u.set("PIDFile", "%t/"+o.runtimeDirectory()+"/main.pid")
	}
	if o.launches() {
		u.note("Starts the last good version instead of one that failed.")
		u.set("ExecStart", commandLine(o.Holdfast, append([]string{
			"launch", "--state=%S/" + o.launchDirectory(), "--", o.Exec,
		}, o.Args...)))
	} else {
		u.set("ExecStart", commandLine(o.Exec, o.Args))
	}
	if o.asksItself() {
		u.note("Waits for the verdict: a failed upgrade is a failed reload.")
		u.set("ExecReload", commandLine(o.Holdfast, []string{
			"reload",
			"--socket=%t/" + o.runtimeDirectory() + "/control.sock",
			"--timeout=" + span(o.reloadTimeout()),
		}))
	}
	switch o.Mode {
	case Overlap:
		u.note("Also bounds a reload: check, start and probation fit into it.")
	case InPlace:
		u.note("Also bounds a reload: check, drain and start fit into it.")
	}
	u.set("TimeoutStartSec", span(o.reloadTimeout()+reloadMargin))
	u.note(fmt.Sprintf("The drain (%s) and a margin.", span(o.DrainTimeout)))
	u.set("TimeoutStopSec", span(o.DrainTimeout+stopMargin))
	if !o.NoWatchdog {
		u.set("WatchdogSec", span(o.Watchdog))
	}
	if o.Mode == Overlap {
		u.note("Both generations get SIGTERM and drain.")
	}
	u.set("KillMode", "control-group")
	switch {
	case o.SoftReboot && !u.knows("DeferTrigger"):
		u.note("What ends it in a soft-reboot is SIGTERM, which is no failure.")
		u.set("Restart", "always")
	case o.Mode == InPlace:
		// To systemd it is the process that has been ready for long.
		u.note("A new version that ends with status 0 before it is ready is no failure, and no stop either.")
		u.set("Restart", "always")
	default:
		u.set("Restart", "on-failure")
	}
	// Clients wait for it, and it bounds a crash loop. It must not grow (RestartSteps=): systemd counts
	// restarts from the last start by hand on, so a service that crashes once a month would wait the
	// longest time before a year is over. What resets the count (RESTART_RESET=1, from 258 on) hides the
	// restarts from those who watch NRestarts.
	u.set("RestartSec", "500ms")
	if o.Mode == Overlap {
		u.note("A new version killed for want of memory leaves the old one in place.")
	}
	u.set("OOMPolicy", "continue")
	u.set("FileDescriptorStoreMax", strconv.Itoa(o.FileDescriptorStoreMax))
	if o.SoftReboot {
		u.note("Kept across a soft-reboot, and across a stop: systemctl clean --what=fdstore lets go of it.")
		u.set("FileDescriptorStorePreserve", "yes")
	} else {
		u.note("Kept across a restart; a stop closes what is stored, so that clients are refused and do not hang.")
		u.set("FileDescriptorStorePreserve", "restart")
	}
}

func (o Options) directories(u *unit) {
	u.set("RuntimeDirectory", o.runtimeDirectory())
	var state []string
	if o.StateDirectory != "" {
		state = append(state, o.StateDirectory)
	}
	if o.launches() {
		state = append(state, o.launchDirectory())
	}
	if len(state) > 0 {
		u.set("StateDirectory", strings.Join(state, " "))
	}
	// systemd sets them from 240 on (NEWS 240).
	if o.Systemd < 240 {
		u.set("Environment", "RUNTIME_DIRECTORY=%t/"+o.runtimeDirectory())
		if o.StateDirectory != "" {
			u.set("Environment", "STATE_DIRECTORY=%S/"+o.StateDirectory)
		}
	}
}

// hardening leaves out what breaks upgrades: ExecPaths= and bind mounts of
// single files (they pin the old file), PrivatePIDs=, and limits on tasks and
// memory that two generations do not fit into.
func (o Options) hardening(u *unit) {
	u.set("UMask", "0077")
	u.set("NoNewPrivileges", "yes")
	if !o.User {
		u.set("DynamicUser", "yes")
		u.set("CapabilityBoundingSet", "")
		for _, key := range []string{"ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateUsers", "PrivateIPC"} {
			value := "yes"
			if key == "ProtectSystem" {
				value = "strict"
			}
			u.set(key, value)
		}
		u.set("ProtectProc", "invisible")
		u.set("ProcSubset", "pid")
		for _, key := range []string{
			"ProtectHostname", "ProtectClock", "ProtectKernelTunables", "ProtectKernelModules",
			"ProtectKernelLogs", "ProtectControlGroups", "RemoveIPC",
		} {
			u.set(key, "yes")
		}
		u.note("Directories, never files: a file here would stay the old one.")
		u.set("NoExecPaths", "/")
		u.set("ExecPaths", strings.Join(o.execPaths(), " "))
	}
	for _, key := range []string{"LockPersonality", "MemoryDenyWriteExecute", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID"} {
		u.set(key, "yes")
	}
	u.set("RestrictAddressFamilies", strings.Join(o.addressFamilies(), " "))
	u.set("SystemCallArchitectures", "native")
	u.note("An error instead of a kill: a newer Go asks for newer system calls and does without.")
	u.set("SystemCallErrorNumber", "EPERM")
	u.set("SystemCallFilter", "@system-service")
	u.set("SystemCallFilter", "~@privileged @resources")
}

// usesHoldfast says whether the unit runs the holdfast command.
func (o Options) usesHoldfast() bool { return o.asksItself() || o.launches() }

// execPaths are the directories of the two programs, of the copy that the
// launcher may start, and what was asked for.
func (o Options) execPaths() []string {
	dirs := []string{path.Dir(o.Exec)}
	if o.usesHoldfast() {
		dirs = append(dirs, path.Dir(o.Holdfast))
	}
	if o.launches() {
		dirs = append(dirs, "%S/"+o.launchDirectory())
	}
	dirs = append(dirs, o.ExecDirectories...)
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// addressFamilies are those of the sockets. A service without IP sockets gets
// no IP: what needs more says so in ServiceLines, which add to it.
func (o Options) addressFamilies() []string {
	families := []string{"AF_UNIX"} // sd_notify and the control socket
	for _, s := range o.Sockets {
		family := addressFamily(s.Address)
		switch family {
		case "AF_INET", "AF_INET6":
			families = append(families, "AF_INET", "AF_INET6")
		default:
			families = append(families, family)
		}
	}
	if len(o.Sockets) == 0 {
		families = append(families, "AF_INET", "AF_INET6")
	}
	order := []string{"AF_UNIX", "AF_INET", "AF_INET6", "AF_VSOCK"}
	return slices.DeleteFunc(order, func(f string) bool { return !slices.Contains(families, f) })
}

func (o Options) socket(s socketUnit) string {
	u := o.newUnit(o.fileName(s.part, ".socket"))
	name := s.sockets[0].Name
	u.section("Unit")
	description := fmt.Sprintf("%s: socket %s", escapePercent(o.Description), name)
	if o.Template {
		description += " (%i)"
	}
	u.set("Description", description)
	if o.SoftReboot {
		u.note("It listens on in a soft-reboot, and is closed before any other.")
		outliveSoftReboot(u)
		u.set("After", "sysinit.target")
		u.set("Before", "sockets.target")
	}

	u.section("Socket")
	for _, socket := range s.sockets {
		u.set(string(socket.Type), socket.Address)
	}
	u.set("FileDescriptorName", name)
	if s.part != "" {
		u.set("Service", o.unitName("")+".service")
	}
	// Later ones take all that net.core.somaxconn allows; before, it was the
	// SOMAXCONN of the C library, 128 on RHEL 8. Connections wait here while a
	// crashed service restarts.
	if o.Systemd < 254 {
		u.set("Backlog", "4096")
	}
	// PollLimit*= (255) stays at its default: it only pauses the unit for two
	// seconds, and bounds a service that ends at once without an error.
	u.note("A crash loop must not close the socket.")
	u.set("TriggerLimitIntervalSec", "0")
	if o.SoftReboot {
		u.note("A connection that comes while the service may not start yet waits, and the socket does not fail.")
		u.set("DeferTrigger", "yes")
	}
	u.lines(o.SocketLines)

	u.section("Install")
	u.set("WantedBy", "sockets.target")
	return u.String()
}

// unit is the text of a unit in the making.
type unit struct {
	systemd int
	b       strings.Builder
	pending string // a comment for the next option
}

func (o Options) newUnit(name string) *unit {
	u := &unit{systemd: o.Systemd}
	fmt.Fprintf(&u.b, "# %s, for systemd %d and later. Rendered by holdfast.\n", name, o.Systemd)
	return u
}

// section begins a section, or a paragraph of the same one if name is empty.
func (u *unit) section(name string) {
	u.b.WriteString("\n")
	if name != "" {
		fmt.Fprintf(&u.b, "[%s]\n", name)
	}
}

// note comments the option that is set next, and goes if that goes.
func (u *unit) note(text string) { u.pending = text }

func (u *unit) knows(key string) bool {
	first, found := since[key]
	if !found {
		panic("units: option " + key + " is not in the table of versions")
	}
	return u.systemd >= first
}

func (u *unit) set(key, value string) {
	note := u.pending
	u.pending = ""
	if !u.knows(key) {
		return
	}
	if note != "" {
		fmt.Fprintf(&u.b, "# %s\n", note)
	}
	fmt.Fprintf(&u.b, "%s=%s\n", key, value)
}

func (u *unit) lines(lines []string) {
	for _, line := range lines {
		u.b.WriteString(line + "\n")
	}
}

func (u *unit) String() string { return u.b.String() }

var plainArgRE = regexp.MustCompile(`^[A-Za-z0-9_./:=,@%+-]+$`)

// commandLine quotes for systemd.service(5), "Command lines". Specifiers in
// args are systemd's already.
func commandLine(program string, args []string) string {
	line := program
	for _, arg := range args {
		if !plainArgRE.MatchString(arg) {
			arg = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `$$`).Replace(arg) + `"`
		}
		line += " " + arg
	}
	return line
}

func escapePercent(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// span writes a duration for systemd.time(7).
func span(d time.Duration) string {
	if d%time.Second == 0 {
		return strconv.FormatInt(int64(d/time.Second), 10) + "s"
	}
	return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
}
