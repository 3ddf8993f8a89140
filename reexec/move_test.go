// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// rawClient is one connection. net/http's client closes and opens some of its
// own accord; this one has only what the service leaves it.
type rawClient struct {
	conn net.Conn
	in   *bufio.Reader
}

func dialRaw(t *testing.T, addr string) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(4 * patience))
	return &rawClient{conn: conn, in: bufio.NewReader(conn)}
}

func dialMany(t *testing.T, addr string, n int) []*rawClient {
	t.Helper()
	list := make([]*rawClient, n)
	for i := range list {
		list[i] = dialRaw(t, addr)
	}
	return list
}

// ask returns the PID of who answers, and whether the answer leads away.
func (c *rawClient) ask(body string) (pid int, leads bool, err error) {
	if _, err := fmt.Fprintf(c.conn, "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
		return 0, false, err
	}
	return c.answer(body)
}

func (c *rawClient) answer(want string) (pid int, leads bool, err error) {
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0, false, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err == nil && string(got) != want {
		err = fmt.Errorf("answer %q to %q (%s)", got, want, resp.Status)
	}
	if err == nil {
		pid, err = strconv.Atoi(resp.Header.Get("X-Pid"))
	}
	return pid, resp.Close, err
}

// mustAsk asks on the connection that there is, which stays.
func (c *rawClient) mustAsk(t *testing.T, body string, want int) {
	t.Helper()
	switch pid, leads, err := c.ask(body); {
	case err != nil:
		t.Errorf("request %q: %v", body, err)
	case leads:
		t.Errorf("request %q: PID %d leads away", body, pid)
	case pid != want:
		t.Errorf("request %q was answered by PID %d, want %d", body, pid, want)
	}
}

func allMustAsk(t *testing.T, clients []*rawClient, what string, want int) {
	t.Helper()
	for i, c := range clients {
		c.mustAsk(t, fmt.Sprintf("%s of client %d", what, i), want)
	}
}

// Four hundred idle connections and some busy ones go through twenty upgrades;
// each client has one connection from beginning to end.
func TestIdleConnectionsCrossUpgrades(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		const idle, busy = 400, 4
		upgrades := 5
		if managed {
			upgrades = 20
		}
		p := quick()
		// The first sign of life ends a trial, and may take long.
		p.Probation, p.Beat = time.Microsecond, patience/10
		s := start(t, setup{plan: p, managed: managed})
		addr := s.address(0)
		clients := dialMany(t, addr, idle)
		allMustAsk(t, clients, "first request", s.first)
		stop := make(chan struct{})
		var done sync.WaitGroup
		answered := make([]int, busy)
		for i, c := range dialMany(t, addr, busy) {
			done.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					pid, leads, err := c.ask(fmt.Sprintf("busy client %d, request %d", i, answered[i]))
					if leads || err != nil {
						t.Errorf("busy client %d, request %d: PID %d, leads away: %t, %v", i, answered[i], pid, leads, err)
						return
					}
					answered[i]++
				}
			})
		}
		main := s.first
		for i := range upgrades {
			s.release(fmt.Sprintf("v%d", i+2), nil)
			next := s.mustUpgrade().PID
			// It ends when it has no connection left.
			if status := s.waitDeath(main); status != "exit 0" {
				t.Errorf("PID %d ended with %s", main, status)
			}
			main = next
			if st := s.status(); st.Adopted < idle || st.Adopted > idle+busy {
				t.Errorf("PID %d has adopted %d connections, want %d to %d", main, st.Adopted, idle, idle+busy)
			}
			// Some go on silently, to the end.
			few := clients[idle/2 : idle/2+i]
			allMustAsk(t, few, fmt.Sprintf("request after upgrade %d", i+1), main)
		}
		close(stop)
		done.Wait()
		allMustAsk(t, clients, "last request", main)
		allMustAsk(t, clients, "another", main)
		t.Logf("requests of busy clients: %v", answered)
	})
}

