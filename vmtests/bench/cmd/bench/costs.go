// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/load"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/stats"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/toy"
	"github.com/holdfast-go/holdfast/vmtests/internal/procs"
)

// A scale is something that a service may have more or less of.
type scale struct {
	name   string
	title  string
	values []int64
	label  func(int64) string
	needs  func(int64) error // why a value is too much for this machine
	of     func(*sized, int64)
}

// sized says how large a service is.
type sized struct {
	listeners   int
	connections int
	heap        int64 // bytes
}

var scales = []scale{
	{
		name: "listeners", title: "listeners that systemd passes", values: []int64{1, 10, 100, 1000},
		label: func(v int64) string { return fmt.Sprint(v) },
		needs: needsFiles, of: func(s *sized, v int64) { s.listeners = int(v) },
	},
	{
		name: "connections", title: "idle keep-alive connections that move", values: []int64{0, 1000, 10000},
		label: func(v int64) string { return fmt.Sprint(v) },
		needs: needsFiles, of: func(s *sized, v int64) { s.connections = int(v) },
	},
	{
		name: "heap", title: "heap of the service", values: []int64{1 << 20, 16 << 20, 256 << 20, 1 << 30},
		label: func(v int64) string { return fmt.Sprintf("%d MiB", v>>20) },
		needs: needsMemory, of: func(s *sized, v int64) { s.heap = v },
	},
}

// A curve is what an upgrade costs by the size of the service.
type curve struct {
	Scale  string   `json:"scale"`
	Title  string   `json:"title"`
	Points []*point `json:"points"`
}

// A point is one size.
type point struct {
	Value   int64  `json:"value"`
	Label   string `json:"label"`
	Skipped string `json:"skipped,omitempty"`
	Error   string `json:"error,omitempty"`

	Upgrades []costs        `json:"upgrades"`
	Median   costs          `json:"median"`
	Worst    costs          `json:"worst"`
	Requests int            `json:"requests"`
	Failed   int            `json:"failed"`
	Failures map[string]int `json:"failures,omitempty"`
	// Reconnects are those of all clients.
	Reconnects int `json:"reconnects"`
}

// costs are those of one upgrade.
type costs struct {
	Total  time.Duration            `json:"total_ns"`        // from the request to the verdict, less the probation
	Phases map[string]time.Duration `json:"phases_ns"`       // of the verdict
	First  time.Duration            `json:"first_answer_ns"` // from the signal to the first answer
	Exec   time.Duration            `json:"bare_exec_ns"`    // from a bare exec to the first answer
	End    time.Duration            `json:"end_ns"`          // from the verdict until the old process had ended
	Memory procs.Memory             `json:"memory_peak"`
}

// phases in the order of their coming, less the probation.
var phases = []string{"checking", "starting", "promoting"}

// costClients ask all the time, so that what an upgrade loses is seen.
const costClients = 4

// costSteady is between two upgrades.
const costSteady = 300 * time.Millisecond

// measureCosts measures all points of the scales.
func (b *bench) measureCosts(ctx context.Context, chosen []scale, progress func(string)) ([]*curve, error) {
	var curves []*curve
	for _, s := range chosen {
		c := &curve{Scale: s.name, Title: s.title}
		curves = append(curves, c)
		for _, value := range s.values {
			at := s.name + " " + s.label(value)
			progress(at)
			p := &point{Value: value, Label: s.label(value)}
			c.Points = append(c.Points, p)
			if err := s.needs(value); err != nil {
				p.Skipped = err.Error()
				continue
			}
			var size sized
			s.of(&size, value)
			err := b.measurePoint(ctx, p, size, func(what string) { progress(at + ": " + what) })
			if ctx.Err() != nil {
				return curves, context.Cause(ctx)
			}
			if err != nil {
				p.Error = err.Error() // the others are worth knowing all the same
			}
		}
	}
	return curves, nil
}

// measurePoint upgrades a service of one size.
func (b *bench) measurePoint(ctx context.Context, p *point, size sized, progress func(string)) (err error) {
	toyPeer := holdfastPeer()
	toyPeer.listeners = size.listeners
	toyPeer.args = append(slices.Clone(toyPeer.args), fmt.Sprintf("-heap=%d", size.heap))
	svc, err := toyPeer.start(ctx, b, toyPeer, toy.HTTP)
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, svc.output(ctx))
		}
		err = errors.Join(err, svc.close())
	}()
	askers, err := svc.startLoad(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, askers.end()) }()
	first, err := askers.Start(load.Options{Mode: load.KeepAlive, Address: svc.address(), Clients: costClients, Think: 5 * time.Millisecond}, answerLimit)
	if err != nil {
		return err
	}
	loaders := []*loader{askers}
	if size.connections > 0 {
		idle, err := svc.startLoad(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, idle.end()) }()
		if _, err := idle.Start(load.Options{Mode: load.Idle, Address: svc.address(), Clients: size.connections}, answerLimit); err != nil {
			return err
		}
		loaders = append(loaders, idle)
	}
	for i := range b.costUpgrades {
		progress(fmt.Sprintf("upgrade %d of %d", i+1, b.costUpgrades))
		c, next, err := b.costOfOne(ctx, svc, toyPeer, askers, first, 2-i%2)
		if err != nil {
			return fmt.Errorf("upgrade %d: %w", i+1, err)
		}
		p.Upgrades, first = append(p.Upgrades, c), next
		for _, idle := range loaders[1:] {
			if err := idle.Sweep(); err != nil {
				return err
			}
		}
	}
	p.Median, p.Worst = summarize(p.Upgrades, 50), summarize(p.Upgrades, 100)
	return p.count(loaders)
}

