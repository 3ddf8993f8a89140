// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"os"
	"syscall"
	"testing"
)

// openSessions opens some, and asks each once.
func (s *service) openSessions(n int) []*rawSession {
	s.t.Helper()
	network, address := s.addressOf("lines")
	sessions := make([]*rawSession, n)
	for i := range sessions {
		sessions[i] = dialSession(s.t, network, address)
		sessions[i].mustAnswer(s.t, "before", s.first)
	}
	return sessions
}

// A new version that has room for some sessions only takes those. The others go
// on in the old one.
func TestSessionsToReceiverAtItsLimit(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		const n = 120
		s := start(t, setup{plan: withSessions("tcp", "127.0.0.1:0"), managed: managed})
		sessions := s.openSessions(n)
		s.release("v2", func(p *plan) { p.NoFile = 100 })
		main := s.mustUpgrade().PID
		moved := 0
		for i, c := range sessions {
			if err := c.send("after\n"); err != nil {
				t.Error(err)
			}
			switch pid, err := c.expect("after"); {
			case err != nil:
				t.Errorf("session %d: %v", i, err)
			case pid == main:
				moved++
			case pid != s.first:
				t.Errorf("session %d is served by PID %d", i, pid)
			}
		}
		if st := s.status(); moved == 0 || moved == n || st.Adopted < moved {
			t.Errorf("%d of %d sessions have moved, %d were adopted", moved, n, st.Adopted)
		}
		s.mustServe(main)
		for _, c := range sessions {
			_ = c.conn.Close()
		}
		s.waitGone(s.first)
	})
}

// A new main that is killed while sessions move to it takes what it has with it.
// All others go on in the old one; none is left without an answer or an end.
func TestSuccessorKilledDuringMoveOfSessions(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		p := withSessions("tcp", "127.0.0.1:0")
		p.Ballast = 8 << 10 // so that it takes many frames
		s := start(t, setup{plan: p, managed: managed})
		sessions := s.openSessions(200)
		s.release("v2", nil)
		main := s.mustUpgrade().PID
		s.signal(main, syscall.SIGKILL)
		s.waitGone(main)
		cut := 0
		for i, c := range sessions {
			err := c.send("after\n")
			pid := 0
			if err == nil {
				pid, err = c.expect("after")
			}
			switch {
			case os.IsTimeout(err):
				t.Fatalf("session %d hangs: %v", i, err)
			case err != nil:
				cut++
			case pid != s.first:
				t.Errorf("session %d is served by PID %d", i, pid)
			}
			_ = c.conn.Close()
		}
		t.Logf("%d of %d were cut", cut, len(sessions))
		s.waitGone(s.first)
	})
}
