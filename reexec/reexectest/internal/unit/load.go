// SPDX-License-Identifier: Apache-2.0

package unit

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/holdfast-go/holdfast/units/unitfile"
)

// Load reads the files of a service and its sockets as the systemd of the
// version told would, with its defaults and its checks. The error is Faults:
// everything that is wrong, in the order of the files. Where systemd would log
// a warning and do without a line, there is a fault as well; a Set has warnings
// only for what systemd complains about and does all the same.
//
// A template with sockets that have Accept=yes may be loaded without an
// instance, as if it was "0"; each connection then has one of its own.
func Load(o Options) (*Set, error) {
	l := loader{Options: o, set: &Set{}}
	if o.Systemd < OldestSystemd || o.Systemd > NewestSystemd {
		return nil, fmt.Errorf("load units for systemd %d: versions %d to %d are known", o.Systemd, OldestSystemd, NewestSystemd)
	}
	l.load()
	if err := l.faults.Err(); err != nil {
		return nil, err
	}
	return l.set, nil
}

type loader struct {
	Options
	set     *Set
	faults  Faults
	mains   []source
	dropins map[string][]source // by directory
}

// source is a file, and the unit that it describes.
type source struct {
	File
	name unitfile.Name
}

func (l *loader) fail(file, format string, args ...any) {
	l.faults = append(l.faults, &Error{File: file, Reason: fmt.Sprintf(format, args...)})
}

func (l *loader) load() {
	l.sort()
	var services, sockets []source
	for _, m := range l.mains {
		if m.name.Kind == "service" {
			services = append(services, m)
		} else {
			sockets = append(sockets, m)
		}
	}
	switch {
	case len(services) == 0:
		l.fail("units", "there is no service among the files: give the text of one, such as myapp.service")
	case len(services) > 1:
		var names []string
		for _, s := range services {
			names = append(names, s.Name)
		}
		l.fail("units", "there are several services among the files, and one at a time is loaded: %s", strings.Join(names, ", "))
	}
	if len(l.faults) > 0 {
		return
	}
	slices.SortFunc(sockets, func(a, b source) int { return cmp.Compare(a.Name, b.Name) })
	accept := false
	for _, s := range sockets {
		n, ok := l.instantiate(s, false)
		if !ok {
			continue
		}
		socket := l.loadSocket(s, n)
		accept = accept || socket.Accept
		l.set.Sockets = append(l.set.Sockets, socket)
	}
	service := services[0]
	n, ok := l.instantiate(service, accept)
	if !ok {
		return
	}
	l.set.Service = l.loadService(service, n)
	l.connect(service.name)
	for dir, files := range l.dropins {
		for _, f := range files {
			l.fail(f.Name, "%s is a drop-in of no unit among the files", dir)
		}
	}
	slices.SortStableFunc(l.faults, func(a, b *Error) int {
		return cmp.Compare(l.order(a.File), l.order(b.File))
	})
}

// order is the place of a file among those given.
func (l *loader) order(file string) int {
	i := slices.IndexFunc(l.Files, func(f File) bool { return f.Name == file })
	if i < 0 {
		return len(l.Files)
	}
	return i
}

// sort tells unit files and drop-ins apart.
func (l *loader) sort() {
	l.dropins = make(map[string][]source)
	seen := make(map[string]bool)
	for _, f := range l.Files {
		if seen[f.Name] {
			l.fail(f.Name, "the file is given twice")
			continue
		}
		seen[f.Name] = true
		if dir, file := path.Split(f.Name); dir != "" {
			dir = strings.TrimSuffix(dir, "/")
			if !strings.HasSuffix(dir, ".d") || strings.Contains(dir, "/") {
				l.fail(f.Name, `the name is neither that of a unit, such as "myapp.service", nor that of a drop-in, such as "myapp.service.d/10-limits.conf"`)
			} else if strings.HasSuffix(file, ".conf") && file != ".conf" {
				l.dropins[dir] = append(l.dropins[dir], source{File: f})
			} else {
				l.fail(f.Name, `a drop-in is a file that ends in ".conf": systemd would not read this one`)
			}
			continue
		}
		n, err := unitfile.ParseName(f.Name)
		switch {
		case err != nil:
			l.fail(f.Name, "%v", err)
		case n.Kind != "service" && n.Kind != "socket":
			l.fail(f.Name, "units of the type %q are not supported: only one service and its sockets", n.Kind)
		default:
			l.mains = append(l.mains, source{File: f, name: n})
		}
	}
}

