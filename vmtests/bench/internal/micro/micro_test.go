// SPDX-License-Identifier: Apache-2.0

package micro

import (
	"context"
	"errors"
	"os"
	"regexp"
	"slices"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	Child()
	os.Exit(m.Run())
}

func open(t testing.TB) *Socket {
	t.Helper()
	s, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// All libraries say the same, or the comparison would be of different things.
func TestMessages(t *testing.T) {
	s := open(t)
	want := map[string]*regexp.Regexp{
		"READY=1":    regexp.MustCompile(`^READY=1$`),
		"STATUS=":    regexp.MustCompile(`^STATUS=` + status + `$`),
		"WATCHDOG=1": regexp.MustCompile(`^WATCHDOG=1$`),
		// go-systemd's field ends with a newline of its own.
		"RELOADING=1": regexp.MustCompile(`^RELOADING=1\nMONOTONIC_USEC=[0-9]+\n?$`),
	}
	seen := make(map[string]int)
	buf := make([]byte, 4096)
	for _, sender := range s.Senders {
		if err := sender.Send(); err != nil {
			t.Fatalf("%s, %s: %v", sender.Library, sender.Message, err)
		}
		if err := s.conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := s.conn.Read(buf)
		if err != nil {
			t.Fatalf("%s, %s: %v", sender.Library, sender.Message, err)
		}
		if !want[sender.Message].Match(buf[:n]) {
			t.Errorf("%s sends %q, want %s", sender.Library, buf[:n], want[sender.Message])
		}
		seen[sender.Message]++
	}
	for _, message := range Messages {
		if seen[message] < 3 {
			t.Errorf("%s is sent by %d libraries, want 3 or more", message, seen[message])
		}
	}
}

func TestCloseRestoresTheVariable(t *testing.T) {
	for _, before := range []string{"", "/run/before"} {
		t.Setenv(variable, before)
		if before == "" {
			_ = os.Unsetenv(variable) // t.Setenv restores it
		}
		s, err := Open()
		if err != nil {
			t.Fatal(err)
		}
		if got := os.Getenv(variable); got == before {
			t.Errorf("%s=%q while the socket is open", variable, got)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if got, ok := os.LookupEnv(variable); got != before || ok != (before != "") {
			t.Errorf("%s=%q (%v) afterwards, want %q as before", variable, got, ok, before)
		}
	}
}

// Messages of holdfast allocate nothing but the text of a status.
func TestAllocations(t *testing.T) {
	s := open(t)
	if err := s.Drain(); err != nil {
		t.Fatal(err)
	}
	for _, sender := range s.Senders {
		if sender.Library != Holdfast {
			continue
		}
		most := 0.0
		if sender.Message == "STATUS=" {
			most = 1
		}
		if got := testing.AllocsPerRun(100, func() {
			if err := sender.Send(); err != nil {
				t.Error(err)
			}
		}); got > most {
			t.Errorf("%s: %v allocations, want %v at most", sender.Message, got, most)
		}
	}
}

func TestCompare(t *testing.T) {
	all, err := Compare(t.Context(), Effort{Rounds: 3, Messages: 20, Listeners: 3})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != len(Messages)+2 {
		t.Errorf("%d comparisons, want %d messages and two ways to take listeners", len(all), len(Messages))
	}
	for _, c := range all {
		if len(c.Costs) < 2 || c.Costs[0].Library != Holdfast {
			t.Errorf("%s: %+v: want holdfast first, and others", c.What, c.Costs)
		}
		for _, cost := range c.Costs {
			if cost.Time <= 0 || cost.Library != Holdfast && (cost.Allocs < 1 || cost.Bytes < 1) {
				t.Errorf("%s: %+v: makes no sense", c.What, cost)
			}
		}
	}
}

// A benchmark that is told to end does, also by the signal of a terminal, which comes to the reader, too.
func TestCompareEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Compare(ctx, Effort{Rounds: 1000, Messages: 1000, Listeners: 3}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the cause of the end", err)
	}
}

// A sender without a reader fails: go-systemd and others would wait for one for ever.
func TestReaderIsGone(t *testing.T) {
	s, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Drain(); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(s.Senders, func(sender Sender) bool { return sender.Library == GoSystem })
	if err := s.Senders[i].Send(); err != nil {
		t.Fatal(err)
	}
	if err := s.reader.Kill(); err != nil {
		t.Fatal(err)
	}
	failed := make(chan struct{})
	go func() {
		defer close(failed)
		for s.Senders[i].Send() == nil { // until it is dead
		}
	}()
	select {
	case <-failed:
	case <-time.After(30 * time.Second):
		t.Error("a sender waits for a reader that is gone")
	}
	if err := s.Close(); err == nil {
		t.Error("a reader that was killed is no error")
	}
}

func TestTakeByNobody(t *testing.T) {
	passed, err := Listen(1)
	if err != nil {
		t.Fatal(err)
	}
	defer passed.Close()
	if got, err := passed.Take(Taker{Library: "nobody"}); err == nil {
		t.Errorf("took listeners: %+v", got)
	}
}

func BenchmarkNotify(b *testing.B) {
	s := open(b)
	if err := s.Drain(); err != nil {
		b.Fatal(err)
	}
	for _, sender := range s.Senders {
		b.Run(sender.Message+"/"+sender.Library, sender.Benchmark)
	}
}

func BenchmarkTake1000(b *testing.B) {
	passed, err := Listen(1000)
	if err != nil {
		b.Fatal(err)
	}
	defer passed.Close()
	for _, taker := range Takers {
		how := "of one name"
		if taker.ByName {
			how = "by name"
		}
		b.Run(how+"/"+taker.Library, func(b *testing.B) {
			b.ReportAllocs() // shows the metrics below
			var ns, allocs, bytes, n float64
			for b.Loop() {
				got, err := passed.Take(taker)
				if err != nil {
					b.Fatal(err)
				}
				ns, allocs, bytes, n = ns+float64(got.Time), allocs+got.Allocs, bytes+got.Bytes, n+1
			}
			// Of the calls alone, not of the process around them.
			b.ReportMetric(ns/n, "ns/op")
			b.ReportMetric(allocs/n, "allocs/op")
			b.ReportMetric(bytes/n, "B/op")
		})
	}
}
