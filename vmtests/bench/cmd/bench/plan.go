// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/prepare"
)

// A plan is what the arguments ask for.
type plan struct {
	settings

	why       string // of where services that need systemd run
	peers     []peer // under workloads
	workloads []workload
	scales    []scale
	micro     bool
	crash     []vmtests.Version

	jsonFile, svgDir string
}

func parse(args []string, stderr io.Writer) (_ *plan, err error) {
	p := new(plan)
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	peerList := flags.String("peers", "", "`names`, separated by commas; default all of\n"+names(peers, func(p peer) string { return p.name }))
	workloadList := flags.String("workloads", "", "`names`, separated by commas; default all of\n"+names(workloads, func(w workload) string { return w.name }))
	on := flags.String("on", "", "`where` services that need systemd run: container or stand-in; default what there is")
	onlyCosts := flags.Bool("costs", false, "measure how the cost of an upgrade grows, and nothing else but -micro and -crash")
	onlyMicro := flags.Bool("micro", false, "measure single calls of packages notify and activation, and nothing else but -costs and -crash")
	onlyCrash := flags.Bool("crash", false, "measure how soon a killed service answers again under each version of systemd, and nothing else but -costs and -micro")
	flags.IntVar(&p.systemd, "systemd", 257, "version of systemd: 247, 252, 257 or 262")
	flags.IntVar(&p.upgrades, "upgrades", 50, "upgrades of Holdfast under each workload")
	flags.IntVar(&p.peerUpgrades, "peer-upgrades", 10, "upgrades of each peer under each workload, if -upgrades is not less")
	flags.IntVar(&p.costUpgrades, "cost-upgrades", 5, "upgrades for each point of the cost curves")
	flags.IntVar(&p.crashRounds, "crash-rounds", 50, "kills of each service under each version of systemd")
	flags.DurationVar(&p.steady, "steady", time.Second, "steady state before and after each upgrade")
	flags.IntVar(&p.clients, "clients", 16, "clients at once")
	flags.IntVar(&p.idle, "idle", 5000, "idle connections")
	flags.DurationVar(&p.think, "think", time.Millisecond, "pause of a client after each request")
	flags.DurationVar(&p.drain, "drain", 3*time.Second, "how long every peer that has a setting for it lets connections that are left take")
	flags.DurationVar(&p.probation, "probation", 300*time.Millisecond, "how long Holdfast has a new version on trial")
	flags.StringVar(&p.jsonFile, "json", "", "write the results to this `file`")
	flags.StringVar(&p.svgDir, "svg", "", "write drawings into this `directory`")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("argument %q: there are flags only, see -help", flags.Arg(0))
	}
	if p.upgrades < 1 || p.peerUpgrades < 1 || p.costUpgrades < 1 || p.crashRounds < 1 || p.clients < 1 || p.idle < 1 || p.drain <= 0 || p.probation <= 0 {
		return nil, errors.New("-upgrades, -peer-upgrades, -cost-upgrades, -crash-rounds, -clients, -idle, -drain and -probation must be positive")
	}
	if p.steady < 0 || p.think < 0 {
		return nil, errors.New("-steady and -think must not be negative")
	}
	all := !*onlyCosts && !*onlyMicro && !*onlyCrash
	p.micro = all || *onlyMicro
	if all || *onlyCosts {
		p.scales = scales
	}
	if all {
		if p.peers, err = choose("peers", *peerList, peers, func(p peer) string { return p.name }); err != nil {
			return nil, err
		}
		if p.workloads, err = choose("workloads", *workloadList, workloads, func(w workload) string { return w.name }); err != nil {
			return nil, err
		}
	}
	if p.on, p.why, err = prepare.Where(*on); err != nil {
		return nil, err
	}
	if *onlyCrash && p.on != prepare.InContainer {
		return nil, fmt.Errorf("-crash with -on=%s: how long systemd takes, only systemd can say: run it as root with -on=%s", p.on, prepare.InContainer)
	}
	// Part of all where there is systemd to ask.
	if *onlyCrash || all && p.on == prepare.InContainer {
		p.crash = vmtests.Versions()
	}
	return p, nil
}

// builds returns the peers whose programs are needed.
func (p *plan) builds() []peer {
	if len(p.scales)+len(p.crash) == 0 || slices.ContainsFunc(p.peers, func(one peer) bool { return one.name == holdfastPeer().name }) {
		return p.peers
	}
	return append(slices.Clone(p.peers), holdfastPeer())
}

// upgradesOf is how often a peer is upgraded under a workload.
func (s settings) upgradesOf(p peer, w workload) int {
	switch {
	case p.name == holdfastPeer().name:
		return s.upgrades
	case p.drain > s.drain && p.staysUnder(w):
		// Each takes as long as many others, and all go the same way.
		return min(s.upgrades, s.peerUpgrades, 2)
	}
	return min(s.upgrades, s.peerUpgrades)
}

func names[T any](all []T, name func(T) string) string {
	var list []string
	for _, one := range all {
		list = append(list, name(one))
	}
	return strings.Join(list, ",")
}
