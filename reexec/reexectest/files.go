// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
)

// maxUnitFile is far beyond any unit file; a larger file is another thing.
const maxUnitFile = 16 << 20

// collect returns the files of one service and of its sockets, and the
// service's name.
func collect(o Options) ([]unit.File, string, error) {
	files := make(map[string]string)
	if o.Units != "" {
		if err := readUnits(o.Units, files); err != nil {
			return nil, "", fmt.Errorf("reexectest: Options.Units: %w", err)
		}
	}
	for name, text := range o.Files {
		if len(text) > maxUnitFile {
			return nil, "", fmt.Errorf("reexectest: Options.Files: %s is no unit file: it has %d bytes, and more than %d", shortName(name), len(text), maxUnitFile)
		}
		if base, _ := unitOf(name); !isUnit(base) {
			return nil, "", fmt.Errorf("reexectest: Options.Files has %q: must be the name of a service, a socket unit or a drop-in such as %q",
				shortName(name), "myapp.service.d/50-test.conf")
		}
		files[name] = text
	}
	service, err := chooseService(files, o.Service)
	if err != nil {
		return nil, "", err
	}
	if err := strays(o.Files, files); err != nil {
		return nil, "", err
	}
	var out []unit.File
	for _, name := range slices.Sorted(maps.Keys(files)) {
		base, _ := unitOf(name)
		if base == service || strings.HasSuffix(base, ".socket") && belongs(files, base, service) {
			out = append(out, unit.File{Name: name, Text: files[name]})
		}
	}
	return out, service, nil
}

// strays finds what was given by name and belongs to no unit. A directory may
// have files of other units.
func strays(given, files map[string]string) error {
	units := slices.DeleteFunc(slices.Sorted(maps.Keys(files)), func(name string) bool { return strings.Contains(name, "/") })
	for _, name := range slices.Sorted(maps.Keys(given)) {
		base, dropIn := unitOf(name)
		switch {
		case dropIn && !slices.ContainsFunc(units, func(u string) bool { return extends(base, u) }):
			return fmt.Errorf("reexectest: Options.Files has %q, and there is no unit %s, but: %s", shortName(name), base, strings.Join(units, " "))
		case !dropIn && strings.HasSuffix(base, ".socket") && !slices.ContainsFunc(units, func(u string) bool {
			return strings.HasSuffix(u, ".service") && belongs(files, base, u)
		}):
			return fmt.Errorf("reexectest: Options.Files has %q, which starts none of the services there are: see its Service=", shortName(name))
		}
	}
	return nil
}

// extends says whether the drop-ins of base may be for a unit, its instances or
// all of its kind. Package unit has the last word.
func extends(base, unitName string) bool {
	kind := filepath.Ext(base)
	if kind != filepath.Ext(unitName) {
		return false
	}
	prefix, own := strings.TrimSuffix(base, kind), strings.TrimSuffix(unitName, kind)
	template, _, instance := strings.Cut(prefix, "@")
	return prefix == own || instance && template+"@" == own || strings.HasSuffix(prefix, "-") && strings.HasPrefix(own, prefix)
}

// shortName makes a name that may be anything fit for a message.
func shortName(name string) string {
	if len(name) > 255 {
		name = strings.ToValidUTF8(name[:255], "") + "…"
	}
	return name
}

// readUnits adds the unit files and drop-ins at path.
func readUnits(path string, files map[string]string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		if !isUnit(filepath.Base(path)) {
			return fmt.Errorf("%s is neither a directory nor a service or socket unit", path)
		}
		return readUnit(path, filepath.Base(path), files)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := entry.Name()
		base, dropIn := unitOf(name + "/x")
		switch {
		case isUnit(name):
			err = readUnit(filepath.Join(path, name), name, files)
		case dropIn && isUnit(base):
			var matches []string
			matches, err = fs.Glob(os.DirFS(path), name+"/*.conf")
			for _, match := range matches {
				err = errors.Join(err, readUnit(filepath.Join(path, match), match, files))
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func readUnit(path, name string, files map[string]string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() > maxUnitFile {
		return fmt.Errorf("%s is no unit file: not regular, or larger than %d bytes", path, maxUnitFile)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	files[name] = string(text)
	return nil
}

// unitOf returns the unit that a file belongs to, and whether it is a drop-in.
func unitOf(name string) (unitName string, dropIn bool) {
	dir, _, found := strings.Cut(name, "/")
	if !found {
		return name, false
	}
	base, found := strings.CutSuffix(dir, ".d")
	if !found {
		return "", false
	}
	return base, true
}

func isUnit(name string) bool {
	return strings.HasSuffix(name, ".service") || strings.HasSuffix(name, ".socket")
}

func chooseService(files map[string]string, wanted string) (string, error) {
	var services []string
	for name := range files {
		if strings.HasSuffix(name, ".service") && !strings.Contains(name, "/") {
			services = append(services, name)
		}
	}
	slices.Sort(services)
	switch {
	case wanted != "" && slices.Contains(services, wanted):
		return wanted, nil
	case wanted != "":
		return "", fmt.Errorf("reexectest: Options.Service=%q: there is no such unit file, but: %s", wanted, strings.Join(services, " "))
	case len(services) == 1:
		return services[0], nil
	case len(services) == 0:
		return "", errors.New("reexectest: there is no service among the unit files")
	}
	return "", fmt.Errorf("reexectest: there are several services: set Options.Service to one of %s", strings.Join(services, " "))
}

// belongs says whether a socket unit is one of the service's: it starts it, or
// the service names it in Sockets=.
func belongs(files map[string]string, socket, service string) bool {
	named := assigned(files, socket, "Service")
	if len(named) > 0 {
		return slices.Contains(named, service)
	}
	return strings.TrimSuffix(socket, ".socket") == strings.TrimSuffix(service, ".service") ||
		strings.TrimSuffix(socket, ".socket")+"@" == strings.TrimSuffix(service, ".service") ||
		slices.Contains(assigned(files, service, "Sockets"), socket)
}

// assigned returns the words that a unit and its drop-ins assign to a key. It
// only decides which files are looked at; package unit reads them properly.
func assigned(files map[string]string, unitName, key string) []string {
	var words []string
	for name, text := range files {
		if base, _ := unitOf(name); base != unitName {
			continue
		}
		for line := range strings.Lines(text) {
			k, value, found := strings.Cut(line, "=")
			if found && strings.TrimSpace(k) == key {
				words = append(words, strings.Fields(value)...)
			}
		}
	}
	return words
}

// UnitError is a fault in a unit file.
type UnitError struct {
	File    string // "myapp.service"
	Line    int    // 0 when no single line is at fault
	Section string // "Service"
	Key     string // "TimeoutStopSec"
	Value   string
	Reason  string
	text    string
}

func (e *UnitError) Error() string { return e.text }

// unitErrors makes the errors of package unit those of this one.
func unitErrors(err error) error {
	var faults unit.Faults
	if !errors.As(err, &faults) {
		return err
	}
	all := unitFaults{text: faults.Error()}
	for _, e := range faults {
		all.errs = append(all.errs, &UnitError{e.File, e.Line, e.Section, e.Key, e.Value, e.Reason, e.Error()})
	}
	return &all
}

// unitFaults are the faults of all unit files. Its text has the first of them, and
// the number of the others.
type unitFaults struct {
	text string
	errs []error
}

func (f *unitFaults) Error() string   { return f.text }
func (f *unitFaults) Unwrap() []error { return f.errs }
