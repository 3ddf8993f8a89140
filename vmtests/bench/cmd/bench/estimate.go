// SPDX-License-Identifier: Apache-2.0

package main

import (
	"time"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/load"
)

// Times that were seen on two processors, of what no setting says.
const (
	bootTime    = 3 * time.Second        // of a container, the first answer, and the end of all
	upgradeTime = 700 * time.Millisecond // to install, a bare exec, the upgrade, and its end
	sweepTime   = 2 * time.Second        // of 5,000 idle connections
	microTime   = 15 * time.Second
	pointTime   = 8 * time.Second // of a cost curve: 5 upgrades
	crashTime   = 3 * time.Second // a round of all that crash
)

// estimate is about how long all of it takes.
func (p *plan) estimate() time.Duration {
	var sum time.Duration
	if p.micro {
		sum += microTime
	}
	sum += time.Duration(len(p.crash)) * (bootTime + time.Duration(p.crashRounds)*crashTime)
	for _, s := range p.scales {
		sum += time.Duration(len(s.values)) * (bootTime + time.Duration(p.costUpgrades)*pointTime/5)
	}
	for _, w := range p.workloads {
		for _, peer := range p.peers {
			if !peer.speaks(w.protocol) {
				continue
			}
			each := upgradeTime + 2*aroundBefore + p.steady + peer.lingers(p.settings, w)
			if w.mode == load.Idle {
				each += time.Duration(p.idle) * sweepTime / 5000
			}
			sum += bootTime + p.steady + time.Duration(p.upgradesOf(peer, w))*each
		}
	}
	if sum < time.Minute {
		return sum.Round(time.Second)
	}
	return sum.Round(time.Minute)
}

// lingers is how long the old version of a peer stays, as a rule.
func (p peer) lingers(s settings, w workload) time.Duration {
	switch {
	case p.name == holdfastPeer().name:
		return max(s.probation, beatOfToy)
	case p.staysUnder(w):
		return max(s.drain, p.drain)
	}
	return p.leads
}

// beatOfToy is reexec.Options.Beat: a probation ends with one.
const beatOfToy = 500 * time.Millisecond
