// SPDX-License-Identifier: Apache-2.0

package units

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// An OptionError says which of [Options] cannot be rendered, and why.
type OptionError struct {
	Option string // "Name", "Sockets[1].Address"
	Value  string
	Reason string // with what to change
}

func (e *OptionError) Error() string {
	return fmt.Sprintf("%s %q: %s", e.Option, e.Value, e.Reason)
}

const (
	// maxName leaves room for the control socket of an instance in a
	// sockaddr_un: /run/user/4294967295/NAME@INSTANCE/control.sock.
	maxName = 48
	// maxFDName is FDNAME_MAX of systemd.
	maxFDName = 255
)

var (
	// What needs no escaping in a unit's name (systemd.unit(5)), in a path,
	// and in a command line. "-" is fine in the middle; in front it would
	// read as an option, and "." would hide the file.
	nameRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	pathRE = regexp.MustCompile(`^(/[A-Za-z0-9._+@-]+)+$`)
	keyRE  = regexp.MustCompile(`^[A-Z][A-Za-z0-9-]*$`)
)

// check returns all faults of o joined, or nil. It runs after withDefaults.
func (o Options) check() error {
	var errs []error
	bad := func(option, value, format string, args ...any) {
		errs = append(errs, &OptionError{option, value, fmt.Sprintf(format, args...)})
	}

	checkName(bad, "Name", o.Name, maxName)
	o.checkPrograms(bad)
	checkText(bad, "Description", o.Description)
	for i, uri := range o.Documentation {
		checkURI(bad, fmt.Sprintf("Documentation[%d]", i), uri)
	}
	for i, arg := range o.Args {
		option := fmt.Sprintf("Args[%d]", i)
		checkText(bad, option, arg)
		o.checkSpecifiers(bad, option, arg)
	}
	o.checkStateDirectory(bad)

	seen := make(map[Socket]bool)
	for i, s := range o.Sockets {
		option := fmt.Sprintf("Sockets[%d]", i)
		checkName(bad, option+".Name", s.Name, maxFDName-len(o.Name)-len("-@.socket"))
		o.checkAddress(bad, option, s)
		key := Socket{Type: s.Type, Address: s.Address}
		if seen[key] {
			bad(option+".Address", s.Address, "is there twice: a socket can be bound once")
		}
		seen[key] = true
	}

	for _, d := range []struct {
		option string
		value  time.Duration
	}{
		{"CheckTimeout", o.CheckTimeout},
		{"StartTimeout", o.StartTimeout},
		{"Probation", o.Probation},
		{"DrainTimeout", o.DrainTimeout},
		{"Watchdog", o.Watchdog},
	} {
		if d.value < time.Millisecond || d.value > 24*time.Hour {
			bad(d.option, d.value.String(), "must be from 1ms to 24h")
		}
	}
	if o.FileDescriptorStoreMax < 1 {
		bad("FileDescriptorStoreMax", strconv.Itoa(o.FileDescriptorStoreMax), "must be positive: a crash would lose the state and the sockets that the service stored")
	}

	o.checkLines(bad, "UnitLines", o.UnitLines)
	o.checkLines(bad, "ServiceLines", o.ServiceLines)
	o.checkLines(bad, "SocketLines", o.SocketLines)

	if o.SoftReboot && o.User {
		bad("SoftReboot", "true", "the manager of a user ends with a soft-reboot, and its sockets with it: leave it out")
	}
	if err := o.checkVersion(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// report takes one fault of an option.
type report func(option, value, format string, args ...any)

func (o Options) checkVersion() error {
	if o.Systemd < OldestSystemd {
		return &VersionError{"Holdfast", OldestSystemd, o.Systemd, "name the version of the target (systemctl --version)"}
	}
	switch o.Mode {
	case Overlap, InPlace, Restart:
	default:
		return &OptionError{"Mode", string(o.Mode), fmt.Sprintf("must be %s, %s or %s", Overlap, InPlace, Restart)}
	}
	if o.SoftReboot && o.Systemd < softRebootSince {
		return &VersionError{"systemctl soft-reboot", softRebootSince, o.Systemd, "leave out SoftReboot: before that there is only a whole reboot, which nothing outlives"}
	}
	switch o.Flavour {
	case ExecReload:
	case NotifyReload:
		if o.Mode == Restart {
			return &OptionError{"Flavour", string(o.Flavour), "a service that is restarted has no reload: leave it out"}
		}
		if o.Systemd < notifyReloadSince {
			return &VersionError{
				"Type=notify-reload", notifyReloadSince, o.Systemd,
				"use the flavour exec-reload; only RHEL 9.4 and later have it in their 252, and for these render for 253",
			}
		}
	default:
		return &OptionError{"Flavour", string(o.Flavour), fmt.Sprintf("must be %s or %s", ExecReload, NotifyReload)}
	}
	return nil
}

func checkName(bad report, option, name string, limit int) {
	switch {
	case name == "":
		bad(option, name, "is required")
	case len(name) > limit:
		bad(option, name, "has %d bytes: must have at most %d", len(name), limit)
	case strings.HasSuffix(name, ".service"), strings.HasSuffix(name, ".socket"):
		bad(option, name, "must be without the suffix of a unit")
	case !nameRE.MatchString(name):
		bad(option, name, "must consist of letters, digits, \"_\", \"-\" and \".\" and begin with none of the last two: other names would need escaping (systemd-escape(1))")
	}
}

func (o Options) checkPrograms(bad report) {
	programs := []struct{ option, value string }{{"Exec", o.Exec}}
	switch o.Launcher {
	case LauncherOn, LauncherOff:
	default:
		bad("Launcher", string(o.Launcher), "must be %s or %s", LauncherOn, LauncherOff)
	}
	if o.usesHoldfast() {
		programs = append(programs, struct{ option, value string }{"Holdfast", o.Holdfast})
	}
	for _, p := range programs {
		if p.value == "" {
			bad(p.option, p.value, "is required")
			continue
		}
		o.checkPath(bad, p.option, p.value)
		// ExecPaths= names directories, and / would undo NoExecPaths=/.
		if path.Dir(p.value) == "/" {
			bad(p.option, p.value, "lies in /: put it in a directory of programs")
		}
	}
	for i, dir := range o.ExecDirectories {
		option := fmt.Sprintf("ExecDirectories[%d]", i)
		o.checkPath(bad, option, dir)
		if dir == "/" {
			bad(option, dir, "would allow everything: name the directories that are needed")
		}
	}
}

func (o Options) checkPath(bad report, option, value string) {
	switch {
	case value != "/" && !pathRE.MatchString(value):
		bad(option, value, "must be an absolute path of letters, digits and \"._+@-\"")
	case path.Clean(value) != value:
		bad(option, value, "must be a clean path: %q", path.Clean(value))
	case o.User:
		// None of the namespaces below.
	default:
		for hidden, by := range map[string]string{
			"/home": "ProtectHome=yes", "/root": "ProtectHome=yes", "/run/user": "ProtectHome=yes",
			"/tmp": "PrivateTmp=yes", "/var/tmp": "PrivateTmp=yes", "/dev": "PrivateDevices=yes",
		} {
			if value == hidden || strings.HasPrefix(value, hidden+"/") {
				bad(option, value, "the service cannot see %s (%s): install it elsewhere", hidden, by)
			}
		}
	}
}

// checkText refuses what could end the line or hide in it.
func checkText(bad report, option, value string) {
	if !utf8.ValidString(value) {
		bad(option, value, "must be UTF-8")
		return
	}
	for _, r := range value {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			bad(option, value, "must be one line without control characters")
			return
		}
	}
	// systemd.syntax(7): such a line continues on the next one.
	if strings.HasSuffix(strings.TrimRight(value, " "), `\`) && !strings.HasPrefix(option, "Args") {
		bad(option, value, `must not end with a backslash`)
	}
}

// checkSpecifiers lets %%, %t and, in a template, %i through.
func (o Options) checkSpecifiers(bad report, option, value string) {
	for rest := value; ; {
		_, after, found := strings.Cut(rest, "%")
		if !found {
			return
		}
		switch {
		case strings.HasPrefix(after, "%"), strings.HasPrefix(after, "t"):
		case strings.HasPrefix(after, "i"):
			if !o.Template {
				bad(option, value, "has %%i, the instance, but this is no template: set Template, or write %%%% for a percent sign")
				return
			}
		default:
			bad(option, value, "only the specifiers %%t and %%i may be used: write %%%% for a percent sign")
			return
		}
		rest = after[1:]
	}
}

var specifierExample = strings.NewReplacer("%%", "%", "%t", "/run", "%i", "1")

func checkURI(bad report, option, uri string) {
	checkText(bad, option, uri)
	// documentation_url_is_valid of systemd.
	for _, scheme := range []string{"http://", "https://", "file:/", "info:", "man:"} {
		if rest, ok := strings.CutPrefix(uri, scheme); ok && rest != "" && !strings.ContainsAny(uri, ` "'\`) {
			return
		}
	}
	bad(option, uri, "must be a URI that begins with http://, https://, file:/, info: or man:, without spaces and quotes")
}

