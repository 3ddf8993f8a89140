// SPDX-License-Identifier: Apache-2.0

package agreement_test

import (
	"flag"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/agreement"
)

var (
	only = flag.String("scenario", "", "play only scenarios with this in their `name`, on every version")
	all  = flag.Bool("all", false, "play every scenario on every version, not each on one of them")
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
	unit := s.unit
	if !strings.Contains(unit, "StartLimit") {
		// The default counts the starts of ten seconds, and so how fast the machine is.
		unit += "\nStartLimitIntervalSec=0"
	}
	text := "[Unit]\n" + unit + "\n[Service]\n" + service + "\n"
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

// A short deadline in a unit file or a message. Messages count microseconds.
var deadline = regexp.MustCompile(`(Timeout\w*|Watchdog|RuntimeMax)Sec=[1-9]s|EXTEND_TIMEOUT_USEC=|WATCHDOG_USEC=`)

// timed reports whether the scenario has deadlines that a busy machine misses.
func (s *scenario) timed() bool {
	return deadline.MatchString(s.service + s.ops + fmt.Sprint(s.behave))
}

// sampled reports whether scenario number n is played on v when not all are: on one of its versions.
func (s *scenario) sampled(n int, v vmtests.Version) bool {
	versions := slices.DeleteFunc(slices.Clone(vmtests.Versions()), func(v vmtests.Version) bool { return !s.applies(v) })
	return versions[n%len(versions)] == v
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
	// A missed deadline does not happen every time, a fault of the stand-in does.
	for range 2 {
		if err == nil && len(m.differences) > 0 && s.timed() {
			tb.Logf("%v, %s: again, because of %v", v, s.name, m.differences)
			m, err = compare(tb.Context(), v, systemd, other, q, false)
		}
	}
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
	results := newTable()
	// In a group, so that what follows comes after all versions.
	t.Run("on", func(t *testing.T) {
		eachVersion(t, func(t *testing.T, v vmtests.Version, m *machine) {
			// daemon-reload is for all services of a machine: what has one is played alone.
			var alone, beside []int
			for n, s := range scenarios {
				switch {
				case !s.applies(v) || !strings.Contains(s.name, *only) || !*all && *only == "" && !s.sampled(n, v):
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
	if *only != "" || *twice || !*all || t.Failed() {
		return
	}
	for _, e := range agreement.Exceptions {
		for _, v := range vmtests.Versions() {
			if e.Applies(int(v)) && results.met[e][v] == 0 {
				t.Errorf("exception %q: no scenario meets it on %v: remove it", e.Name, v)
			}
		}
	}
	if !t.Failed() {
		played = results
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
