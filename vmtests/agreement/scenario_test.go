// SPDX-License-Identifier: Apache-2.0

package agreement_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/agreement"
)

var (
	tableFile = flag.String("table", "", "write the table of scenarios to this `file`")
	only      = flag.String("scenario", "", "play only scenarios with this in their `name`")
)

// A scenario shows one rule.
type scenario struct {
	name  string // "store: a duplicate keeps its name"
	since vmtests.Version
	until vmtests.Version // 0 for all

	// Lines of the unit files. ExecStart= is a puppet unless the service says another; "{name}" is the unit's
	// name without a suffix.
	unit    string
	service string
	socket  string

	sockets   map[string]agreement.Address
	behave    map[string]string
	unordered bool
	ops       string
	// chance are facts that systemd itself leaves to chance, why says by what.
	chance []string
	why    string
}

// sequence makes the scenario's sequence.
func (s *scenario) sequence(n int) (*agreement.Sequence, error) {
	name := fmt.Sprintf("scenario-%d", n)
	fill := func(text string) string { return strings.ReplaceAll(text, "{name}", name) }
	setup := &agreement.Setup{Name: name, Behave: make(map[string]string), Sockets: make(map[string]agreement.Address), Unordered: s.unordered}
	for key, steps := range s.behave {
		setup.Behave[key] = fill(steps)
	}
	for key, address := range s.sockets {
		setup.Sockets[fill(key)] = agreement.Address{Network: address.Network, Address: fill(address.Address)}
	}
	service := s.service
	if !strings.Contains(service, "ExecStart=") {
		service += "\nExecStart=/usr/bin/puppet main {hub}"
	}
	text := "[Service]\n" + service + "\n"
	if s.unit != "" {
		text = "[Unit]\n" + s.unit + "\n" + text
	}
	setup.Files = append(setup.Files, agreement.File{Name: name + ".service", Text: fill(text)})
	if s.socket != "" {
		setup.Files = append(setup.Files, agreement.File{Name: name + ".socket", Text: fill("[Socket]\n" + s.socket + "\n")})
	}
	ops, err := agreement.ParseOps(fill(s.ops))
	if err != nil {
		return nil, fmt.Errorf("scenario %q: %w", s.name, err)
	}
	return &agreement.Sequence{Setup: setup, Ops: ops, Chance: s.chance}, nil
}

// applies reports whether the scenario is one of version v.
func (s *scenario) applies(v vmtests.Version) bool {
	return v >= s.since && (s.until == 0 || v <= s.until)
}

// A table says for each scenario and version how it went.
type table struct {
	mu   sync.Mutex
	rows map[string]map[vmtests.Version]string
	met  map[*agreement.Exception]map[vmtests.Version]int
}

func (t *table) set(name string, v vmtests.Version, outcome string, met []*agreement.Exception) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rows[name] == nil {
		t.rows[name] = make(map[vmtests.Version]string)
	}
	t.rows[name][v] = outcome
	for _, e := range met {
		if t.met[e] == nil {
			t.met[e] = make(map[vmtests.Version]int)
		}
		t.met[e][v]++
	}
}

// Outcomes.
const (
	agreed    = "agreed"
	excepted  = "exception"
	different = "DIFFERENT"
	failed    = "FAILED"
	absent    = "-"
)

