// SPDX-License-Identifier: Apache-2.0

package campaign

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec"
	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/vmtests"
)

// KillOptions say how often processes are killed, and where.
type KillOptions struct {
	Versions []vmtests.Version
	Mode     reexec.Mode
	Seed     uint64
	Rounds   int // of all versions together
	// Replay is the seed of one round, to run that alone; 0 for none.
	Replay uint64
	// Log gets a line for each round and what was wrong; it is called by one goroutine at a time.
	Log func(string)
}

// killTiming makes rounds short: an upgrade takes a fifth of a second.
var killTiming = timing{check: 10 * time.Second, start: 10 * time.Second, probation: 120 * time.Millisecond, beat: 80 * time.Millisecond, drain: 5 * time.Second}

// roundLimit bounds a round on a busy machine.
const roundLimit = time.Minute

// Kill kills processes of the service at random, the versions of systemd side by side, and reports. An error
// is one of the campaign itself; what is wrong with Holdfast is in the report.
func Kill(ctx context.Context, programs *Programs, o KillOptions) (*KillReport, error) {
	report := newKillReport(o)
	var working sync.WaitGroup
	errs := make([]error, len(o.Versions))
	for i, v := range o.Versions {
		rounds := (o.Rounds + len(o.Versions) - 1 - i) / len(o.Versions)
		working.Go(func() {
			if errs[i] = killOn(ctx, programs, o, v, rounds, report); errs[i] != nil {
				errs[i] = fmt.Errorf("%v: %w", v, errs[i])
			}
		})
	}
	working.Wait()
	report.conclude()
	return report, errors.Join(errs...)
}

