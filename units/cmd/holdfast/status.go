// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/control/command"
	"github.com/holdfast-go/holdfast/reexec/control/command/term"
	"github.com/holdfast-go/holdfast/units/bus"
	"github.com/holdfast-go/holdfast/units/upgrade"
)

const statusHelp = `Show who serves, how the last upgrades went, and what systemd holds for it: one
unit in full, several in a table.

  holdfast status myapp
  holdfast status 'myapp@*'
  holdfast status --json=pretty myapp

Usage: holdfast status [OPTIONS] UNIT...
       holdfast status [OPTIONS] --socket=PATH

UNIT is the name of a service, or a pattern, which stands for the units that are
active. Without D-Bus, as inside of a sandbox, it shows what the service says
itself on its control socket, /run/UNIT/control.sock. In a command of the service
$RUNTIME_DIRECTORY names it, too.

Options:
      --socket=PATH          the control socket
` + whereHelp + `      --timeout=TIME         how long to wait for an answer (5s); 0 is without end
      --json=MODE            print the status as JSON: short, pretty or off; an object
                             for each unit, one after the other
  -h, --help                 show this help

` + command.ExitCodesHelp

// unitStatus is what --json= prints: the words of the service, and beside them what
// else is known.
type unitStatus struct {
	*control.Status
	Systemd      *bus.Unit        `json:"systemd,omitempty"`
	Sockets      []bus.Socket     `json:"socket_units,omitempty"`
	ServiceError string           `json:"service_error,omitempty"`
	Frozen       *upgrade.Freeze  `json:"frozen,omitempty"`
	Busy         *upgrade.Holder  `json:"busy,omitempty"`
	Upgrades     []upgrade.Report `json:"upgrades,omitempty"`
	JournalError string           `json:"journal_error,omitempty"`

	unit string // that was asked for
	err  error  // why Status is nil
}

func runStatus(ctx context.Context, connect connector, args []string, stdout, stderr io.Writer) int {
	c := command.NewFlags("status", statusHelp, stdout, stderr)
	var asJSON command.JSONMode
	socket := c.String("socket", "", "")
	var w where
	w.flags(c)
	timeout := c.Duration("timeout", 5*time.Second, "")
	c.Var(&asJSON, "json", "")
	units, code, done := c.ReadMixed(args)
	switch {
	case done:
		return code
	case *timeout < 0:
		return c.Wrong("--timeout=%v: must not be negative", *timeout)
	case len(units) == 0 || *socket != "":
		// A service, and not a unit: that needs no systemd.
		return command.Status(ctx, args, stdout, stderr)
	}
	if code, wrong := w.wrong(c); wrong {
		return code
	}
	ctx, cancel := command.WithTimeout(ctx, *timeout)
	defer cancel()

	var all []unitStatus
	h, err := connect(w)
	if err != nil {
		all, err = bySocket(ctx, units, w.user)
	} else {
		defer h.Close()
		all, err = byHelper(ctx, h, units)
	}
	if err != nil {
		code = sayError(c, err)
	}
	if len(all) == 0 {
		return code
	}
	if err := writeStatus(stdout, all, asJSON); err != nil {
		c.Say("%s: write the status: %v", c.Name(), err)
		return command.ExitFailed
	}
	for _, s := range all {
		if s.err != nil {
			code = cmp.Or(code, exitCode(s.err))
		}
	}
	return code
}

func writeStatus(w io.Writer, all []unitStatus, asJSON command.JSONMode) error {
	if asJSON.On() {
		for _, s := range all {
			if err := asJSON.Write(w, s); err != nil {
				return err
			}
		}
		return nil
	}
	views := make([]command.View, len(all))
	for i, s := range all {
		views[i] = s.view()
	}
	t, now := term.Of(w), time.Now()
	text := command.Table(views, t, now)
	if len(views) == 1 {
		text = views[0].Screen(t, now)
	}
	_, err := io.WriteString(w, text)
	return err
}

// byHelper asks systemd and the services. What is known is returned also with an
// error.
func byHelper(ctx context.Context, h helper, units []string) ([]unitStatus, error) {
	var (
		names []string
		errs  []error
	)
	for _, unit := range units {
		if !strings.ContainsAny(unit, "*?[") {
			names = append(names, unit)
			continue
		}
		matching, err := h.Match(ctx, []string{unit})
		names, errs = append(names, matching...), append(errs, err)
	}
	var all []unitStatus
	for _, name := range names {
		st, err := h.Status(ctx, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, unitStatus{
			Status: st.Service, Systemd: &st.Unit, Sockets: st.Sockets, ServiceError: st.ServiceError,
			Frozen: st.Frozen, Busy: st.Busy, Upgrades: st.Last, JournalError: st.JournalError,
			unit: st.Unit.Name, err: st.Err,
		})
	}
	return all, errors.Join(errs...)
}

