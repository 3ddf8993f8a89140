// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
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
		"counter.service.d/test.conf": "[Service]\nExecStart=\nExecStart=/usr/bin/counter " + args + "\nRestartSec=50ms\n",
	}
}

func start(t *testing.T, args string) *reexectest.Unit {
	t.Helper()
	return reexectest.Start(t, reexectest.Options{Units: "systemd", Files: dropIn(args)})
}

func dialMany(t *testing.T, u *reexectest.Unit, n int) []*client {
	t.Helper()
	clients := make([]*client, n)
	for i := range clients {
		clients[i] = &client{unit: u, keep: true}
		if err := clients[i].connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = clients[i].Close() })
	}
	return clients
}

// beginAll leaves a message of every client unfinished.
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
				t.Fatalf("%s, client %d: %v", when, i, err)
			}
		}
	}
}

func install(t *testing.T, u *reexectest.Unit, version int) {
	t.Helper()
	if err := u.Install("/usr/bin/counter", reexectest.Version(strconv.Itoa(version))); err != nil {
		t.Fatal(err)
	}
}

// upgrade returns when the old version has ended: all that it had has moved, long
// before its drain would be over.
func upgrade(t *testing.T, u *reexectest.Unit, version int) {
	t.Helper()
	install(t, u, version)
	old := u.MainPID()
	if err := u.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitDead(t, u, old)
}

func waitDead(t *testing.T, u *reexectest.Unit, pid int) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if slices.ContainsFunc(u.Deaths(), func(d reexectest.Death) bool { return d.PID == pid }) {
			return
		}
	}
	t.Fatalf("process %d does not end; its sessions have not moved", pid)
}

// Sessions live through twenty upgrades on one connection each: some are used all the
// time, some wait in the middle of a message.
func TestSessionsCrossUpgrades(t *testing.T) {
	t.Parallel()
	u := start(t, "-probation=1us -drain=10m")
	waiting := dialMany(t, u, 30)
	busy := dialMany(t, u, 5)
	stop := make(chan struct{})
	var load sync.WaitGroup
	endLoad := sync.OnceFunc(func() { close(stop); load.Wait() })
	defer endLoad()
	for i, c := range busy {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := c.pipeline(10); err != nil {
					t.Errorf("busy client %d: %v", i, err)
					return
				}
			}
		})
	}
	for version := 2; version <= 21; version++ {
		finish := beginAll(t, waiting)
		upgrade(t, u, version)
		finish(fmt.Sprintf("after the upgrade to version %d", version))
	}
	endLoad()
	answers := 0
	for _, c := range busy {
		answers += c.sent
	}
	t.Logf("%d answers to busy sessions", answers)
}

// pipeline sends messages without waiting, so that some are in the service's buffer
// when it answers another.
func (c *client) pipeline(n int) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for i := range n {
		if err := c.ws.WriteMessage(websocket.TextMessage, []byte(strconv.Itoa(i))); err != nil {
			return err
		}
	}
	for i := range n {
		if err := c.answer(ctx, strconv.Itoa(i)); err != nil {
			return err
		}
	}
	return nil
}

// A session moves at every byte of what a client sends.
func TestSessionsMoveAnywhere(t *testing.T) {
	t.Parallel()
	sent := slices.Concat(
		frame(websocket.PingMessage, true, "before"),
		frame(websocket.TextMessage, false, "hel"),
		frame(websocket.PingMessage, true, "amid"),
		frame(websocket.PongMessage, true, ""),
		frame(0, false, ""),
		frame(0, true, "lo"),
		frame(websocket.PongMessage, true, "after"),
		frame(websocket.BinaryMessage, true, "again"),
	)
	u := start(t, "-probation=1us -drain=10m")
	clients := dialMany(t, u, len(sent)+1)
	for cut, c := range clients {
		if _, err := c.ws.NetConn().Write(sent[:cut]); err != nil {
			t.Fatal(err)
		}
	}
	upgrade(t, u, 2)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for cut, c := range clients {
		if _, err := c.ws.NetConn().Write(sent[cut:]); err != nil {
			t.Fatal(err)
		}
		for _, message := range []string{"hello", "again"} {
			if err := c.answer(ctx, message); err != nil {
				t.Fatalf("moved after %d bytes: %v", cut, err)
			}
		}
		if c.pongs != 2 {
			t.Errorf("moved after %d bytes: %d pongs to 2 pings", cut, c.pongs)
		}
	}
}