// costOfOne makes one upgrade.
func (b *bench) costOfOne(ctx context.Context, svc service, p peer, askers *loader, old load.First, version int) (c costs, next load.First, err error) {
	if err := svc.install(ctx, version); err != nil {
		return c, next, err
	}
	if c.Exec, err = b.bareExec(ctx, p, toy.HTTP); err != nil {
		return c, next, fmt.Errorf("bare exec: %w", err)
	}
	if err := pause(ctx, costSteady); err != nil {
		return c, next, err
	}
	at, err := svc.processes()
	if err != nil {
		return c, next, err
	}
	main, err := svc.(bySignal).mainPID(ctx)
	if err != nil {
		return c, next, err
	}
	ended, err := procs.Watch(main)
	if err != nil {
		return c, next, err
	}
	u, next, err := upgradeOnce(ctx, svc, askers, old, len(at), b.drain+settleMargin)
	if err != nil {
		return c, next, err
	}
	if c.Phases, err = svc.(bySignal).phases(ctx); err != nil {
		return c, next, err
	}
	var whole time.Duration
	for _, d := range c.Phases {
		whole += d
	}
	for _, name := range phases {
		c.Total += c.Phases[name]
	}
	c.First, c.Memory = time.Duration(u.First-u.Signal), u.Memory
	// The verdict came a moment after the signal plus all phases.
	c.End = max(0, time.Duration((<-ended)-u.Signal)-whole)
	return c, next, nil
}

// summarize takes a percentile of every cost by itself.
func summarize(all []costs, percent float64) costs {
	of := func(value func(costs) time.Duration) time.Duration {
		var values []time.Duration
		for _, c := range all {
			values = append(values, value(c))
		}
		slices.Sort(values)
		return stats.Percentile(values, percent)
	}
	sum := costs{
		Total: of(func(c costs) time.Duration { return c.Total }), First: of(func(c costs) time.Duration { return c.First }),
		Exec: of(func(c costs) time.Duration { return c.Exec }), End: of(func(c costs) time.Duration { return c.End }),
		Phases: make(map[string]time.Duration),
	}
	for _, name := range phases {
		sum.Phases[name] = of(func(c costs) time.Duration { return c.Phases[name] })
	}
	for _, c := range all {
		sum.Memory = higher(sum.Memory, c.Memory) // a peak is one, whatever else is summed up
	}
	return sum
}

// count ends the load and counts what it saw.
func (p *point) count(loaders []*loader) error {
	p.Failures = make(map[string]int)
	for _, l := range loaders {
		report, err := l.Stop()
		if err != nil {
			return err
		}
		p.Requests += len(report.Samples)
		p.Reconnects += report.Connections.Reconnects()
		for _, s := range report.Samples {
			if s.Error != "" {
				p.Failed++
				p.Failures[withoutNumbers(s.Error)]++
			}
		}
	}
	return nil
}

// needsFiles says why so many sockets cannot be open here. A generation leaves a quarter of its limit to
// those who connect.
func needsFiles(sockets int64) error {
	limit, err := raiseFiles()
	if err != nil {
		return err
	}
	if need := uint64(sockets)*4/3 + 256; limit < need {
		return fmt.Errorf("at most %d files may be open (RLIMIT_NOFILE), which must be %d: raise the hard limit, or run it as root", limit, need)
	}
	return nil
}

// wantFiles is enough for every scale and workload.
const wantFiles = 32768

// raiseFiles raises the limit of open files of this process and of all that it starts, as far as it may.
func raiseFiles() (uint64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("limit of open files: %w", err)
	}
	if limit.Cur >= wantFiles {
		return limit.Cur, nil
	}
	more := unix.Rlimit{Cur: wantFiles, Max: max(wantFiles, limit.Max)}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &more) == nil {
		return more.Cur, nil
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("raise limit of open files to %d: %w", limit.Cur, err)
	}
	return limit.Cur, nil
}

// needsMemory says why a service of that size cannot run three times at once: two generations, and the one
// of a bare exec.
func needsMemory(heap int64) error {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return fmt.Errorf("memory of this machine: %w", err)
	}
	total := int64(min(uint64(info.Totalram)*uint64(info.Unit), math.MaxInt64)) //nolint:unconvert // differs by architecture
	if need := 4 * heap; total < need {
		return fmt.Errorf("this machine has %s of memory, and %s are needed", mib(total), mib(need))
	}
	return nil
}
