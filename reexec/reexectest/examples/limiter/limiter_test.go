// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// clock stands still until a test moves it.
type clock struct{ time.Duration }

func (c *clock) limiter(burst int, interval time.Duration) *limiter {
	l := newLimiter(burst, interval)
	l.now = func() time.Duration { return c.Duration }
	return l
}

// grants asks n times, and returns how often the answer was yes.
func (l *limiter) grants(name string, n int) (granted int) {
	for range n {
		if _, ok := l.allow(name); ok {
			granted++
		}
	}
	return granted
}

func (l *limiter) frame(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := l.save(&buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// tell charges to the clients of to what l has granted since then, and returns
// what is the next time's since.
func (l *limiter) tell(t *testing.T, to *limiter, since []byte) []byte {
	t.Helper()
	now := l.frame(t)
	added, err := subtract(now, since)
	if err != nil {
		t.Fatal(err)
	}
	if err := to.merge(format, added); err != nil {
		t.Fatal(err)
	}
	return now
}

func TestLimit(t *testing.T) {
	c := &clock{time.Hour}
	l := c.limiter(3, time.Second)
	if n := l.grants("a", 10); n != 3 {
		t.Errorf("%d requests at once, want 3", n)
	}
	if n := l.grants("b", 1); n != 1 {
		t.Error("another client has another limit")
	}
	if wait, ok := l.allow("a"); ok || wait != time.Second {
		t.Errorf("%v, wait %v, want a second", ok, wait)
	}
	c.Duration += 1500 * time.Millisecond
	if n := l.grants("a", 10); n != 1 {
		t.Errorf("%d requests after an interval and a half, want 1", n)
	}
	c.Duration += 500 * time.Millisecond
	if n := l.grants("a", 10); n != 1 {
		t.Errorf("%d requests after two intervals, want 1 more", n)
	}
	c.Duration += time.Minute
	if l.frame(t); len(l.clients) != 0 {
		t.Errorf("%v is kept of clients that owe nothing", l.clients)
	}
	if n := l.grants("a", 10); n != 3 {
		t.Errorf("%d requests at once after a pause, want 3", n)
	}
}

// Whatever happens when: while two generations serve, a client gets one burst more
// than from one at the most, and that is charged to it. Nobody is charged for what
// was not granted.
func TestLimitOfTwoGenerations(t *testing.T) {
	const burst, interval = 10, time.Second
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := &clock{time.Hour}
		main := c.limiter(burst, interval)
		began, granted := c.Duration, main.grants("a", r.IntN(2*burst))
		overlaps := 0
		for range 5 {
			next := c.limiter(burst, interval)
			since := main.frame(t)
			if err := next.load(format, since); err != nil {
				t.Fatal(err)
			}
			overlaps++
			to, from, base := next, main, since
			if r.IntN(2) == 0 { // it is undone
				to, from = main, next
			}
			for range r.IntN(4) {
				c.Duration += time.Duration(r.IntN(3000)) * time.Millisecond
				granted += main.grants("a", r.IntN(burst)) + next.grants("a", r.IntN(burst))
				if r.IntN(2) == 0 {
					base = from.tell(t, to, base)
				}
			}
			from.tell(t, to, base)
			main = to
		}
		refilled := int((c.Duration - began) / interval)
		// Each overlap may grant a burst twice, and what refills meanwhile.
		if most := burst + refilled + overlaps*burst + refilled; granted > most {
			t.Fatalf("seed %d: %d requests were granted in %v, want at most %d", seed, granted, c.Duration-began, most)
		}
		// When all is paid off the client has its burst again, and not before its due.
		owed := max(0, main.clients["a"].Paid-c.Duration)
		if due := time.Duration(granted) * interval; owed > due {
			t.Fatalf("seed %d: the client owes %v for %d requests", seed, owed, granted)
		}
		c.Duration += owed
		if n := main.grants("a", 2*burst); n != burst {
			t.Fatalf("seed %d: %d requests at once after all was paid, want %d", seed, n, burst)
		}
	}
}

// An entry that was dropped and made again is not taken for the one before.
func TestSubtractDroppedEntry(t *testing.T) {
	c := &clock{time.Hour}
	a, b := c.limiter(5, time.Second), c.limiter(5, time.Second)
	a.grants("x", 5)
	since := a.frame(t)
	c.Duration += time.Minute
	a.frame(t)
	a.grants("x", 3)
	a.tell(t, b, since)
	if n := b.grants("x", 5); n != 2 {
		t.Errorf("%d more requests where 3 of 5 were granted elsewhere, want 2", n)
	}
	if err := b.load(format, []byte("{")); err == nil || len(b.clients) != 1 {
		t.Errorf("a torn frame: %v, clients %v", err, b.clients)
	}
	if err := b.merge(format, []byte(fmt.Sprint(1))); err == nil {
		t.Error("a number was merged")
	}
}
