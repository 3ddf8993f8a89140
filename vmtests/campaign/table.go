// SPDX-License-Identifier: Apache-2.0

package campaign

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/reexec"
	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/vmtests"
)

// TableOptions say which faults are brought about, and where.
type TableOptions struct {
	Versions []vmtests.Version
	Modes    []reexec.Mode
	// Only has those whose names match; nil for all.
	Only *regexp.Regexp
	// Log gets a line for each fault and what was wrong; it is called by one goroutine at a time.
	Log func(string)
}

// tableTiming gives a command of systemctl the time to reach each phase on a busy machine.
var tableTiming = timing{check: 4 * time.Second, start: 4 * time.Second, probation: 800 * time.Millisecond, beat: 300 * time.Millisecond, drain: 5 * time.Second}

// rowLimit bounds a row on a busy machine.
const rowLimit = 90 * time.Second

// Table brings about all faults, the versions of systemd side by side, and reports. An error is one of the
// campaign itself; what is wrong with Holdfast is in the report.
func Table(ctx context.Context, programs *Programs, o TableOptions) (*TableReport, error) {
	report := newTableReport(o)
	var working sync.WaitGroup
	errs := make([]error, len(o.Versions))
	for i, v := range o.Versions {
		working.Go(func() {
			for _, mode := range o.Modes {
				if err := tableOn(ctx, programs, o, v, mode, report); err != nil {
					errs[i] = errors.Join(errs[i], fmt.Errorf("%v, %v: %w", v, mode, err))
				}
			}
		})
	}
	working.Wait()
	report.took = time.Since(report.began).Round(time.Second)
	return report, errors.Join(errs...)
}

// A stage is a system on which one fault after the other is brought about.
type stage struct {
	*killer
	noted int        // by a row
	idle  []net.Conn // of a row
}

