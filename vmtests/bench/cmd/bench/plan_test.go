// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/load"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		args                     string
		peers, workloads, scales int
		micro                    bool
	}{
		{"", len(peers), len(workloads), len(scales), true},
		{"-costs", 0, 0, len(scales), false},
		{"-micro", 0, 0, 0, true},
		{"-costs -micro", 0, 0, len(scales), true},
	} {
		p, err := parse(append(strings.Fields(test.args), "-on=stand-in"), io.Discard)
		if err != nil {
			t.Errorf("%q: %v", test.args, err)
			continue
		}
		if len(p.peers) != test.peers || len(p.workloads) != test.workloads || len(p.scales) != test.scales || p.micro != test.micro {
			t.Errorf("%q: %d peers, %d workloads, %d scales, micro: %v", test.args, len(p.peers), len(p.workloads), len(p.scales), p.micro)
		}
		if builds := p.builds(); (len(builds) > 0) != (test.scales+test.peers > 0) {
			t.Errorf("%q: %d programs are built", test.args, len(builds))
		}
	}
	for _, args := range []string{"-upgrades=0", "-peer-upgrades=0", "-cost-upgrades=-1", "-steady=-1s", "-crash-rounds=0", "-crash -on=stand-in", "-on=moon", "-peers=none", "extra"} {
		if _, err := parse(strings.Fields(args), io.Discard); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}

func TestUpgradesOf(t *testing.T) {
	byName := make(map[string]peer)
	for _, p := range peers {
		byName[p.name] = p
	}
	for _, test := range []struct {
		peer                    string
		mode                    string
		upgrades, peers, expect int
	}{
		{"holdfast", load.Idle, 50, 10, 50},
		{"tableflip", load.Idle, 50, 10, 10},
		{"tableflip", load.Idle, 4, 10, 4},
		{"grace", load.New, 50, 10, 10},
		{"grace", load.Idle, 50, 10, 2}, // a minute each
		{"grace", load.Idle, 1, 10, 1},
		{"haproxy", load.Idle, 50, 10, 10}, // its drain is set
	} {
		s := settings{upgrades: test.upgrades, peerUpgrades: test.peers, drain: 3 * time.Second}
		if got := s.upgradesOf(byName[test.peer], workload{mode: test.mode}); got != test.expect {
			t.Errorf("%+v: %d upgrades", test, got)
		}
	}
}

// All of it fits into about an hour, which is what the defaults are for.
func TestEstimate(t *testing.T) {
	p, err := parse([]string{"-on=stand-in"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.estimate(); got < 40*time.Minute || got > 65*time.Minute {
		t.Errorf("all takes %v", got)
	}
	few, err := parse([]string{"-on=stand-in", "-micro"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if got := few.estimate(); got != microTime {
		t.Errorf("-micro takes %v, want %v", got, microTime)
	}
}
