// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/control/command"
	"github.com/holdfast-go/holdfast/reexec/control/command/term"
	"github.com/holdfast-go/holdfast/units/versions"
)

const versionsHelp = `Keep versions of a program side by side, as DIR/versions/VERSION/PROGRAM, and
switch the link DIR/current between them.

  holdfast versions install /usr/lib/myapp 1.1.0 ./myapp
  holdfast versions switch --unit=myapp /usr/lib/myapp 1.1.0
  holdfast versions switch --unit=myapp /usr/lib/myapp previous

Usage: holdfast versions list [OPTIONS] DIR
       holdfast versions install [OPTIONS] DIR VERSION FILE
       holdfast versions switch [OPTIONS] DIR VERSION|previous
       holdfast versions prune --keep=N DIR

The unit has ExecStart=DIR/current/PROGRAM and may execute all versions:

  holdfast render --exec=DIR/current/PROGRAM --exec-directory=DIR/versions [...]

With --unit or --socket a switch upgrades the service, and switches back if the
upgrade fails or is undone. If the waiting ends before that, or this command is
killed, the switch is not ended: the next install, switch or prune finds out what
runs, says so, and has the links lead there. Without them only the links change: what
runs goes on, and a restart starts the new version.

Options:
      --unit=UNIT       the service that is upgraded by the switch
      --socket=PATH     the same, by its control socket
      --user            UNIT is one of your own service manager
      --timeout=TIME    how long to wait for the upgrade (2m); 0 is without end
      --name=PROGRAM    what the installed file is called; as FILE is
      --keep=N          how many versions prune leaves; what is current, previous
                        or running stays in any case
  -q, --quiet           print errors only
      --json=MODE       print the list as JSON: short, pretty or off
  -h, --help            show this help

` + command.ExitCodesHelp

// statusPatience bounds a question to a service of which only the end of a switch is
// to be known.
const statusPatience = 10 * time.Second

// versionsCommand is one run of "holdfast versions".
type versionsCommand struct {
	*command.Flags
	stdout, stderr     io.Writer
	unit, socket, name string
	json               string
	user, quiet        bool
	keep               int
	timeout            time.Duration
}

func runVersions(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c := versionsCommand{Flags: command.NewFlags("versions", versionsHelp, stdout, stderr), stdout: stdout, stderr: stderr}
	c.StringVar(&c.unit, "unit", "", "")
	c.StringVar(&c.socket, "socket", "", "")
	c.BoolVar(&c.user, "user", false, "")
	c.DurationVar(&c.timeout, "timeout", 2*time.Minute, "")
	c.StringVar(&c.name, "name", "", "")
	c.IntVar(&c.keep, "keep", -1, "")
	c.BoolVar(&c.quiet, "quiet", false, "")
	c.BoolVar(&c.quiet, "q", false, "")
	c.StringVar(&c.json, "json", "off", "")
	operands, code, done := c.ReadMixed(args)
	if done {
		return code
	}
	if len(operands) == 0 {
		return c.Wrong("say what to do: list, install, switch or prune")
	}
	verb, operands := operands[0], operands[1:]
	run, ok := map[string]struct {
		operands string
		run      func(context.Context, []string) int
	}{
		"list":    {"DIR", c.list},
		"install": {"DIR VERSION FILE", c.install},
		"switch":  {"DIR VERSION", c.switchTo},
		"prune":   {"DIR", c.prune},
	}[verb]
	switch {
	case !ok:
		return c.Wrong("%q: use list, install, switch or prune", verb)
	case len(operands) != len(strings.Fields(run.operands)):
		return c.Wrong("%s takes %s, and got %q", verb, run.operands, operands)
	case c.unit != "" && c.socket != "":
		return c.Wrong("--unit=%q and --socket=%q: use one of them", c.unit, c.socket)
	case (c.unit != "" || c.socket != "") && verb != "switch":
		return c.Wrong("--unit= and --socket= are for switch")
	case c.timeout < 0:
		return c.Wrong("--timeout=%v: must not be negative", c.timeout)
	case verb == "prune" && c.keep < 0:
		return c.Wrong("say how many versions are to be left: --keep=N")
	case c.json != "short" && c.json != "pretty" && c.json != "off":
		return c.Wrong("--json=%q: must be short, pretty or off", c.json)
	}
	if dir, err := filepath.Abs(operands[0]); err == nil {
		operands[0] = dir
	}
	return run.run(ctx, operands)
}

// say prints a result.
func (c versionsCommand) say(format string, args ...any) {
	if !c.quiet {
		fmt.Fprintln(c.stdout, term.Printable(fmt.Sprintf(format, args...)))
	}
}

func (c versionsCommand) fail(err error) int {
	c.Say("%s: %v", c.Name(), err)
	if errors.Is(err, fs.ErrPermission) {
		return command.ExitNoPermission
	}
	return command.ExitFailed
}