// instantiate fills the instance into the name of a template.
func (l *loader) instantiate(s source, accept bool) (unitfile.Name, bool) {
	n := s.name
	switch {
	case !n.Template && l.Instance != "" && n.Kind == "service":
		l.fail(s.Name, "an instance %q is told, and the service is no template: name the file %s@.service", l.Instance, n.Prefix)
		return n, false
	case !n.Template || n.Instance != "":
		return n, true
	case l.Instance == "" && !accept:
		l.fail(s.Name, "the unit is a template and there is no instance to load it for")
		return n, false
	}
	n.Instance = cmp.Or(l.Instance, "0")
	if _, err := unitfile.ParseName(n.String()); err != nil {
		l.fail(s.Name, "the instance %q makes no name: %v", n.Instance, err)
		return n, false
	}
	return n, true
}

// connect checks that sockets and service are of one another.
func (l *loader) connect(file unitfile.Name) {
	service := l.set.Service
	// Sockets= brings the sockets along; Service= of a socket does not.
	for _, s := range service.Sockets {
		if !slices.Contains(service.Wants, s) {
			service.Wants = append(service.Wants, s)
		}
	}
	for _, s := range l.set.Sockets {
		switch {
		case s.Service == "": // it has faults enough
		case s.Accept && !file.Template:
			l.fail(s.Name, "Accept=yes starts an instance of %s for each connection, and the service is %s: make it a template", s.Service, service.Name)
		case s.Accept && s.Service != file.File().String(), !s.Accept && s.Service != service.Name:
			l.fail(s.Name, "the socket starts %s, which is not among the files: write Service=%s", s.Service, service.Name)
		}
		if !s.Accept && !slices.Contains(service.Sockets, s.Name) {
			service.Sockets = append(service.Sockets, s.Name)
		}
	}
}

// context is what the options of one unit are read with.
type context struct {
	*loader
	systemd    int
	name       unitfile.Name
	specifiers map[byte]string
}

func (l *loader) context(n unitfile.Name) context {
	return context{loader: l, systemd: l.Systemd, name: n, specifiers: l.Specifiers.specifiers(n)}
}

// setter reads the value of an option into a unit.
type setter func(a unitfile.Assignment) error

// read applies a unit file and its drop-ins.
func (c *context) read(s source, section string, set map[string]setter) {
	files := append([]source{s}, c.findDropins()...)
	for _, f := range files {
		parsed := unitfile.Parse(f.Name, f.Text)
		c.faults = append(c.faults, parsed.Faults...)
		for _, sec := range parsed.Sections {
			switch {
			case sec.Name == "Unit", sec.Name == "Install", sec.Name == section, strings.HasPrefix(sec.Name, "X-"):
			default:
				c.faults = append(c.faults, &Error{
					File: sec.File, Line: sec.Line, Section: sec.Name,
					Reason: fmt.Sprintf(`a %s unit has no such section: it has [Unit], [%s] and [Install], and any that begins with "X-"`, c.name.Kind, section),
				})
			}
		}
		for _, a := range parsed.Assignments {
			if a.Section != "Unit" && a.Section != "Install" && a.Section != section || strings.HasPrefix(a.Key, "X-") {
				continue
			}
			if err := c.apply(a, set); err != nil {
				c.faults = append(c.faults, a.Fault("%v", err))
			}
		}
	}
}

// findDropins are the drop-ins of the unit in the order of their file names,
// wherever they are. Of those with the same name, the most specific counts.
func (c *context) findDropins() []source {
	byName := make(map[string]source)
	for _, dir := range c.name.DropIns(c.systemd) {
		for _, f := range c.dropins[dir] {
			file := path.Base(f.Name)
			if _, ok := byName[file]; !ok {
				byName[file] = f
			}
		}
		delete(c.dropins, dir)
	}
	var found []source
	for _, f := range byName {
		found = append(found, f)
	}
	slices.SortFunc(found, func(a, b source) int { return cmp.Compare(path.Base(a.Name), path.Base(b.Name)) })
	return found
}

func (c *context) apply(a unitfile.Assignment, set map[string]setter) error {
	o := options[[2]string{a.Section, a.Key}]
	switch {
	case o == nil:
		reason := "the stand-in does not know this option, and systemd would ignore it"
		if s := similar(a.Section, a.Key); s != "" {
			reason += ": " + s
		}
		return errors.New(reason)
	case o.Since > c.systemd:
		return fmt.Errorf("the option is of systemd %d, and this is %d, which would ignore it", o.Since, c.systemd)
	case o.Until != 0 && o.Until < c.systemd:
		return fmt.Errorf("systemd has the option no more since %d, and this is %d, which would ignore it", o.Until+1, c.systemd)
	case o.Handling == Unsupported:
		return fmt.Errorf("the stand-in does not support the option: %s", o.Reason)
	}
	f := set[a.Section+"."+a.Key]
	if f == nil {
		return nil
	}
	return f(a)
}

// warn notes what systemd logs.
func (c *context) warn(a unitfile.Assignment, format string, args ...any) {
	c.set.Warnings = append(c.set.Warnings, a.Fault(format, args...))
}
