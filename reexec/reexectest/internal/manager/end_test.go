// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// stubbornUnit has processes of all kinds that do not want to go.
const stubbornUnit = `
[Service]
Type=notify
NotifyAccess=all
TimeoutStopSec=1h
ExecStart=/usr/bin/tool stubborn notify:READY=1 daemon:stubborn,wait daemon:stubborn,fork:stubborn,wait fork:stubborn,notify:STATUS=all,wait wait
ExecReload=/usr/bin/tool stubborn notify:STATUS=reloading wait
`

// client is a test that starts a service and is in the middle of a reload: it
// prints the PIDs of all that runs and waits to be killed.
func client(root string) int {
	conn, _, err := Start()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	self, _ := os.Executable()
	seen := make(chan *wire.Event, 1000)
	config := &wire.Config{
		Systemd: 257, Root: root, RemoveRoot: true, Commands: map[string]string{"tool": self},
		Environment: []string{"GORACE=" + noRaceSleep},
		Files:       []wire.File{{Name: "a.service", Text: stubbornUnit}},
	}
	c, loaded, err := wire.NewClient(context.Background(), conn, config, func(e *wire.Event) { seen <- e })
	if err != nil {
		fmt.Println(err)
		return 1
	}
	until := func(status string) {
		for e := range seen {
			if e.Kind == wire.PropertiesChanged && e.Properties.StatusText == status {
				return
			}
		}
	}
	c.Begin(&wire.Request{Verb: wire.Start})
	until("all")
	c.Begin(&wire.Request{Verb: wire.Reload})
	until("reloading")
	a, err := c.Call(context.Background(), wire.Request{Verb: wire.Processes})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	pids := []int{loaded.Loaded.ManagerPID}
	for _, p := range a.Processes {
		pids = append(pids, p.PID)
	}
	_ = json.NewEncoder(os.Stdout).Encode(pids)
	select {}
}

// However a test dies, nothing of it is left: no process, no file.
func TestNothingSurvivesTheTest(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT, syscall.SIGABRT} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			root := shortDir(t)
			cmd := exec.Command("/proc/self/exe", root)
			cmd.Args[0] = "client"
			cmd.Stderr = nil
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			killed := false
			defer func() {
				if !killed {
					_ = cmd.Process.Kill()
				}
				_ = cmd.Wait()
			}()
			line, err := bufio.NewReader(stdout).ReadString('\n')
			var pids []int
			if err != nil || json.Unmarshal([]byte(line), &pids) != nil {
				t.Fatalf("the client says %q, %v", line, err)
			}
			// The manager, main, two daemons, a child, and the reload command.
			if len(pids) < 5 {
				t.Fatalf("too few processes: %v", pids)
			}
			var fds []unix.PollFd
			var alive []int
			for _, pid := range pids {
				fd, err := unix.PidfdOpen(pid, 0)
				if err == unix.ESRCH { // the middle one of a double fork
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				defer unix.Close(fd)
				fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
				alive = append(alive, pid)
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			killed = true
			// The manager is the last to go, so when it is gone all are.
			for {
				n, err := unix.Poll(fds[:1], int(patience.Milliseconds()))
				if err == unix.EINTR {
					continue
				}
				if n != 1 || err != nil {
					t.Fatalf("the manager is still there: %v", err)
				}
				break
			}
			for i := range fds {
				if n, err := unix.Poll(fds[i:i+1], 0); n != 1 || err != nil {
					t.Errorf("process %d survived", alive[i])
				}
			}
			if _, err := os.Stat(root); !os.IsNotExist(err) {
				t.Errorf("the root is still there: %v", err)
			}
		})
	}
}