func (c versionsCommand) list(_ context.Context, operands []string) int {
	d, err := versions.Open(operands[0])
	if err != nil {
		return c.fail(err)
	}
	defer d.Close()
	all, err := d.List()
	if err != nil {
		return c.fail(err)
	}
	if c.json != "off" {
		enc := json.NewEncoder(c.stdout)
		if c.json == "pretty" {
			enc.SetIndent("", "\t")
		}
		if all == nil {
			all = []versions.Version{} // a list in any case
		}
		err = enc.Encode(all)
	} else {
		for _, v := range all {
			c.say("%s", strings.TrimRight(fmt.Sprintf("%-20s %s  %s", v.Name, v.Installed.Local().Format(time.DateTime), marks(v)), " "))
		}
	}
	if err != nil {
		return c.fail(fmt.Errorf("write the list: %w", err))
	}
	if s, ok, err := d.Unfinished(); err != nil {
		return c.fail(err)
	} else if ok {
		c.Say("%s: a %v has not ended: the next install, switch or prune ends it", c.Name(), s)
	}
	return command.ExitOK
}

func marks(v versions.Version) string {
	var all []string
	if v.Current {
		all = append(all, "current")
	}
	if v.Previous {
		all = append(all, "previous")
	}
	for _, pid := range v.Running {
		all = append(all, fmt.Sprintf("PID %d", pid))
	}
	return strings.Join(all, ", ")
}

// change opens the directory, and ends a switch that another run has left. Unless d is
// nil, the caller closes it.
func (c versionsCommand) change(ctx context.Context, dir string) (d *versions.Directory, code int) {
	d, err := versions.OpenToChange(dir)
	if err != nil {
		return nil, c.fail(err)
	}
	if err := c.mend(ctx, d); err != nil {
		_ = d.Close()
		return nil, c.fail(err)
	}
	return d, 0
}

// mend ends a switch that was begun by a run which is gone: the links lead to what
// runs. Where nothing runs, a mere switch is done, since that was asked for, and one
// with an upgrade is not.
func (c versionsCommand) mend(ctx context.Context, d *versions.Directory) error {
	s, ok, err := d.Unfinished()
	if err != nil || !ok {
		return err
	}
	runs := s.To
	if s.Socket != "" {
		if runs, err = c.runs(ctx, d, s); err != nil {
			return fmt.Errorf("a %v has not ended: %w", s, err)
		}
	}
	end, where := d.Back, "back to "+orNothing(s.From)
	if runs == s.To {
		end, where = d.Commit, "on to "+s.To
	}
	if err := end(s); err != nil {
		return fmt.Errorf("a %v has not ended: %w", s, err)
	}
	c.Say("%s: a %v had not ended: it went %s", c.Name(), s, where)
	return nil
}

// runs is the version that the service runs; empty if it does not run.
func (c versionsCommand) runs(ctx context.Context, d *versions.Directory, s versions.Switch) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	st, err := control.NewClient(s.Socket).Status(ctx)
	var notRunning *control.NotRunningError
	switch {
	case errors.As(err, &notRunning):
		return "", nil
	case err != nil:
		return "", err
	case st.Successor != nil || st.State != "running" && st.State != "draining" && st.State != "stopping":
		return "", fmt.Errorf("its upgrade is under way (%s): wait until that is over", st.State)
	}
	return d.Running(st.PID, st.Version), nil
}

func (c versionsCommand) install(ctx context.Context, operands []string) int {
	d, code := c.change(ctx, operands[0])
	if d == nil {
		return code
	}
	defer d.Close()
	version, file := operands[1], operands[2]
	if c.name == "" {
		c.name = filepath.Base(file)
	}
	if err := d.Install(file, version, c.name); err != nil {
		return c.fail(err)
	}
	c.say("Installed %s.", filepath.Join(d.Path(), "versions", version, c.name))
	return command.ExitOK
}

func (c versionsCommand) prune(ctx context.Context, operands []string) int {
	d, code := c.change(ctx, operands[0])
	if d == nil {
		return code
	}
	defer d.Close()
	removed, err := d.Prune(c.keep)
	for _, v := range removed {
		c.say("Removed %s.", v)
	}
	if err != nil {
		return c.fail(err)
	}
	return command.ExitOK
}

func (c versionsCommand) switchTo(ctx context.Context, operands []string) int {
	if c.unit != "" {
		var err error
		if c.socket, err = command.SocketOf(c.unit, c.user); err != nil {
			return c.Wrong("%v", err)
		}
	}
	if c.socket != "" {
		if socket, err := filepath.Abs(c.socket); err == nil {
			c.socket = socket
		}
	}
	d, code := c.change(ctx, operands[0])
	if d == nil {
		return code
	}
	defer d.Close()
	s, err := d.Begin(operands[1], c.socket)
	if err != nil {
		return c.fail(err)
	}
	if c.socket != "" {
		args := []string{"--socket=" + c.socket, "--timeout=" + c.timeout.String()}
		if c.quiet {
			args = append(args, "--quiet")
		}
		switch code := command.Reload(ctx, args, c.stdout, c.stderr); code {
		case command.ExitOK:
		case command.ExitUnknown:
			c.Say("%s leads to %s until the end of the upgrade is known: see \"holdfast versions list %s\".", filepath.Join(d.Path(), "current"), s.To, d.Path())
			return code
		default:
			if err := d.Back(s); err != nil {
				c.fail(err)
				return code
			}
			c.Say("%s leads to %s again.", filepath.Join(d.Path(), "current"), orNothing(s.From))
			return code
		}
	}
	if err := d.Commit(s); err != nil {
		return c.fail(err)
	}
	c.say("%s leads to %s, and led to %s.", filepath.Join(d.Path(), "current"), s.To, orNothing(s.From))
	return command.ExitOK
}

func orNothing(version string) string {
	if version == "" {
		return "nothing"
	}
	return version
}
