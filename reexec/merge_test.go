// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/internal/handover"
	"github.com/holdfast-go/holdfast/reexec/internal/stateframe"
)

// counting is a generation that counts.
type counting struct {
	*generation
	x     *tally
	h     *State
	gone  chan struct{}
	addTo *wire // who counts on, while it drains
}

// run is a service whose generations count, as package reexec drives them.
type run struct {
	t      *testing.T
	k      *keeper
	random *rand.Rand

	main, trial *counting
	draining    []*counting
	counted     uint64 // by all generations
	committed   uint64 // what was counted when the last commit began
	story       []string
}

func (r *run) note(format string, args ...any) {
	r.story = append(r.story, fmt.Sprintf(format, args...))
}

func (r *run) register(g *generation) *counting {
	c := &counting{generation: g, x: new(tally), gone: make(chan struct{})}
	c.h = g.with("tally", c.x.merged())
	return c
}

// count has some generation count something, if it still may.
func (r *run) count() {
	all := append([]*counting{r.main}, r.draining...)
	if r.trial != nil {
		all = append(all, r.trial)
	}
	n := uint64(r.random.IntN(5))
	all[r.random.IntN(len(all))].x.add(n)
	r.counted += n
}

func (r *run) upgrade() {
	next := r.main.successor(r.k)
	for range r.random.IntN(3) { // before it is ready
		r.count()
	}
	r.trial = r.register(next)
	r.main.expect(r.trial, r.trial.gone)
}

// drain makes c end for the sake of to.
func (r *run) drain(c, to *counting) {
	c.addTo = &wire{r.t, to.generation}
	r.draining = append(r.draining, c)
	c.sendAdded(r.t.Context(), c.addTo)
}

func (r *run) verdict(good bool) {
	old, next := r.main, r.trial
	r.trial = nil
	if good {
		old.promote(next.generation)
		old.forget(next)
		next.expect(old, old.gone)
		r.main = next
		r.drain(old, next)
		return
	}
	old.follow(nil)
	r.drain(next, old)
}

// beat has each draining generation send what it has counted.
func (r *run) beat() {
	for _, c := range r.draining {
		if r.random.IntN(2) == 0 {
			c.sendAdded(r.t.Context(), c.addTo)
		}
	}
}

// end ends a draining generation that waits for no other one.
func (r *run) end() {
	for i, c := range r.draining {
		if waitsForNobody(c.states) {
			c.sendAdded(r.t.Context(), c.addTo)
			close(c.gone)
			r.draining = slices.Delete(r.draining, i, i+1)
			return
		}
	}
}

func waitsForNobody(ss *states) bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	for _, ended := range ss.senders {
		select {
		case <-ended:
		default:
			return false
		}
	}
	return true
}

func (r *run) settle() {
	for len(r.draining) > 0 {
		left := len(r.draining)
		r.end()
		if len(r.draining) == left {
			r.t.Fatalf("%d generations wait for each other\n%s", left, strings.Join(r.story, "\n"))
		}
	}
}

// Whatever the order of upgrades, rollbacks, drains and counts: at the end, the
// service has counted what all its generations have.
func TestMergedCountsAreExact(t *testing.T) {
	for seed := range uint64(150) {
		r := &run{t: t, k: newKeeper(t), random: rand.New(rand.NewPCG(seed, 5))}
		r.main = r.register(begins(t, r.k))
		r.main.lead(false)
		for range 60 {
			before := r.main.x.get()
			switch r.random.IntN(10) {
			case 0, 1, 2, 3:
				r.count()
				r.note("count: %d", r.counted)
			case 4:
				r.beat()
				r.note("beat")
			case 5, 6:
				if r.trial == nil {
					r.upgrade()
					r.note("upgrade")
					break
				}
				good := r.random.IntN(2) == 0
				if good {
					before = r.trial.x.get()
				}
				r.verdict(good)
				r.note("verdict %t", good)
			case 7, 8:
				r.end()
				r.note("end")
			case 9:
				r.main.h.mustCommit(t)
				r.note("commit: %d", r.main.x.get())
			}
			if after := r.main.x.get(); after < before {
				t.Fatalf("seed %d: the count has fallen from %d to %d\n%s", seed, before, after, strings.Join(r.story, "\n"))
			}
		}
		if r.trial != nil {
			r.verdict(seed%2 == 0)
		}
		r.settle()
		if got := r.main.x.get(); got != r.counted {
			t.Fatalf("seed %d: the service has counted %d, its generations %d\n%s", seed, got, r.counted, strings.Join(r.story, "\n"))
		}
	}
}

