// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control/command"
	"github.com/holdfast-go/holdfast/reexec/control/command/term"
	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/units/bus"
	"github.com/holdfast-go/holdfast/units/check"
)

const checkHelp = `Say whether units are fit for upgrades that lose nothing: each finding names the
option, why it matters, and the line to write. Nothing is changed.

  holdfast check myapp                   the running service, as systemd has it
  holdfast check --root=/srv/image myapp the files of another machine
  holdfast check ./myapp.service         a file, with drop-ins and sockets beside it

Usage: holdfast check [OPTIONS] UNIT...

A service that upgrades with Holdfast is judged by what its mode needs. Of others
it says what a reload and a restart do to their clients, and never an error.

Options:
      --files               judge the files alone, and do not ask systemd
      --root=DIR            those below DIR
      --systemd=VERSION     the version of systemd that is to run the units, where
                            files are judged; default: the newest that is known
      --mode=MODE           the service is one of Holdfast of this mode: overlap,
                            in-place or restart; default: what it says itself, or
                            its unit
      --drain-timeout=TIME  how long a stop may take to answer what is in flight (30s)
      --user                units of the service manager of a user
      --json=MODE           print the reports as JSON: short, pretty or off
  -h, --help                show this help

A unit with an error is not fit: exit code 6. Warnings and notes leave it at 0.

` + command.ExitCodesHelp

// judges is where the units come from, and how they are judged.
type judges struct {
	options check.Options
	root    string // of the files; empty for that of this machine
	asked   bool   // systemd is asked
	connect func(ctx context.Context, user bool) (busOf, error)
	conn    busOf
}

// busOf is a connection to systemd.
type busOf interface {
	check.Bus
	Close() error
}

func connectBus(ctx context.Context, user bool) (busOf, error) {
	return bus.Connect(ctx, bus.Options{User: user, Patience: 5 * time.Second})
}

func checkUnits(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return checkWith(ctx, connectBus, args, stdout, stderr)
}

// checkWith is checkUnits with another way to systemd.
func checkWith(ctx context.Context, connect func(context.Context, bool) (busOf, error), args []string, stdout, stderr io.Writer) int {
	c := command.NewFlags("check", checkHelp, stdout, stderr)
	j := judges{connect: connect}
	files := c.Bool("files", false, "")
	mode := c.String("mode", "", "")
	c.StringVar(&j.root, "root", "", "")
	c.IntVar(&j.options.Systemd, "systemd", 0, "")
	c.Var(timeFlag{&j.options.Drain}, "drain-timeout", "")
	c.BoolVar(&j.options.User, "user", false, "")
	var asJSON command.JSONMode
	c.Var(&asJSON, "json", "")
	names, code, done := c.ReadMixed(args)
	switch {
	case done:
		return code
	case len(names) == 0:
		return c.Wrong("name the UNIT, or a path of its file")
	case j.options.Systemd != 0 && j.options.Systemd < units.OldestSystemd:
		return c.Wrong("--systemd=%d: must be %d or later", j.options.Systemd, units.OldestSystemd)
	}
	switch j.options.Mode = units.Mode(*mode); j.options.Mode {
	case "", units.Overlap, units.InPlace, units.Restart:
	default:
		return c.Wrong("--mode=%q: must be %s, %s or %s", *mode, units.Overlap, units.InPlace, units.Restart)
	}
	j.asked = !*files && j.root == ""
	defer j.close()

	reports := make([]*check.Report, 0, len(names))
	worst := command.ExitOK
	for _, name := range names {
		r, err := j.judge(ctx, name)
		switch {
		case err != nil:
			c.Say("%s: %v", c.Name(), err)
			worst = checkExitCode(err)
			continue
		case !r.Fit() && worst == command.ExitOK:
			worst = command.ExitNotSuitable
		}
		reports = append(reports, r)
	}
	var err error
	if asJSON.On() {
		err = asJSON.Write(stdout, reports)
	} else {
		t := term.Of(stdout)
		for i, r := range reports {
			if i > 0 {
				fmt.Fprintln(stdout)
			}
			_, err = io.WriteString(stdout, checkText(t, r))
		}
	}
	if err != nil {
		c.Say("%s: %v", c.Name(), err)
		return command.ExitFailed
	}
	return worst
}

func (j *judges) close() {
	if j.conn != nil {
		_ = j.conn.Close() // nothing was changed
	}
}

