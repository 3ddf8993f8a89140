// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Whatever number of callers commits at once, what each has put into the state
// before is in the store when its Commit returns.
func TestCommitsAtOnce(t *testing.T) {
	k := newKeeper(t)
	g := begins(t, k)
	x := &tally{}
	h := g.with("tally", x.merged())
	g.lead(false)
	const callers, commits = 50, 20
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range commits {
				x.add(1)
				atLeast := x.get()
				if err := h.Commit(t.Context()); err != nil {
					t.Error(err)
					return
				}
				if kept := keptTally(t, k, "tally"); kept < atLeast {
					t.Errorf("%d are in the store after the commit of %d", kept, atLeast)
				}
			}
		})
	}
	all.Wait()
	if got, ok := h.status().Committed, x.get(); got == nil || ok != callers*commits {
		t.Errorf("committed %+v at %d", got, ok)
	}
	if k.puts >= callers*commits {
		t.Errorf("%d commits were stored one by one", k.puts)
	}
}

// keptTally is what a start would restore.
func keptTally(t *testing.T, k *keeper, name string) uint64 {
	t.Helper()
	g := begins(t, k)
	defer g.close()
	x := &tally{}
	g.with(name, x.merged())
	return x.get()
}

// A commit that begins while another one is under way has a Save of its own, and
// all that come meanwhile share it.
func TestCommitsShareASave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(t)
		g := begins(t, k)
		x := &text{version: 1}
		h := g.with("text", x.exclusive())
		g.lead(false)
		k.hold = make(chan struct{})
		results := make(chan error, 11)
		commit := func() { results <- h.Commit(t.Context()) }
		x.set("first")
		go commit()
		synctest.Wait() // it has saved, and waits for the store
		x.set("second")
		for range 10 {
			go commit()
		}
		synctest.Wait()
		close(k.hold)
		for range 11 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if x.saves != 2 {
			t.Errorf("%d calls of Save for two rounds of commits", x.saves)
		}
	})
}

// Only the generation with the lease commits. While it is on its way, a commit
// waits, and is made if it comes back.
func TestCommitsNeedTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(t)
		first := begins(t, k)
		x := &text{version: 1}
		h := first.with("text", x.exclusive())
		mustNot := func(who string, h *State) {
			t.Helper()
			if err := h.Commit(t.Context()); !errors.Is(err, ErrNotMain) {
				t.Errorf("%s: %v, want ErrNotMain", who, err)
			}
		}
		mustNot("before it is main", h)
		first.lead(false)
		x.set("a")
		h.mustCommit(t)

		next := first.successor(k)
		y := &text{version: 1}
		h2 := next.with("text", y.exclusive())
		mustNot("on trial", h2)
		x.set("b")
		h.mustCommit(t)
		if y.get() != "a" {
			t.Errorf("on trial it has %q, want what was handed over", y.get())
		}

		first.lease.set(leasePaused)
		waits := make(chan error, 1)
		go func() { waits <- h.Commit(t.Context()) }()
		synctest.Wait()
		select {
		case err := <-waits:
			t.Errorf("a commit did not wait for the verdict: %v", err)
		default:
		}
		first.lease.move(leasePaused, leaseHeld) // the verdict was another one
		if err := <-waits; err != nil {
			t.Error(err)
		}

		x.set("c") // and not committed
		first.lease.set(leasePaused)
		go func() { waits <- h.Commit(t.Context()) }()
		synctest.Wait()
		first.promote(next)
		if err := <-waits; !errors.Is(err, ErrNotMain) {
			t.Errorf("a commit that waited for the verdict: %v, want ErrNotMain", err)
		}
		mustNot("after the verdict", h)
		if y.get() != "c" {
			t.Errorf("the new main has %q, want the last word of its predecessor", y.get())
		}
		y.set("d")
		h2.mustCommit(t)
		if got := keptText(t, k); got != "d" {
			t.Errorf("the store has %q", got)
		}
	})
}

// A generation that becomes main loads what its predecessor has left over what it
// has itself: a commit that is asked for before that is none.
func TestCommitBeforeTheLastWordIsLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(t)
		first := begins(t, k)
		x := &text{version: 1}
		h := first.with("text", x.exclusive())
		first.lead(false)
		x.set("a")
		h.mustCommit(t)
		next := first.successor(k)
		y := &text{version: 1}
		var h2 *State
		early := make(chan error, 1)
		kind := Exclusive{Version: 1, Save: y.save, Load: func(version uint32, data []byte) error {
			if h2 != nil { // the second time
				y.set("gone")
				go func() { early <- h2.Commit(t.Context()) }()
				time.Sleep(time.Millisecond) // of the bubble's clock: Commit has begun
			}
			return y.load(version, data)
		}}
		h2 = next.with("text", kind.definition())
		x.set("b")
		first.promote(next)
		if err := <-early; !errors.Is(err, ErrNotMain) {
			t.Errorf("a commit before the state was loaded: %v, want ErrNotMain", err)
		}
		if y.get() != "b" {
			t.Errorf("the new main has %q, want the last word of its predecessor", y.get())
		}
	})
}

