// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func testLoop(t *testing.T) *loop {
	t.Helper()
	l, err := newLoop()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// readable returns the end of a pipe that has something to read.
func readable(t *testing.T) int {
	t.Helper()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Close(pipe[0])
		_ = unix.Close(pipe[1])
	})
	if _, err := unix.Write(pipe[1], []byte("x")); err != nil {
		t.Fatal(err)
	}
	return pipe[0]
}

// Of all that is pending at once, the order is systemd's.
func TestLoopPriorities(t *testing.T) {
	l := testLoop(t)
	var got []string
	sources := map[string]priority{
		"exec": priorityExec, "notify": priorityNotify, "socket": priorityNormal, "journal": priorityJournal,
	}
	for name, p := range sources {
		var s *source
		s, err := l.watch(readable(t), unix.EPOLLIN, p, func(uint32) {
			got = append(got, name)
			s.remove()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	children := 2
	l.dead = func() bool { return children > 0 }
	l.child = func() {
		children--
		got = append(got, "child")
	}
	l.idle = func() { got = append(got, "job") }
	l.post(func() { got = append(got, "request") })
	l.after(0, priorityWatchdog, func() { got = append(got, "watchdog") })
	l.after(0, priorityNormal, func() { got = append(got, "timer") })
	l.after(0, priorityEmpty, func() { got = append(got, "empty") })
	l.after(0, priorityNormal, func() { t.Error("a stopped alarm rang") }).stop()
	if err := l.run(func() bool { return len(got) == 11 }); err != nil {
		t.Fatal(err)
	}
	want := []string{"exec", "notify", "child", "child", "empty", "timer", "socket", "watchdog", "request", "job", "journal"}
	if !slices.Equal(got, want) {
		t.Errorf("order is %q, want %q", got, want)
	}
}

// No source starves one of the same priority.
func TestLoopIsFair(t *testing.T) {
	l := testLoop(t)
	calls := make([]int, 3)
	for i := range calls {
		if _, err := l.watch(readable(t), unix.EPOLLIN, priorityNormal, func(uint32) { calls[i]++ }); err != nil {
			t.Fatal(err)
		}
	}
	turns := 0
	if err := l.run(func() bool { turns++; return turns > 30 }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(calls, []int{10, 10, 10}) {
		t.Errorf("calls are %v", calls)
	}
}

// A more urgent event that comes up during a call goes before what was pending.
func TestLoopLooksAgain(t *testing.T) {
	l := testLoop(t)
	var got []string
	watch := func(name string, p priority, then func()) {
		var s *source
		s, err := l.watch(readable(t), unix.EPOLLIN, p, func(uint32) {
			got = append(got, name)
			s.remove()
			then()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	urgent := func() {
		if len(got) == 1 {
			watch("urgent", priorityNotify, func() {})
		}
	}
	watch("normal", priorityNormal, urgent)
	watch("normal", priorityNormal, urgent)
	if err := l.run(func() bool { return len(got) == 3 }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, []string{"normal", "urgent", "normal"}) {
		t.Errorf("order is %q", got)
	}
}

func TestLoopWakesUp(t *testing.T) {
	l := testLoop(t)
	done := false
	posted := make(chan struct{})
	go func() {
		close(posted)
		l.post(func() { done = true })
	}()
	<-posted
	if err := l.run(func() bool { return done }); err != nil {
		t.Fatal(err)
	}
	rang := time.Duration(0)
	begin := time.Now()
	l.after(20*time.Millisecond, priorityNormal, func() { rang = time.Since(begin) })
	if err := l.run(func() bool { return rang > 0 }); err != nil {
		t.Fatal(err)
	}
	if rang < 20*time.Millisecond {
		t.Errorf("the alarm rang after %v", rang)
	}
}

func TestRatelimit(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(1000, 0).Add(time.Duration(ms) * time.Millisecond) }
	r := ratelimit{interval: time.Second, burst: 3}
	for _, test := range []struct {
		ms   int
		want bool
	}{{0, true}, {10, true}, {20, true}, {30, false}, {999, false}, {1000, false}, {1001, true}, {1002, true}, {1003, true}, {1004, false}} {
		if got := r.below(at(test.ms)); got != test.want {
			t.Errorf("after %d ms: %v, want %v", test.ms, got, test.want)
		}
	}
	for _, none := range []ratelimit{{interval: time.Second}, {burst: 1}} {
		for range 5 {
			if !none.below(at(0)) {
				t.Errorf("%+v limits", none)
			}
		}
	}
}