func TestThousandConnectionsMove(t *testing.T) {
	t.Parallel()
	const n = 1000
	s := start(t, setup{plan: quick(), managed: true})
	clients := dialMany(t, s.address(0), n)
	allMustAsk(t, clients, "before", s.first)
	s.release("v2", nil)
	main := s.mustUpgrade().PID
	began := s.waitLog(s.first, "promoting -> draining")
	ended := s.waitLog(s.first, "idle connections have moved")
	s.waitDeath(s.first)
	if st := s.status(); st.Adopted != n {
		t.Errorf("%d connections were adopted, want %d", st.Adopted, n)
	}
	allMustAsk(t, clients, "after", main)
	t.Logf("%d connections moved within %v", n, ended.received.Sub(began.received).Round(time.Millisecond))
}

// Before the verdict nothing moves: when the version on trial dies, its
// predecessor has every connection still.
func TestConnectionsStayUntilTheVerdict(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		p := quick()
		p.Probation = patience
		s := start(t, setup{plan: p, managed: managed})
		clients := dialMany(t, s.address(0), 50)
		allMustAsk(t, clients, "before", s.first)
		url := s.url("/who")
		successor, verdict := s.onTrial(nil)
		s.mustReach(url, successor)
		allMustAsk(t, clients[:10], "in the probation", s.first)
		s.signal(successor, syscall.SIGKILL)
		if v, _ := verdict(); v.Outcome != control.RolledBack {
			t.Fatalf("verdict %+v", v)
		}
		allMustAsk(t, clients, "after", s.first)
		if st := s.status(); st.Adopted != 0 {
			t.Errorf("%d connections were adopted, want none", st.Adopted)
		}
	})
}

// A version that is undone and lives moves what it has accepted on trial back.
func TestConnectionsMoveBack(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		p := quick()
		p.Probation = patience
		s := start(t, setup{plan: p, managed: managed})
		addr, url := s.address(0), s.url("/who")
		health := filepath.Join(s.dir, "health")
		writeFile(t, health, "")
		successor, verdict := s.onTrial(func(p *plan) { p.HealthFile = health })
		s.mustReach(url, successor)
		clients := dialMany(t, addr, 50)
		allMustAsk(t, clients, "on trial", successor)
		writeFile(t, health, "the cache is cold")
		if v, _ := verdict(); v.Outcome != control.RolledBack {
			t.Fatalf("verdict %+v", v)
		}
		// It ends when it has no connection left, long before its drain does.
		s.waitGone(successor)
		if st := s.status(); st.Adopted != len(clients) {
			t.Errorf("%d connections were adopted, want %d", st.Adopted, len(clients))
		}
		allMustAsk(t, clients, "after", s.first)
	})
}

// A successor with little room takes what it has room for. The rest stays with
// the predecessor, which answers it and leads it away.
func TestMoveToReceiverAtItsLimit(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		const n, limit = 300, 100
		s := start(t, setup{plan: quick(), managed: managed})
		clients := dialMany(t, s.address(0), n)
		allMustAsk(t, clients, "before", s.first)
		s.release("v2", func(p *plan) { p.NoFile = limit })
		main := s.mustUpgrade().PID
		s.waitLog(s.first, "idle connections have moved")
		moved, stayed := 0, 0
		for i, c := range clients {
			pid, leads, err := c.ask(fmt.Sprint("client ", i))
			switch {
			case err != nil:
				t.Errorf("client %d: %v", i, err)
			case pid == main && !leads:
				moved++
			case pid == s.first && leads:
				stayed++
			default:
				t.Errorf("client %d: PID %d, leads away: %t", i, pid, leads)
			}
		}
		adopted := s.status().Adopted // one that was late has moved meanwhile
		// With a quarter of the limit free, and without what the process needs.
		if moved != adopted || moved < limit/4 || moved > limit*3/4 || moved+stayed != n {
			t.Errorf("%d moved (%d were adopted), %d stayed", moved, adopted, stayed)
		}
		s.waitDeath(s.first)
		s.mustServe(main)
	})
}