// An end that was asked for is over when it is answered.
func TestEnd(t *testing.T) {
	r := runUnits(t, wire.Config{RemoveRoot: true}, "a.service", stubbornUnit)
	_, wait := r.client.Begin(&wire.Request{Verb: wire.Start})
	r.until("all", func(e *wire.Event) bool {
		return e.Kind == wire.PropertiesChanged && e.Properties.StatusText == "all"
	})
	if _, err := wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	processes := r.call(wire.Request{Verb: wire.Processes}).Processes
	if len(processes) < 4 {
		t.Fatalf("too few processes: %+v", processes)
	}
	r.call(wire.Request{Verb: wire.End})
	for _, p := range processes {
		if now, err := readProcess(p.PID); err == nil && now.start == p.Start {
			t.Errorf("process %+v survived", p)
		}
	}
	if _, err := os.Stat(r.root); !os.IsNotExist(err) {
		t.Errorf("the root is still there: %v", err)
	}
	<-r.client.Done()
}

// Nobody leaves: orphans and what they start stay processes of the service, and a
// stop ends them.
func TestDaemonsBelongToTheService(t *testing.T) {
	r := runUnits(t, wire.Config{}, "a.service", `
[Service]
Type=notify
NotifyAccess=all
ExecStart=/usr/bin/tool notify:READY=1 daemon:wait daemon:wait fork:notify:STATUS=all,wait wait
`)
	r.job(wire.Start, wire.Done)
	r.untilNotify("STATUS=all")
	processes := r.call(wire.Request{Verb: wire.Processes}).Processes
	orphans := 0
	for _, p := range processes {
		if p.Parent == r.loaded.Loaded.ManagerPID {
			orphans++
		}
	}
	if orphans < 2 {
		t.Errorf("processes are %+v", processes)
	}
	r.job(wire.Stop, wire.Done)
	if got := r.call(wire.Request{Verb: wire.Processes}).Processes; len(got) != 0 {
		t.Errorf("processes are left: %+v", got)
	}
	// Each was seen to come and to go.
	born := make(map[int]bool)
	for _, e := range r.all() {
		switch e.Kind {
		case wire.ProcessBorn:
			born[e.Process.PID] = true
		case wire.ProcessDied:
			if !born[e.Death.PID] {
				t.Errorf("process %d died and was not seen to be born", e.Death.PID)
			}
			delete(born, e.Death.PID)
		}
	}
	if len(born) != 0 {
		t.Errorf("not seen to die: %v", born)
	}
}

// A test that does not read what it is told does not stop the manager. A process that
// writes much waits meanwhile, and nothing of it is lost.
func TestSlowReader(t *testing.T) {
	conn, wait, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	root := shortDir(t)
	done := filepath.Join(root, "run/done")
	if err := errors.Join(os.Mkdir(filepath.Dir(done), 0o755), unix.Mkfifo(done, 0o644)); err != nil {
		t.Fatal(err)
	}
	c := wire.NewConn(conn)
	err = c.Send(&wire.Config{
		Systemd: 257, Root: root, Commands: map[string]string{"tool": self},
		Environment: []string{"GORACE=" + noRaceSleep},
		Files: []wire.File{{Name: "a.service", Text: `
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'yes 0123456789012345678901234567890123456789 | head -c 4100000 &'
ExecStart=/bin/sh -c 'echo >%t/done'
`}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Send(&wire.Request{ID: 1, Verb: wire.Start}); err != nil {
		t.Fatal(err)
	}
	const want = 4100000 / 41
	lines, answered := 0, false
	for !answered || lines < want {
		var m wire.Message
		if err := c.Receive(&m); err != nil {
			t.Fatal(err)
		}
		if m.Event != nil && m.Event.Kind == wire.JournalLine && strings.HasPrefix(m.Event.Journal.Message, "0123") {
			if lines++; lines == 1 {
				// It gets to the next command while nobody reads.
				if _, err := os.ReadFile(done); err != nil {
					t.Fatal(err)
				}
			}
		}
		answered = answered || m.Answer != nil && m.Answer.ID == 1
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := wait(); err != nil {
		t.Error(err)
	}
}

// What a manager writes when it fails is in the error.
func TestManagerFails(t *testing.T) {
	conn, wait, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("no JSON\n")); err != nil {
		t.Fatal(err)
	}
	if err := wait(); err == nil || !strings.Contains(err.Error(), "receive the config") {
		t.Errorf("got %v", err)
	}
	_ = conn.Close()
}
