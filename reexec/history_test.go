// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

func mustHistory(t *testing.T, g *generation) *history {
	t.Helper()
	h, err := newHistory(g.states)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// What was committed is there after a crash, the newest first, and no more than
// anybody wants to read.
func TestHistoryOutlivesACrash(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	g := begins(t, k)
	g.lease.set(leaseHeld)
	h := mustHistory(t, g)
	if st := g.status(); len(st) != 0 || !h.empty() {
		t.Errorf("a history without attempts is in the status: %+v", st)
	}
	started := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	for i := range control.MaxHistory + 5 {
		v := control.Verdict{
			Outcome: control.Upgraded, From: control.Process{PID: i, Generation: i, Version: "v"}, To: &control.Process{PID: i + 1},
			Started: started.Add(time.Duration(i) * time.Hour), Phases: []control.Phase{{Name: "checking", Seconds: 0.5}},
		}
		if i%3 == 0 {
			v.Outcome, v.Reason = control.Refused, strings.Repeat("why", maxHistoryReason)
		}
		h.add(v)
	}
	if !h.drained(control.Drain{Process: control.Process{PID: 20, Generation: 20}, Seconds: 1.5, Moved: 7}) {
		t.Error("the drain of an upgrade is not noted")
	}
	if h.drained(control.Drain{Process: control.Process{PID: 20, Generation: 20}}) || h.drained(control.Drain{Process: control.Process{PID: 18, Generation: 18}}) {
		t.Error("a drain is noted twice, or of a version that was refused")
	}
	if err := h.state.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	want, attempts := h.list()
	if len(want) != control.MaxHistory || want[0].From.PID != control.MaxHistory+4 || want[0].Drain.Moved != 7 || len(want[2].Reason) > maxHistoryReason+len("…") {
		t.Errorf("history %+v", want)
	}
	if attempts[control.Refused] != 7 || attempts[control.Upgraded] != 14 {
		t.Errorf("attempts %v", attempts)
	}
	next := mustHistory(t, begins(t, k))
	got, again := next.list()
	if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(again, attempts) {
		t.Errorf("after a crash:\n%+v, %v\nwant\n%+v, %v", got, again, want, attempts)
	}
}

// Whatever is in a frame, what is made of it is bounded, and is written again
// as it was read.
func FuzzHistoryFrame(f *testing.F) {
	f.Add([]byte(`{"verdicts":[{"outcome":"upgraded","from":{"pid":1},"to":{"pid":2},"started":"2026-01-02T03:04:05Z","drain":{"seconds":1,"moved":2}}],"attempts":{"upgraded":1,"busy":7}}`))
	f.Add([]byte(`{"verdicts":[` + strings.Repeat(`{"reason":"`+strings.Repeat("x", 2000)+`"},`, 40) + `{}],"attempts":{"upgraded":18446744073709551615}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		h := &history{attempts: map[control.Outcome]uint64{}}
		if h.load(1, data) != nil {
			return
		}
		if len(h.verdicts) > control.MaxHistory || len(h.attempts) > len(counted) {
			t.Fatalf("%d verdicts, %d outcomes", len(h.verdicts), len(h.attempts))
		}
		var first, second strings.Builder
		if err := h.save(&first); err != nil {
			return // a time that JSON cannot write
		}
		if len(first.String()) > control.MaxHistory*64<<10 {
			t.Fatalf("%d bytes", len(first.String()))
		}
		again := &history{attempts: map[control.Outcome]uint64{}}
		if err := again.load(1, []byte(first.String())); err != nil {
			t.Fatal(err)
		}
		if err := again.save(&second); err != nil || first.String() != second.String() {
			t.Fatalf("%s\nwas read as\n%s (%v)", first.String(), second.String(), err)
		}
	})
}

// What nobody misses takes no place that others may need: neither one that is
// in use nor the one by which something is replaced.
func TestStoreSpare(t *testing.T) {
	t.Parallel()
	for _, told := range []bool{false, true} {
		for limit := 1; limit <= 5; limit++ {
			t.Run(fmt.Sprintf("%d, told %t", limit, told), func(t *testing.T) {
				st, m := testStore(t, limit)
				if told {
					st.limit = limit
				}
				if _, err := st.put(t.Context(), "state/a/1", testFile(t, "a")); err != nil && limit > 1 {
					t.Fatal(err)
				}
				for i := range 4 {
					stored, err := st.putSpare(t.Context(), "state/spare/1", testFile(t, fmt.Sprint(i)))
					switch {
					case limit < 3:
						if !errors.Is(err, ErrStoreFull) {
							t.Errorf("number %d: stored as %q, %v", i, stored, err)
						}
					case err != nil:
						t.Errorf("number %d: %v", i, err)
					case content(t, m, stored) != fmt.Sprint(i):
						t.Errorf("number %d: %q", i, content(t, m, stored))
					}
					if names := settledNames(t, st, m); len(names) != min(2, max(1, limit-1)) {
						t.Errorf("number %d: the store has %q", i, names)
					}
					// The place for a replacement is still there.
					if _, err := st.put(t.Context(), "state/a/1", testFile(t, "a")); err != nil && limit > 1 {
						t.Errorf("number %d: %v", i, err)
					}
				}
				if w := st.warning(); w != "" && limit > 1 {
					t.Errorf("warning %q", w)
				}
			})
		}
	}
}

// A frame that had to leave the store is not handed on as if it were there.
func TestHistoryLeavesTheStore(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	g := begins(t, k)
	g.lease.set(leaseHeld)
	h := mustHistory(t, g)
	h.add(control.Verdict{Outcome: control.Upgraded})
	if err := h.state.Commit(t.Context()); err != nil || !h.state.isCommitted() {
		t.Fatalf("committed %t, %v", h.state.isCommitted(), err)
	}
	k.refuse = &StoreError{Op: "store", Name: "x", Err: ErrStoreFull}
	if err := h.state.Commit(t.Context()); !errors.Is(err, ErrStoreFull) || h.state.isCommitted() {
		t.Errorf("committed %t, %v", h.state.isCommitted(), err)
	}
	list, err := h.state.handOver(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer closePassing(list)
	if len(list) != 1 || list[0].Stored != "" {
		t.Errorf("handed over: %+v", list)
	}
}
