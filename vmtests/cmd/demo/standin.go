// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/holdfast-go/holdfast/reexec/reexectest"
	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/vmtests"
)

// A standIn is package reexectest, which does what systemd of a version of choice does.
type standIn struct {
	here
	version  vmtests.Version
	programs map[string]reexectest.Program // by path; what is installed first
	unit     *reexectest.Unit              // nil until it is started
}

func newStandIn(version vmtests.Version) *standIn {
	return &standIn{version: version, programs: make(map[string]reexectest.Program)}
}

func (s *standIn) title() string {
	return "stand in for " + strings.TrimPrefix(s.version.String(), "systemd ")
}

func (s *standIn) boot(context.Context) (systemd string, err error) {
	return "the stand-in for " + s.version.String(), nil
}

func (s *standIn) put(_ context.Context, name, file string) error {
	if name == "holdfast" {
		return nil // the stand-in has its own, which finds programs below its directory
	}
	path, program := "/usr/bin/"+name, reexectest.File(file)
	if s.unit != nil {
		return s.unit.Install(path, program)
	}
	s.programs[path] = program
	return nil
}

func (s *standIn) start(ctx context.Context) (address string, err error) {
	files, err := myappUnits(units.Options{
		Name: "myapp", Exec: "/usr/bin/myapp", Systemd: int(s.version), Sockets: []units.Socket{{Name: "http", Address: "127.0.0.1:8080"}},
	})
	if err != nil {
		return "", err
	}
	options := reexectest.Options{Systemd: int(s.version), Files: make(map[string]string), Programs: s.programs}
	for _, f := range files {
		options.Files[f.Name] = f.Content
	}
	if s.unit, err = reexectest.New(ctx, options); err != nil {
		return "", err
	}
	if err := s.unit.Start(ctx); err != nil {
		return "", err
	}
	return s.unit.Addr("http"), nil
}

func (s *standIn) reload(ctx context.Context) error {
	err := s.unit.Reload(ctx)
	if errors.As(err, new(*reexectest.JobError)) {
		return fmt.Errorf("%w: %w", errReload, err)
	}
	return err
}

func (s *standIn) properties(_ context.Context, names ...string) (map[string]string, error) {
	p := s.unit.Show()
	all := map[string]string{
		"MainPID": fmt.Sprint(p.MainPID), "NRestarts": fmt.Sprint(p.NRestarts),
		"ActiveState": p.ActiveState, "SubState": p.SubState, "StatusText": p.StatusText,
	}
	properties := make(map[string]string)
	for _, name := range names {
		value, ok := all[name]
		if !ok {
			return nil, fmt.Errorf("property %s: the demo does not know where the stand-in has it", name)
		}
		properties[name] = value
	}
	return properties, nil
}

func (s *standIn) journal(context.Context) (string, error) {
	if s.unit == nil {
		return "", errors.New("there is no unit")
	}
	entries := s.unit.Journal()
	var text strings.Builder
	for _, entry := range entries[max(0, len(entries)-15):] {
		fmt.Fprintln(&text, entry)
	}
	return strings.TrimSuffix(text.String(), "\n"), nil
}

func (s *standIn) runtimeFile(_ context.Context, name string) ([]byte, error) {
	return os.ReadFile(s.unit.Path("/run/myapp/" + name))
}

func (s *standIn) close() error {
	if s.unit == nil {
		return nil
	}
	return s.unit.Close()
}
