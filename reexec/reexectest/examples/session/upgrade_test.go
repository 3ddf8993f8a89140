// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/reexectest"
)

func TestMain(m *testing.M) { reexectest.Main(m, main) }

// patience bounds what has no other end. A loaded machine is slow.
const patience = 30 * time.Second

func TestUpgrade(t *testing.T) {
	reexectest.TestUpgrade(t, reexectest.Service{
		Options: reexectest.Options{Units: "systemd", Files: dropIn("-probation=1us")},
		OnTrial: dropIn("-probation=1s"),
		Clients: kinds(),
	})
}

func dropIn(args string) map[string]string {
	return map[string]string{
		"tally.service.d/test.conf": "[Service]\nExecStart=\nExecStart=/usr/bin/tally " + args + "\nRestartSec=50ms\n",
	}
}

func start(t *testing.T, args string) *reexectest.Unit {
	t.Helper()
	return reexectest.Start(t, reexectest.Options{Units: "systemd", Files: dropIn(args)})
}

// dialMany logs clients in.
func dialMany(t *testing.T, u *reexectest.Unit, what string, n int) []*client {
	t.Helper()
	clients := make([]*client, n)
	for i := range clients {
		clients[i] = &client{unit: u, name: fmt.Sprintf("%s-%d", what, i), keep: true}
		if err := clients[i].login(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = clients[i].Close() })
	}
	return clients
}

// beginAll leaves a line of every client unfinished.
func beginAll(t *testing.T, clients []*client) (finishAll func(when string)) {
	t.Helper()
	rest := make([]func(context.Context) error, len(clients))
	for i, c := range clients {
		var err error
		if rest[i], err = c.Begin(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return func(when string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for i, finish := range rest {
			if err := finish(ctx); err != nil {
				t.Fatalf("%s %s: %v", when, clients[i].name, err)
			}
		}
	}
}

func install(t *testing.T, u *reexectest.Unit, version int) {
	t.Helper()
	if err := u.Install("/usr/bin/tally", reexectest.Version(strconv.Itoa(version))); err != nil {
		t.Fatal(err)
	}
}

// waitDead waits until a process has ended: all that it had has moved, long before
// its drain would be over.
func waitDead(t *testing.T, u *reexectest.Unit, pid int) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if slices.ContainsFunc(u.Deaths(), func(d reexectest.Death) bool { return d.PID == pid }) {
			return
		}
	}
	t.Fatalf("process %d does not end; its sessions have not moved", pid)
}

// onTrial waits until the next version accepts, and returns its PID.
func onTrial(t *testing.T, u *reexectest.Unit) (pid int) {
	t.Helper()
	if err := u.WaitFor(t.Context(), reexectest.StatusText("probation")); err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(u.Show().StatusText, "(PID ")
	if _, err := fmt.Sscanf(text, "%d) is next", &pid); err != nil {
		t.Fatalf("status %q: %v", u.Show().StatusText, err)
	}
	return pid
}

// Sessions live through twenty upgrades on one connection each: some are used all the
// time, some wait in the middle of a line.
func TestSessionsCrossUpgrades(t *testing.T) {
	t.Parallel()
	u := start(t, "-probation=1us -drain=10m")
	waiting := dialMany(t, u, "waiting", 30)
	busy := dialMany(t, u, "busy", 5)
	var load sync.WaitGroup
	stop := make(chan struct{})
	for _, c := range busy {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				err := c.Exchange(ctx)
				cancel()
				if err != nil {
					t.Errorf("%s: %v", c.name, err)
					return
				}
			}
		})
	}
	for version := 2; version <= 21 && !t.Failed(); version++ {
		finish := beginAll(t, waiting)
		install(t, u, version)
		old := u.MainPID()
		if err := u.Reload(t.Context()); err != nil {
			t.Error(err)
			break
		}
		waitDead(t, u, old)
		finish(fmt.Sprintf("after the upgrade to version %d", version))
	}
	close(stop)
	load.Wait()
	exchanges := 0
	for _, c := range busy {
		exchanges += c.total / 7
	}
	t.Logf("%d answers to busy sessions", exchanges)
}

// A version that is undone moves the sessions back that it has accepted. One that is
// killed takes its own with it, and none of the old version's, which have not moved
// yet.
func TestSessionsCrossRollbacks(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			t.Parallel()
			u := start(t, "-probation=10m -drain=10m")
			main := u.MainPID()
			before := dialMany(t, u, "before", 10)
			finishBefore := beginAll(t, before)

			install(t, u, 2)
			verdict := make(chan error, 1)
			go func() { verdict <- u.Reload(context.WithoutCancel(t.Context())) }()
			next := onTrial(t, u)
			newcomers := dialMany(t, u, "on trial", 10)
			finishNewcomers := beginAll(t, newcomers)
			if err := u.Signal(next, sig); err != nil {
				t.Fatalf("signal process %d: %v", next, err)
			}
			if err := <-verdict; err == nil {
				t.Fatal("the reload succeeded")
			}
			waitDead(t, u, next)

			finishBefore("before the trial")
			if sig == unix.SIGTERM {
				finishNewcomers("on trial")
			} else if said, _ := newcomers[0].goodbye(); said != "" {
				t.Errorf("a session of the killed version was told %q", said)
			}
			if u.MainPID() != main {
				t.Errorf("process %d is main, want %d", u.MainPID(), main)
			}
		})
	}
}

// When the service stops there is nobody to move to: a client that asks nothing is
// told at once, one in the middle of a line when that is answered, and one that never
// ends it when the drain does.
func TestGoodbye(t *testing.T) {
	t.Parallel()
	u := start(t, "-drain=3s")
	clients := dialMany(t, u, "client", 3)
	idle := clients[0]
	finish := beginAll(t, clients[1:2])
	beginAll(t, clients[2:])
	stopped := make(chan error, 1)
	go func() { stopped <- u.Stop(context.WithoutCancel(t.Context())) }()

	if said, err := idle.goodbye(); said != "bye: the service stops" || err != nil {
		t.Errorf("an idle client was told %q, %v", said, err)
	}
	_ = idle.Close()
	finish("while the service stops")
	if said, err := clients[1].goodbye(); said != "bye: the service stops" || err != nil {
		t.Errorf("a client that was answered was told %q, %v", said, err)
	}
	_ = clients[1].Close()
	if said, err := clients[2].goodbye(); said != "bye: the drain timeout is over" || err != nil {
		t.Errorf("a client in the middle of a line was told %q, %v", said, err)
	}
	_ = clients[2].Close()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
