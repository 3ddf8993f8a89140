// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec"
	"github.com/holdfast-go/holdfast/reexec/control"
)

// streams is a client that connects again and again, and asks a few times on
// each connection.
type streams struct {
	dial func() (net.Conn, error)
	by   map[string]int // connections, by the PID that had them
	err  error

	once       sync.Once
	stop, done chan struct{}
}

func startStreams(t *testing.T, dial func() (net.Conn, error)) *streams {
	t.Helper()
	s := &streams{dial: dial, by: map[string]int{}, stop: make(chan struct{}), done: make(chan struct{})}
	t.Cleanup(s.end)
	go func() {
		defer close(s.done)
		for number := 0; s.err == nil; number++ {
			select {
			case <-s.stop:
				return
			default:
			}
			pid, err := s.converse(number)
			if err != nil {
				s.err = fmt.Errorf("connection %d: %w", number, err)
			}
			s.by[pid]++
		}
	}()
	return s
}

func (s *streams) converse(number int) (pid string, err error) {
	conn, err := s.dial()
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	in := bufio.NewReader(conn)
	for i := range 3 {
		question := fmt.Sprintf("%d-%d", number, i)
		if _, err := fmt.Fprintln(conn, question); err != nil {
			return "", err
		}
		line, err := in.ReadString('\n')
		if err != nil {
			return "", err
		}
		answer, from, _ := strings.Cut(strings.TrimSpace(line), " ")
		if answer != question || i > 0 && from != pid {
			return "", fmt.Errorf("answer %q to %q, by %s before", line, question, pid)
		}
		pid = from
	}
	return pid, nil
}

func (s *streams) end() {
	s.once.Do(func() { close(s.stop) })
	<-s.done
}

// dialStream returns a client of a socket of any kind.
func dialStream(network, address string, limit time.Duration) func() (net.Conn, error) {
	if network != "vsock" {
		return func() (net.Conn, error) { return net.DialTimeout(network, address, limit) }
	}
	return func() (net.Conn, error) {
		_, text, _ := strings.Cut(address, ":")
		port, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, err
		}
		return reexec.DialVsock(uint32(port), limit)
	}
}

// Connections of every kind of socket are served to their end by the version
// that has accepted them, through upgrades and rollbacks.
func TestStreamsThroughUpgrades(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "reexec")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	abstract := func() string {
		return fmt.Sprintf("@holdfast-service-%d-%d", os.Getpid(), clientNames.Add(1))
	}
	p := quick()
	p.Probation = 2 * time.Second // a trial says that it is ill long before
	p.Streams = []planSocket{
		{"tcp", "tcp", "127.0.0.1:0"},
		{"path", "unix", filepath.Join(dir, "stream")},
		{"abstract", "unix", abstract()},
		{"packet path", "unixpacket", filepath.Join(dir, "packet")},
		{"packet abstract", "unixpacket", abstract()},
	}
	switch fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err {
	case nil:
		_ = unix.Close(fd)
		p.Streams = append(p.Streams, planSocket{"vsock", "vsock", ":0"})
	case unix.EAFNOSUPPORT:
		t.Logf("this kernel has no AF_VSOCK: %v", err)
	default:
		t.Fatal(err)
	}
	s := start(t, setup{plan: p, managed: true})
	before := listeners(s.status())
	clients := map[string]*streams{}
	for i, l := range p.Streams {
		address := s.address(i + 1)
		if l.Network == "vsock" {
			// Without vsock_loopback nobody can reach it; it crosses all the same.
			conn, err := dialStream(l.Network, address, 2*time.Second)()
			if err != nil {
				t.Logf("%s: no clients: %v", l.Name, err)
				continue
			}
			_ = conn.Close()
		}
		clients[l.Name] = startStreams(t, dialStream(l.Network, address, patience))
	}
	health := filepath.Join(s.dir, "health")
	undo := func() {
		writeFile(t, health, "")
		successor, verdict := s.onTrial(func(p *plan) { p.HealthFile = health })
		writeFile(t, health, "the cache is cold")
		if v, _ := verdict(); v.Outcome != control.RolledBack {
			t.Fatalf("verdict %+v", v)
		}
		s.waitDeath(successor)
	}
	for range 3 {
		undo()
	}
	for i := range 6 {
		s.release(fmt.Sprintf("v%d", i+2), func(p *plan) { p.Probation = 50 * time.Millisecond })
		s.mustUpgrade()
	}
	for name, c := range clients {
		c.end()
		if c.err != nil {
			t.Errorf("%s: %v", name, c.err)
		}
		total := 0
		for _, n := range c.by {
			total += n
		}
		if len(c.by) < 3 {
			t.Errorf("%s: served by %v only", name, c.by)
		}
		t.Logf("%s: %d connections, none lost, served by %d processes", name, total, len(c.by))
	}
	if after := listeners(s.status()); after != before {
		t.Errorf("%s became %s", before, after)
	}
}
