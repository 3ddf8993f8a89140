// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// withSessions is a quick service that has sessions of lines, too.
func withSessions(network, address string) plan {
	p := quick()
	p.Sessions = &planSocket{"lines", network, address}
	return p
}

// addressOf is where a listener is.
func (s *service) addressOf(name string) (network, address string) {
	s.t.Helper()
	for _, l := range s.status().Listeners {
		if l.Name == name {
			return l.Network, l.Address
		}
	}
	s.t.Fatalf("no listener %q", name)
	return "", ""
}

// openSession opens one.
func (s *service) openSession() *rawSession {
	s.t.Helper()
	network, address := s.addressOf("lines")
	return dialSession(s.t, network, address)
}

func dialSession(t *testing.T, network, address string) *rawSession {
	t.Helper()
	conn, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(4 * patience))
	return &rawSession{rawClient: rawClient{conn: conn}}
}

// rawSession is a client of serveSessions. It has one connection.
type rawSession struct {
	rawClient
	lines int
}

func (c *rawSession) send(text string) error {
	_, err := io.WriteString(c.conn, text)
	return err
}

// line reads one, without reading ahead.
func (c *rawSession) line() (string, error) {
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := c.conn.Read(b); err != nil {
			return string(line), err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
}

// expect reads the answer to the next line.
func (c *rawSession) expect(text string) (pid int, err error) {
	got, err := c.line()
	if err != nil {
		return 0, fmt.Errorf("after %d lines: %q, %w", c.lines, got, err)
	}
	c.lines++
	var n int
	var said string
	if _, err := fmt.Sscanf(got, "%d %d %s", &n, &pid, &said); err != nil || n != c.lines || said != text {
		return 0, fmt.Errorf("answer %q, want line %d, %q", got, c.lines, text)
	}
	return pid, nil
}

func (c *rawSession) mustAnswer(t *testing.T, text string, want int) {
	t.Helper()
	if err := c.send(text + "\n"); err != nil {
		t.Error(err)
		return
	}
	switch pid, err := c.expect(text); {
	case err != nil:
		t.Error(err)
	case pid != want:
		t.Errorf("line %q was answered by PID %d, want %d", text, pid, want)
	}
}

// Sessions, silent ones and such as never rest, keep their connection and their
// count over upgrades and a version that is refused.
func TestSessionsCrossUpgrades(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		for _, network := range []string{"tcp", "unix"} {
			t.Run(network, func(t *testing.T) {
				t.Parallel()
				const silent, busy, upgrades = 40, 4, 8
				address := "127.0.0.1:0"
				if network == "unix" {
					address = filepath.Join(t.TempDir(), "s")
				}
				s := start(t, setup{plan: withSessions(network, address), managed: managed})
				var sessions []*rawSession
				for range silent {
					c := s.openSession()
					c.mustAnswer(t, "hello", s.first)
					sessions = append(sessions, c)
				}
				var stopping atomic.Bool
				var done sync.WaitGroup
				for i := range busy {
					c := s.openSession()
					done.Go(func() {
						// Always ahead, and rarely at the end of a line.
						for n := 0; !stopping.Load(); n++ {
							text := fmt.Sprintf("busy-%d-%d", i, n)
							if err := c.send(text + "\n" + text); err != nil {
								t.Error(err)
								return
							}
							_, err := c.expect(text)
							if err == nil {
								err = c.send("\n")
							}
							if err == nil {
								_, err = c.expect(text)
							}
							if err != nil {
								t.Errorf("busy session %d: %v", i, err)
								return
							}
						}
						t.Logf("busy session %d: %d lines", i, c.lines)
					})
				}
				main := s.first
				for i := range upgrades {
					half := sessions[i]
					if err := half.send("ha"); err != nil {
						t.Error(err)
					}
					if i == upgrades/2 {
						s.release("bad", func(p *plan) { p.Check = "exit: no configuration" })
						if v, _ := s.upgrade(); v.Outcome != control.Refused {
							t.Errorf("verdict %+v", v)
						}
					} else {
						s.release(fmt.Sprintf("v%d", i+2), nil)
						next := s.mustUpgrade().PID
						// It ends when it has no session left.
						s.waitGone(main)
						main = next
					}
					if err := half.send("lf\n"); err != nil {
						t.Error(err)
					}
					if pid, err := half.expect("half"); err != nil || pid != main {
						t.Errorf("a line in two halves: PID %d, %v; want %d", pid, err, main)
					}
				}
				stopping.Store(true)
				done.Wait()
				for _, c := range sessions {
					c.mustAnswer(t, "still-here", main)
				}
			})
		}
	})
}

