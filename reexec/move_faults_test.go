// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An old version that is killed while it moves: what the new one has said that
// it has goes on there, and what it has not got is cut. Nothing hangs, and
// nothing else is lost.
func TestPredecessorKilledDuringMove(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		const n = 2000
		s := start(t, setup{plan: quick(), managed: managed})
		clients := dialMany(t, s.address(0), n)
		allMustAsk(t, clients, "before", s.first)
		signal := s.signaller(s.first)
		s.release("v2", nil)
		main := s.mustUpgrade().PID
		for s.status().Adopted == 0 {
			time.Sleep(time.Millisecond)
		}
		// It may be done already: then all are answered.
		signal(syscall.SIGKILL)
		s.waitDeath(s.first)
		answered := 0
		for i, c := range clients {
			pid, leads, err := c.ask(fmt.Sprint("client ", i))
			switch {
			case err == nil && pid == main && !leads:
				answered++
			case err == nil:
				t.Errorf("client %d: PID %d, leads away: %t", i, pid, leads)
			case os.IsTimeout(err):
				t.Errorf("client %d hangs: %v", i, err)
			}
		}
		if adopted := s.status().Adopted; answered != adopted {
			t.Errorf("%d were answered, %d were adopted", answered, adopted)
		}
		t.Logf("%d of %d were cut", n-answered, n)
		s.mustServe(main)
	})
}

// A service that stops while connections move ends, and each client sees an
// answer or the end of its connection.
func TestStopDuringMove(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		const n = 1000
		s := start(t, setup{plan: quick(), managed: managed})
		clients := dialMany(t, s.address(0), n)
		allMustAsk(t, clients, "before", s.first)
		signal := s.signaller(s.first)
		s.release("v2", nil)
		main := s.mustUpgrade().PID
		for s.status().Adopted == 0 {
			time.Sleep(time.Millisecond)
		}
		s.signal(main, syscall.SIGTERM)
		signal(syscall.SIGTERM)
		if status := s.waitDeath(s.first); status != "exit 0" {
			t.Errorf("PID %d ended with %s", s.first, status)
		}
		s.waitGone(main) // without a manager its predecessor may reap it
		s.waitLog(main, "service ends")
		for i, c := range clients {
			if rest, err := io.ReadAll(c.in); len(rest) > 0 || os.IsTimeout(err) {
				t.Errorf("client %d: %q, %v", i, rest, err)
			}
		}
	})
}

// The old version alone is told to stop while it moves: the new one has what it
// was sent, and serves it.
func TestPredecessorStopsDuringMove(t *testing.T) {
	t.Parallel()
	const n = 1000
	s := start(t, setup{plan: quick()})
	clients := dialMany(t, s.address(0), n)
	allMustAsk(t, clients, "before", s.first)
	signal := s.signaller(s.first)
	s.release("v2", nil)
	main := s.mustUpgrade().PID
	for s.status().Adopted == 0 {
		time.Sleep(time.Millisecond)
	}
	signal(syscall.SIGTERM)
	if status := s.waitDeath(s.first); status != "exit 0" {
		t.Errorf("PID %d ended with %s", s.first, status)
	}
	answered := 0
	for i, c := range clients {
		if pid, _, err := c.ask("after"); err == nil && pid == main {
			answered++
		} else if err == nil || os.IsTimeout(err) {
			t.Errorf("client %d: PID %d, %v", i, pid, err)
		}
	}
	if adopted := s.status().Adopted; answered != adopted {
		t.Errorf("%d were answered, %d were adopted", answered, adopted)
	}
	s.mustServe(main)
}

// The same connections over thirty upgrades cost the thirtieth version what they
// cost the second.
func TestConnectionsDoNotGrow(t *testing.T) {
	t.Parallel()
	const n, upgrades = 100, 30
	p := quick()
	p.Probation, p.Beat = time.Microsecond, patience/10
	s := start(t, setup{plan: p})
	clients := dialMany(t, s.address(0), n)
	allMustAsk(t, clients, "before", s.first)
	main := s.first
	var second, last cost
	for i := range upgrades {
		s.release(fmt.Sprintf("v%d", i+2), nil)
		next := s.mustUpgrade().PID
		s.waitDeath(main)
		main = next
		last = s.cost(clients[0], main)
		if i == 0 {
			second = last
		}
	}
	t.Logf("second version: %+v, last: %+v", second, last)
	// One that serves the control socket comes and goes.
	if last.Goroutines > second.Goroutines+n/10 || last.Descriptors > second.Descriptors+n/10 {
		t.Errorf("the last version has %+v, the second had %+v", last, second)
	}
	allMustAsk(t, clients, "after", main)
}

// cost is what a version needs while all is quiet.
type cost struct{ Goroutines, Descriptors int }

func (s *service) cost(c *rawClient, pid int) (got cost) {
	s.t.Helper()
	if _, err := io.WriteString(c.conn, "GET /goroutines HTTP/1.1\r\nHost: test\r\n\r\n"); err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&got.Goroutines); err != nil {
		s.t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		s.t.Fatal(err)
	}
	got.Descriptors = len(fds)
	return got
}

// signaller signals a process that may have ended by then.
func (s *service) signaller(pid int) func(syscall.Signal) {
	s.t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = unix.Close(fd) })
	return func(sig syscall.Signal) {
		s.t.Helper()
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			s.t.Fatal(err)
		}
	}
}

// A second upgrade is asked for while the connections of the first one still move.
// Each client is answered; one that was on its way to a version that drains
// already may be led away.
func TestUpgradeDuringMove(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		const n = 2000
		p := quick()
		p.Probation, p.Beat = time.Microsecond, patience/10
		s := start(t, setup{plan: p, managed: managed})
		clients := dialMany(t, s.address(0), n)
		allMustAsk(t, clients, "before", s.first)
		s.release("v2", nil)
		second := s.mustUpgrade().PID
		s.release("v3", nil)
		third := s.mustUpgrade().PID
		leads := 0
		for i, c := range clients {
			pid, led, err := c.ask(fmt.Sprint("client ", i))
			if err != nil || !led && pid != s.first && pid != second && pid != third {
				t.Fatalf("client %d: PID %d, %v", i, pid, err)
			}
			if led {
				leads++
			}
		}
		// Both end when they have no connection left.
		s.waitGone(s.first)
		s.waitGone(second)
		t.Logf("%d of %d were led away, %d adopted", leads, n, s.status().Adopted)
		s.mustServe(third)
	})
}
