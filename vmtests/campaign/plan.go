// SPDX-License-Identifier: Apache-2.0

package campaign

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
)

// An act is what is done to a process.
type act string

const (
	actKill     act = "SIGKILL"
	actAbort    act = "SIGABRT"
	actSegv     act = "SIGSEGV"
	actStop     act = "SIGSTOP, SIGCONT"
	actStopKill act = "SIGSTOP, SIGKILL"
)

var acts = []act{actKill, actAbort, actSegv, actStop, actStopKill}

// A moment of an upgrade, from which a round counts the time until it strikes. Each but the first two is seen
// by a line in the journal.
type moment struct {
	name  string
	line  string // "" for the two that need none
	spans time.Duration
}

var (
	between  = moment{name: "between upgrades", spans: 20 * time.Millisecond}
	asked    = moment{name: "asked for", spans: 150 * time.Millisecond}
	checked  = moment{"pre-check begins", "serving -> checking", 60 * time.Millisecond}
	started  = moment{"successor starts", "checking -> starting", 60 * time.Millisecond}
	onTrial  = moment{"on trial", "starting -> probation", 130 * time.Millisecond}
	promoted = moment{"promoted", "trial -> serving", 80 * time.Millisecond}
)

// A plan is what a seed decides about a round.
type plan struct {
	seed     uint64
	act      act
	newer    bool // strike the youngest process of the service, else the oldest
	moment   moment
	delay    time.Duration
	hold     time.Duration // of a stop
	bySignal bool          // the upgrade is asked for by SIGUSR2, not by systemctl reload
}

// newPlan makes the plan of a seed.
func newPlan(seed uint64) plan {
	r := source(seed)
	p := plan{seed: seed}
	// SIGKILL is what kills services in the field; the others take a way of their own through the Go runtime.
	p.act = append([]act{actKill, actKill, actKill}, acts...)[r.IntN(3+len(acts))]
	p.newer = r.IntN(2) == 0
	p.moment = []moment{between, asked, checked, checked, started, started, onTrial, onTrial, onTrial, promoted, promoted}[r.IntN(11)]
	p.delay = time.Duration(r.Int64N(int64(p.moment.spans)))
	p.hold = time.Duration(r.Int64N(int64(250 * time.Millisecond)))
	p.bySignal = r.IntN(5) == 0
	return p
}

func (p plan) String() string {
	whom := "the older"
	if p.newer {
		whom = "the newer"
	}
	text := fmt.Sprintf("%s to %s, %v after %q", p.act, whom, p.delay.Round(100*time.Microsecond), p.moment.name)
	if p.act == actStop || p.act == actStopKill {
		text += fmt.Sprintf(", held for %v", p.hold.Round(time.Millisecond))
	}
	if p.bySignal && p.moment.name != between.name {
		text += ", SIGUSR2"
	}
	return text
}

// source makes random numbers of a seed; ChaCha8 also makes unlike sequences of seeds that are alike.
func source(seed uint64) *rand.Rand {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return rand.New(rand.NewChaCha8(key))
}

// seeds makes the seeds of the rounds on one version of systemd. They are short enough to be typed.
func seeds(seed uint64, v vmtests.Version) func() uint64 {
	r := source(seed<<16 + uint64(v))
	return func() uint64 { return uint64(r.Uint32()) }
}