// What is on its way between processes of a user counts against the limit of
// open files. When it is reached, connections wait until there is room again,
// but not for long.
func TestMoveWaitsForRoomOnTheWay(t *testing.T) {
	const uid = 47114
	if os.Geteuid() != 0 {
		t.Skip("the limit is of a user, and others may run as this one: only root may become another")
	}
	t.Parallel()
	for i, room := range []bool{true, false} {
		t.Run(fmt.Sprintf("room %t", room), func(t *testing.T) {
			t.Parallel()
			p := quick()
			p.NoFile = 256
			s := start(t, setup{plan: p, user: uid + i})
			addr := s.address(0)
			clients := dialMany(t, addr, 50)
			allMustAsk(t, clients, "before", s.first)
			crowding := dialRaw(t, addr)
			s.release("v2", func(p *plan) { p.Built = "stage" })
			verdict := s.asked()
			built := s.waitStage("built") // it has all descriptors of the upgrade itself
			if _, err := io.WriteString(crowding.conn, "GET /crowd HTTP/1.1\r\nHost: test\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			crowd := s.waitStage("crowd")
			built.release("")
			v, _ := verdict()
			if v.Outcome != control.Upgraded {
				t.Fatalf("verdict %+v", v)
			}
			s.waitLog(s.first, "connections wait: too many descriptors of this user are on their way")
			if st := s.status(); st.Adopted != 0 {
				t.Errorf("%d connections were adopted, want none", st.Adopted)
			}
			if room {
				crowd.release("")
				s.waitDeath(s.first)
				allMustAsk(t, clients, "after", v.To.PID)
				return
			}
			for i, c := range clients {
				if pid, leads, err := c.ask("after"); err != nil || pid != s.first || !leads {
					t.Errorf("client %d: PID %d, leads away: %t, %v; want PID %d, which leads away", i, pid, leads, err, s.first)
				}
			}
			crowd.release("")
			_ = crowding.conn.Close()
			s.waitDeath(s.first)
		})
	}
}

// Between a version that moves connections and one that does not know how,
// they are led away.
func TestNeighbourThatDoesNotMove(t *testing.T) {
	for _, c := range []struct {
		name          string
		before, after int
	}{{"successor", 0, 1}, {"predecessor", 1, 0}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := quick()
			p.Handover = c.before
			s := start(t, setup{plan: p, managed: true})
			clients := dialMany(t, s.address(0), 10)
			allMustAsk(t, clients, "before", s.first)
			s.release("v2", func(p *plan) { p.Handover = c.after })
			main := s.mustUpgrade().PID
			s.waitLog(s.first, "promoting -> draining")
			for i, client := range clients {
				if pid, leads, err := client.ask(fmt.Sprint("client ", i)); err != nil || pid != s.first || !leads {
					t.Errorf("client %d: PID %d, leads away: %t, %v; want PID %d, which leads away", i, pid, leads, err, s.first)
				}
			}
			s.waitDeath(s.first)
			s.mustServe(main)
			if st := s.status(); st.Adopted != 0 {
				t.Errorf("%d connections were adopted, want none", st.Adopted)
			}
		})
	}
}

// A new main that dies takes the connections with it that it had been given.
// What its predecessor still has is answered.
func TestSuccessorDiesAfterTheMove(t *testing.T) {
	t.Parallel()
	s := start(t, setup{plan: quick()})
	addr := s.address(0)
	clients := dialMany(t, addr, 20)
	allMustAsk(t, clients, "before", s.first)
	asking := dialRaw(t, addr)
	if _, err := io.WriteString(asking.conn, "GET /wait HTTP/1.1\r\nHost: test\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	inFlight := s.waitStage("wait")
	s.release("v2", nil)
	main := s.mustUpgrade().PID
	for s.status().Adopted < len(clients) {
		time.Sleep(time.Millisecond)
	}
	s.signal(main, syscall.SIGKILL)
	s.waitGone(main)
	for i, c := range clients {
		if pid, _, err := c.ask("after"); err == nil {
			t.Errorf("client %d: answered by PID %d, which cannot be", i, pid)
		}
	}
	s.waitLog(s.first, "idle connections have moved")
	inFlight.release("")
	resp, err := http.ReadResponse(asking.in, nil)
	if err != nil {
		t.Fatalf("the request in flight: %v", err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the request in flight: %s", resp.Status)
	}
	if pid, leads, err := asking.ask("another"); err != nil || pid != s.first || !leads {
		t.Errorf("the next request: PID %d, leads away: %t, %v; want PID %d, which leads away", pid, leads, err, s.first)
	}
	s.waitDeath(s.first)
}