// Who waits for Main writes into what the predecessor has left, and not into what
// Load is about to replace; a load that never ends opens it to nobody.
func TestMainOpensWhenTheLastWordIsLoaded(t *testing.T) {
	for _, c := range []struct {
		name  string
		after func(s *Service, loaded chan struct{})
		want  bool
	}{
		{"loaded", func(_ *Service, loaded chan struct{}) { close(loaded) }, true},
		{"dropped", func(s *Service, loaded chan struct{}) { s.states.lease.set(leaseNone); close(loaded) }, false},
		{"ended", func(s *Service, loaded chan struct{}) { close(s.done); synctest.Wait(); close(loaded) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKeeper(t)
				first := begins(t, k)
				x := &text{version: 1}
				first.with("text", x.exclusive())
				first.lead(false)
				next := first.successor(k)
				y, loaded, loads := &text{version: 1}, make(chan struct{}), 0
				kind := Exclusive{Version: 1, Save: y.save, Load: func(version uint32, data []byte) error {
					if loads++; loads > 1 {
						<-loaded
					}
					return y.load(version, data)
				}}
				next.with("text", kind.definition())
				x.set("the last word")
				first.lease.set(leasePaused)
				if err := first.yield(t.Context(), &wire{t, next}); err != nil {
					t.Fatal(err)
				}
				s := &Service{states: next.states, main: make(chan struct{}), done: make(chan struct{})}
				s.states.takeLease(false, func(err error) { t.Error(err) })
				s.openMain()
				isOpen := func() bool {
					synctest.Wait()
					select {
					case <-s.Main():
						return true
					default:
						return false
					}
				}
				if isOpen() {
					t.Error("Main is closed while Load has not returned")
				}
				c.after(s, loaded)
				if got := isOpen(); got != c.want {
					t.Errorf("Main is closed: %v, want %v", got, c.want)
				}
				if got := y.get(); c.want && got != "the last word" {
					t.Errorf("the state is %q", got)
				}
			})
		})
	}
}

// keptText is what a start would restore.
func keptText(t *testing.T, k *keeper) string {
	t.Helper()
	g := begins(t, k)
	x := &text{version: 1}
	g.with("text", x.exclusive())
	return x.get()
}

// A successor that is left alone has every commit of its predecessor, the last
// one included, and numbers its own frames beyond any that it has not heard of.
func TestOrphanHasEveryCommit(t *testing.T) {
	for _, registered := range []string{"before", "after"} {
		t.Run(registered, func(t *testing.T) {
			k := newKeeper(t)
			first := begins(t, k)
			x := &text{version: 1, is: "a"}
			h := first.with("text", x.exclusive())
			first.lead(false)
			next := first.successor(k)
			y := &text{version: 1}
			var h2 *State
			if registered == "before" {
				h2 = next.with("text", y.exclusive())
			}
			for _, is := range []string{"b", "c"} {
				x.set(is)
				h.mustCommit(t)
			}
			if registered == "after" {
				h2 = next.with("text", y.exclusive())
			}
			next.lead(true)
			if y.get() != "c" {
				t.Errorf("the orphan has %q, want the last commit", y.get())
			}
			// The predecessor has stored one more and died before it told anybody.
			first.follow(nil)
			x.set("d")
			h.mustCommit(t)
			y.set("e")
			h2.mustCommit(t)
			if got := keptText(t, k); got != "e" {
				t.Errorf("the store restores %q, want the newest", got)
			}
		})
	}
}

// A commit that systemd does not keep is an error, and the last one stays.
func TestCommitThatIsNotKept(t *testing.T) {
	k := newKeeper(t)
	g := begins(t, k)
	x := &text{version: 1, is: "a"}
	h := g.with("text", x.exclusive())
	g.lead(false)
	h.mustCommit(t)
	before := h.status().Committed
	k.refuse = &StoreError{Op: "store", Name: "state/text/1", Err: ErrStoreFull}
	x.set("b")
	err := h.Commit(t.Context())
	var se *StoreError
	if !errors.As(err, &se) || !errors.Is(err, ErrStoreFull) || !strings.Contains(err.Error(), `state "text"`) {
		t.Errorf("%v, want the error of the store", err)
	}
	if after := h.status().Committed; after != before {
		t.Errorf("committed %+v, was %+v", after, before)
	}
	k.refuse = nil
	if got := keptText(t, k); got != "a" {
		t.Errorf("the store has %q", got)
	}
}

