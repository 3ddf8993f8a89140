// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"strings"
	"testing"
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
	for _, args := range []string{"-upgrades=0", "-peer-upgrades=0", "-cost-upgrades=-1", "-steady=-1s", "-on=moon", "-peers=none", "extra"} {
		if _, err := parse(strings.Fields(args), io.Discard); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}

func TestUpgradesOf(t *testing.T) {
	s := settings{upgrades: 50, peerUpgrades: 10}
	if ours, theirs := s.upgradesOf(holdfastPeer()), s.upgradesOf(peers[1]); ours != 50 || theirs != 10 {
		t.Errorf("%d of holdfast and %d of %s, want 50 and 10", ours, theirs, peers[1].name)
	}
	s.upgrades = 4
	if theirs := s.upgradesOf(peers[1]); theirs != 4 {
		t.Errorf("%d of %s, want no more than 4", theirs, peers[1].name)
	}
}