// When main dies, no commit is lost and nothing is counted twice: neither in a
// successor that is left alone, whatever it had heard, nor after a restart.
func TestMergedCountsAfterACrash(t *testing.T) {
	for seed := range uint64(150) {
		r := &run{t: t, k: newKeeper(t), random: rand.New(rand.NewPCG(seed, 6))}
		r.main = r.register(begins(t, r.k))
		r.main.lead(false)
		commit := func() {
			r.committed = r.main.x.get()
			r.main.h.mustCommit(t)
		}
		for range 10 {
			r.count()
			if r.random.IntN(3) == 0 {
				commit()
			}
		}
		for range 3 {
			r.upgrade()
			r.verdict(r.random.IntN(2) == 0)
			r.count()
			r.settle()
			commit()
		}
		if seed%2 == 0 { // the successor on trial is the only one
			r.upgrade()
			for range 10 {
				r.count()
				if r.random.IntN(3) == 0 {
					commit()
				}
			}
			own := r.trial.x.get()
			handed := r.trial.h.loaded.Seq
			if r.random.IntN(3) == 0 { // it dies a moment before the verdict is told
				r.main.lease.set(leasePaused)
				r.main.sendAdded(t.Context(), &wire{t, r.trial.generation})
			}
			r.trial.lead(true)
			r.main = r.trial
			if r.main.h.loaded.Seq != handed {
				t.Fatalf("seed %d: the orphan was loaded again, and forgets what it has counted", seed)
			}
			if got := r.main.x.get(); got < own {
				t.Fatalf("seed %d: the orphan has %d, and had %d", seed, got, own)
			}
		} else {
			r.main = r.register(begins(t, r.k))
			if got := r.main.x.get(); got != r.committed {
				t.Fatalf("seed %d: restored are %d, committed %d", seed, got, r.committed)
			}
		}
		if got := r.main.x.get(); got < r.committed || got > r.counted {
			t.Fatalf("seed %d: the next main has %d; %d were committed, %d counted", seed, got, r.committed, r.counted)
		}
	}
}

// What cannot be merged is said, and what could not be sent is sent later.
func TestMergeErrors(t *testing.T) {
	k := newKeeper(t)
	first := &counting{generation: begins(t, k), x: new(tally)}
	first.h = first.with("tally", first.x.merged())
	first.lead(false)
	next := first.successor(k)
	y := new(tally)
	def := y.merged()
	refused := errors.New("too much")
	def.merge = func(uint32, []byte) error { return refused }
	h := next.with("tally", def)
	first.promote(next)
	first.x.add(7)
	if err := first.h.sendAdded(t.Context(), deaf{}); !errors.Is(err, errDeaf) {
		t.Errorf("sent to nobody: %v", err)
	}
	first.sendAdded(t.Context(), &wire{t, next})
	if st := h.status(); len(st.Refused) != 1 || !strings.Contains(st.Refused[0], refused.Error()) {
		t.Errorf("refused %q", st.Refused)
	}
	h.def.merge = y.merged().merge
	first.x.add(2)
	first.sendAdded(t.Context(), &wire{t, next})
	if got := y.get(); got != 2 {
		t.Errorf("merged %d, want what was counted since", got)
	}
}

// A beat may come while the process ends. What it says then must not look as if
// all had been counted since the last one.
func TestCountsWhileTheProcessEnds(t *testing.T) {
	for range 50 {
		k := newKeeper(t)
		first := &counting{generation: begins(t, k), x: new(tally)}
		first.h = first.with("tally", first.x.merged())
		first.lead(false)
		next := first.successor(k)
		y := new(tally)
		next.with("tally", y.merged())
		first.promote(next)
		first.x.add(7)
		first.sendAdded(t.Context(), &wire{t, next})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			first.close()
		}()
		first.sendAdded(t.Context(), &wire{t, next})
		<-ended
		first.sendAdded(t.Context(), &wire{t, next})
		if got := y.get(); got != 7 {
			t.Fatalf("merged %d, want 7", got)
		}
	}
}

var errDeaf = errors.New("nobody hears")

// deaf is a generation that is gone.
type deaf struct{}

func (deaf) update(handover.Update, syscall.Conn) error { return errDeaf }

// What a version says that was undone moves no numbers of the state, and does not
// make us read without end.
func TestCountsOfAHostileVersion(t *testing.T) {
	k := newKeeper(t)
	g := begins(t, k)
	x := new(tally)
	h := g.with("tally", x.merged())
	for _, c := range []struct {
		bytes int
		want  string
	}{{8, ""}, {maxAdded + 1, "67108865 bytes: at most 67108864"}} {
		header := stateframe.Header{Name: "tally", Version: 1, Seq: 1<<64 - 1}
		file, _, err := stateframe.Write(header, func(w io.Writer) error {
			_, err := w.Write(make([]byte, c.bytes))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		before := len(h.status().Refused)
		g.update(handover.Update{Descriptor: handover.Descriptor{Role: roleState, Name: "tally"}, Added: true}, file)
		if _, err := file.Stat(); err == nil {
			t.Errorf("%d bytes: the frame stays open", c.bytes)
		}
		if refused := h.status().Refused[before:]; c.want != "" && (len(refused) != 1 || !strings.Contains(refused[0], c.want)) {
			t.Errorf("%d bytes: refused %q, want %q", c.bytes, refused, c.want)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seq > 1<<32 {
		t.Errorf("the state counts its frames from %d on", h.seq)
	}
}
