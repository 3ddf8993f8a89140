// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

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
		"health.service.d/test.conf": "[Service]\nExecStart=\nExecStart=/usr/bin/health " + args + "\nRestartSec=50ms\n",
	}
}

func start(t *testing.T, args string) *reexectest.Unit {
	t.Helper()
	return reexectest.Start(t, reexectest.Options{Units: "systemd", Files: dropIn(args)})
}

func install(t *testing.T, u *reexectest.Unit, version int) {
	t.Helper()
	if err := u.Install("/usr/bin/health", reexectest.Version(strconv.Itoa(version))); err != nil {
		t.Fatal(err)
	}
}

func waitDead(t *testing.T, u *reexectest.Unit, pid int) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if slices.ContainsFunc(u.Deaths(), func(d reexectest.Death) bool { return d.PID == pid }) {
			return
		}
	}
	t.Fatalf("process %d does not end", pid)
}

// load are clients that call all the time, several at once on each connection.
type load struct {
	t       *testing.T
	clients []*client
	stop    chan struct{}
	done    sync.WaitGroup
	calls   atomic.Int64
	once    sync.Once
}

const (
	connections   = 4 // of each kind
	perConnection = 4
)

// startLoad starts clients of all kinds.
func startLoad(t *testing.T, u *reexectest.Unit) *load {
	t.Helper()
	l := &load{t: t, stop: make(chan struct{})}
	t.Cleanup(l.end)
	for _, exchange := range []func(*client, context.Context) error{(*client).check, (*client).streams} {
		for range connections {
			c, err := newClient(u.Addr("grpc"), exchange)
			if err != nil {
				t.Fatal(err)
			}
			l.clients = append(l.clients, c)
			for range perConnection {
				l.done.Go(func() { l.call(c.Exchange) })
			}
		}
	}
	l.done.Go(func() { l.call(fresh{u}.Exchange) })
	return l
}

func (l *load) call(exchange func(context.Context) error) {
	for {
		select {
		case <-l.stop:
			return
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err := exchange(ctx)
		cancel()
		l.calls.Add(1)
		if err != nil {
			l.t.Error(err)
			return
		}
	}
}

// more waits for further calls.
func (l *load) more(n int64) {
	l.t.Helper()
	until := l.calls.Load() + n
	for deadline := time.Now().Add(patience); l.calls.Load() < until; time.Sleep(time.Millisecond) {
		if l.t.Failed() || time.Now().After(deadline) {
			l.t.Fatalf("%d of %d calls were answered", l.calls.Load(), until)
		}
	}
}

func (l *load) end() {
	l.once.Do(func() {
		close(l.stop)
		l.done.Wait()
		var again int64
		for _, c := range l.clients {
			again += c.again.Load()
			_ = c.Close()
		}
		l.t.Logf("%d exchanges, %d calls were repeated since no server had seen them", l.calls.Load(), again)
	})
}

// No call fails over twenty upgrades.
func TestCallsCrossUpgrades(t *testing.T) {
	t.Parallel()
	u := start(t, "-probation=1us -drain=10m")
	l := startLoad(t, u)
	l.more(100)
	for version := 2; version <= 21 && !t.Failed(); version++ {
		install(t, u, version)
		old := u.MainPID()
		if err := u.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.more(100)
		waitDead(t, u, old)
	}
	l.end()
}

// No call fails when a version is undone that has served.
func TestCallsCrossRollbacks(t *testing.T) {
	t.Parallel()
	u := start(t, "-probation=10m -drain=10m")
	main := u.MainPID()
	l := startLoad(t, u)
	l.more(100)
	for version := 2; version <= 6 && !t.Failed(); version++ {
		install(t, u, version)
		verdict := make(chan error, 1)
		go func() { verdict <- u.Reload(context.WithoutCancel(t.Context())) }()
		next := onTrial(t, u)
		// The old version is not left before the verdict, so only new connections come.
		if err := (fresh{u}).Exchange(t.Context()); err != nil {
			t.Error(err)
		}
		if err := u.Signal(next, unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := <-verdict; err == nil {
			t.Fatal("the reload succeeded")
		}
		l.more(100)
		waitDead(t, u, next)
	}
	l.end()
	if u.MainPID() != main {
		t.Errorf("process %d is main, want %d", u.MainPID(), main)
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

// A stream goes on with the old version until it ends, or until the drain does: then
// the client is told.
func TestLongStreams(t *testing.T) {
	t.Parallel()
	u := start(t, "-probation=1us -drain=5s")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := newClient(u.Addr("grpc"), (*client).check)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	watch, err := c.health.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if now, err := watch.Recv(); err != nil || now.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Fatalf("watch: %v, %v", now, err)
	}
	endless, err := c.open(ctx, "Add")
	if err != nil {
		t.Fatal(err)
	}
	defer endless.cancel()
	finish, err := c.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	install(t, u, 2)
	old := u.MainPID()
	if err := u.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := finish(ctx); err != nil {
		t.Errorf("a stream that ends in time: %v", err)
	}
	if err := endless.send(5); err != nil {
		t.Error(err)
	}
	if err := endless.want(5); err != nil {
		t.Errorf("a stream that does not end, at first: %v", err)
	}
	_, err = watch.Recv()
	for what, err := range map[string]error{"a watch": err, "a stream that does not end": endless.want(0)} {
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "the drain timeout is over") {
			t.Errorf("%s ends with %v, want Unavailable, and why", what, err)
		}
	}
	if err := c.check(ctx); err != nil {
		t.Errorf("after it: %v", err)
	}
	waitDead(t, u, old)
}

// Somebody who connects and says nothing does not keep the others from being told,
// and the old version from its end.
func TestSilentConnection(t *testing.T) {
	t.Parallel()
	u := start(t, "-probation=1us -drain=10m")
	silent, err := u.Dial(t.Context(), "grpc")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	c, err := newClient(u.Addr("grpc"), (*client).check)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.check(t.Context()); err != nil {
		t.Fatal(err)
	}
	install(t, u, 2)
	old := u.MainPID()
	if err := u.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitDead(t, u, old)
	if err := c.check(t.Context()); err != nil {
		t.Error(err)
	}
}
