// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/reexectest"
)

func TestMain(m *testing.M) { reexectest.Main(m, main) }

// patience bounds what has no other end. A loaded machine is slow.
const patience = 30 * time.Second

func TestUpgrade(t *testing.T) {
	reexectest.TestUpgrade(t, reexectest.Service{
		Options: reexectest.Options{Units: "systemd", Files: dropIn("-probation=1us -burst=1000000000 -interval=1ns")},
		OnTrial: dropIn("-probation=1s -burst=1000000000 -interval=1ns"),
		Clients: reexectest.HTTP{Socket: "http", Check: func(response *http.Response, _ []byte) error {
			if response.StatusCode != http.StatusOK {
				return fmt.Errorf("status %s", response.Status)
			}
			return nil
		}},
	})
}

func dropIn(args string) map[string]string {
	return map[string]string{
		"limiter.service.d/test.conf": "[Service]\nExecStart=\nExecStart=/usr/bin/limiter " + args + "\nRestartSec=50ms\n",
	}
}

// limit is far more than is refilled in a test: nothing.
const limit = 20

type service struct {
	*reexectest.Unit
	t *testing.T
}

func start(t *testing.T, args string) *service {
	t.Helper()
	return &service{reexectest.Start(t, reexectest.Options{
		Units: "systemd", Files: dropIn(fmt.Sprintf("-burst=%d -interval=10h %s", limit, args)),
	}), t}
}

// take makes n requests of one client on new connections, and returns how many were
// allowed.
func (s *service) take(name string, n int) int {
	s.t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	return s.takeBy(&http.Client{Transport: transport, Timeout: patience}, name, n)
}

func (s *service) takeBy(client *http.Client, name string, n int) (allowed int) {
	s.t.Helper()
	for range n {
		request, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "http://"+s.Addr("http"), nil)
		if err != nil {
			s.t.Fatal(err)
		}
		request.Header.Set("Client", name)
		response, err := client.Do(request)
		if err != nil {
			s.t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		switch response.StatusCode {
		case http.StatusOK:
			allowed++
		case http.StatusTooManyRequests:
			if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err != nil || seconds < 1 {
				s.t.Errorf("Retry-After: %q", response.Header.Get("Retry-After"))
			}
		default:
			s.t.Fatal(response.Status)
		}
	}
	return allowed
}

func (s *service) want(when, name string, asked, want int) {
	s.t.Helper()
	if n := s.take(name, asked); n != want {
		s.t.Errorf("%s: %s was allowed %d of %d requests, want %d", when, name, n, asked, want)
	}
}

func (s *service) install(version string) {
	s.t.Helper()
	if err := s.Install("/usr/bin/limiter", reexectest.Version(version)); err != nil {
		s.t.Fatal(err)
	}
}

// ended waits until a process has said its last words.
func (s *service) ended(pid int) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if slices.ContainsFunc(s.Deaths(), func(d reexectest.Death) bool { return d.PID == pid }) {
			return
		}
	}
	s.t.Fatalf("process %d does not end", pid)
}

// upgrade begins one, and returns the PID of the version on trial.
func (s *service) upgrade(version string) (next int, verdict <-chan error) {
	s.t.Helper()
	s.install(version)
	over := make(chan error, 1)
	go func() { over <- s.Reload(context.WithoutCancel(s.t.Context())) }()
	err := s.WaitFor(s.t.Context(), reexectest.Condition{Text: "a version on trial", Holds: func(p reexectest.Properties) bool {
		_, text, _ := strings.Cut(p.StatusText, "(PID ")
		n, _ := fmt.Sscanf(text, "%d) is next", &next)
		return n == 1 && strings.HasPrefix(p.StatusText, "probation")
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	return next, over
}

func TestLimitCrossesUpgrades(t *testing.T) {
	t.Parallel()
	s := start(t, "-probation=1us")
	s.want("at first", "ada", 8, 8)
	s.want("at first", "bob", limit+5, limit)
	for version := 2; version <= 4; version++ {
		old := s.MainPID()
		s.install(strconv.Itoa(version))
		if err := s.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.ended(old)
		s.want("after an upgrade", "bob", 1, 0)
		s.want("after an upgrade", "ada", 1, 1)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.want("after a restart", "bob", 1, 0)
	s.want("after a restart", "ada", limit, limit-11)
}

// The slack: while two versions serve, one with connections to both gets one burst
// more at the most, and it is charged.
func TestLimitOfBothVersions(t *testing.T) {
	for _, undone := range []bool{false, true} {
		t.Run(fmt.Sprintf("undone=%v", undone), func(t *testing.T) {
			t.Parallel()
			s := start(t, "-probation=4s")
			transport := &http.Transport{MaxConnsPerHost: 1}
			defer transport.CloseIdleConnections()
			kept := &http.Client{Transport: transport, Timeout: patience}
			if n := s.takeBy(kept, "eve", 2); n != 2 { // connected to the old version
				t.Fatalf("%d allowed, want 2", n)
			}
			s.want("before", "ada", 2, 2)
			old := s.MainPID()
			next, verdict := s.upgrade("2")
			if n := s.takeBy(kept, "eve", limit); n != limit-2 {
				t.Errorf("the old version allows eve %d, want %d", n, limit-2)
			}
			// Some may still be accepted, and refused, by the old version.
			s.want("on trial", "eve", 3*limit, limit-2)
			s.want("on trial", "ada", 3, 3)
			if undone {
				if err := s.Signal(next, unix.SIGTERM); err != nil {
					t.Fatal(err)
				}
			}
			if err := <-verdict; (err != nil) != undone {
				t.Fatalf("reload: %v", err)
			}
			transport.CloseIdleConnections()
			ends := old
			if undone {
				ends = next
			}
			s.ended(ends)
			s.want("after that", "eve", 3, 0)
			s.want("after that", "ada", limit, limit-5)
		})
	}
}

// What was granted since the last commit is the slack of a crash.
func TestLimitOutlivesCrash(t *testing.T) {
	t.Parallel()
	s := start(t, "")
	s.want("at first", "ada", 5, 5)
	s.want("at first", "bob", limit, limit)
	s.committed()
	s.want("after the commit", "ada", 2, 2)
	old := s.MainPID()
	if err := s.Signal(old, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitFor(t.Context(), reexectest.Condition{Text: "another main process", Holds: func(p reexectest.Properties) bool {
		return p.ActiveState == "active" && p.MainPID != 0 && p.MainPID != old
	}}); err != nil {
		t.Fatal(err)
	}
	s.want("after the crash", "bob", 1, 0)
	if n := s.take("ada", limit); n < limit-7 || n > limit-5 {
		t.Errorf("after the crash ada was allowed %d more, want %d or the 2 since the commit, too", n, limit-7)
	}
}

// committed waits until all that was granted before is in the fd store.
func (s *service) committed() {
	s.t.Helper()
	client := control.NewClient(s.Path("/run/limiter/control.sock"))
	seq := func() uint64 {
		status, err := client.Status(s.t.Context())
		if err != nil {
			s.t.Fatal(err)
		}
		for _, state := range status.States {
			if state.Name == "limits" && state.Committed != nil {
				return state.Committed.Seq
			}
		}
		return 0
	}
	// One that is under way now may have begun before.
	commits, last := 0, seq()
	for deadline := time.Now().Add(patience); commits < 2 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if now := seq(); now != last {
			commits, last = commits+1, now
		}
	}
	if commits < 2 {
		s.t.Fatal("nothing is committed")
	}
}
