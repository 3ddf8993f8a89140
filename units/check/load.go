// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/holdfast-go/holdfast/units/unitfile"
)

const (
	// maxFile is more than any unit file has; systemd takes no line of more.
	maxFile = 1 << 20
	// maxFiles bounds what a directory of somebody else can have us read.
	maxFiles = 1000
	// maxLinks is what the kernel follows.
	maxLinks = 40
)

// systemDirectories and userDirectories are where systemd looks, the first one counts
// (systemd.unit(5), "Unit File Load Path").
var (
	systemDirectories = []string{
		"/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient",
		"/run/systemd/generator.early", "/etc/systemd/system", "/etc/systemd/system.attached",
		"/run/systemd/system", "/run/systemd/system.attached", "/run/systemd/generator",
		"/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system",
		"/run/systemd/generator.late",
	}
	userDirectories = []string{
		"/etc/systemd/user", "/run/systemd/user",
		"/usr/local/share/systemd/user", "/usr/share/systemd/user",
		"/usr/local/lib/systemd/user", "/usr/lib/systemd/user",
	}
)

// A NotFoundError says that there is no such unit.
type NotFoundError struct {
	Unit   string
	Masked string // the file that masks it, or empty
}

func (e *NotFoundError) Error() string {
	if e.Masked != "" {
		return fmt.Sprintf("unit %s is masked by %s: systemctl unmask %s", e.Unit, e.Masked, e.Unit)
	}
	return fmt.Sprintf("unit %s: there is no such file in the directories of systemd, and no template for it", e.Unit)
}

// A FileError says that a file cannot be judged.
type FileError struct {
	File string
	Err  error
}

func (e *FileError) Error() string { return fmt.Sprintf("read %s: %v", e.File, e.Err) }
func (e *FileError) Unwrap() error { return e.Err }

var errMasked = errors.New("it is masked")

// loader reads the files of units.
type loader struct {
	files   fs.FS // its root is that of the machine
	dirs    []string
	systemd int
	read    int
}

// resolve returns the path that a file has when all symbolic links are followed,
// absolute ones from the root of the file system.
func (l *loader) resolve(name string) (string, error) {
	links := 0
	done, rest := "", strings.TrimPrefix(path.Clean("/"+name), "/")
	for rest != "" {
		part, after, _ := strings.Cut(rest, "/")
		next := path.Join(done, part)
		target, err := fs.ReadLink(l.files, next)
		if err != nil {
			// No link: whether it is there is for who opens it.
			done, rest = next, after
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%s: too many symbolic links", name)
		}
		if !path.IsAbs(target) {
			target = "/" + path.Join(done, target)
		}
		done, rest = "", strings.TrimPrefix(path.Join(target, after), "/")
	}
	return "/" + done, nil
}

// open returns the text of a file. errMasked is for one that stands for none.
func (l *loader) open(name string) (text, resolved string, err error) {
	if l.read++; l.read > maxFiles {
		return "", "", &FileError{name, fmt.Errorf("it is one of more than %d files", maxFiles)}
	}
	resolved, err = l.resolve(name)
	if err != nil {
		return "", "", &FileError{name, err}
	}
	if resolved == "/dev/null" {
		return "", resolved, errMasked
	}
	rel := strings.TrimPrefix(resolved, "/")
	if rel == "" {
		rel = "."
	}
	info, err := fs.Stat(l.files, rel)
	switch {
	case err != nil:
		return "", "", &FileError{name, err}
	case !info.Mode().IsRegular():
		return "", "", &FileError{name, fmt.Errorf("it is no regular file (%v)", info.Mode().Type())}
	}
	f, err := l.files.Open(rel)
	if err != nil {
		return "", "", &FileError{name, err}
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return "", "", &FileError{name, err}
	case len(b) > maxFile:
		return "", "", &FileError{name, fmt.Errorf("it has more than %d bytes, and is no unit file", maxFile)}
	}
	return string(b), resolved, nil
}

