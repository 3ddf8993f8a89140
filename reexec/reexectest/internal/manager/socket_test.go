// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// An idleMachine is a service that only remembers, for tests of its sockets.
type idleMachine struct {
	state     wire.Properties
	triggers  int
	onTrigger func()
}

func (i *idleMachine) request(int, wire.Verb) *wire.Error { return nil }

func (i *idleMachine) triggered() {
	i.triggers++
	if i.onTrigger != nil {
		i.onTrigger()
	}
}
func (i *idleMachine) resetFailed()                       {}
func (i *idleMachine) dispatch()                          {}
func (i *idleMachine) exited(int, syscall.WaitStatus)     {}
func (i *idleMachine) execed(int)                         {}
func (i *idleMachine) empty()                             {}
func (i *idleMachine) message(notification) notifyVerdict { return notifyVerdict{accepted: true} }
func (i *idleMachine) elapsed(timer)                      {}
func (i *idleMachine) pidFileChanged()                    {}
func (i *idleMachine) reloaded(*unit.Service)             {}
func (i *idleMachine) storeEmptied()                      {}
func (i *idleMachine) cleaned()                           {}
func (i *idleMachine) properties() wire.Properties        { return i.state }

// socketManager is a manager in this process, with one socket unit and a
// service that is dead.
func socketManager(t *testing.T, u *unit.Socket) (*manager, *idleMachine, *socketUnit) {
	t.Helper()
	near, far := net.Pipe()
	go func() {
		buffer := make([]byte, 4096)
		for {
			if _, err := far.Read(buffer); err != nil {
				return
			}
		}
	}()
	m, err := newManager(wire.NewConn(near))
	if err != nil {
		t.Fatal(err)
	}
	idle := &idleMachine{state: wire.Properties{ActiveState: "inactive", SubState: "dead"}}
	m.machine = idle
	m.service = &unit.Service{Name: "a.service"}
	m.fds = m.newStore(0)
	m.config.Root = shortDir(t)
	m.relocator = newRelocator(false)
	// Children of the test are not the manager's.
	m.loop.dead = func() bool { return false }
	if u.Backlog == 0 {
		u.Backlog = 16
	}
	u.Name = "a.socket"
	s := m.newSocketUnit(u)
	m.sockets = append(m.sockets, s)
	t.Cleanup(func() {
		s.closePorts()
		m.out.close()
		if err := m.loop.close(); err != nil {
			t.Error(err)
		}
		_ = near.Close()
		_ = far.Close()
	})
	return m, idle, s
}

// turn runs the loop until done, which has to come true.
func turn(t *testing.T, m *manager, done func() bool) {
	t.Helper()
	late := false
	deadline := m.loop.after(patience, priorityExec, func() { late = true })
	if err := m.loop.run(func() bool { return late || done() }); err != nil {
		t.Fatal(err)
	}
	deadline.stop()
	if late {
		t.Fatal("it does not happen")
	}
}

