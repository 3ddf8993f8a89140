// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"hash/maphash"
	"math/bits"
	"slices"
	"strings"

	"github.com/holdfast-go/holdfast/reexec/internal/machine"
)

// Result of an exploration that found nothing.
type Result struct {
	States, Steps, Ends int
}

// Violation is a broken promise with the shortest way to it.
type Violation struct {
	Promise error
	Trace   []string
	World   World
}

func (v *Violation) Error() string {
	return fmt.Sprintf("%v\n  %s\n  => %v", v.Promise, strings.Join(v.Trace, "\n  "), v.World)
}

// Explore visits every world that can be reached from start, breadth first,
// and checks the promises in each. The error is a *Violation.
func Explore(table *machine.Table, start World) (Result, error) {
	// How a world was reached first, by its number. Millions of worlds are told
	// apart by a hash of 128 bits: the worlds themselves would not fit.
	type parent struct {
		from int32
		name label
	}
	type numbered struct {
		World
		number int32
	}
	var res Result
	seeds := [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
	seen := map[[2]uint64]struct{}{}
	parents := []parent{{from: -1}}
	isNew := func(w World) bool {
		key := [2]uint64{maphash.Comparable(seeds[0], w), maphash.Comparable(seeds[1], w)}
		before := len(seen)
		seen[key] = struct{}{}
		return len(seen) > before
	}
	broken := func(promise error, w numbered) error {
		var names []string
		for n := w.number; parents[n].from >= 0; n = parents[n].from {
			names = append(names, parents[n].name.String())
		}
		slices.Reverse(names)
		return &Violation{promise, names, w.World}
	}
	isNew(start)
	x := explorer{table: table}
	for frontier := []numbered{{start, 0}}; len(frontier) > 0; {
		var next []numbered
		for _, w := range frontier {
			res.States++
			if err := always(w.World); err != nil {
				return res, broken(err, w)
			}
			quiet := true
			for _, s := range x.successors(w.World) {
				res.Steps++
				quiet = quiet && (s.fault || s.outside)
				if isNew(s.next) {
					next = append(next, numbered{s.next, int32(len(parents))})
					parents = append(parents, parent{w.number, s.label})
				}
			}
			if x.err != nil {
				return res, broken(x.err, w)
			}
			if quiet {
				res.Ends++
				if err := atRest(w.World); err != nil {
					return res, broken(err, w)
				}
			}
		}
		frontier = next
	}
	return res, nil
}

// always holds in every world.
func always(w World) error {
	writers := 0
	for i, g := range w.gen {
		if g.alive && g.lease {
			writers++
		}
		if g.alive && g.state == machine.Probation && w.unit == unitRunning {
			s := w.gen[g.succ]
			if s.alive && !s.hung && !s.accepts && s.down.n == 0 && s.up.n == 0 {
				return fmt.Errorf("nothing is lost: neither %d nor %d accepts, and no word of it is on its way", i, g.succ)
			}
		}
		if g.alive && g.accepts && g.stopped {
			return fmt.Errorf("stop always wins: generation %d accepts after it was told to stop", i)
		}
	}
	if w.reported > 0 && w.store>>w.reported == 0 {
		return fmt.Errorf("no committed state is lost: commit %d was reported, the store has %04b", w.reported, w.store)
	}
	if writers > 1 {
		return fmt.Errorf("state has one writer: %d generations hold the lease", writers)
	}
	if w.backMoves > 0 {
		return fmt.Errorf("MAINPID= moved back to an older generation")
	}
	if w.mainMoves > w.askedCount {
		return fmt.Errorf("MAINPID= moved %d times in %d upgrades", w.mainMoves, w.askedCount)
	}
	if w.rejected > 0 && !w.excused {
		return fmt.Errorf("systemd knows the truth: a notification was rejected and no fault explains it")
	}
	if w.unit == unitFailing && !w.mainDied {
		return fmt.Errorf("a failed upgrade changes nothing: the unit failed and main was not hit by a fault")
	}
	return nil
}

// atRest holds where nothing is under way any more.
func atRest(w World) error {
	var accepting, alive []int8
	for i, g := range w.gen {
		if g.alive && g.hung {
			return nil // nobody has noticed a hung main; the watchdog's business
		}
		if g.alive {
			alive = append(alive, int8(i))
		}
		if g.alive && g.accepts {
			accepting = append(accepting, int8(i))
		}
	}
	if w.unit == unitDead {
		if len(alive) > 0 {
			return fmt.Errorf("the unit is dead, generations %v are not", alive)
		}
		if !w.stopAsked && !w.mainDied {
			return fmt.Errorf("the unit is dead, and nobody stopped or killed it")
		}
		return nil
	}
	if w.unit != unitRunning {
		return fmt.Errorf("the unit hangs in its stop")
	}
	if w.client == clientWaiting {
		return fmt.Errorf("no request without a verdict: the client waits for ever")
	}
	if len(accepting) != 1 || len(alive) != 1 {
		return fmt.Errorf("nothing is lost: accepting %v, alive %v, want one and the same", accepting, alive)
	}
	i := accepting[0]
	g := w.gen[i]
	switch {
	case g.state != machine.Serving:
		return fmt.Errorf("generation %d rests in %v", i, g.state)
	case w.main != i:
		return fmt.Errorf("systemd knows the truth: main is %d, %d serves", w.main, i)
	case w.pidFile != i:
		return fmt.Errorf("the PID file names %d, %d serves", w.pidFile, i)
	case !g.lease:
		return fmt.Errorf("nobody may write the state")
	case g.asked:
		return fmt.Errorf("no request without a verdict")
	case g.putting:
		return fmt.Errorf("a commit waits for ever")
	case bits.OnesCount8(w.store) > 1 && !w.excused:
		return fmt.Errorf("the store fills: it has %04b, and no fault explains it", w.store)
	// One case is not mended: the reload command is killed in probation (so
	// systemd adopts the successor), a SIGUSR2 by hand came as well, and then
	// the successor is undone: our READY=1 is refused in between.
	case w.reloading && !w.killed:
		return fmt.Errorf("systemd knows the truth: the unit is reloading for ever")
	case w.signalled && !w.excused:
		return fmt.Errorf("no request without an answer: systemd waits for RELOADING=1 and READY=1 after its signal")
	case !w.ready:
		return fmt.Errorf("systemd was never told READY=1")
	}
	return nil
}
