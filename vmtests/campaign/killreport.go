// SPDX-License-Identifier: Apache-2.0

package campaign

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
)

// A KillReport is what came of the rounds.
type KillReport struct {
	options KillOptions
	began   time.Time
	took    time.Duration

	mu      sync.Mutex
	rounds  []*round
	clients map[string]*client // sums by kind
	order   []string
}

func newKillReport(o KillOptions) *KillReport {
	return &KillReport{options: o, began: time.Now().UTC().Truncate(time.Second), clients: make(map[string]*client)}
}

func (r *KillReport) log(text string) {
	if r.options.Log != nil {
		r.options.Log(text)
	}
}

// add takes in a round.
func (r *KillReport) add(one *round) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rounds = append(r.rounds, one)
	end := one.verdict
	if one.restarted {
		end = strings.TrimPrefix(end+", started again", ", ")
	}
	r.log(fmt.Sprintf("%4d  %v  seed %10d  %v: hit %s; %s", one.number, one.systemd, one.plan.seed, one.plan, one.struck, cmp.Or(end, "goes on")))
	for _, p := range one.problems[:min(10, len(one.problems))] {
		r.log("      PROBLEM " + p)
	}
}

func (r *KillReport) addClients(c *clients) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, one := range c.list {
		sum := r.clients[one.name]
		if sum == nil {
			sum = &client{name: one.name}
			r.clients[one.name] = sum
			r.order = append(r.order, one.name)
		}
		sum.OK += one.OK
		sum.Failed += one.Failed
		sum.Redialled += one.Redialled
		sum.Longest = max(sum.Longest, one.Longest)
	}
}

func (r *KillReport) conclude() { r.took = time.Since(r.began).Round(time.Second) }

// Problems are all that must not have been.
func (r *KillReport) Problems() []string {
	var all []string
	for _, one := range r.rounds {
		for _, p := range one.problems {
			all = append(all, fmt.Sprintf("%v, seed %d (%v): %s", one.systemd, one.plan.seed, one.plan, p))
		}
	}
	return all
}

// Rounds is how many were run.
func (r *KillReport) Rounds() int { return len(r.rounds) }

func (r *KillReport) String() string {
	var b strings.Builder
	count := func(what string) (n int) {
		for _, p := range r.Problems() {
			if strings.Contains(p, "): "+what) {
				n++
			}
		}
		return n
	}
	lost, loose, unkept := 0, 0, 0
	byVersion := make(map[vmtests.Version]int)
	byActAndPhase := make(map[string]map[string]int)
	outcomes := make(map[string]int)
	for _, one := range r.rounds {
		lost, loose, unkept = lost+one.lost, loose+one.loose, unkept+one.unkept
		byVersion[one.systemd]++
		if byActAndPhase[one.struck] == nil {
			byActAndPhase[one.struck] = make(map[string]int)
		}
		byActAndPhase[one.struck][string(one.plan.act)]++
		end := cmp.Or(one.verdict, "no upgrade, or no verdict")
		if one.restarted {
			end += "; systemd started the service again"
		}
		outcomes[end]++
	}
	fmt.Fprintf(&b, "%s: %d rounds in %v, mode %v, seed %d\n", r.began.Format(time.DateTime), len(r.rounds), r.took, r.options.Mode, r.options.Seed)
	for _, v := range slices.Sorted(maps.Keys(byVersion)) {
		fmt.Fprintf(&b, "%14v  %5d rounds\n", v, byVersion[v])
	}
	fmt.Fprintf(&b, "\n%-28s", "hit while it was")
	for _, a := range acts {
		fmt.Fprintf(&b, "  %16s", a)
	}
	b.WriteString("\n")
	for _, phase := range slices.Sorted(maps.Keys(byActAndPhase)) {
		fmt.Fprintf(&b, "%-28s", phase)
		for _, a := range acts {
			fmt.Fprintf(&b, "  %16d", byActAndPhase[phase][string(a)])
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "\n%-60s  rounds\n", "what came of it")
	for _, end := range slices.Sorted(maps.Keys(outcomes)) {
		fmt.Fprintf(&b, "%-60s  %6d\n", end, outcomes[end])
	}
	fmt.Fprintf(&b, "\n%-20s  %10s  %8s  %12s  %14s\n", "clients", "answered", "failed", "redialled", "longest wait")
	for _, name := range r.order {
		c := r.clients[name]
		fmt.Fprintf(&b, "%-20s  %10d  %8d  %12d  %14v\n", name, c.OK, c.Failed, c.Redialled, c.Longest.Round(time.Millisecond))
	}
	fmt.Fprintf(&b, `
lost with the process that was answering them        %6d requests
  the same, told by the time of its death            %6d
commits that were not kept, nor acknowledged         %6d
connections refused                                  %6d
other requests lost                                  %6d
commits lost                                         %6d
listeners lost                                       %6d
units left failed                                    %6d
other problems                                       %6d
`, lost, loose, unkept, count("refused"), count("lost"), count("commit lost"), count("listener "), count("failed units"), count("journal"))
	for i, p := range r.Problems() {
		if i == 20 {
			fmt.Fprintln(&b, "and more")
			break
		}
		fmt.Fprintf(&b, "PROBLEM %s\n", p)
	}
	return b.String()
}