func killOn(ctx context.Context, programs *Programs, o KillOptions, v vmtests.Version, rounds int, report *KillReport) (err error) {
	s, err := start(ctx, v, o.Mode, programs, killTiming)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	c, err := s.startClients(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	k := &killer{System: s, clients: c, report: report}
	if k.sockets, err = s.listeners(); err != nil {
		return err
	}
	next := seeds(o.Seed, v)
	if o.Replay != 0 {
		rounds, next = 1, func() uint64 { return o.Replay }
	}
	for n := 1; n <= rounds && ctx.Err() == nil; n++ {
		r := &round{number: n, systemd: v, plan: newPlan(next())}
		if err := k.round(ctx, r); err != nil {
			said, _ := s.Systemctl(context.WithoutCancel(ctx), "status", "--no-pager", "--lines=0", unitName, socketName)
			return fmt.Errorf("round %d, seed %d (%v): %w\n%s\n%s", n, r.plan.seed, r.plan, err, said, k.story(context.WithoutCancel(ctx)))
		}
		report.add(r)
		if len(r.problems) > 0 {
			report.log(k.story(ctx))
		}
	}
	report.addClients(c)
	return nil
}

// A killer goes from round to round on one system.
type killer struct {
	*System
	clients   *clients
	report    *KillReport
	sockets   map[string]uint64 // inodes of listeners
	restarts  int
	incidents []*incident
	place     int // in the journal, at the begin of the round
}

// An incident is what was done to a process.
type incident struct {
	target  process
	at      int64        // when it was stopped, and its connections were known
	clients map[int]bool // ports
	died    int64        // 0 if it lives
	oldest  bool         // there was none before it
	// loose: it went on for a moment before it died, so that what it accepted then is not known.
	loose bool
}

// A round is one, and what came of it.
type round struct {
	number  int
	systemd vmtests.Version
	plan    plan

	struck    string // what the process was: its state, or "no process"
	verdict   string // of the upgrade, as far as one was told
	restarted bool
	lost      int // requests that went with the process that was answering them
	loose     int // the same, where it was told by time
	unkept    int // counts that could not be kept, and so were not acknowledged
	problems  []string
}

func (r *round) problem(format string, args ...any) {
	r.problems = append(r.problems, fmt.Sprintf(format, args...))
}

// round runs one. An error ends the campaign on this system.
func (k *killer) round(ctx context.Context, r *round) error {
	ctx, cancel := context.WithTimeoutCause(ctx, roundLimit, fmt.Errorf("not over after %v", roundLimit))
	defer cancel()
	k.place = k.journal.now()
	p := r.plan
	var reload <-chan error
	if p.moment.name != between.name {
		if err := k.install(""); err != nil {
			return err
		}
		var err error
		if reload, err = k.askForUpgrade(ctx, p.bySignal); err != nil {
			return err
		}
	}
	if err := k.awaitMoment(ctx, p); err != nil {
		return err
	}
	hit, err := k.strike(ctx, r)
	if err != nil {
		return err
	}
	if reload != nil {
		select {
		case <-reload: // its status depends on who was hit
		case <-ctx.Done():
			return fmt.Errorf("the reload does not end: %w", context.Cause(ctx))
		}
	}
	if err := k.settle(ctx); err != nil {
		return err
	}
	if err := k.clients.settled(ctx, now()); err != nil {
		return err
	}
	if hit != nil {
		select {
		case hit.died = <-hit.target.ended:
		default:
		}
		k.incidents = append(k.incidents, hit)
	}
	if err := k.examine(ctx, r); err != nil {
		return err
	}
	r.struck = k.phase(hit)
	return nil
}

// askForUpgrade does so, and tells when it has been answered.
func (k *killer) askForUpgrade(ctx context.Context, bySignal bool) (<-chan error, error) {
	done := make(chan error, 1)
	if !bySignal {
		go func() {
			_, err := k.Systemctl(ctx, "reload", unitName)
			done <- err
		}()
		return done, nil
	}
	all, err := k.processes()
	if err != nil || len(all) != 1 {
		return nil, fmt.Errorf("%d processes between two rounds (%v), must be 1", len(all), err)
	}
	if err := all[0].watch(); err != nil {
		return nil, err
	}
	done <- all[0].signal(unix.SIGUSR2)
	return done, nil
}

// momentLimit bounds the wait for a moment. In place and restart have not all of them.
const momentLimit = 3 * time.Second

// awaitMoment returns when it is time to strike, or when the moment does not come.
func (k *killer) awaitMoment(ctx context.Context, p plan) error {
	if p.moment.line != "" {
		inTime, cancel := context.WithTimeout(ctx, momentLimit)
		_, err := k.journal.wait(inTime, k.place, p.moment.line, "msg=verdict outcome=")
		cancel()
		if err != nil && inTime.Err() == nil {
			return err
		}
	}
	if !pause(ctx, p.delay) {
		return context.Cause(ctx)
	}
	return nil
}

// strike does to a process what the plan says. It returns nil if there is no process, which is so while systemd
// starts the service again.
func (k *killer) strike(ctx context.Context, r *round) (*incident, error) {
	all, err := k.processes()
	if err != nil || len(all) == 0 {
		return nil, err
	}
	target := all[0]
	if r.plan.newer {
		target = all[len(all)-1]
	}
	hit := &incident{target: target, oldest: target.host == all[0].host}
	if err := hit.target.watch(); err != nil {
		return nil, ignoreEnded(err)
	}
	if err := hit.target.freeze(ctx); err != nil {
		return nil, ignoreEnded(err)
	}
	hit.at = now()
	if hit.clients, err = hit.target.clients(); err != nil {
		return nil, err
	}
	switch p := r.plan; p.act {
	case actKill:
		err = hit.target.signal(unix.SIGKILL)
	case actAbort, actSegv:
		hit.loose = true
		s := unix.SIGABRT
		if p.act == actSegv {
			s = unix.SIGSEGV
		}
		if err = hit.target.signal(s); err == nil {
			err = hit.target.signal(unix.SIGCONT)
		}
	case actStop, actStopKill:
		if !pause(ctx, p.hold) {
			return nil, context.Cause(ctx)
		}
		s := unix.SIGCONT
		if p.act == actStopKill {
			s = unix.SIGKILL
		}
		err = hit.target.signal(s) // a successor that hangs may have been killed by main
	}
	return hit, ignoreEnded(err)
}

func ignoreEnded(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// settle waits until one process is left, which is main for all, and systemd has nothing to do.
func (k *killer) settle(ctx context.Context) error {
	var last string
	for {
		all, err := k.processes()
		if err != nil {
			return err
		}
		last = fmt.Sprintf("%d processes", len(all))
		if len(all) == 1 {
			status, err := k.status(ctx)
			last = fmt.Sprintf("%+v, %v", status, err)
			if err == nil && status.State == "running" && status.PID == all[0].guest && status.Successor == nil && len(status.Draining) == 0 {
				props, err := k.Props(ctx, unitName, "ActiveState", "SubState", "MainPID", "Job")
				if err != nil {
					return err
				}
				last = fmt.Sprint(props)
				if props["ActiveState"] == "active" && props["SubState"] == "running" && props["MainPID"] == strconv.Itoa(status.PID) && props["Job"] == "" {
					return nil
				}
			}
		}
		// A failed unit does not come back.
		if !pause(ctx, 5*time.Millisecond) {
			return fmt.Errorf("the service does not come to rest: %s: %w", last, context.Cause(ctx))
		}
	}
}

// status asks main, soon or not at all.
func (s *System) status(ctx context.Context) (control.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return s.control.Status(ctx)
}

// examine looks for what must not be.
func (k *killer) examine(ctx context.Context, r *round) error {
	k.noteHung()
	failures, backward := k.clients.take()
	for _, f := range failures {
		if strings.HasPrefix(f.Error, statusUnkept) {
			r.unkept++
			continue
		}
		switch k.judge(f) {
		case excused:
			r.lost++
		case excusedByTime:
			r.loose++
		default:
			if f.refused() {
				r.problem("refused: %v", f)
			} else {
				r.problem("lost: %v", f)
			}
		}
	}
	for _, b := range backward {
		r.problem("commit lost: %s", b)
	}
	sockets, err := k.listeners()
	if err != nil {
		return err
	}
	for name, inode := range k.sockets {
		if sockets[name] != inode {
			r.problem("listener %s is another socket: inode %d, was %d", name, sockets[name], inode)
		}
	}
	k.sockets = sockets
	out, err := k.Output(ctx, "sh", "-c", "systemctl show -P NRestarts "+unitName+"; systemctl list-units --failed --no-legend --plain")
	if err != nil {
		return err
	}
	count, failed, _ := strings.Cut(out, "\n")
	if strings.TrimSpace(failed) != "" {
		r.problem("failed units: %s", failed)
	}
	restarts, err := strconv.Atoi(count)
	if err != nil {
		return fmt.Errorf("NRestarts=%q: %w", count, err)
	}
	r.restarted, k.restarts = restarts != k.restarts, restarts
	for _, l := range k.journal.since(k.place) {
		if _, verdict, ok := strings.Cut(l.text, `msg=verdict outcome=`); ok {
			r.verdict = strings.Trim(strings.SplitN(verdict, " seconds=", 2)[0], `"`)
		}
		switch {
		case strings.Contains(l.text, "state is not committed"):
			// It was main until systemd was told of a successor that died at that moment; what it has
			// acknowledged is in the store.
			r.unkept++
		case strings.Contains(l.text, "level=ERROR"):
			r.problem("journal: %s", l.text)
		}
	}
	return nil
}

// noteHung adds what main has killed because it gave no sign of life: that is another's doing on a machine
// that is too busy, and the same loss.
func (k *killer) noteHung() {
	for _, l := range k.journal.since(k.place) {
		if strings.Contains(l.text, " on=hung ") {
			k.incidents = append(k.incidents, &incident{at: l.at - int64(time.Second), died: l.at, loose: true})
		}
	}
}

// judgement says whether a failed request was lost with the process that was answering it.
type judgement int

const (
	guilty judgement = iota
	excused
	excusedByTime
)

// atDeath is how long after a death its end reaches a client on a busy machine.
const atDeath = int64(500 * time.Millisecond)

func (k *killer) judge(f failure) judgement {
	for _, i := range slices.Backward(k.incidents) {
		if i.died == 0 || f.End < i.at {
			continue
		}
		// A connection that was idle when it died is found out with the next request.
		if i.clients[f.LocalPort] && (f.Start <= i.died || f.Reused && f.Start <= i.died+int64(2*time.Second)) {
			return excused
		}
		if f.Start > i.died {
			continue
		}
		// Where no port tells, and where the process went on until it died.
		noPort := f.client == "unix" || f.client == "udp"
		if noPort && !f.refused() && (f.client == "udp" || f.End <= i.died+atDeath) || i.loose && f.Broken && f.End <= i.died+atDeath {
			return excusedByTime
		}
	}
	return guilty
}

// phase names what the process was that was hit: from the states that generations have logged before.
func (k *killer) phase(hit *incident) string {
	if hit == nil {
		return "nobody there"
	}
	main := "serving" // of whoever is main, as it logs it
	mine := ""
	for _, t := range transitions(k.journal.since(k.place)) {
		switch {
		case t.at > hit.at:
		case t.pid == hit.target.guest:
			mine = t.to
		case t.to != "offered" && t.to != "trial":
			main = t.to
		}
	}
	switch {
	case mine != "":
		return mine
	case hit.oldest:
		return "serving"
	case main == "checking":
		return "pre-check"
	}
	return "joining"
}

// story is what the service and systemd have said in this round.
func (k *killer) story(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	lines := k.journal.since(k.place)
	if len(lines) == 0 {
		return ""
	}
	said, err := k.Journal(ctx, "--unit="+unitName, "--lines=300")
	if err != nil {
		return text(lines)
	}
	var b strings.Builder
	for one := range strings.Lines(said) {
		// [ 1234.567890] victim[12]: text
		stamp, _, _ := strings.Cut(strings.TrimLeft(one, "[ "), "]")
		if at, err := strconv.ParseFloat(stamp, 64); err == nil && at >= float64(lines[0].at)/1e9-0.01 {
			b.WriteString(one)
		}
	}
	return b.String()
}
