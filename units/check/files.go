// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/units/unitfile"
)

// Options say how to judge. The zero value of each field means its default.
type Options struct {
	// Systemd is the version that is to run the unit: it decides what an option means.
	// [Files] takes [units.NewestSystemd] without it, [Running] what runs.
	Systemd int
	// Mode is that of the Holdfast service. Without it a running service is asked, and
	// else the unit shows it, but for one thing: a unit without PIDFile= is taken
	// for one of the mode in place.
	Mode units.Mode
	// Phases is how long check, start and probation may take (in place: check, drain and start), as in
	// reexec.Options. Without it --timeout= of ExecReload= shows it.
	Phases time.Duration
	// Drain is DrainTimeout of reexec.Options. Default: 30 s.
	Drain time.Duration
	// Directories are where the unit files are, the first one counts. Default: those of
	// systemd.unit(5) for the system, or for users with User.
	Directories []string
	User        bool
}

func (o Options) check() error {
	switch o.Mode {
	case "", units.Overlap, units.InPlace, units.Restart:
	default:
		return &units.OptionError{Option: "Mode", Value: string(o.Mode), Reason: fmt.Sprintf("must be %s, %s or %s", units.Overlap, units.InPlace, units.Restart)}
	}
	if o.Systemd != 0 && o.Systemd < units.OldestSystemd {
		return &units.VersionError{What: "Holdfast", Since: units.OldestSystemd, Systemd: o.Systemd, Hint: "name the version of the target (systemctl --version)"}
	}
	for _, d := range []struct {
		option string
		value  time.Duration
	}{{"Phases", o.Phases}, {"Drain", o.Drain}} {
		if d.value < 0 {
			return &units.OptionError{Option: d.option, Value: d.value.String(), Reason: "must not be negative"}
		}
	}
	return nil
}

func (o Options) loader(files fs.FS) *loader {
	l := &loader{files: files, dirs: o.Directories, systemd: o.Systemd}
	if l.dirs == nil {
		l.dirs = systemDirectories
		if o.User {
			l.dirs = userDirectories
		}
	}
	return l
}

// Files judges a service by its unit file, its drop-ins and its socket units. files has the root of
// the machine, as os.DirFS("/") does; symbolic links in it stay inside. name is that of the service,
// "myapp.service"; the suffix may be left out.
//
// A unit that is not there, or is masked, is a [*NotFoundError]; a file that cannot be read
// is a [*FileError]. A line that systemd would ignore is a finding.
func Files(ctx context.Context, files fs.FS, name string, o Options) (*Report, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.Systemd == 0 {
		o.Systemd = units.NewestSystemd
	}
	name, err := ServiceName(name)
	if err != nil {
		return nil, err
	}
	l := o.loader(files)
	service, err := l.load(ctx, name)
	if err != nil {
		return nil, err
	}
	sockets, err := l.sockets(ctx, service)
	if err != nil {
		return nil, err
	}
	s := &subject{ctx: ctx, systemd: o.Systemd, service: service, sockets: sockets, files: l}
	return s.reportFor(o), nil
}

// ServiceName checks the name of a service, and adds the suffix that it may lack.
func ServiceName(name string) (string, error) {
	full := name
	if !strings.HasSuffix(name, ".service") {
		full += ".service"
	}
	n, err := unitfile.ParseName(full)
	switch {
	case strings.HasSuffix(name, ".socket"), strings.HasSuffix(name, ".target"), strings.HasSuffix(name, ".timer"):
		return "", fmt.Errorf("%q is no service: name the service itself", name)
	case err != nil:
		return "", err
	}
	return n.String(), nil
}

// reportFor judges.
func (s *subject) reportFor(o Options) *Report {
	s.look(o)
	r := &Report{
		Unit: s.service.name.String(), Systemd: s.systemd, Holdfast: s.is(holdfast), Running: s.running != nil,
		Files: append([]string(nil), s.service.files...),
	}
	switch s.way {
	case overlap:
		r.Mode = units.Overlap
	case inPlace:
		r.Mode = units.InPlace
	case restart:
		r.Mode = units.Restart
	}
	for _, u := range append([]*unit{s.service}, s.sockets...) {
		if u != s.service {
			r.Files = append(r.Files, u.files...)
		}
		for _, f := range u.faults {
			s.findings = append(s.findings, Finding{
				Level: Warning, Option: f.Key, Section: f.Section, File: f.File, Line: f.Line, Found: f.Value,
				Why: "systemd ignores it: " + f.Reason,
			})
		}
	}
	s.judge()
	r.Findings = append([]Finding{}, s.findings...) // none is an empty list in JSON
	return r
}
