// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// mustAnswer checks that somebody serves HTTP on a socket.
func mustAnswer(t *testing.T, network, address string) {
	t.Helper()
	conn, err := net.DialTimeout(network, address, patience)
	if err != nil {
		t.Errorf("%s: %v", address, err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(conn, "GET /who HTTP/1.0\r\n\r\n"); err != nil {
		t.Errorf("%s: %v", address, err)
		return
	}
	answer := make([]byte, 15)
	if _, err := conn.Read(answer); err != nil || string(answer) != "HTTP/1.0 200 OK" {
		t.Errorf("%s answers %q, %v", address, answer, err)
	}
}

// listeners names each listener of the status.
func listeners(st control.Status) string {
	var names []string
	for _, l := range st.Listeners {
		names = append(names, fmt.Sprintf("%s %s %s (%s)", l.Name, l.Network, l.Address, l.Origin))
	}
	return strings.Join(names, ", ")
}

// More listeners than fit into one message, or into three.
func TestManyListeners(t *testing.T) {
	t.Parallel()
	p := quick()
	for i := range 600 {
		p.Listeners = append(p.Listeners, planSocket{fmt.Sprintf("extra-%d", i), "tcp", "127.0.0.1:0"})
	}
	s := start(t, setup{plan: p, managed: true})
	before := listeners(s.status())
	s.release("v2", nil)
	st := s.mustUpgrade()
	if after := listeners(st); after != before {
		t.Errorf("%s became %s", before, after)
	}
	for _, i := range []int{0, 1, 199, 200, 201, 399, 400, 600} {
		// Nobody accepts on most of them; they are open all the same.
		conn, err := net.Dial("tcp", st.Listeners[i].Address)
		if err != nil {
			t.Errorf("listener %d: %v", i, err)
			continue
		}
		_ = conn.Close()
	}
	s.mustServe(st.PID)
}

// A successor that may not open as many files as it is handed says what to
// change, and nothing is lost.
func TestDescriptorLimitOfTheSuccessor(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		p := quick()
		for i := range 100 {
			p.Listeners = append(p.Listeners, planSocket{fmt.Sprintf("extra-%d", i), "tcp", "127.0.0.1:0"})
		}
		s := start(t, setup{plan: p, managed: managed})
		clients := startLoad(t, s.url("/echo"), 2)
		// In the pre-check it opens nothing; the limit hits it when it joins.
		s.release("v2", func(p *plan) { p.NoFile = 64 })
		s.mustRefuse(s.first, "raise LimitNOFILE=")
		s.release("v3", nil)
		s.mustServe(s.mustUpgrade().PID)
		clients.mustBeWhole()
	})
}

// What systemd passed and nobody claimed stays open and goes on to later
// generations, one of which may want it.
func TestUnclaimedSocketsGoOn(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		var sockets []namedListener
		var addresses []string
		for _, name := range []string{"http", "admin", "admin", "spare"} {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close() // systemd keeps a copy, too
			sockets = append(sockets, namedListener{name, ln.(*net.TCPListener)})
			addresses = append(addresses, ln.Addr().String())
		}
		s := start(t, setup{plan: quick(), managed: managed, sockets: sockets})
		http := fmt.Sprintf("http tcp %s (socket unit)", addresses[0])
		if got := listeners(s.status()); got != http {
			t.Errorf("first generation: %s, want %s", got, http)
		}
		s.release("v2", nil)
		if got := listeners(s.mustUpgrade()); got != http {
			t.Errorf("second generation: %s, want %s", got, http)
		}
		// The third claims what came two generations ago; the address in its
		// code is for a start without systemd.
		s.release("v3", func(p *plan) {
			p.Listeners = []planSocket{{"admin", "tcp", "127.0.0.1:1"}, {"http", "tcp", "127.0.0.1:2"}}
		})
		st := s.mustUpgrade()
		want := fmt.Sprintf("admin tcp %s (socket unit), admin tcp %s (socket unit), %s", addresses[1], addresses[2], http)
		if got := listeners(st); got != want {
			t.Errorf("third generation: %s, want %s", got, want)
		}
		for _, address := range addresses[1:3] {
			mustAnswer(t, "tcp", address)
		}
		// And back: what v3 claimed as http is v4's again.
		s.release("v4", nil)
		if got := listeners(s.mustUpgrade()); got != http {
			t.Errorf("fourth generation: %s, want %s", got, http)
		}
	})
}