// A version that is undone moves the sessions that it has opened back.
func TestSessionsMoveBack(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		p := withSessions("tcp", "127.0.0.1:0")
		p.Probation = patience
		s := start(t, setup{plan: p, managed: managed})
		network, address := s.addressOf("lines")
		before := dialSession(t, network, address)
		before.mustAnswer(t, "before", s.first)
		health := filepath.Join(s.dir, "health")
		writeFile(t, health, "")
		successor, verdict := s.onTrial(func(p *plan) { p.HealthFile = health })
		s.mustReach(s.url("/who"), successor)
		var sessions []*rawSession
		for range 20 {
			c := dialSession(t, network, address)
			c.mustAnswer(t, "on-trial", successor)
			if err := c.send("ha"); err != nil {
				t.Error(err)
			}
			sessions = append(sessions, c)
		}
		before.mustAnswer(t, "meanwhile", s.first)
		writeFile(t, health, "the cache is cold")
		if v, _ := verdict(); v.Outcome != control.RolledBack {
			t.Fatalf("verdict %+v", v)
		}
		s.waitGone(successor)
		for _, c := range sessions {
			if err := c.send("lf\n"); err != nil {
				t.Error(err)
			}
			if pid, err := c.expect("half"); err != nil || pid != s.first {
				t.Errorf("PID %d, %v; want %d", pid, err, s.first)
			}
		}
		before.mustAnswer(t, "after", s.first)
	})
}

// Sessions that the new version does not handle go on in the old one, to the
// deadline, and are told why they end. The next main knows who held that up.
func TestSessionsThatStayAreTold(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		p := withSessions("tcp", "127.0.0.1:0")
		p.DrainTimeout = 2 * time.Second
		s := start(t, setup{plan: p, managed: managed})
		c := s.openSession()
		c.mustAnswer(t, "before", s.first)
		s.release("v2", func(p *plan) { p.NoSessions = true })
		main := s.mustUpgrade().PID
		s.waitLog(s.first, "promoting -> draining")
		c.mustAnswer(t, "while-it-drains", s.first)
		if line, err := c.line(); line != "goodbye: the drain timeout is over" || err != nil {
			t.Errorf("the session ends with %q, %v", line, err)
		}
		if line, err := c.line(); !errors.Is(err, io.EOF) {
			t.Errorf("after the goodbye: %q, %v", line, err)
		}
		s.waitGone(s.first)
		s.mustServe(main)
		d := s.status().LastDrain
		if d == nil || d.PID != s.first || d.Seconds < 1 || len(d.Holders) != 2 {
			t.Fatalf("last drain: %+v", d)
		}
		for _, h := range d.Holders {
			if h.Name != "lines" || h.Seconds < 1 || h.Cut {
				t.Errorf("it was held up by %+v", h)
			}
		}
	})
}

// As much state as can go with sessions takes many frames.
func TestSessionsWithMuchState(t *testing.T) {
	t.Parallel()
	const n = 100
	p := withSessions("tcp", "127.0.0.1:0")
	p.Ballast = 40 << 10 // which JSON makes a third longer
	s := start(t, setup{plan: p, managed: true})
	var sessions []*rawSession
	for range n {
		c := s.openSession()
		c.mustAnswer(t, "before", s.first)
		sessions = append(sessions, c)
	}
	idle := dialMany(t, s.address(0), n)
	allMustAsk(t, idle, "before", s.first)
	s.release("v2", nil)
	main := s.mustUpgrade().PID
	s.waitGone(s.first)
	for _, c := range sessions {
		c.mustAnswer(t, "after", main)
	}
	allMustAsk(t, idle, "after", main)
	if st := s.status(); st.Adopted != 2*n {
		t.Errorf("%d connections were adopted, want %d", st.Adopted, 2*n)
	}
}

// A session of the new main ends with it; those that the old one has go on.
func TestSuccessorDiesWithSessions(t *testing.T) {
	t.Parallel()
	p := withSessions("tcp", "127.0.0.1:0")
	s := start(t, setup{plan: p})
	c := s.openSession()
	c.mustAnswer(t, "before", s.first)
	s.release("v2", nil)
	main := s.mustUpgrade().PID
	for s.status().Adopted == 0 { // it may still be on its way
		time.Sleep(time.Millisecond)
	}
	c.mustAnswer(t, "after", main)
	s.signal(main, syscall.SIGKILL)
	s.waitGone(main)
	if line, err := c.line(); err == nil {
		t.Errorf("the session of a dead process says %q", line)
	}
}

// Work that is main's begins with the verdict and ends with the drain, which
// waits for it.
func TestWorkerOfMain(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		p := quick()
		p.Worker = "work"
		p.Probation = patience / 10
		s := start(t, setup{plan: p, managed: managed})
		s.waitLog(s.first, "worker begins")
		successor, verdict := s.onTrial(nil)
		for _, l := range s.log.all() {
			if l.PID == successor && strings.HasPrefix(l.Msg, "worker") {
				t.Errorf("on trial: %s", l.Msg)
			}
		}
		if v, _ := verdict(); v.Outcome != control.Upgraded {
			t.Fatalf("verdict %+v", v)
		}
		s.waitLog(s.first, "worker ends")
		s.waitLog(successor, "worker begins")
		s.waitGone(s.first)
		s.signal(successor, syscall.SIGTERM)
		s.waitLog(successor, "worker ends")
		s.waitLog(successor, "service ends")
	})
}

// A worker that fails takes the service down, for systemd to restart it.
func TestWorkerFails(t *testing.T) {
	t.Parallel()
	p := quick()
	p.Worker = "exit: no connection to the queue"
	s := launch(t, setup{plan: p, managed: true})
	if status := s.waitDeath(s.first); status != "exit 1" {
		t.Errorf("it ended with %s", status)
	}
	if l := s.waitLog(s.first, "service ends"); l.Error != "worker: no connection to the queue" {
		t.Errorf("Run returned %q", l.Error)
	}
}