func (o Options) checkStateDirectory(bad report) {
	const option = "StateDirectory"
	dir := o.StateDirectory
	if dir == "" {
		return
	}
	o.checkSpecifiers(bad, option, dir)
	example := specifierExample.Replace(dir)
	if strings.Contains(dir, "%t") || !pathRE.MatchString("/"+example) || path.Clean("/"+example) != "/"+example {
		bad(option, dir, "must be a clean relative path of letters, digits and \"._+@-\"")
	}
	if o.Template && !strings.Contains(dir, "%i") {
		bad(option, dir, "must contain %%i: instances run as different users and cannot share it")
	}
}

func (o Options) checkAddress(bad report, option string, s Socket) {
	switch s.Type {
	case Stream, Datagram, SequentialPacket:
	default:
		bad(option+".Type", string(s.Type), "must be %s, %s or %s", Stream, Datagram, SequentialPacket)
		return
	}
	option += ".Address"
	if s.Address == "" {
		bad(option, s.Address, "is required")
		return
	}
	checkText(bad, option, s.Address)
	o.checkSpecifiers(bad, option, s.Address)
	if o.Template && !strings.Contains(s.Address, "%i") {
		bad(option, s.Address, "must contain %%i: two instances cannot bind the same address")
	}
	family := addressFamily(s.Address)
	switch {
	case family == "":
		bad(option, s.Address, "must be IP:PORT, [IPv6]:PORT, PORT, an absolute path, @NAME or vsock:CID:PORT; systemd resolves no host names")
	case s.Type == SequentialPacket && family != "AF_UNIX" && family != "AF_VSOCK":
		bad(option, s.Address, "%s is for Unix sockets", s.Type)
	}
}

