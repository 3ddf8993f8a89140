// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/load"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/stats"
)

// A crashSubject is a service and how it ends, so that systemd starts it again.
type crashSubject struct {
	name, title string
	program     string // of cmd/
	restart     bool   // by "systemctl restart"; else by SIGKILL to its main process
	stored      int    // descriptors that systemd is to keep for it before that
	launched    bool   // by "holdfast launch", which is to have a good version before that
	// unit renders its units; path is where its program is, and address its own.
	unit func(systemd int, name, path, address string) ([]units.File, error)
}

// crashSubjects begin with what the others are compared with.
var crashSubjects = []crashSubject{
	{
		name: "restart", title: "systemctl restart of an empty Go service", program: "empty", restart: true, unit: emptyUnits,
	},
	{
		name: "empty", title: "SIGKILL of the empty Go service", program: "empty", unit: emptyUnits,
	},
	{
		name: "file", title: "SIGKILL of Holdfast in the rendered units, with --launcher=off", program: "holdfast",
		unit: toyUnits(true, units.LauncherOff),
	},
	{
		name: "launcher", title: "the same as it is rendered: holdfast launch chooses the file", program: "holdfast",
		launched: true, unit: toyUnits(true, units.LauncherOn),
	},
	{
		name: "store", title: "the same without a socket unit: its socket and a state of 1 MiB come from the fd store",
		program: "holdfast", launched: true, stored: 2, unit: toyUnits(false, units.LauncherOn, "-state=1048576"),
	},
}

// toyUnits renders the units of the toy service on Holdfast, with a socket unit or without.
func toyUnits(socket bool, launcher units.Launcher, args ...string) func(systemd int, name, path, address string) ([]units.File, error) {
	return func(systemd int, name, path, address string) ([]units.File, error) {
		o := units.Options{
			// It is good soon after its start: see crasher.isReady.
			Name: name, Exec: path, Args: append([]string{"-listen=" + address, "-probation=100ms"}, args...), Systemd: systemd,
			Probation: 100 * time.Millisecond, Launcher: launcher,
		}
		if socket {
			o.Sockets = []units.Socket{{Name: "toy", Address: address}}
		}
		return units.Render(o)
	}
}

// emptyUnits are a socket and a service with nothing that they can do without. It waits before a restart as
// the rendered units do.
func emptyUnits(systemd int, name, path, address string) ([]units.File, error) {
	rendered, err := units.Render(units.Options{Name: name, Exec: path, Systemd: systemd})
	if err != nil {
		return nil, err
	}
	_, after, _ := strings.Cut(rendered[0].Content, "\nRestartSec=")
	wait, _, ok := strings.Cut(after, "\n")
	if !ok {
		return nil, errors.New("the rendered unit has no RestartSec=")
	}
	return []units.File{
		{Name: name + ".socket", Content: fmt.Sprintf("[Socket]\nListenStream=%s\nBacklog=4096\nTriggerLimitIntervalSec=0\n", address)},
		{Name: name + ".service", Content: fmt.Sprintf("[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=%s\nRestart=on-failure\nRestartSec=%s\n", path, wait)},
	}, nil
}

// crashes are the crashes under one version of systemd.
type crashes struct {
	Systemd  int        `json:"systemd"`
	Subjects []*crashed `json:"subjects"`
}

// crashed is what became of one subject.
type crashed struct {
	Subject string        `json:"subject"`
	Title   string        `json:"title"`
	Pause   time.Duration `json:"restart_sec_ns"` // what systemd waits on purpose; 0 for a restart
	Error   string        `json:"error,omitempty"`
	Rounds  []crashRound  `json:"rounds"`

	Total quartiles `json:"total"` // from the signal, or systemctl, to the first answer of the next process
	Work  quartiles `json:"work"`  // the same less Pause
	Exec  quartiles `json:"exec"`  // until systemd executes the next process, less Pause
	Start quartiles `json:"start"` // from there to its first answer
	// Ratios of the medians to those of the first subject.
	TotalRatio float64 `json:"total_ratio"`
	WorkRatio  float64 `json:"work_ratio"`
	// Failed counts probes that got an error and no answer.
	Failed int `json:"failed"`
}

// A crashRound has times of CLOCK_MONOTONIC in nanoseconds.
type crashRound struct {
	Begin int64 `json:"begin"` // the signal, or systemctl
	Exec  int64 `json:"exec"`  // ExecMainStartTimestampMonotonic= of the next process
	First int64 `json:"first"` // its first answer
}