// judge judges one unit.
func (j *judges) judge(ctx context.Context, name string) (*check.Report, error) {
	if strings.Contains(name, "/") {
		return j.file(ctx, name)
	}
	if !j.asked {
		root := j.root
		if root == "" {
			root = "/"
		}
		if info, err := os.Stat(root); err != nil {
			return nil, err
		} else if !info.IsDir() {
			return nil, fmt.Errorf("--root=%q is no directory", root)
		}
		return check.Files(ctx, os.DirFS(root), name, j.options)
	}
	if j.conn == nil {
		conn, err := j.connect(ctx, j.options.User)
		if err != nil {
			return nil, fmt.Errorf("%w: use --files to judge the files alone", err)
		}
		j.conn = conn
	}
	return check.Running(ctx, j.conn, os.DirFS("/"), name, j.options)
}

// file judges a file by its path, and what lies beside it. A template is judged as its instance 1.
func (j *judges) file(ctx context.Context, name string) (*check.Report, error) {
	path, err := filepath.Abs(name)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	o := j.options
	o.Directories = []string{filepath.Dir(path)}
	unit := filepath.Base(path)
	if prefix, kind, ok := strings.Cut(unit, "@."); ok {
		unit = prefix + "@1." + kind
	}
	return check.Files(ctx, os.DirFS("/"), unit, o)
}

// checkExitCode is that of an error.
func checkExitCode(err error) int {
	var (
		away       *bus.AwayError
		noFile     *check.NotFoundError
		noUnit     *bus.NoUnitError
		permission *bus.PermissionError
	)
	switch {
	case errors.As(err, &away):
		return command.ExitFailed // what is missing is no unit
	case errors.As(err, &noFile), errors.As(err, &noUnit), errors.Is(err, fs.ErrNotExist):
		return command.ExitNoSuchUnit
	case errors.As(err, &permission), errors.Is(err, fs.ErrPermission):
		return command.ExitNoPermission
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return command.ExitUnknown
	}
	return command.ExitFailed
}

var levelColor = map[check.Level]term.Color{check.Error: term.Red, check.Warning: term.Yellow, check.Note: term.Bold}

// checkText is a report for people.
func checkText(t term.Terminal, r *check.Report) string {
	color, verdict := term.Green, "fit for upgrades"
	switch {
	case !r.Fit():
		color, verdict = term.Red, "not fit for upgrades"
	case !r.Holdfast:
		color, verdict = term.Plain, "no Holdfast service"
	}
	title := &term.Rows{Terminal: t}
	how := fmt.Sprintf("systemd %d", r.Systemd)
	if r.Mode != "" {
		how = fmt.Sprintf("mode %s, %s", r.Mode, how)
	}
	title.Title(fmt.Sprintf("%s %s: %s", t.Mark(color), term.Line(r.Unit), t.Paint(color, verdict)))
	title.Add("", fmt.Sprintf("%s: %s", how, counts(r)))
	var b strings.Builder
	b.WriteString(title.String())
	seen := make(map[string]bool)
	for _, file := range append(append([]string(nil), r.Files...), "") {
		if seen[file] {
			continue
		}
		seen[file] = true
		first := true
		for _, f := range r.Findings {
			if f.File != file {
				continue
			}
			if first && file != "" {
				heading := &term.Rows{Terminal: t}
				heading.Title(term.Line(file))
				b.WriteString(heading.String())
			}
			first = false
			b.WriteString(findingText(t, f))
		}
	}
	return b.String()
}

func findingText(t term.Terminal, f check.Finding) string {
	rows := &term.Rows{Terminal: t, Labels: len("  warning:")}
	found := f.Found
	switch {
	case found == "" && f.Section == "":
		found = f.Option
	case found == "":
		found = "no " + f.Option + "="
	}
	if f.Line > 0 {
		found = "line " + strconv.Itoa(f.Line) + ": " + found
	}
	rows.Add(t.Paint(levelColor[f.Level], string(f.Level)), term.Line(found))
	rows.Add("", term.Line(f.Why))
	for _, w := range f.Write {
		rows.Add("", "write: "+t.Paint(term.Green, term.Line(w)))
	}
	return rows.String()
}

// counts is how many findings there are: "1 error, 2 warnings".
func counts(r *check.Report) string {
	var parts []string
	for _, level := range []check.Level{check.Error, check.Warning, check.Note} {
		switch n := r.Count(level); n {
		case 0:
		case 1:
			parts = append(parts, "1 "+string(level))
		default:
			parts = append(parts, fmt.Sprintf("%d %ss", n, level))
		}
	}
	if len(parts) == 0 {
		return "nothing found"
	}
	return strings.Join(parts, ", ")
}