// load reads a unit and its drop-ins.
func (l *loader) load(ctx context.Context, text string) (*unit, error) {
	name, err := unitfile.ParseName(text)
	if err != nil {
		return nil, err
	}
	u := newUnit(name)
	candidates := []unitfile.Name{name}
	if name.Template && name.Instance != "" {
		candidates = append(candidates, name.File())
	}
	for _, n := range candidates {
		for _, dir := range l.dirs {
			if err := ctx.Err(); err != nil {
				return nil, context.Cause(ctx)
			}
			file := path.Join(dir, n.String())
			content, resolved, err := l.open(file)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				continue
			case errors.Is(err, errMasked), err == nil && content == "":
				return nil, &NotFoundError{Unit: text, Masked: file}
			case err != nil:
				return nil, err
			}
			u.read(file, content)
			// An alias: the drop-ins of both names count.
			names := []unitfile.Name{name}
			if real, err := unitfile.ParseName(path.Base(resolved)); err == nil && real.Kind == name.Kind && real.Prefix != name.Prefix {
				if real.Template && real.Instance == "" {
					real.Instance = name.Instance
				}
				u.name, names = real, append(names, real)
			}
			return u, l.dropIns(ctx, u, names)
		}
	}
	return nil, &NotFoundError{Unit: text}
}

// dropIns reads those of a unit in the order of their names. Of those with the
// same name one counts: that of the first directory of systemd, and in there
// the most specific one; those of all units of the type come last.
func (l *loader) dropIns(ctx context.Context, u *unit, names []unitfile.Name) error {
	var specific, typed []string
	for _, name := range names {
		for _, dir := range l.dirs {
			for _, d := range name.DropIns(l.systemd) {
				if d != name.Kind+".d" {
					specific = append(specific, path.Join(dir, d))
				}
			}
		}
	}
	if slices.Contains(u.name.DropIns(l.systemd), u.name.Kind+".d") {
		for _, dir := range l.dirs {
			typed = append(typed, path.Join(dir, u.name.Kind+".d"))
		}
	}
	byName := make(map[string]string)
	var order []string
	for _, dir := range append(specific, typed...) {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		resolved, err := l.resolve(dir)
		if err != nil {
			return &FileError{dir, err}
		}
		entries, err := fs.ReadDir(l.files, strings.TrimPrefix(resolved, "/"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return &FileError{dir, err}
		}
		for _, e := range entries {
			file := e.Name()
			if !strings.HasSuffix(file, ".conf") || strings.HasPrefix(file, ".") {
				continue
			}
			if _, ok := byName[file]; !ok {
				byName[file] = path.Join(dir, file)
				order = append(order, file)
			}
		}
	}
	slices.Sort(order)
	for _, file := range order {
		text, _, err := l.open(byName[file])
		if errors.Is(err, errMasked) {
			continue
		} else if err != nil {
			return err
		}
		u.read(byName[file], text)
	}
	return nil
}

// sockets are the socket units that start a service, by name.
func (l *loader) sockets(ctx context.Context, service *unit) ([]*unit, error) {
	names := []string{service.name.WithKind("socket").String()}
	if service.name.Template {
		// One with Accept=yes has no instance of its own.
		plain := service.name.WithKind("socket")
		plain.Template, plain.Instance = false, ""
		names = append(names, plain.String())
	}
	for _, s := range service.all("Service", "Sockets") {
		names = append(names, strings.Fields(service.expand(s.value))...)
	}
	for _, dir := range l.dirs {
		resolved, err := l.resolve(dir)
		if err != nil {
			return nil, &FileError{dir, err}
		}
		entries, err := fs.ReadDir(l.files, strings.TrimPrefix(resolved, "/"))
		if err != nil {
			continue // most are not there
		}
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), ".socket") {
				continue
			}
			text, _, err := l.open(path.Join(dir, e.Name()))
			if err != nil || !strings.Contains(text, "Service") {
				continue // load has the error if it matters
			}
			name, err := unitfile.ParseName(e.Name())
			if err != nil {
				continue
			}
			if name.Template && name.Instance == "" {
				name.Instance = service.name.Instance
			}
			names = append(names, name.String())
		}
	}
	slices.Sort(names)
	var found []*unit
	for _, text := range slices.Compact(names) {
		u, err := l.load(ctx, text)
		var none *NotFoundError
		switch {
		case errors.As(err, &none):
			continue
		case err != nil:
			return nil, err
		}
		listed := slices.ContainsFunc(service.all("Service", "Sockets"), func(s setting) bool {
			return slices.Contains(strings.Fields(service.expand(s.value)), u.name.String())
		})
		if listed || u.startsService(service.name) || l.isAlias(ctx, u.service(), service) {
			found = append(found, u)
		}
	}
	return found, nil
}

// isAlias says whether a name is another one of the service.
func (l *loader) isAlias(ctx context.Context, name string, service *unit) bool {
	u, err := l.load(ctx, name)
	return err == nil && u.name == service.name
}
