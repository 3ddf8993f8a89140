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

	"golang.org/x/sys/unix"
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
	Cells   []*cell   `json:"cells"`

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
	Clients   int           `json:"clients"`
	Idle      int           `json:"idle_connections"`
	Think     time.Duration `json:"think_ns"`
	Steady    time.Duration `json:"steady_ns"`
	Drain     time.Duration `json:"drain_ns"`
	Probation time.Duration `json:"probation_ns"`
	Upgrades  int           `json:"upgrades"`
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
	var s settings
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	peerList := flags.String("peers", "", "`names`, separated by commas; default all of\n"+names(peers, func(p peer) string { return p.name }))
	workloadList := flags.String("workloads", "", "`names`, separated by commas; default all of\n"+names(workloads, func(w workload) string { return w.name }))
	on := flags.String("on", "", "`where` services that need systemd run: container or stand-in; default what there is")
	flags.IntVar(&s.systemd, "systemd", 257, "version of systemd: 247, 252, 257 or 262")
	flags.IntVar(&s.upgrades, "upgrades", 50, "upgrades of each peer under each workload")
	flags.DurationVar(&s.steady, "steady", 2*time.Second, "steady state before and after each upgrade")
	flags.IntVar(&s.clients, "clients", 16, "clients at once")
	flags.IntVar(&s.idle, "idle", 5000, "idle connections")
	flags.DurationVar(&s.think, "think", time.Millisecond, "pause of a client after each request")
	flags.DurationVar(&s.drain, "drain", 5*time.Second, "how long every peer that has a setting for it lets connections that are left take")
	flags.DurationVar(&s.probation, "probation", 300*time.Millisecond, "how long Holdfast has a new version on trial")
	jsonFile := flags.String("json", "", "write the results to this `file`")
	svgDir := flags.String("svg", "", "write drawings into this `directory`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("argument %q: there are flags only, see -help", flags.Arg(0))
	}
	if s.upgrades < 1 || s.clients < 1 || s.idle < 1 || s.steady < 0 || s.think < 0 || s.drain <= 0 || s.probation <= 0 {
		return errors.New("-upgrades, -clients, -idle, -drain and -probation must be at least 1, -steady and -think not negative")
	}
	chosenPeers, err := choose("peers", *peerList, peers, func(p peer) string { return p.name })
	if err != nil {
		return err
	}
	chosen, err := choose("workloads", *workloadList, workloads, func(w workload) string { return w.name })
	if err != nil {
		return err
	}
	var why string
	if s.on, why, err = where(*on); err != nil {
		return err
	}

	r := &run{
		Began: time.Now().UTC().Truncate(time.Second), Kernel: kernel(), CPUs: runtime.NumCPU(), Go: runtime.Version(),
		Systemd: fmt.Sprintf("systemd %d in a container", s.systemd), workloads: chosen,
		Load:  loadUsed{s.clients, s.idle, s.think, s.steady, s.drain, s.probation, s.upgrades},
		Peers: recipes(chosenPeers),
	}
	if s.on == onStandIn {
		r.Systemd = fmt.Sprintf("the stand-in for systemd %d (package reexectest)", s.systemd)
	}
	fmt.Fprintf(stdout, "Linux %s, %d CPUs, %s. Holdfast and restart: %s (%s); the others: plain processes.\n", r.Kernel, r.CPUs, r.Go, r.Systemd, why)
	fmt.Fprintf(stdout, "%d clients that pause %v, %v between upgrades, drain %v, probation of Holdfast %v.\n", s.clients, s.think, s.steady, s.drain, s.probation)

	progress := newProgress(stderr)
	defer progress("")
	progress("build")
	b, err := newBench(ctx, s, chosenPeers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.measureAll(ctx, r, chosenPeers, progress); err != nil {
		return err
	}
	progress("")
	if err := r.write(stdout, *jsonFile, *svgDir); err != nil {
		return err
	}
	if len(r.broken) > 0 {
		return fmt.Errorf("could not be measured: %s", strings.Join(r.broken, "; "))
	}
	return nil
}

// measureAll measures every peer under every workload of r.
func (b *bench) measureAll(ctx context.Context, r *run, chosen []peer, progress func(string)) error {
	for _, w := range r.workloads {
		for _, p := range chosen {
			at := w.name + ", " + p.name
			progress(at)
			c, err := b.measure(ctx, p, w, func(what string) { progress(at + ": " + what) })
			if ctx.Err() != nil {
				return context.Cause(ctx) // what else went wrong is its doing
			}
			if err != nil {
				// The others are worth knowing all the same.
				r.broken = append(r.broken, at)
				c.Error = err.Error()
			}
			r.Cells = append(r.Cells, c)
		}
	}
	return nil
}

// write prints the tables, and writes the files that are named.
func (r *run) write(stdout io.Writer, jsonFile, svgDir string) error {
	if err := printTable(stdout, r); err != nil {
		return err
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

func names[T any](all []T, name func(T) string) string {
	var list []string
	for _, one := range all {
		list = append(list, name(one))
	}
	return strings.Join(list, ",")
}

func kernel() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(name.Release[:])
}
