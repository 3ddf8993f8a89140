// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// datagrams is a client that always has some datagrams on their way, numbered,
// and counts how often each is answered. It never sends one again.
type datagrams struct {
	conn     net.Conn
	answered []int          // by number
	by       map[string]int // PIDs
	err      error

	stop atomic.Bool
	done chan struct{}
}

// window is how many are on their way at most: fewer than the shortest queue of
// the kernel takes (net.unix.max_dgram_qlen).
const window = 8

var clientNames atomic.Int64

func startDatagrams(t *testing.T, network, address string) *datagrams {
	t.Helper()
	d := &datagrams{by: map[string]int{}, done: make(chan struct{})}
	var err error
	if network == "unixgram" {
		local := fmt.Sprintf("@holdfast-client-%d-%d", os.Getpid(), clientNames.Add(1))
		d.conn, err = net.DialUnix(network, &net.UnixAddr{Name: local, Net: network}, &net.UnixAddr{Name: address, Net: network})
	} else {
		d.conn, err = net.Dial(network, address)
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.done)
		d.err = d.run()
	}()
	t.Cleanup(func() { d.end() })
	return d
}

func (d *datagrams) run() error {
	left := 0 // on their way
	buf := make([]byte, 64)
	for left > 0 || !d.stop.Load() {
		_ = d.conn.SetDeadline(time.Now().Add(patience))
		for left < window && !d.stop.Load() {
			if _, err := d.conn.Write([]byte(strconv.Itoa(len(d.answered)))); err != nil {
				return err
			}
			d.answered = append(d.answered, 0)
			left++
		}
		n, err := d.conn.Read(buf)
		if err != nil {
			return fmt.Errorf("%d of %d were not answered: %w", left, len(d.answered), err)
		}
		number, pid, _ := strings.Cut(string(buf[:n]), " ")
		i, err := strconv.Atoi(number)
		if err != nil || i >= len(d.answered) {
			return fmt.Errorf("answer %q to nothing", buf[:n])
		}
		if d.answered[i]++; d.answered[i] > 1 {
			return fmt.Errorf("datagram %d was answered %d times", i, d.answered[i])
		}
		d.by[pid]++
		left--
	}
	// Nothing else may be on its way: an answer that is one too many.
	_ = d.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := d.conn.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("after the last answer: %q, %v", buf[:max(n, 0)], err)
	}
	return nil
}

func (d *datagrams) end() {
	d.stop.Store(true)
	<-d.done
	_ = d.conn.Close()
}

// packets are one socket of each kind.
func packets(t *testing.T) []planSocket {
	t.Helper()
	dir, err := os.MkdirTemp("", "reexec")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return []planSocket{
		{"udp4", "udp4", "127.0.0.1:0"},
		{"udp6", "udp6", "[::1]:0"},
		{"path", "unixgram", filepath.Join(dir, "s")},
		{"abstract", "unixgram", fmt.Sprintf("@holdfast-service-%d-%d", os.Getpid(), clientNames.Add(1))},
	}
}

// Every datagram is answered once, through upgrades and rollbacks, on sockets
// that the service has bound and on those of systemd: by a loop that reads and
// answers, and by goroutines for which the service waits in OnDrain.
func TestDatagramsAreAnsweredOnce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		passed, aside bool
		after         time.Duration // so that every end comes between a datagram and its answer
	}{
		"bound, at once":  {},
		"bound, slowly":   {after: 10 * time.Millisecond},
		"bound, aside":    {after: 1200 * time.Millisecond, aside: true}, // longer than a drain waits by itself
		"passed, at once": {passed: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := quick()
			p.Packets = packets(t)
			p.AnswerAfter, p.AnswerAside = c.after, c.aside
			p.MaxDraining = 100
			p.Probation = 2 * time.Second // a trial says that it is ill long before
			var sockets []namedListener
			for _, l := range p.Packets {
				if !c.passed {
					break
				}
				conn, err := net.ListenPacket(l.Network, l.Address)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close() // systemd keeps a copy, too
				sockets = append(sockets, namedListener{l.Name, conn.(interface{ File() (*os.File, error) })})
			}
			s := start(t, setup{plan: p, managed: true, sockets: sockets})
			before := listeners(s.status())
			var clients []*datagrams
			for i, l := range p.Packets {
				clients = append(clients, startDatagrams(t, l.Network, s.address(i+1)))
			}
			generations := 1
			undo := func(times int) {
				t.Helper()
				health := filepath.Join(s.dir, "health")
				for range times {
					writeFile(t, health, "")
					successor, verdict := s.onTrial(func(p *plan) { p.HealthFile = health })
					writeFile(t, health, "the cache is cold")
					if v, _ := verdict(); v.Outcome != control.RolledBack {
						t.Fatalf("verdict %+v", v)
					}
					s.waitDeath(successor)
					generations++
				}
			}
			upgrade := func(times int, probation time.Duration) {
				t.Helper()
				for range times {
					generations++
					s.release(fmt.Sprintf("v%d", generations), func(p *plan) { p.Probation = probation })
					s.waitLog(s.mustUpgrade().PID, "offered -> trial")
				}
			}
			undo(5)
			upgrade(8, 50*time.Millisecond)
			upgrade(1, p.Probation)
			undo(3)
			for i, d := range clients {
				d.end()
				if d.err != nil {
					t.Errorf("%s: %v", p.Packets[i].Name, d.err)
				}
				// Not all: one that is undone at once may not have its turn.
				if len(d.by) < 3 {
					t.Errorf("%s: answered by %v only", p.Packets[i].Name, d.by)
				}
				t.Logf("%s: %d datagrams, each answered once, by %d of %d processes", p.Packets[i].Name, len(d.answered), len(d.by), generations)
			}
			if after := listeners(s.status()); after != before {
				t.Errorf("%s became %s", before, after)
			}
		})
	}
}