// A new version with another address for the same name binds it; the old one
// serves the old address to the end.
func TestChangedFallBackAddress(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		dir, err := os.MkdirTemp("", "reexec")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		path := func(name string) string { return filepath.Join(dir, name) }
		exists := func(name string) bool {
			_, err := os.Lstat(path(name))
			return err == nil
		}
		p := quick()
		p.Listeners = append(p.Listeners, planSocket{"api", "unix", path("old")}, planSocket{"kept", "unix", path("kept")})
		s := start(t, setup{plan: p, managed: managed})
		if !exists("old") || !exists("kept") {
			t.Fatal("the sockets were not bound")
		}
		change := func(p *plan) { p.Listeners[1].Address = path("new") }

		// A version that is undone takes its own socket with it, and not those
		// that it got; also one that is killed does not keep a later one from
		// binding.
		health := filepath.Join(s.dir, "health")
		writeFile(t, health, "")
		successor, verdict := s.onTrial(func(p *plan) {
			p.HealthFile = health
			change(p)
		})
		if !exists("new") {
			t.Error("the new socket was not bound")
		}
		writeFile(t, health, "ill")
		if v, _ := verdict(); v.Outcome != control.RolledBack {
			t.Fatalf("verdict %+v", v)
		}
		s.waitGone(successor)
		if exists("new") || !exists("old") || !exists("kept") {
			t.Errorf("after the rollback: new %t, old %t, kept %t", exists("new"), exists("old"), exists("kept"))
		}
		successor, verdict = s.onTrial(change)
		s.signal(successor, syscall.SIGKILL)
		if v, _ := verdict(); v.Outcome != control.RolledBack {
			t.Fatalf("verdict %+v", v)
		}
		s.mustServe(s.first)

		s.release("v2", change)
		st := s.mustUpgrade()
		if got := st.Listeners[1].Address; got != path("new") {
			t.Errorf("listens on %s", got)
		}
		if exists("old") || !exists("new") || !exists("kept") {
			t.Errorf("after the upgrade: old %t, new %t, kept %t", exists("old"), exists("new"), exists("kept"))
		}
		s.waitGone(s.first)
		if !exists("new") || !exists("kept") {
			t.Errorf("after the predecessor's end: new %t, kept %t", exists("new"), exists("kept"))
		}
		s.release("v3", change)
		st = s.mustUpgrade()
		s.signal(st.PID, syscall.SIGTERM)
		s.mustEnd()
		// What the manager keeps is used on after a restart.
		if exists("new") != managed || exists("kept") != managed {
			t.Errorf("after the stop: new %t, kept %t", exists("new"), exists("kept"))
		}
	})
}

// A service that was killed leaves its paths behind; its next start binds them
// all the same, and takes no path of a service that lives.
func TestStalePaths(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "reexec")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := quick()
	p.Listeners = []planSocket{{"http", "unix", filepath.Join(dir, "http")}}
	p.Packets = []planSocket{{"log", "unixgram", filepath.Join(dir, "log")}}
	first := start(t, setup{plan: p})
	second := launch(t, setup{plan: p})
	if status := second.waitDeath(second.first); status != "exit 1" {
		t.Errorf("a second service at the same paths ended with %s", status)
	}
	mustAnswer(t, "unix", filepath.Join(dir, "http"))
	first.signal(first.first, syscall.SIGKILL)
	first.waitDeath(first.first)
	if _, err := os.Lstat(filepath.Join(dir, "http")); err != nil {
		t.Fatal(err)
	}
	third := start(t, setup{plan: p})
	mustAnswer(t, "unix", filepath.Join(dir, "http"))
	third.signal(third.first, syscall.SIGTERM)
	third.mustEnd()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// The child's own descriptors are put in order between fork and exec, by way of
// numbers above the highest. The binary's must not be among them.
func TestDescriptorOfTheBinaryIsNotInTheWay(t *testing.T) {
	t.Parallel()
	for fill := 52; fill < 64; fill++ {
		t.Run(fmt.Sprint(fill), func(t *testing.T) {
			t.Parallel()
			p := quick()
			p.FillTo = fill
			p.Probation = p.Beat
			s := start(t, setup{plan: p})
			s.release("v2", nil)
			s.mustUpgrade()
		})
	}
}