// A Save that hangs is said with the name of the state; it holds up nobody for
// ever, and what is called after it has returned works.
func TestSaveHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(t)
		g := begins(t, k)
		x := &text{version: 1, is: "a"}
		h := g.with("text", x.snapshot())
		g.lead(false)
		goOn := make(chan struct{})
		x.during = func() { <-goOn }
		want := `state "text": Save has not returned within`
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.handOver(ctx, func(string) {}); err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("hand over: %v", err)
		}
		began := time.Now()
		if err := h.Commit(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("commit: %v", err)
		}
		if took := time.Since(began); took > g.startTimeout {
			t.Errorf("the commit took %v, bound %v", took, g.startTimeout)
		}
		close(goOn)
		synctest.Wait()
		h.mustCommit(t)
		if got := keptText(t, k); got != "a" {
			t.Errorf("the store has %q", got)
		}
		// What a Save that was left behind has written is nobody's.
		if x.saves != 2 {
			t.Errorf("%d calls of Save", x.saves)
		}
	})
}

// A Load that hangs is an error; that of another frame is not called beside it.
func TestLoadHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(t)
		for seq := range uint64(2) {
			k.add(t, stateKey("text", 1), frameOf(t, "text", 1, seq, "1:a"))
		}
		g := begins(t, k)
		goOn := make(chan struct{})
		defer close(goOn)
		var calls atomic.Int32
		_, err := g.register("text", Snapshot{
			Version: 1, Save: (&text{}).save,
			Load: func(uint32, []byte) error { calls.Add(1); <-goOn; return nil },
		}.definition())
		if err == nil || !strings.Contains(err.Error(), `state "text": frame 1 of the fd store: Load has not returned within`) {
			t.Errorf("%v", err)
		}
		if n := calls.Load(); n != 1 {
			t.Errorf("%d calls of Load at once", n)
		}
	})
}

// A panic in a function of the service ends neither the process nor what is called
// after it, and the log says where it was.
func TestPanicsAreErrors(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	g := begins(t, k)
	x := &text{version: 1, is: "a"}
	h := g.with("text", x.snapshot())
	g.lead(false)
	h.mustCommit(t)

	x.during = func() { panic("an index is out of range") }
	want := `state "text": Save has panicked: an index is out of range`
	if err := h.Commit(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("commit: got %v, want %q in it", err, want)
	}
	if _, err := g.handOver(t.Context(), func(string) {}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("hand over: got %v, want %q in it", err, want)
	}
	if got := keptText(t, k); got != "a" {
		t.Errorf("the store has %q after a commit that has panicked", got)
	}
	if log := g.log.String(); !strings.Contains(log, "TestPanicsAreErrors") || !strings.Contains(log, "commit_test.go:") {
		t.Errorf("the log does not say where: %s", log)
	}
	x.during = nil
	x.set("b")
	h.mustCommit(t)

	// A start takes the next older frame that can be loaded.
	k.add(t, stateKey("text", 1), frameOf(t, "text", 1, 1<<20, "1:bad"))
	next := begins(t, k)
	y := &text{version: 1}
	h = next.with("text", Snapshot{Version: 1, Save: y.save, Load: func(version uint32, data []byte) error {
		if string(data) == "1:bad" {
			panic(errors.New(strings.Repeat("long ", 1000)))
		}
		return y.load(version, data)
	}}.definition())
	st := h.status()
	if y.get() != "b" || len(st.Refused) != 1 || !strings.Contains(st.Refused[0], "Load has panicked: long long") || len(st.Refused[0]) > 2*maxRefusal {
		t.Errorf("it begins with %q; refused: %q", y.get(), st.Refused)
	}
	// What a living predecessor gives must be taken: the upgrade is refused.
	last := next.successor(k)
	_, err := last.register("text", Snapshot{Version: 1, Save: y.save, Load: func(uint32, []byte) error { panic("no") }}.definition())
	if err == nil || !strings.Contains(err.Error(), "Load has panicked: no") {
		t.Errorf("a frame of the predecessor: got %v", err)
	}

	// Subtract and Merge are the service's, too.
	sum := g.with("sum", Merged{
		Version: 1, Save: x.save, Load: x.load,
		Subtract: func(_, _ []byte) ([]byte, error) { panic("subtract") },
		Merge:    func(uint32, []byte) error { panic("merge") },
	}.definition())
	f, err := sum.save(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	if _, err := sum.difference(t.Context(), f, nil); err == nil || !strings.Contains(err.Error(), "Subtract has panicked: subtract") {
		t.Errorf("Subtract: got %v", err)
	}
	if err := sum.mergeFrame(t.Context(), f); err == nil || !strings.Contains(err.Error(), "Merge has panicked: merge") {
		t.Errorf("Merge: got %v", err)
	}
}

// At a stop all states are committed, without the lease none.
func TestAllAreCommitted(t *testing.T) {
	k := newKeeper(t)
	g := begins(t, k)
	for i := range 3 {
		g.with(fmt.Sprintf("text%d", i), (&text{version: 1}).snapshot())
	}
	g.commitAll(t.Context())
	if got := k.names(); len(got) != 0 {
		t.Errorf("committed without the lease: %q", got)
	}
	g.lead(false)
	g.commitAll(t.Context())
	if got := k.names(); len(got) != 3 {
		t.Errorf("committed %q", got)
	}
}