type quartiles struct {
	P25   time.Duration `json:"p25_ns"`
	P50   time.Duration `json:"p50_ns"`
	P75   time.Duration `json:"p75_ns"`
	Worst time.Duration `json:"worst_ns"`
}

func quartilesOf(rounds []crashRound, value func(crashRound) time.Duration) quartiles {
	var all []time.Duration
	for _, r := range rounds {
		all = append(all, value(r))
	}
	slices.Sort(all)
	return quartiles{stats.Percentile(all, 25), stats.Percentile(all, 50), stats.Percentile(all, 75), stats.Percentile(all, 100)}
}

// sumUp computes what follows from the rounds.
func (c *crashes) sumUp() {
	for _, s := range c.Subjects {
		s.Total = quartilesOf(s.Rounds, func(r crashRound) time.Duration { return time.Duration(r.First - r.Begin) })
		s.Work = quartilesOf(s.Rounds, func(r crashRound) time.Duration { return time.Duration(r.First-r.Begin) - s.Pause })
		s.Exec = quartilesOf(s.Rounds, func(r crashRound) time.Duration { return time.Duration(r.Exec-r.Begin) - s.Pause })
		s.Start = quartilesOf(s.Rounds, func(r crashRound) time.Duration { return time.Duration(r.First - r.Exec) })
		s.TotalRatio = stats.Ratio(s.Total.P50, c.Subjects[0].Total.P50)
		s.WorkRatio = stats.Ratio(s.Work.P50, c.Subjects[0].Work.P50)
	}
}

// measureCrashes measures all subjects under each of the versions, in containers.
func (b *bench) measureCrashes(ctx context.Context, versions []vmtests.Version, progress func(string)) ([]*crashes, error) {
	var all []*crashes
	for _, v := range versions {
		c, err := b.crashesUnder(ctx, v, func(what string) { progress(fmt.Sprintf("crash, %v: %s", v, what)) })
		if err != nil {
			return all, fmt.Errorf("crash, %v: %w", v, err)
		}
		all = append(all, c)
	}
	return all, nil
}

func (b *bench) crashesUnder(ctx context.Context, v vmtests.Version, progress func(string)) (_ *crashes, err error) {
	progress("boot")
	m, err := vmtests.Boot(ctx, v)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	c := &crashes{Systemd: int(v)}
	var crashers []*crasher
	for i, s := range crashSubjects {
		one, err := b.startCrasher(ctx, m, s, fmt.Sprintf("127.0.0.1:%d", 8080+i))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		defer func() { err = errors.Join(err, one.load.end()) }()
		crashers, c.Subjects = append(crashers, one), append(c.Subjects, one.result)
	}
	// In turns, since a machine is not always equally quick.
	for i := range b.crashRounds {
		progress(fmt.Sprintf("round %d of %d", i+1, b.crashRounds))
		for _, one := range crashers {
			if err := one.round(ctx); err != nil {
				return nil, fmt.Errorf("%s, round %d: %w\n%s", one.subject.name, i+1, err, one.output(context.WithoutCancel(ctx)))
			}
		}
	}
	c.sumUp()
	return c, nil
}

// A crasher is one subject that runs.
type crasher struct {
	container
	subject crashSubject
	load    *loader
	last    load.First
	result  *crashed
}

func (b *bench) startCrasher(ctx context.Context, m *vmtests.Machine, s crashSubject, address string) (*crasher, error) {
	name := "crash-" + s.name
	// A directory of its own, as the rendered units allow execution by directory.
	path := "/usr/lib/" + name + "/" + s.program
	files, err := s.unit(int(m.Version), name, path, address)
	if err != nil {
		return nil, err
	}
	for to, from := range map[string]string{path: b.file(s.program, 1), "/usr/bin/holdfast": b.holdfastCommand(), "/run/bench/load": b.file("load", 1)} {
		if err := m.Copy(ctx, from, to, 0o755); err != nil {
			return nil, err
		}
	}
	for _, f := range files {
		if err := m.WriteFile(ctx, "/etc/systemd/system/"+f.Name, []byte(f.Content), 0o644); err != nil {
			return nil, err
		}
	}
	if _, err := m.Systemctl(ctx, "daemon-reload"); err != nil {
		return nil, err
	}
	one := &crasher{
		container: container{bench: b, path: path, machine: m, unit: name + ".service"},
		subject:   s, result: &crashed{Subject: s.name, Title: s.title},
	}
	args := []string{"start"}
	for _, f := range files {
		args = append(args, f.Name)
	}
	if _, err := m.Systemctl(ctx, args...); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, one.output(ctx))
	}
	if !s.restart {
		text, err := m.Prop(ctx, one.unit, "RestartUSec")
		if err == nil {
			one.result.Pause, err = time.ParseDuration(text)
		}
		if err != nil {
			return nil, err
		}
	}
	if one.load, err = one.startLoad(ctx); err != nil {
		return nil, err
	}
	one.last, err = one.load.Start(load.Options{Mode: load.New, Address: address, Clients: 1, Think: crashThink}, answerLimit)
	if err != nil {
		return nil, errors.Join(err, one.load.end())
	}
	return one, nil
}

