// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/load"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/toy"
	"github.com/holdfast-go/holdfast/vmtests/internal/procs"
)

const (
	// answerLimit bounds how long a new version may take until it answers, on a busy machine.
	answerLimit = 30 * time.Second
	// settleMargin is how much longer than the drain an old generation may live.
	settleMargin = 15 * time.Second
	// memoryBeat is the interval in which memory is looked at during an upgrade.
	memoryBeat = 50 * time.Millisecond
)

// An upgrade is one that was measured. Times are of CLOCK_MONOTONIC in nanoseconds.
type upgrade struct {
	Bare    int64         `json:"bare"` // when a bare exec was begun, of which Exec is the time
	Exec    time.Duration `json:"exec_ns"`
	Signal  int64         `json:"signal"`  // when it was begun
	First   int64         `json:"first"`   // when the new version first answered
	Settled int64         `json:"settled"` // when nothing of the old generation was left
	Memory  procs.Memory  `json:"memory"`  // peak of all generations together
	// Unanswered counts the questions on new connections, between Signal and First, that nobody answered.
	// They are no part of the load.
	Unanswered int `json:"unanswered"`
	// Phases are those of the verdict; only Holdfast has one.
	Phases map[string]time.Duration `json:"phases_ns,omitempty"`
}

// measure runs one workload against one peer. What it returns is never nil.
func (b *bench) measure(ctx context.Context, p peer, w workload, progress func(string)) (*cell, error) {
	c := &cell{Peer: p.name, Workload: w.name}
	if !p.speaks(w.protocol) {
		c.Skipped = fmt.Sprintf("its recipe has no %s", w.protocol)
		return c, nil
	}
	if p.missing != nil {
		if err := p.missing(); err != nil {
			c.Skipped = err.Error()
			return c, nil
		}
	}
	if w.mode == load.Idle {
		if err := needsFiles(int64(b.idle)); err != nil {
			c.Skipped = err.Error()
			return c, nil
		}
	}
	svc, err := p.start(ctx, b, p, w.protocol)
	if err != nil {
		return c, fmt.Errorf("start: %w", err)
	}
	err = b.run(ctx, c, svc, p, w, progress)
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, svc.output(ctx))
	}
	return c, errors.Join(err, svc.close())
}

func (b *bench) options(svc service, w workload) load.Options {
	options := load.Options{Mode: w.mode, Address: svc.address(), Clients: b.clients, Think: b.think, Delay: w.delay}
	if w.mode == load.Idle {
		options.Clients = b.idle
	}
	if w.protocol == toy.TLS {
		options.CA = b.ca
	}
	return options
}

// run makes the load and the upgrades. What the peer does wrong goes into c, an error is our own.
func (b *bench) run(ctx context.Context, c *cell, svc service, p peer, w workload, progress func(string)) (err error) {
	generator, err := svc.startLoad(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, generator.end()) }()
	first, err := generator.Start(b.options(svc, w), answerLimit)
	if err != nil {
		return err
	}
	at, err := svc.processes()
	if err != nil {
		return err
	}
	begin := load.Now()
	if err := pause(ctx, b.steady); err != nil {
		return err
	}
	var upgrades []upgrade
	count := b.upgradesOf(p, w)
	for i := range count {
		progress(fmt.Sprintf("upgrade %d of %d", i+1, count))
		if err := svc.install(ctx, 2-i%2); err != nil {
			return err
		}
		// Under the same load and as near in time as can be, since a machine is not always equally quick.
		bare := load.Now()
		exec, err := b.bareExec(ctx, p, w.protocol)
		if err != nil {
			return fmt.Errorf("bare exec: %w", err)
		}
		if err := pause(ctx, 2*aroundBefore); err != nil {
			return err
		}
		u, next, err := upgradeOnce(ctx, svc, generator, first, len(at), max(b.drain, p.drain)+settleMargin)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			c.Error = fmt.Sprintf("upgrade %d: %v: %s", i+1, err, svc.output(ctx))
			break
		}
		u.Bare, u.Exec = bare, exec
		if s, ok := svc.(bySignal); ok {
			if u.Phases, err = s.phases(ctx); err != nil {
				return err
			}
		}
		upgrades, first = append(upgrades, u), next
		if w.mode == load.Idle {
			if err := generator.Sweep(); err != nil {
				return err
			}
		}
		if err := pause(ctx, b.steady); err != nil {
			return err
		}
	}
	report, err := generator.Stop()
	if err != nil {
		return err
	}
	c.sumUp(begin, upgrades, report, w)
	return nil
}