// bySocket asks the services alone.
func bySocket(ctx context.Context, units []string, userManager bool) ([]unitStatus, error) {
	var (
		all  []unitStatus
		errs []error
	)
	for _, unit := range units {
		socket, err := command.SocketOf(unit, userManager)
		if err != nil {
			errs = append(errs, &upgrade.RequestError{Field: "units", Value: unit, Want: err.Error()})
			continue
		}
		s := unitStatus{unit: strings.TrimSuffix(unit, ".service") + ".service"}
		st, err := control.NewClient(socket).Status(ctx)
		if err == nil {
			s.Status = &st
		} else {
			s.err, s.ServiceError = err, err.Error()
		}
		all = append(all, s)
	}
	return all, errors.Join(errs...)
}

// view is s for a screen.
func (s unitStatus) view() command.View {
	v := command.View{Unit: s.unit, Service: s.Status, Problem: s.ServiceError, Attempts: s.attempts()}
	if u := s.Systemd; u != nil {
		v.Systemd = &command.UnitView{
			LoadState: u.LoadState, ActiveState: u.ActiveState, SubState: u.SubState, Since: u.StateChange,
			MainPID: u.MainPID, StatusText: u.StatusText, StoreUsed: u.NFileDescriptorStore, StoreMax: u.FileDescriptorStoreMax,
		}
		for _, socket := range s.Sockets {
			sv := command.SocketView{Unit: socket.Name, Name: socket.FileDescriptorName}
			for _, l := range socket.Listen {
				sv.Addresses = append(sv.Addresses, l.Address)
			}
			v.Systemd.Sockets = append(v.Systemd.Sockets, sv)
		}
		if u.NeedDaemonReload {
			v.Warnings = append(v.Warnings, "the unit file has changed on disk: systemctl daemon-reload")
		}
		if st := s.Status; st != nil && u.MainPID > 0 && u.MainPID != st.PID && st.Successor == nil && st.State == "running" {
			v.Warnings = append(v.Warnings, fmt.Sprintf("systemd takes PID %d for the main process: systemctl status %s", u.MainPID, u.Name))
		}
	}
	if f := s.Frozen; f != nil {
		v.Frozen = "since " + f.Since.Local().Format(time.DateTime)
		if f.By != "" {
			v.Frozen += " by " + f.By
		}
		if f.Reason != "" {
			v.Frozen += ": " + f.Reason
		}
	}
	if b := s.Busy; b != nil {
		text := fmt.Sprintf("request %s works on it (PID %d)", b.ID, b.PID)
		if b.By != "" {
			text += ", of " + b.By
		}
		v.Warnings = append(v.Warnings, text)
	}
	if s.JournalError != "" {
		v.Warnings = append(v.Warnings, "what upgrades were made is not known: "+s.JournalError)
	}
	return v
}

// attempts are those that the service and the helper know of, the newest first.
func (s unitStatus) attempts() []command.Attempt {
	var reports []upgrade.Report
	reports = append(reports, s.Upgrades...)
	var verdicts []control.Verdict
	if st := s.Status; st != nil {
		verdicts = append(verdicts, st.History...)
		// One that is older than the history is Last alone.
		if st.Last != nil && !slices.ContainsFunc(verdicts, func(v control.Verdict) bool { return v.Started.Equal(st.Last.Started) }) {
			verdicts = append(verdicts, *st.Last)
		}
	}
	return mergeAttempts(reports, verdicts)
}

// mergeAttempts puts reports of the helper and verdicts of the service into one
// list. A verdict that is part of a report is not in it twice: the report says also
// what became of the version afterwards.
func mergeAttempts(reports []upgrade.Report, verdicts []control.Verdict) []command.Attempt {
	var all []command.Attempt
	for _, report := range reports {
		for _, u := range report.Units {
			all = append(all, unitAttempt(report, u))
			verdicts = slices.DeleteFunc(slices.Clone(verdicts), func(v control.Verdict) bool {
				return u.Verdict != nil && v.Started.Equal(u.Verdict.Started)
			})
		}
	}
	for _, v := range verdicts {
		all = append(all, command.AttemptOf(v))
	}
	slices.SortStableFunc(all, func(a, b command.Attempt) int { return b.At.Compare(a.At) })
	return all
}
