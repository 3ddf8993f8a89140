// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
)

const (
	// How myapp is started. It is the same service with shorter times.
	probation    = time.Second
	startTimeout = 3 * time.Second
	drainTimeout = 10 * time.Second

	// stepTimeout bounds a step: the longest takes startTimeout and a little.
	stepTimeout = time.Minute
	// sampleInterval is how often traffic is told.
	sampleInterval = 250 * time.Millisecond
	// epilogue is how many requests are made after the last step: what it broke would show.
	epilogue = 1000
)

// clients are those of every place, where the URL differs.
var clients = vmtests.LoadOptions{
	New: 3, KeepAlive: 3, Transport: 3, Redial: true,
	Think: 4 * time.Millisecond, Timeout: 15 * time.Second,
	Results: true,
}

// A demo is one run.
type demo struct {
	place    place
	programs string // directory
	view     view
	start    int64 // of CLOCK_MONOTONIC, in nanoseconds

	load *vmtests.Load

	deaths     []death
	tally      tally
	reloadTook time.Duration // of the present step
	rows       []row

	viewMu sync.Mutex
}

// A report is what a run comes to.
type report struct {
	tally    tally
	rows     []row
	notes    []string
	problems []string // other than those of rows
}

// run runs the demo. The error says why there is no report.
func (d *demo) run(ctx context.Context) (r report, err error) {
	d.start = monotonic()
	titles := []string{fmt.Sprintf("%s, start myapp %s", d.place.title(), version1.Version)}
	for _, s := range steps {
		titles = append(titles, s.title)
	}
	d.show(planned{d.now(), titles})
	stop := d.sample()
	defer func() {
		stop()
		err = errors.Join(err, d.place.close())
		d.view.close()
	}()

	d.show(began{d.now(), 0})
	if err := d.install(ctx); err != nil {
		return report{}, err
	}
	pid, err := mainPID(ctx, d.place)
	if err != nil {
		return report{}, err
	}
	d.show(ended{d.now(), 0, true, fmt.Sprintf("PID %d", pid)})

	for i, s := range steps {
		if err := d.step(ctx, i+1, s); err != nil {
			return report{}, err
		}
	}
	if _, err := d.load.WaitOK(ctx, epilogue); err != nil {
		return report{}, err
	}
	summary, err := d.load.Stop(ctx)
	if err != nil {
		return report{}, err
	}
	return d.report(summary), nil
}

// install makes the place ready, installs myapp as a package would, and starts it and the load.
func (d *demo) install(ctx context.Context) error {
	systemd, err := d.place.boot(ctx)
	if err != nil {
		return err
	}
	d.show(booted{d.now(), systemd})
	if err := d.place.put(ctx, "holdfast", holdfast.file(d.programs)); err != nil {
		return err
	}
	if err := d.put(ctx, version1); err != nil {
		return err
	}
	address, err := d.place.start(ctx)
	if err != nil {
		return d.withJournal(err)
	}
	options := clients
	options.URL = "http://" + address + "/echo"
	load, err := d.place.startLoad(ctx, options)
	if err != nil {
		return d.withJournal(err)
	}
	d.viewMu.Lock()
	d.load = load
	d.viewMu.Unlock()
	return nil
}

// put replaces the binary under its name; what runs keeps the old one.
func (d *demo) put(ctx context.Context, p program) error {
	return d.place.put(ctx, "myapp", p.file(d.programs))
}

// step does one step and measures it. The error says why the demo cannot go on.
func (d *demo) step(ctx context.Context, number int, s step) error {
	d.show(began{d.now(), number})
	d.reloadTook = 0
	stepCtx, cancel := context.WithTimeoutCause(ctx, stepTimeout, fmt.Errorf("the step took more than %v", stepTimeout))
	defer cancel()
	from := monotonic()
	v, err := s.do(stepCtx, d)
	to := monotonic()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r := row{Title: s.title, Reload: d.reloadTook, Verdict: v}
	if err != nil {
		r.Problem = d.withJournal(err).Error()
	}
	if _, err := d.load.Mark(ctx, s.title); err != nil {
		return err
	}
	results := d.load.Results(0)
	ok := successes(results)
	r.Gap, r.NewGap = longestGap(ok, from, to, anyRequest), longestGap(ok, from, to, onNewConnection)
	d.rows = append(d.rows, r)
	said := v.String()
	if err != nil {
		said = err.Error()
	}
	d.show(ended{d.now(), number, err == nil, said})
	lost := settle(results, d.deaths)
	d.show(settled{d.now(), len(lost.Failed), len(lost.Cut)})
	return nil
}

// report adds up.
func (d *demo) report(summary vmtests.LoadSummary) report {
	results := d.load.Results(0)
	r := report{tally: d.tally, rows: d.rows}
	for _, row := range d.rows {
		if row.Problem != "" {
			r.tally.Failed++
		}
	}
	s := settle(results, d.deaths)
	r.tally.Requests, r.tally.Cut = s.Requests, len(s.Cut)
	r.tally.Failed += len(s.Failed)
	const described = 10
	for i, l := range s.Failed {
		if i == described {
			r.problems = append(r.problems, fmt.Sprintf("and %d requests more", len(s.Failed)-described))
			break
		}
		at := time.Duration(l.Request.Start - summary.Start)
		r.problems = append(r.problems, fmt.Sprintf("request at %.3f s: %v", at.Seconds(), l))
	}
	if counted := summary.OK + summary.Failed; counted != s.Requests {
		r.tally.Failed++
		r.problems = append(r.problems, fmt.Sprintf("the load made %d requests and told of %d", counted, s.Requests))
	}
	ok := successes(results)
	for i, death := range d.deaths {
		text := fmt.Sprintf("%s: PID %d held %s, and %s cut", death.Cause, death.PID,
			count(len(death.Ports), "connection"), count(s.CutBy[i], "request"))
		if next, found := findTakeover(ok, death.PID); found {
			text += fmt.Sprintf("; %s after its last answer PID %d (%s) answered a new connection", milliseconds(next.After), next.PID, next.Version)
		}
		r.notes = append(r.notes, text)
	}
	return r
}

// withJournal adds what the unit logged last to an error.
func (d *demo) withJournal(err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	journal, journalErr := d.place.journal(ctx)
	if journalErr != nil {
		return err
	}
	return fmt.Errorf("%w\nits journal ends:\n%s", err, journal)
}

func (d *demo) now() moment { return moment(monotonic() - d.start) }

func (d *demo) show(e event) {
	d.viewMu.Lock()
	defer d.viewMu.Unlock()
	d.view.show(e)
}

// sample tells the traffic until it is stopped.
func (d *demo) sample() (stop func()) {
	done := make(chan struct{})
	var sampling sync.WaitGroup
	sampling.Go(func() {
		tick := time.NewTicker(sampleInterval)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				t := traffic{moment: d.now()}
				d.viewMu.Lock()
				load := d.load
				d.viewMu.Unlock()
				if load != nil {
					p := load.Progress()
					t.Counted, t.Answered, t.Versions = time.Duration(p.At-d.start), p.OK, p.Versions
				}
				d.show(t)
			}
		}
	})
	return func() {
		close(done)
		sampling.Wait()
	}
}

// write writes the report; its last line is that of the tally.
func (r report) write(out *os.File) error {
	fmt.Fprintln(out)
	if err := writeTable(out, r.rows, r.notes, r.problems); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, r.tally)
	return err
}