func (t *table) String() string {
	var b strings.Builder
	row := func(name string, cell func(v vmtests.Version) string) {
		line := fmt.Sprintf("%-78s", name)
		for _, v := range vmtests.Versions() {
			line += fmt.Sprintf(" %-9s", cell(v))
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	row("", func(v vmtests.Version) string { return fmt.Sprint(int(v)) })
	for _, name := range slices.Sorted(maps.Keys(t.rows)) {
		row(name, func(v vmtests.Version) string {
			if outcome := t.rows[name][v]; outcome != "" {
				return outcome
			}
			return absent
		})
	}
	b.WriteString("\nExceptions, and how many scenarios met them:\n")
	for _, e := range agreement.Exceptions {
		row(e.Name, func(v vmtests.Version) string { return fmt.Sprint(t.met[e][v]) })
		fmt.Fprintf(&b, "    %s\n", e.Reason)
	}
	b.WriteString("\nLeft to chance by systemd itself, and not compared:\n")
	for _, s := range scenarios {
		if len(s.chance) > 0 {
			fmt.Fprintf(&b, "%s: %s\n    %s\n", s.name, strings.Join(s.chance, ", "), s.why)
		}
	}
	return b.String()
}

// scenariosAtOnce is how many scenarios are played at once on one machine. Most of their time they wait.
const scenariosAtOnce = 2

// play plays a scenario on both sides and notes how it went.
func (t *table) play(tb testing.TB, v vmtests.Version, systemd, other side, n int) {
	s := scenarios[n]
	q, err := s.sequence(n)
	if err != nil {
		tb.Error(err)
		return
	}
	m, err := compare(tb.Context(), v, systemd, other, q, false)
	if err == nil && len(m.differences) > 0 {
		// Once more, for the journals; and what does not happen again is chance, which is no less a failure.
		if again, err := compare(tb.Context(), v, systemd, other, q, true); err == nil && len(again.differences) > 0 {
			m = again
		}
	}
	outcome := agreed
	switch {
	case err != nil:
		outcome = failed
		tb.Errorf("%v, %s: %v", v, s.name, err)
	case len(m.differences) > 0:
		outcome = different
		tb.Errorf("%v, %s: %v\n%s", v, s.name, m.differences, m.report())
	case slices.ContainsFunc(m.exceptions, func(e *agreement.Exception) bool { return !e.Everywhere }):
		outcome = excepted
	}
	t.set(s.name, v, outcome, m.exceptions)
}

// Every scenario goes the same way on systemd and on the stand-in.
func TestScenarios(t *testing.T) {
	begin := time.Now()
	results := &table{rows: make(map[string]map[vmtests.Version]string), met: make(map[*agreement.Exception]map[vmtests.Version]int)}
	// In a group, so that what follows comes after all versions.
	t.Run("on", func(t *testing.T) {
		eachVersion(t, func(t *testing.T, v vmtests.Version, m *machine) {
			// daemon-reload is for all services of a machine: what has one is played alone.
			var alone, beside []int
			for n, s := range scenarios {
				switch {
				case !s.applies(v) || !strings.Contains(s.name, *only):
				case strings.Contains(s.ops, string(agreement.DaemonReload)):
					alone = append(alone, n)
				default:
					beside = append(beside, n)
				}
			}
			other := func() side { return &standin{version: v} }
			if *twice {
				second := bootMachine(t, v)
				other = func() side { return second.operator(t) }
			}
			queue := make(chan int)
			var players sync.WaitGroup
			for range scenariosAtOnce {
				systemd, other := m.operator(t), other()
				players.Go(func() {
					for n := range queue {
						results.play(t, v, systemd, other, n)
					}
				})
			}
			for _, n := range beside {
				queue <- n
			}
			close(queue)
			players.Wait()
			systemd, last := m.operator(t), other()
			for _, n := range alone {
				results.play(t, v, systemd, last, n)
			}
		})
	})
	t.Logf("%d scenarios, %v\n%v", len(results.rows), time.Since(begin).Round(time.Millisecond), results)
	if *tableFile != "" {
		if err := os.WriteFile(*tableFile, []byte(results.String()), 0o644); err != nil {
			t.Error(err)
		}
	}
	if *only != "" || *twice || t.Failed() {
		return
	}
	for _, e := range agreement.Exceptions {
		for _, v := range vmtests.Versions() {
			if e.Applies(int(v)) && results.met[e][v] == 0 {
				t.Errorf("exception %q: no scenario meets it on %v: remove it", e.Name, v)
			}
		}
	}
}

// Scenarios have names of their own.
func TestScenarioNames(t *testing.T) {
	names := make(map[string]bool)
	for n, s := range scenarios {
		if names[s.name] {
			t.Errorf("two scenarios are called %q", s.name)
		}
		names[s.name] = true
		if _, err := s.sequence(n); err != nil {
			t.Error(err)
		}
	}
}

// scenarios are all of them, from the tables in the files scenarios_*_test.go.
var scenarios = slices.Concat(
	startScenarios(), notifyScenarios, storeScenarios(), mainScenarios, reloadScenarios,
	restartScenarios(), stopScenarios(), socketScenarios, pidFileScenarios,
)
