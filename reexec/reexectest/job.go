// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// JobError is a job that did not end well, or that was refused. It is what
// makes systemctl exit with another status than 0.
type JobError struct {
	Unit   string
	Verb   string // "reload"
	Result string // of the job: failed canceled timeout dependency invalid; empty if it was refused
	// Name and Message are the D-Bus error of a job that was refused:
	// "org.freedesktop.systemd1.JobTypeNotApplicable".
	Name    string
	Message string
	// Properties are those of the service when the job ended.
	Properties Properties
	// Journal is the line of the journal that may say why, and Hint what to change in
	// the test; either may be empty.
	Journal, Hint string
}

func (e *JobError) Error() string {
	if e.Result == "" {
		return fmt.Sprintf("%s %s: refused: %s (%s)", e.Verb, e.Unit, e.Message, e.Name)
	}
	s := fmt.Sprintf("%s %s: job %s; the service is %v", e.Verb, e.Unit, e.Result, e.Properties)
	if e.Journal != "" {
		s += "; the journal says: " + shortText(e.Journal)
	}
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// whyLocked returns the line of the journal since the last job that may say why something
// failed: the last thing that the stand-in failed to do for the unit, or else what a
// process said last.
func (u *Unit) whyLocked() string {
	next, said := u.sinceJob, ""
	for _, e := range slices.Backward(since(u.journal, u.forgotten.journal, &next)) {
		switch {
		case e.Identifier != "systemd" && said == "":
			said = e.String()
		case e.Identifier == "systemd" && strings.HasPrefix(e.Message, e.Unit+": Failed ") && !strings.HasPrefix(e.Message, e.Unit+": Failed with "):
			return e.Message
		}
	}
	return said
}

// hintLocked says what to change in the test if the journal has that line.
func (u *Unit) hintLocked(line string) string {
	_, program, found := strings.Cut(line, "Failed at step EXEC spawning ")
	program, reason, _ := strings.Cut(program, ": ")
	_, known := u.programs[program]
	switch {
	case found && !known && strings.HasPrefix(reason, "No such file"):
		return fmt.Sprintf("there is no %s on this machine: say in Options.Programs what stands behind that path", program)
	case strings.Contains(line, "address already in use") && u.opts.KeepAddresses:
		return "another process has that address: without Options.KeepAddresses the sockets of the units get free ones"
	case strings.Contains(line, "address already in use"):
		return "another process has that address: tell the service one of FreeAddress, and name it in Options.Addresses"
	}
	return ""
}

// Start starts the sockets of the service, as sockets.target does at boot, and
// then the service, and waits for the end of the job: with Type=notify, for
// READY=1. Errors are of type [*JobError], unless the context ended first; then
// the job goes on. So are they of the methods that follow.
func (u *Unit) Start(ctx context.Context) error {
	for _, socket := range u.set.Sockets {
		// One that listens stays as it is.
		if err := u.Systemctl(ctx, "start", socket.Name); err != nil {
			return err
		}
	}
	return u.Systemctl(ctx, "start", u.service)
}

// Stop stops the service, not its sockets: a connection that waits or comes starts
// it again. To stop both, stop the socket unit before it: see Systemctl.
func (u *Unit) Stop(ctx context.Context) error { return u.Systemctl(ctx, "stop", u.service) }

// Restart stops and starts the service.
func (u *Unit) Restart(ctx context.Context) error { return u.Systemctl(ctx, "restart", u.service) }

// Reload reloads the service, which upgrades it. It returns when ExecReload=
// has ended or, with Type=notify-reload, when READY=1 came.
func (u *Unit) Reload(ctx context.Context) error { return u.Systemctl(ctx, "reload", u.service) }

var verbs = []wire.Verb{
	wire.Start, wire.Stop, wire.Restart, wire.TryRestart, wire.Reload, wire.ReloadOrRestart, wire.ResetFailed,
}

// Systemctl does what the command of that name does with one unit: start,
// stop, restart, try-restart, reload, reload-or-restart, reset-failed. The unit
// is the service or one of its sockets: "myapp.socket".
func (u *Unit) Systemctl(ctx context.Context, verb, unit string) error {
	if !slices.Contains(verbs, wire.Verb(verb)) {
		return fmt.Errorf("%s: systemctl %s: the verbs are %q", u.service, verb, verbs)
	}
	u.tell("%s %s", verb, unit)
	ctx, cancel := u.patient(ctx, verb+" "+unit)
	defer cancel()
	u.mu.Lock()
	u.jobs++
	u.triggeredBy, u.sinceJob = "", u.forgotten.journal+len(u.journal)
	u.mu.Unlock()
	id, wait := u.begin(&wire.Request{Verb: wire.Verb(verb), Unit: u.wireName(unit)})
	answer, err := wait(ctx)
	u.mu.Lock()
	u.jobs--
	u.mu.Unlock()
	err = u.jobError(verb, unit, answer, err)
	var job *JobError
	if errors.As(err, &job) {
		u.mu.Lock()
		if then, ok := u.ended[id]; ok {
			job.Properties = then
		}
		if job.Result != "" {
			job.Journal = u.whyLocked()
			job.Hint = u.hintLocked(job.Journal)
		}
		u.mu.Unlock()
	}
	if err != nil {
		u.tell("%v", err)
	} else {
		u.tell("%s %s: done", verb, unit)
		u.tellListening(verb, unit)
	}
	return err
}

// tellListening warns as systemctl does: who stopped the service alone may see it again.
func (u *Unit) tellListening(verb, unit string) {
	if verb != "stop" || unit != u.service {
		return
	}
	for _, socket := range u.set.Sockets {
		if s, err := u.ShowSocket(socket.Name); err == nil && s.SubState == "listening" {
			u.tell("%s still listens: a connection to it starts the service again", socket.Name)
		}
	}
}

func (u *Unit) wireName(unit string) string {
	if unit == u.service {
		return ""
	}
	return unit
}

func (u *Unit) jobError(verb, unit string, answer *wire.Answer, err error) error {
	var refused *wire.Error
	switch {
	case errors.As(err, &refused):
		return &JobError{Unit: unit, Verb: verb, Name: refused.Name, Message: refused.Message, Properties: u.known()}
	case err != nil:
		return fmt.Errorf("%s: %w; it is %v", unit, err, u.known())
	case answer.ExitStatus() != 0:
		return &JobError{Unit: unit, Verb: verb, Result: string(answer.Result), Properties: u.known()}
	}
	return nil
}

// DaemonReload reads the unit files again, with these in addition to those in
// [Options], or in their place.
func (u *Unit) DaemonReload(ctx context.Context, files map[string]string) error {
	o := u.opts
	o.Files = make(map[string]string)
	for _, from := range []map[string]string{u.opts.Files, files} {
		for name, text := range from {
			o.Files[name] = text
		}
	}
	collected, _, err := collect(o)
	if err != nil {
		return err
	}
	request := wire.Request{Verb: wire.DaemonReload}
	for _, f := range collected {
		request.Files = append(request.Files, wire.File{Name: f.Name, Text: f.Text})
	}
	u.tell("daemon-reload")
	ctx, cancel := u.patient(ctx, "daemon-reload")
	defer cancel()
	answer, err := u.call(ctx, request)
	return u.jobError("daemon-reload", u.service, answer, err)
}

// Clean is "systemctl clean --what=": runtime, state, cache, logs,
// configuration, fdstore, all.
func (u *Unit) Clean(ctx context.Context, what ...string) error {
	u.tell("clean %v", what)
	ctx, cancel := u.patient(ctx, "clean")
	defer cancel()
	answer, err := u.call(ctx, wire.Request{Verb: wire.Clean, What: what})
	return u.jobError("clean", u.service, answer, err)
}

// Whom says which processes a signal is for, as "systemctl kill --kill-whom="
// does.
type Whom string

// Processes of a unit.
const (
	MainProcess    Whom = "main"
	ControlProcess Whom = "control"
	AllProcesses   Whom = "all"
)

// Kill sends a signal to processes of the service, as "systemctl kill" does.
func (u *Unit) Kill(whom Whom, sig syscall.Signal) error {
	u.tell("kill %s %s", whom, signalName(int(sig)))
	ctx, cancel := u.patient(context.Background(), "kill")
	defer cancel()
	answer, err := u.call(ctx, wire.Request{Verb: wire.Kill, Whom: wire.Whom(whom), Signal: sig})
	return u.jobError("kill", u.service, answer, err)
}