// addressFamily is AF_UNIX, AF_INET, AF_INET6 or AF_VSOCK, or empty for what is
// no address.
func addressFamily(address string) string {
	if strings.ContainsAny(address, " \t\"'\\") {
		return ""
	}
	a := specifierExample.Replace(address)
	switch {
	case strings.HasPrefix(a, "/"):
		if len(a) > 1 && path.Clean(a) == a {
			return "AF_UNIX"
		}
	case strings.HasPrefix(a, "@"):
		if len(a) > 1 {
			return "AF_UNIX"
		}
	case strings.HasPrefix(a, "vsock:"):
		cid, port, ok := strings.Cut(strings.TrimPrefix(a, "vsock:"), ":")
		_, cidErr := strconv.ParseUint(cid, 10, 32)
		_, portErr := strconv.ParseUint(port, 10, 32)
		if ok && (cid == "" || cidErr == nil) && portErr == nil {
			return "AF_VSOCK"
		}
	default:
		if port, err := strconv.ParseUint(a, 10, 16); err == nil && port > 0 {
			return "AF_INET6" // systemd binds [::]
		}
		ap, err := netip.ParseAddrPort(a)
		switch {
		case err != nil || ap.Port() == 0:
		case ap.Addr().Is4():
			return "AF_INET"
		default:
			return "AF_INET6"
		}
	}
	return ""
}

// breaksUpgrades are options that must stay as rendered, or absent, and why.
var breaksUpgrades = map[string]string{
	"Type":            "the flavour decides it",
	"NotifyAccess":    "main must be the only process that systemd hears",
	"PIDFile":         "systemd finds the new version by it if the old one dies in an upgrade",
	"ExecStart":       "use Exec, Args and Launcher",
	"ExecReload":      "the flavour decides it",
	"ReloadSignal":    "the flavour decides it",
	"KillMode":        "any other value kills or leaks the generation that still drains",
	"ExitType":        "cgroup makes a later reload stop the service",
	"PrivatePIDs":     "the death of the old version would kill the new one",
	"GuessMainPID":    "systemd must follow the PID file only",
	"RemainAfterExit": "a crash would look like success",
	"OOMPolicy":       "any other value ends the old version, which serves, with a new one that wants too much memory",
	"Accept":          "the service accepts itself",
	"FlushPending":    "waiting connections would be lost at a restart",

	"RuntimeDirectory":       "the control socket and the PID file are in it",
	"FileDescriptorName":     "use the Name of the socket",
	"Service":                "the sockets are those of this service",
	"ListenStream":           "use Sockets",
	"ListenDatagram":         "use Sockets",
	"ListenSequentialPacket": "use Sockets",
	"StartLimitIntervalSec":  "a start limit closes the sockets in a crash loop",
	"StartLimitInterval":     "a start limit closes the sockets in a crash loop",
	"StartLimitBurst":        "a start limit closes the sockets in a crash loop",
	"TimeoutSec":             "the timeouts follow from those of the upgrade",
	"TimeoutStartSec":        "it follows from CheckTimeout, StartTimeout and Probation",
	"TimeoutStopSec":         "it follows from DrainTimeout",
	"ExecPaths":              "use ExecDirectories: a file in it stays the old one after an upgrade",
}

func (o Options) checkLines(bad report, option string, lines []string) {
	for i, line := range lines {
		option := fmt.Sprintf("%s[%d]", option, i)
		checkText(bad, option, line)
		key, _, found := strings.Cut(line, "=")
		if !found || !keyRE.MatchString(key) {
			bad(option, line, "must be Key=value")
			continue
		}
		if why, found := breaksUpgrades[key]; found {
			bad(option, line, "%s= must stay as it is rendered: %s", key, why)
		}
		if first := since[key]; first > o.Systemd {
			bad(option, line, "%s= needs systemd %d or later, and the units are for %d", key, first, o.Systemd)
		}
	}
}