// upgradeOnce makes one upgrade of what answers as old, and waits until nothing but the new version is there:
// as many processes as before. What the recipe asks for and the end of the old version may take limit.
func upgradeOnce(ctx context.Context, svc service, generator *loader, old load.First, processes int, limit time.Duration) (upgrade, load.First, error) {
	// Before the signal, too: an upgrade may be over before the next look.
	peak, err := memoryOf(svc)
	if err != nil {
		return upgrade{}, load.First{}, err
	}
	watching, stop := context.WithCancel(ctx)
	watched := make(chan error, 1)
	go func() {
		during, err := watchMemory(watching, svc)
		peak = higher(peak, during)
		watched <- err
	}()
	u, next, err := signalAndSettle(ctx, svc, generator, old, processes, limit)
	stop()
	if watchErr := <-watched; err == nil {
		err = watchErr
	}
	u.Memory = peak
	return u, next, err
}

func signalAndSettle(ctx context.Context, svc service, generator *loader, old load.First, processes int, limit time.Duration) (u upgrade, next load.First, err error) {
	ctx, cancelUpgrade := context.WithCancel(ctx)
	defer cancelUpgrade()
	begun, done := make(chan int64, 1), make(chan error, 1)
	go func() {
		done <- svc.upgrade(ctx, func() { begun <- load.Now() })
	}()
	select {
	case u.Signal = <-begun:
	case err := <-done:
		if err != nil {
			return u, next, err
		}
		u.Signal = <-begun
		done <- nil // for below
	}
	if next, err = generator.Probe([]string{old.PID}, answerLimit); err != nil {
		return u, next, err
	}
	u.First, u.Unanswered = next.At, next.Failed
	settling, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not over after %v", limit))
	defer cancel()
	select {
	case err := <-done:
		if err != nil {
			return u, next, err
		}
	case <-settling.Done():
		return u, next, fmt.Errorf("wait for what the recipe asks for: %w", context.Cause(settling))
	}
	if err := poll(settling, func() (bool, error) {
		pids, err := svc.processes()
		return len(pids) <= processes, err
	}); err != nil {
		return u, next, fmt.Errorf("wait for the end of the old version: %w", err)
	}
	u.Settled = load.Now()
	return u, next, nil
}

// watchMemory returns the peak of what a service takes until ctx ends.
func watchMemory(ctx context.Context, svc service) (peak procs.Memory, err error) {
	for {
		began := time.Now()
		now, err := memoryOf(svc)
		if err != nil {
			return peak, err
		}
		peak = higher(peak, now)
		select {
		// The kernel walks all pages for it: that must not be what is measured.
		case <-time.After(max(memoryBeat, 10*time.Since(began))):
		case <-ctx.Done():
			return peak, nil
		}
	}
}

func memoryOf(svc service) (procs.Memory, error) {
	pids, err := svc.processes()
	if err != nil {
		return procs.Memory{}, err
	}
	return procs.MemoryOf(pids)
}

func higher(a, b procs.Memory) procs.Memory {
	return procs.Memory{RSS: max(a.RSS, b.RSS), PSS: max(a.PSS, b.PSS)}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// bareExec measures how long a peer's binary takes from exec to its first answer, with nothing around.
func (b *bench) bareExec(ctx context.Context, p peer, protocol string) (_ time.Duration, err error) {
	s, err := startPlain(b, p, protocol, nil)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	options := load.Options{Mode: load.New, Address: s.address(), Clients: 1}
	switch protocol {
	case toy.TLS:
		options.CA = b.ca
	case toy.Line:
		options.Mode = load.Line
	case toy.UDP:
		options.Mode = load.UDP
	}
	ctx, cancel := context.WithTimeoutCause(ctx, answerLimit, fmt.Errorf("none within %v", answerLimit))
	defer cancel()
	first, err := load.Probe(ctx, options, nil)
	if err != nil {
		return 0, fmt.Errorf("%w\n%s", err, s.output(ctx))
	}
	text, err := os.ReadFile(filepath.Join(s.dir, "output"))
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	started, err := strconv.ParseInt(strings.TrimPrefix(line, procs.Started+" "), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("output of the keeper begins with %q: %w", line, err)
	}
	return time.Duration(first.At - started), nil
}
