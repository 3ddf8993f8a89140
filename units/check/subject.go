// SPDX-License-Identifier: Apache-2.0

package check

import (
	"cmp"
	"context"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/units/unitfile"
)

// scope is a set of ways to upgrade, for which a rule holds.
type scope int

const (
	overlap scope = 1 << iota
	inPlace
	restart
	// other is a service that upgrades by means of its own, or by a restart.
	other

	// hot are those in which the new version comes into the sandbox, the control group
	// and the environment of the old one.
	hot      = overlap | inPlace
	holdfast = hot | restart
	any_     = holdfast | other
)

// subject is a service that is judged.
type subject struct {
	ctx     context.Context // of the one call that judges
	systemd int
	service *unit
	sockets []*unit
	files   *loader
	way     scope
	// sure: the mode was told, and is not a guess from the unit.
	sure bool
	// timeouts are those of the upgrade, 0 if not known.
	phases, drain time.Duration
	running       *running // nil if only the files are judged

	// reload is "holdfast reload" of ExecReload=, launch "holdfast launch" of ExecStart=; nil without.
	reload, launch *holdfastCommand

	rule     rule
	findings []Finding
}

// holdfastCommand is a command line of the command holdfast.
type holdfastCommand struct {
	command
	socket, state string
	timeout       time.Duration
	operands      []string
}

// parseHoldfast reads "holdfast NAME …". ok is false for anything else.
func parseHoldfast(c command, name string) (h *holdfastCommand, ok bool) {
	if c.base() != "holdfast" || len(c.Args) < 2 || c.Args[1] != name {
		return nil, false
	}
	h = &holdfastCommand{command: c}
	for args := c.Args[2:]; len(args) > 0; args = args[1:] {
		arg := args[0]
		if arg == "--" {
			h.operands = append(h.operands, args[1:]...)
			break
		}
		if !strings.HasPrefix(arg, "-") {
			// launch takes all that follows for the command of the service.
			h.operands = append(h.operands, args...)
			break
		}
		flag, value, assigned := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if !assigned && (flag == "socket" || flag == "state" || flag == "timeout") && len(args) > 1 {
			args = args[1:]
			value = args[0]
		}
		switch flag {
		case "socket":
			h.socket = value
		case "state":
			h.state = value
		case "timeout":
			if d, err := time.ParseDuration(value); err == nil {
				h.timeout = d
			}
		}
	}
	return h, true
}

// look finds out what upgrades the service, if opts does not say it.
func (s *subject) look(o Options) {
	for _, c := range s.service.commands("ExecReload") {
		if h, ok := parseHoldfast(c, "reload"); ok {
			s.reload = h
		}
	}
	for _, c := range s.service.commands("ExecStart") {
		if h, ok := parseHoldfast(c, "launch"); ok {
			s.launch = h
		}
	}
	_, named := s.service.last("Service", "PIDFile")
	notifyReload := s.service.value("Service", "Type", "") == "notify-reload" && isSignal(s.service.value("Service", "ReloadSignal", "SIGHUP"), "USR2")
	mode := o.Mode
	s.sure = mode != ""
	if mode == "" && s.running != nil {
		mode = s.running.mode()
		s.sure = mode != ""
	}
	switch mode {
	case units.Overlap:
		s.way = overlap
	case units.InPlace:
		s.way = inPlace
	case units.Restart:
		s.way = restart
	default:
		switch {
		case s.reload == nil && s.launch == nil && !notifyReload:
			s.way = other
		case named:
			s.way = overlap
		case s.reload != nil, notifyReload:
			s.way = inPlace
		case len(s.service.commands("ExecReload")) > 0:
			// It is asked for upgrades in a way that does not work.
			s.way = overlap
		default:
			s.way = restart
		}
	}
	s.phases, s.drain = o.Phases, o.Drain
	if s.phases == 0 && s.reload != nil && s.reload.timeout > clientMargin {
		s.phases = s.reload.timeout - clientMargin
	}
}

// clientMargin is how much longer "holdfast reload" waits in a rendered unit than
// the phases of an upgrade can take.
const clientMargin = 15 * time.Second

func isSignal(value, name string) bool {
	return strings.TrimPrefix(strings.ToUpper(value), "SIG") == name
}

// is says whether the service upgrades in one of these ways.
func (s *subject) is(ways scope) bool { return s.way&ways != 0 }

// programs are the files that the service executes: its own, and the command holdfast.
func (s *subject) programs() []string {
	var all []string
	add := func(p string) {
		if path.IsAbs(p) {
			all = append(all, path.Clean(p))
		}
	}
	add(s.program())
	if s.launch != nil {
		add(s.launch.Path)
	}
	if s.reload != nil {
		add(s.reload.Path)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// program is the file of the service itself, empty if the unit does not tell.
func (s *subject) program() string {
	if s.launch != nil {
		if len(s.launch.operands) > 0 {
			return s.launch.operands[0]
		}
		return ""
	}
	if start := s.service.commands("ExecStart"); len(start) > 0 {
		return start[0].Path
	}
	return ""
}

// stem is the name to write into lines: with %i for an instance.
func (s *subject) stem() string {
	n := s.service.name
	if n.Template {
		return n.Prefix + "@%i"
	}
	return n.Stem()
}

// runtimeDirectory is the first one, relative to /run.
func (s *subject) runtimeDirectory() string {
	for _, w := range s.service.words("Service", "RuntimeDirectory") {
		name, _, _ := strings.Cut(w, ":") // from 250 on with the name of a link
		return path.Clean(name)
	}
	return ""
}

// notifyAccess is what systemd takes: what needs messages implies that it hears the
// main process (service_fix_… of systemd: service_verify, service_add_extras).
func (s *subject) notifyAccess() string {
	v := s.service.value("Service", "NotifyAccess", "")
	implied := s.storeMax() > 0
	switch s.service.value("Service", "Type", "simple") {
	case "notify", "notify-reload":
		implied = true
	}
	if d, ok := s.service.span("Service", "WatchdogSec"); ok && d > 0 {
		implied = true
	}
	if (v == "" || v == "none") && implied {
		return "main"
	}
	return cmp.Or(v, "none")
}

func (s *subject) storeMax() uint64 {
	n, err := unitfile.ParseUnsigned(s.service.value("Service", "FileDescriptorStoreMax", "0"), 32)
	if err != nil {
		return 0
	}
	return n
}

// report adds a finding of the rule that is being tried.
func (s *subject) report(level Level, at setting, why string, write ...string) {
	if s.way == other && level == Error {
		level = Warning
	}
	f := Finding{
		Level: level, Option: s.rule.option, Section: s.rule.section, File: at.file, Line: at.line,
		Why: why, Write: write,
	}
	if at.value != "" {
		f.Found = assignment(s.rule.option, at.value)
	}
	s.findings = append(s.findings, f)
}

// judge tries all rules.
func (s *subject) judge() {
	for _, r := range rules {
		if !s.is(r.of) || s.systemd < r.since {
			continue
		}
		s.rule = r
		r.check(s)
	}
}

// under says whether the directory holds the path.
func under(file, dir string) bool {
	dir = path.Clean(dir)
	return file == dir || dir == "/" || strings.HasPrefix(file, dir+"/")
}