// crashThink lets the one client that goes on during all rounds take nothing from them.
const crashThink = 50 * time.Millisecond

// round ends the service once, and waits until it has started again and is as new.
func (c *crasher) round(ctx context.Context) error {
	var r crashRound
	var err error
	ended := func() error { return nil }
	if c.subject.restart {
		r.Begin, ended, err = c.beginRestart(ctx)
	} else {
		r.Begin, err = c.kill(ctx)
	}
	if err != nil {
		return err
	}
	first, err := c.load.Probe([]string{c.last.PID}, answerLimit)
	if err := errors.Join(err, ended()); err != nil {
		return err
	}
	props, err := c.machine.Props(ctx, c.unit, "MainPID", "ExecMainStartTimestampMonotonic")
	if err != nil {
		return err
	}
	if props["MainPID"] != first.PID {
		return fmt.Errorf("PID %s answers and MainPID=%s", first.PID, props["MainPID"])
	}
	usec, err := strconv.ParseInt(props["ExecMainStartTimestampMonotonic"], 10, 64)
	if err != nil {
		return err
	}
	r.Exec, r.First = usec*int64(time.Microsecond), first.At
	c.result.Rounds, c.last = append(c.result.Rounds, r), first
	c.result.Failed += first.Failed
	if c.subject.restart {
		return nil
	}
	// systemd waits longer for each restart of a service that crashes again and again: this makes it forget.
	if _, err := c.machine.Systemctl(ctx, "restart", c.unit); err != nil {
		return err
	}
	c.last, err = c.load.Probe([]string{c.last.PID}, answerLimit)
	return err
}

// kill kills the main process and says when.
func (c *crasher) kill(ctx context.Context) (int64, error) {
	waiting, cancel := context.WithTimeoutCause(ctx, answerLimit, fmt.Errorf("not stored or not good after %v", answerLimit))
	defer cancel()
	if err := poll(waiting, func() (bool, error) { return c.isReady(ctx) }); err != nil {
		return 0, err
	}
	pid, err := c.machine.MainPID(ctx, c.unit)
	if err == nil {
		pid, err = c.machine.HostPID(pid)
	}
	if err != nil {
		return 0, err
	}
	at := load.Now()
	return at, unix.Kill(pid, unix.SIGKILL)
}

// isReady says whether the service has what it is to have before it is killed: in the fd store, and as its last
// good version. Without that a file that is killed again and again would be taken for a bad one.
func (c *crasher) isReady(ctx context.Context) (bool, error) {
	if c.subject.launched {
		found, err := c.machine.Output(ctx, "sh", "-c", `ls "/var/lib/$1.holdfast"`, "sh", strings.TrimSuffix(c.unit, ".service"))
		if err != nil || !strings.Contains(found, "good-") {
			return false, err
		}
	}
	if c.subject.stored == 0 {
		return true, nil
	}
	text, err := c.machine.Prop(ctx, c.unit, "NFileDescriptorStore")
	if err != nil {
		return false, err
	}
	n, err := strconv.Atoi(text)
	return n >= c.subject.stored, err
}

// beginRestart has "systemctl restart" executed and says when it was: the way into the container is not what
// is measured.
func (c *crasher) beginRestart(ctx context.Context) (at int64, ended func() error, err error) {
	started := make(chan string, 1)
	p, err := c.machine.Start(ctx, vmtests.Command{
		Args:   []string{"sh", "-c", `date +%s%N; exec systemctl restart "$1"`, "sh", c.unit},
		Stdout: firstLine(started),
	})
	if err != nil {
		return 0, nil, err
	}
	ended = p.Wait
	select {
	case line := <-started:
		real, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
		if err != nil {
			return 0, nil, errors.Join(err, ended())
		}
		return real - (time.Now().UnixNano() - load.Now()), ended, nil
	case <-ctx.Done():
		return 0, nil, errors.Join(context.Cause(ctx), ended())
	}
}

// firstLine is a writer for output that is one short line.
type firstLine chan<- string

func (f firstLine) Write(text []byte) (int, error) {
	select {
	case f <- string(text):
	default:
	}
	return len(text), nil
}
