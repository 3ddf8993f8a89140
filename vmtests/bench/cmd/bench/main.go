// SPDX-License-Identifier: Apache-2.0

// Command bench upgrades the same toy service by Holdfast and by its peers, under the same load and in one
// run, and counts what clients notice. "make bench" runs it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/micro"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/prepare"
)

// A run is what the JSON file holds.
type run struct {
	Began   time.Time `json:"began"`
	Kernel  string    `json:"kernel"`
	CPUs    int       `json:"cpus"`
	Go      string    `json:"go"`
	Systemd string    `json:"systemd"` // where services that need it ran
	Load    loadUsed  `json:"load"`
	Peers   []recipe  `json:"peers"`
	Cells   []*cell   `json:"cells,omitempty"`
	Costs   []*curve  `json:"costs,omitempty"`

	Micro   []micro.Comparison `json:"micro,omitempty"`
	Crashes []*crashes         `json:"crashes,omitempty"`

	workloads []workload
	broken    []string // what could not be measured, by our fault
}

// A recipe is how a peer was upgraded.
type recipe struct {
	Peer   string `json:"peer"`
	Recipe string `json:"recipe"`
}

func recipes(chosen []peer) []recipe {
	var all []recipe
	for _, p := range chosen {
		all = append(all, recipe{p.name, p.recipe})
	}
	return all
}

// loadUsed is the load that every peer had.
type loadUsed struct {
	Clients      int           `json:"clients"`
	Idle         int           `json:"idle_connections"`
	Think        time.Duration `json:"think_ns"`
	Steady       time.Duration `json:"steady_ns"`
	Drain        time.Duration `json:"drain_ns"`
	Probation    time.Duration `json:"probation_ns"`
	Upgrades     int           `json:"upgrades"`
	PeerUpgrades int           `json:"peer_upgrades"`
}

func (s settings) load() loadUsed {
	return loadUsed{s.clients, s.idle, s.think, s.steady, s.drain, s.probation, s.upgrades, s.peerUpgrades}
}

// of returns the cells of a workload.
func (r *run) of(workload string) []*cell {
	var cells []*cell
	for _, c := range r.Cells {
		if c.Workload == workload {
			cells = append(cells, c)
		}
	}
	return cells
}

func main() {
	micro.Child()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := benchmark(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			os.Exit(2)
		}
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func benchmark(ctx context.Context, args []string, stdout io.Writer, stderr *os.File) (err error) {
	p, err := parse(args, stderr)
	if err != nil {
		return err
	}
	r := &run{
		Began: time.Now().UTC().Truncate(time.Second), Kernel: prepare.Kernel(), CPUs: runtime.NumCPU(), Go: runtime.Version(),
		Systemd: fmt.Sprintf("systemd %d in a container", p.systemd), workloads: p.workloads,
		Load: p.load(), Peers: recipes(p.peers),
	}
	if p.on == prepare.OnStandIn {
		r.Systemd = fmt.Sprintf("the stand-in for systemd %d (package reexectest)", p.systemd)
	}
	fmt.Fprintf(stdout, "Linux %s, %d CPUs, %s. Holdfast and restart: %s (%s); the others: plain processes.\n", r.Kernel, r.CPUs, r.Go, r.Systemd, p.why)
	fmt.Fprintf(stdout, "%d clients that pause %v, %v between upgrades, drain %v, probation of Holdfast %v.\n", p.clients, p.think, p.steady, p.drain, p.probation)
	fmt.Fprintf(stdout, "It will take about %v.\n", p.estimate())

	progress := newProgress(stderr)
	defer progress("")
	progress("build")
	b, err := newBench(ctx, p.settings, p.builds())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.measureAll(ctx, r, p, progress); err != nil {
		return err
	}
	progress("")
	if err := r.write(stdout, p.jsonFile, p.svgDir); err != nil {
		return err
	}
	if len(r.broken) > 0 {
		return fmt.Errorf("could not be measured: %s", strings.Join(r.broken, "; "))
	}
	return nil
}

// measureAll measures all that the plan names.
func (b *bench) measureAll(ctx context.Context, r *run, p *plan, progress func(string)) (err error) {
	if p.micro {
		// Before all else, while the machine is quiet.
		progress("micro")
		if r.Micro, err = micro.Compare(ctx, microEffort); err != nil {
			return err
		}
	}
	if r.Crashes, err = b.measureCrashes(ctx, p.crash, progress); err != nil {
		return err
	}
	if r.Costs, err = b.measureCosts(ctx, p.scales, progress); err != nil {
		return err
	}
	for _, c := range r.Costs {
		for _, at := range c.Points {
			if at.Error != "" {
				r.broken = append(r.broken, c.Scale+" "+at.Label)
			}
		}
	}
	return b.measureCells(ctx, r, p, progress)
}

// measureCells measures every peer under every workload.
func (b *bench) measureCells(ctx context.Context, r *run, p *plan, progress func(string)) error {
	done, all := 0, len(p.workloads)*len(p.peers)
	for _, w := range p.workloads {
		for _, peer := range p.peers {
			done++
			at := fmt.Sprintf("%d of %d: %s, %s", done, all, w.name, peer.name)
			progress(at)
			c, err := b.measure(ctx, peer, w, func(what string) { progress(at + ": " + what) })
			if ctx.Err() != nil {
				return context.Cause(ctx) // what else went wrong is its doing
			}
			if err != nil {
				// The others are worth knowing all the same.
				r.broken = append(r.broken, w.name+", "+peer.name)
				c.Error = err.Error()
			}
			r.Cells = append(r.Cells, c)
		}
	}
	return nil
}

// write prints the tables, and writes the files that are named.
func (r *run) write(stdout io.Writer, jsonFile, svgDir string) error {
	if len(r.Cells) > 0 {
		if err := printTable(stdout, r); err != nil {
			return err
		}
	}
	if len(r.Costs) > 0 {
		if err := printCosts(stdout, r.Costs); err != nil {
			return err
		}
	}
	if len(r.Crashes) > 0 {
		if err := printCrashes(stdout, r.Crashes); err != nil {
			return err
		}
	}
	if len(r.Micro) > 0 {
		if err := printMicro(stdout, r.Micro); err != nil {
			return err
		}
	}
	if jsonFile != "" {
		text, err := json.MarshalIndent(r, "", " ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(jsonFile, append(text, '\n'), 0o644); err != nil {
			return err
		}
	}
	if svgDir != "" {
		return draw(svgDir, r)
	}
	return nil
}