func dial(t *testing.T, s *socketUnit) net.Conn {
	t.Helper()
	conn, err := net.Dial(s.ports[0].address.Network, s.ports[0].address.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestSocketActivation(t *testing.T) {
	m, idle, s := socketManager(t, &unit.Socket{Listen: []unit.Listen{{Kind: "ListenStream", Address: "127.0.0.1:80"}}})
	if s.state != socketDead || len(m.socketFiles()) != 0 {
		t.Errorf("state is %s, files %v", s.state, m.socketFiles())
	}
	if err := s.request(1, wire.Start); err != nil {
		t.Fatal(err)
	}
	if s.state != socketListening || len(m.socketFiles()) != 1 || m.socketFiles()[0].name != "" {
		t.Errorf("state is %s, files %v", s.state, m.socketFiles())
	}
	dial(t, s)
	turn(t, m, func() bool { return s.state == socketRunning })
	if idle.triggers != 1 {
		t.Errorf("%d triggers, want 1", idle.triggers)
	}
	// What nobody accepted triggers again, once the service is no more.
	m.socketsFreed()
	if s.state != socketListening {
		t.Errorf("state is %s, want listening", s.state)
	}
	turn(t, m, func() bool { return idle.triggers == 2 })
	m.socketsFreed()
	m.socketsTaken()
	if s.state != socketRunning {
		t.Errorf("state is %s, want running", s.state)
	}
	m.socketsFailed()
	if s.state != socketFailed || s.result != failureStartLimit || s.ports[0].fd >= 0 {
		t.Errorf("state is %s (%s), want failed", s.state, s.result)
	}
	m.socketsFreed()
	if s.state != socketFailed {
		t.Errorf("state is %s, want failed still", s.state)
	}
	s.resetFailed()
	if s.state != socketDead || s.result != success {
		t.Errorf("state is %s (%s), want dead", s.state, s.result)
	}
}

func TestSocketTriggerLimit(t *testing.T) {
	m, idle, s := socketManager(t, &unit.Socket{
		Listen:               []unit.Listen{{Kind: "ListenStream", Address: "127.0.0.1:80"}},
		TriggerLimitInterval: time.Hour, TriggerLimitBurst: 3,
	})
	// A service that fails at once, and leaves the connection where it is.
	idle.onTrigger = m.socketsFreed
	_ = s.request(1, wire.Start)
	dial(t, s)
	turn(t, m, func() bool { return s.state == socketFailed })
	if idle.triggers != 3 || s.result != failureTriggerLimit {
		t.Errorf("%d triggers, result %s", idle.triggers, s.result)
	}
}

func TestSocketPollLimit(t *testing.T) {
	const interval = 100 * time.Millisecond
	m, idle, s := socketManager(t, &unit.Socket{
		Listen:            []unit.Listen{{Kind: "ListenStream", Address: "127.0.0.1:80"}},
		PollLimitInterval: interval, PollLimitBurst: 2,
	})
	idle.onTrigger = m.socketsFreed
	_ = s.request(1, wire.Start)
	dial(t, s)
	begin := time.Now()
	turn(t, m, func() bool { return idle.triggers == 5 })
	if s.state == socketFailed || time.Since(begin) < 2*interval {
		t.Errorf("state is %s after %v: five polls take more than two intervals of two", s.state, time.Since(begin))
	}
}

func TestSocketRefusedWhileServiceRuns(t *testing.T) {
	for state, want := range map[string]string{
		"active running": socketDead, "activating start": socketDead, "deactivating stop-sigterm": socketDead,
		"activating auto-restart": socketListening, "failed failed": socketListening, "inactive dead-resources-pinned": socketListening,
	} {
		_, idle, s := socketManager(t, &unit.Socket{Listen: []unit.Listen{{Kind: "ListenStream", Address: "@x"}}})
		active, sub, _ := strings.Cut(state, " ")
		idle.state.ActiveState, idle.state.SubState = active, sub
		_ = s.request(1, wire.Start)
		if s.state != want || len(s.jobs) != 0 {
			t.Errorf("service is %s: socket is %s, want %s; jobs left: %v", state, s.state, want, s.jobs)
		}
	}
}

func TestSocketShutDown(t *testing.T) {
	m, idle, s := socketManager(t, &unit.Socket{Listen: []unit.Listen{{Kind: "ListenStream", Address: "127.0.0.1:80"}}})
	_ = s.request(1, wire.Start)
	if err := unix.Shutdown(s.ports[0].fd, unix.SHUT_RD); err != nil {
		t.Fatal(err)
	}
	turn(t, m, func() bool { return s.state == socketFailed })
	if s.result != failureResources || idle.triggers != 0 {
		t.Errorf("result %s, %d triggers", s.result, idle.triggers)
	}
}

func TestSocketFilesInTheFileSystem(t *testing.T) {
	dir := shortDir(t)
	path, link := filepath.Join(dir, "run/s"), filepath.Join(dir, "links/l")
	for _, remove := range []bool{false, true} {
		_, _, s := socketManager(t, &unit.Socket{
			Listen: []unit.Listen{
				{Kind: "ListenStream", Address: path}, {Kind: "ListenStream", Address: "127.0.0.1:1"},
			},
			SocketMode: 0o600, DirectoryMode: 0o755, Symlinks: []string{link}, RemoveOnStop: remove,
		})
		_ = s.request(1, wire.Start)
		if target, err := os.Readlink(link); s.state != socketListening || target != path {
			t.Errorf("state is %s, the link leads to %q: %v", s.state, target, err)
		}
		_ = s.request(2, wire.Stop)
		_, err := os.Lstat(path)
		_, linkErr := os.Lstat(link)
		if gone := os.IsNotExist(err) && os.IsNotExist(linkErr); s.state != socketDead || gone != remove {
			t.Errorf("RemoveOnStop=%v: state is %s, gone: %v", remove, s.state, gone)
		}
	}
}

func TestSocketCannotListen(t *testing.T) {
	m, _, s := socketManager(t, &unit.Socket{Listen: []unit.Listen{
		{Kind: "ListenStream", Address: "127.0.0.1:80"}, {Kind: "ListenSpecial", Address: "/nowhere"},
	}})
	var result wire.JobResult
	m.jobs[7] = pendingJob{verb: wire.Start, unit: "a.socket", then: func(r wire.JobResult) { result = r }}
	_ = s.request(7, wire.Start)
	turn(t, m, func() bool { return result != "" })
	if s.state != socketFailed || s.result != failureResources || result != wire.Failed || s.ports[0].fd >= 0 {
		t.Errorf("state is %s (%s), job %s", s.state, s.result, result)
	}
}

func TestSocketFlushPending(t *testing.T) {
	_, _, s := socketManager(t, &unit.Socket{
		Listen:       []unit.Listen{{Kind: "ListenStream", Address: "127.0.0.1:80"}, {Kind: "ListenDatagram", Address: "127.0.0.1:80"}},
		FlushPending: true,
	})
	_ = s.request(1, wire.Start)
	s.setState(socketRunning)
	dial(t, s)
	datagrams, err := net.Dial(s.ports[1].address.Network, s.ports[1].address.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	for range 3 {
		if _, err := datagrams.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	s.serviceFreed()
	fds := []unix.PollFd{{Fd: int32(s.ports[0].fd), Events: unix.POLLIN}, {Fd: int32(s.ports[1].fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, 0); n != 0 || err != nil {
		t.Errorf("%d sockets have something left, %v", n, err)
	}
}

// A daemon-reload leaves sockets open whose lines stay.
func TestSocketReconfigured(t *testing.T) {
	lines := func(addresses ...string) *unit.Socket {
		u := &unit.Socket{Name: "a.socket", FileDescriptorName: "n", Backlog: 1}
		for _, address := range addresses {
			u.Listen = append(u.Listen, unit.Listen{Kind: "ListenStream", Address: address})
		}
		return u
	}
	m, idle, s := socketManager(t, lines("@a", "@b", "@c"))
	_ = s.request(1, wire.Start)
	before := []int{s.ports[0].fd, s.ports[1].fd, s.ports[2].fd}
	s.configure(lines("@c", "@new", "@a"))
	after := []int{s.ports[0].fd, s.ports[1].fd, s.ports[2].fd}
	if !slices.Equal(after, []int{before[2], -1, before[0]}) {
		t.Errorf("descriptors were %v and are %v", before, after)
	}
	dial(t, s)
	turn(t, m, func() bool { return idle.triggers == 1 })
	_ = s.request(2, wire.Restart)
	if s.state != socketListening || s.ports[1].fd < 0 {
		t.Errorf("state is %s, ports %v", s.state, s.ports)
	}
}