func tableOn(ctx context.Context, programs *Programs, o TableOptions, v vmtests.Version, mode reexec.Mode, report *TableReport) (err error) {
	s, err := start(ctx, v, mode, programs, tableTiming)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	c, err := s.startClients(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	stage := &stage{killer: &killer{System: s, clients: c}}
	defer stage.closeIdle()
	for _, f := range faults() {
		w, ok := f.want[mode]
		if !ok || o.Only != nil && !o.Only.MatchString(f.name) {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		seen, err := stage.bringAbout(ctx, f, w)
		if err != nil {
			seen.problem("%v", err)
		}
		report.add(v, mode, f, w, seen)
		if len(seen.problems) > 0 {
			report.log(stage.story(context.WithoutCancel(ctx)))
		}
		if err != nil {
			if err := stage.startAfresh(ctx); err != nil {
				return fmt.Errorf("after %q: %w", f.name, err)
			}
		}
	}
	return nil
}

// seen is what came of a fault.
type seen struct {
	outcome   control.Outcome
	reason    string
	command   error
	lost      int
	restarted bool
	problems  []string
}

func (s *seen) problem(format string, args ...any) {
	s.problems = append(s.problems, fmt.Sprintf(format, args...))
}

// bringAbout does one row. An error leaves the service in a state that is not known.
func (s *stage) bringAbout(ctx context.Context, f fault, w want) (seen seen, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, rowLimit, fmt.Errorf("not over after %v", rowLimit))
	defer cancel()
	s.place = s.journal.now()
	takenDown := f.takeDown == nil
	takeDown := func() error {
		if takenDown {
			return nil
		}
		takenDown = true
		return f.takeDown(s, ctx)
	}
	defer func() { err = errors.Join(err, takeDown()) }()
	if f.setUp != nil {
		if err := f.setUp(s, ctx); err != nil {
			return seen, fmt.Errorf("set up: %w", err)
		}
	}
	// What the surroundings have cost is no matter of the row.
	s.clients.take()
	begun := now()
	s.place = s.journal.now()
	switch {
	case f.put != nil:
		err = f.put(s)
	default:
		err = s.install(f.next)
	}
	if err != nil {
		return seen, fmt.Errorf("put the next version in place: %w", err)
	}
	if seen.command, err = s.commandAndStrike(ctx, f); err != nil {
		return seen, err
	}
	if f.release != nil {
		if err := f.release(s, ctx); err != nil {
			return seen, fmt.Errorf("release: %w", err)
		}
	}
	if err := s.atRest(ctx); err != nil {
		return seen, err
	}
	s.judgeRow(&seen, f, w, begun)
	if f.look != nil {
		if err := f.look(s, ctx); err != nil {
			seen.problem("%v", err)
		}
	}
	if err := takeDown(); err != nil {
		return seen, fmt.Errorf("undo: %w", err)
	}
	return seen, s.nextWorks(ctx, &seen)
}

// commandAndStrike runs the command of the row, which is systemctl reload for most, and its strike at its moment.
func (s *stage) commandAndStrike(ctx context.Context, f fault) (command, err error) {
	done := make(chan error, 1)
	go func() {
		if f.ask != nil {
			done <- f.ask(s, ctx)
			return
		}
		done <- s.ask(ctx, f.command())
	}()
	if f.strike != nil {
		if _, err := s.journal.wait(ctx, s.place, f.line, "msg=verdict outcome="); err != nil {
			return nil, err
		}
		if err := f.strike(s, ctx); err != nil {
			return nil, fmt.Errorf("strike: %w", err)
		}
	}
	select {
	case command = <-done:
		return command, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("the %s does not end: %w", f.command(), context.Cause(ctx))
	}
}

// ask runs systemctl for the service, or for the manager itself.
func (s *stage) ask(ctx context.Context, verb string) error {
	args := []string{verb, unitName}
	if strings.HasPrefix(verb, "daemon-") {
		args = args[:1]
	}
	_, err := s.Systemctl(ctx, args...)
	return err
}

// atRest waits until one process is left and has answered all clients.
func (s *stage) atRest(ctx context.Context) error {
	if err := s.settle(ctx); err != nil {
		return err
	}
	return s.clients.settled(ctx, now())
}

// judgeRow compares.
func (s *stage) judgeRow(seen *seen, f fault, w want, begun int64) {
	for _, l := range s.journal.since(s.place) {
		if verdict, ok := strings.CutPrefix(l.text, "level=INFO msg=verdict outcome="); ok && seen.outcome == "" {
			seen.outcome, seen.reason = parseVerdict(verdict)
		} else if verdict, ok := strings.CutPrefix(l.text, "level=WARN msg=verdict outcome="); ok && seen.outcome == "" {
			seen.outcome, seen.reason = parseVerdict(verdict)
		}
		if strings.Contains(l.text, `msg="booting -> serving"`) {
			seen.restarted = true
		}
	}
	if seen.outcome != w.outcome && (w.or == "" || seen.outcome != w.or) || !strings.Contains(seen.reason, w.reason) {
		seen.problem("verdict: %s: %q; want %s: %q", seen.outcome, seen.reason, w.outcome, w.reason)
	}
	if w.exit != either && (seen.command == nil) != (w.exit == succeeds) {
		seen.problem("%s: %v; it %s", f.command(), seen.command, w.exit)
	}
	if seen.restarted != w.restarted {
		seen.problem("systemd started the service again: %t; want %t", seen.restarted, w.restarted)
	}
	failures, _ := s.clients.take()
	for _, l := range failures {
		if l.Start < begun || w.restarted && l.byRestart() || f.unkept && l.unkept() || w.stops && l.bound() {
			continue
		}
		if seen.lost++; seen.lost <= 10 && (!w.loses || l.refused()) {
			seen.problem("lost: %v", l)
		}
	}
	if seen.lost > len(s.clients.list) {
		seen.problem("%d requests were lost; a process that dies answers one of each of %d clients", seen.lost, len(s.clients.list))
	}
}

// parseVerdict takes apart what is logged: OUTCOME seconds=N reason="…".
func parseVerdict(text string) (control.Outcome, string) {
	outcome, rest, _ := strings.Cut(text, " seconds=")
	_, reason, _ := strings.Cut(rest, " reason=")
	return control.Outcome(strings.Trim(outcome, `"`)), strings.Trim(reason, `"`)
}

// byRestart says whether it is what a restart costs: an idle connection may end under a request that is on its way,
// as always with HTTP/1.1; and what is not kept, since systemd hears nobody while it stops the service, is not
// acknowledged either.
func (f failure) byRestart() bool { return f.Reused && f.Broken || f.unkept() }

func (f failure) unkept() bool { return strings.HasPrefix(f.Error, statusUnkept) }

// nextWorks goes on to a sound version, as the mode does.
func (s *stage) nextWorks(ctx context.Context, seen *seen) error {
	if err := s.atRest(ctx); err != nil {
		return err
	}
	s.clients.take()
	if err := s.install(""); err != nil {
		return err
	}
	restarts := s.mode == reexec.Restart
	verb := "reload"
	if restarts {
		verb = "restart"
	}
	if err := s.ask(ctx, verb); err != nil {
		seen.problem("the next upgrade: %v", err)
	}
	if err := s.atRest(ctx); err != nil {
		return fmt.Errorf("the next upgrade: %w", err)
	}
	status, err := s.status(ctx)
	if err != nil {
		return err
	}
	if status.Version != fmt.Sprint(s.version) {
		seen.problem("the next upgrade: version %s is main, want %d", status.Version, s.version)
	}
	failures, _ := s.clients.take()
	for _, f := range failures {
		if restarts && f.byRestart() {
			continue
		}
		seen.problem("the next upgrade: lost: %v", f)
	}
	return nil
}

// startAfresh brings the service back after a row that went wrong.
func (s *stage) startAfresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, rowLimit, fmt.Errorf("not over after %v", rowLimit))
	defer cancel()
	s.closeIdle()
	_ = os.Rename(s.path(notifyPath+".hidden"), s.path(notifyPath)) // if it is hidden
	_ = s.Run(ctx, "systemctl", "kill", "--signal=KILL", unitName)  // if it runs
	_ = s.Run(ctx, "sh", "-c", "systemctl stop "+socketName+" "+unitName+"; umount --lazy "+path.Dir(binaryPath)+" /run/"+name+"; rm -rf "+path.Dir(limitDropIn)+"; systemctl daemon-reload; systemctl reset-failed")
	if err := s.install(""); err != nil {
		return err
	}
	if _, err := s.Systemctl(ctx, "start", socketName, unitName); err != nil {
		return err
	}
	return s.atRest(ctx)
}