// frame is what a client sends, with a mask of zeros.
func frame(opcode byte, fin bool, payload string) []byte {
	if fin {
		opcode |= 0x80
	}
	return append([]byte{opcode, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
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
			before := dialMany(t, u, 10)
			finishBefore := beginAll(t, before)

			install(t, u, 2)
			verdict := make(chan error, 1)
			go func() { verdict <- u.Reload(context.WithoutCancel(t.Context())) }()
			next := onTrial(t, u)
			newcomers := dialMany(t, u, 10)
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
			}
			if u.MainPID() != main {
				t.Errorf("process %d is main, want %d", u.MainPID(), main)
			}
		})
	}
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

// A session in the middle of a message that is too long for its state moves when the
// message has ended. If that takes too long the client is told.
func TestLongMessages(t *testing.T) {
	t.Parallel()
	u := start(t, "-probation=1us -drain=6s")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	message := strings.Repeat("y", maxRecord+fragment)
	clients := dialMany(t, u, 2)
	writers := make([]io.WriteCloser, len(clients))
	ended := make([]chan error, len(clients)) // how the message's answer was
	for i, c := range clients {
		var err error
		if writers[i], err = c.ws.NextWriter(websocket.TextMessage); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(writers[i], message); err != nil {
			t.Fatal(err)
		}
		// The pong shows that the service has read so far.
		pong := make(chan struct{})
		first := sync.OnceFunc(func() { close(pong) })
		c.ws.SetPongHandler(func(string) error { c.pongs++; first(); return nil })
		if err := c.ws.WriteControl(websocket.PingMessage, nil, time.Time{}); err != nil {
			t.Fatal(err)
		}
		ended[i] = make(chan error, 1)
		go func() { ended[i] <- c.answer(ctx, message) }()
		select {
		case <-pong:
		case err := <-ended[i]:
			t.Fatal(err)
		}
	}
	install(t, u, 2)
	old := u.MainPID()
	if err := u.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := writers[0].Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended[0]; err != nil {
		t.Errorf("a long message: %v", err)
	}
	err := <-ended[1]
	if code, reason := closed(err); code != websocket.CloseServiceRestart || reason != "the drain timeout is over" {
		t.Errorf("a message that does not end: %v", err)
	}
	_ = clients[1].Close()
	waitDead(t, u, old)
	if err := clients[0].Exchange(ctx); err != nil {
		t.Errorf("after the long message: %v", err)
	}
}

// When the service stops there is nobody to move to: a client that says nothing is
// told at once, one in the middle of a message when that is answered, and one that
// never ends it when the drain does.
func TestGoodbye(t *testing.T) {
	t.Parallel()
	u := start(t, "-drain=3s")
	clients := dialMany(t, u, 3)
	finish := beginAll(t, clients[1:2])
	beginAll(t, clients[2:])
	stopped := make(chan error, 1)
	go func() { stopped <- u.Stop(context.WithoutCancel(t.Context())) }()

	mustClose := func(c *client, what, want string) {
		t.Helper()
		_ = c.ws.SetReadDeadline(time.Now().Add(patience))
		_, _, err := c.ws.ReadMessage()
		if code, reason := closed(err); code != websocket.CloseGoingAway || reason != want {
			t.Errorf("%s was closed with %v, want %d %q", what, err, websocket.CloseGoingAway, want)
		}
		_ = c.Close()
	}
	mustClose(clients[0], "an idle session", "the service stops")
	finish("while the service stops")
	mustClose(clients[1], "an answered session", "the service stops")
	mustClose(clients[2], "a session in the middle of a message", "the drain timeout is over")
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
