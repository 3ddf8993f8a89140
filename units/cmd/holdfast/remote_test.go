// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/holdfast-go/holdfast/reexec/control/command"
	"github.com/holdfast-go/holdfast/reexec/control/command/commandtest"
	"github.com/holdfast-go/holdfast/units/upgrade"
	"github.com/holdfast-go/holdfast/units/upgrade1"
)

// served is a fakeHelper behind the service.
type served struct{ *fakeHelper }

func (s served) Match(_ context.Context, units []string) ([]string, error) {
	var names []string
	for _, unit := range units {
		names = append(names, strings.TrimSuffix(unit, ".service")+".service")
	}
	return names, nil
}

func (s served) Find(_ context.Context, id string) (upgrade.Found, error) {
	return upgrade.Found{}, &upgrade.NoRequestError{ID: id}
}

func (s served) Resume(context.Context, func(upgrade.Event)) ([]upgrade.Report, error) {
	return nil, nil
}

// privateBus starts a message bus of the test's own, and makes it the system's. It returns
// what ends the bus, and what starts it again.
func privateBus(t *testing.T) (stop, start func()) {
	t.Helper()
	need(t, "dbus-daemon")
	dir, err := os.MkdirTemp("", "holdfast-bus-*") // short: the path of a socket has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	config := `<busconfig><listen>unix:path=` + filepath.Join(dir, "bus") + `</listen><auth>EXTERNAL</auth>
		<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>`
	if err := os.WriteFile(filepath.Join(dir, "bus.conf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var cmd *exec.Cmd
	stop = func() {
		if cmd != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		cmd = nil
	}
	start = func() {
		_ = os.Remove(filepath.Join(dir, "bus"))
		cmd = exec.Command("dbus-daemon", "--config-file="+filepath.Join(dir, "bus.conf"), "--nofork", "--nopidfile", "--print-address")
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err == nil {
			_, err = bufio.NewReader(out).ReadString('\n') // it listens
		}
		if err != nil {
			t.Error(err)
		}
	}
	start()
	t.Cleanup(func() { stop() })
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(dir, "bus"))
	return stop, start
}

// serveFake serves h on the bus until the test ends.
func serveFake(t *testing.T, h *fakeHelper) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- upgrade1.Serve(ctx, upgrade1.Options{Upgrader: served{h}, Address: os.Getenv("DBUS_SYSTEM_BUS_ADDRESS")})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for deadline := time.Now().Add(time.Minute); ; {
		var has bool
		if err := conn.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, upgrade1.Name).Store(&has); err != nil || time.Now().After(deadline) {
			t.Fatalf("the service is not on the bus: %v", err)
		}
		if has {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// runRemote runs a command with the service on the bus.
func runRemote(ctx context.Context, args ...string) commandtest.Output {
	return runCommand(ctx, append([]string{args[0], "--via-service"}, args[1:]...)...)
}

// By the service it is all the same: the request arrives as it was given, progress,
// report and errors come back.
func TestRemote(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("root is needed: the service lets others in only as polkit says, which a bus of the test's own does not have")
	}
	privateBus(t)
	events := rollout()
	h := &fakeHelper{units: []upgrade.UnitStatus{serving(), stopped()}, history: serving().Last, report: done(), events: events}
	serveFake(t, h)

	o := runRemote(t.Context(), "upgrade", "--request-id=r1", "--version=2.0.0", "--soak=3s", "--interval=1s", "--timeout=7s", "--requests=a", "--errors=b",
		"--max-error-rate=0.5", "--max-failures=2", "--canary=0", "--wave=3", "--pause=30s", "--max-failed=1", "--ratio=0.5",
		"--health-url=http://x/", "--metrics-url=http://x/m", "myapp", "other")
	o.Want(t, command.ExitOK, "Upgraded myapp.service from 1.0.0 to 2.0.0", "myapp@3.service: errors: 12 of 100 requests failed, more than 0.01\n")
	want := upgrade.Request{
		ID: "r1", Units: []string{"myapp.service", "other.service"}, Version: "2.0.0", By: "root", Timeout: 7 * time.Second,
		Gates: upgrade.Gates{
			Soak: 3 * time.Second, Interval: time.Second, HealthURL: "http://x/", MetricsURL: "http://x/m",
			Requests: "a", Errors: "b", MaxErrorRate: 0.5, MaxFailures: 2,
		},
		Waves: upgrade.Waves{Ratio: 0.5, Canary: -1, Size: 3, Pause: 30 * time.Second, MaxFailed: 1},
	}
	if action, got := h.asked(); action != "rollout" || !reflect.DeepEqual(got, want) {
		t.Errorf("%s of\n%+v, want\n%+v", action, got, want)
	}
	if strings.Contains(o.Stderr, "\x1b") || !strings.Contains(o.Stderr, "pause of 30s before wave 2") {
		t.Errorf("progress is\n%s", o.Stderr)
	}
	h.set(nil, nil)
	runRemote(t.Context(), "rollback", "--dry-run", "myapp").Want(t, command.ExitOK, "Rolled back myapp.service", "")
	if action, got := h.asked(); action != "rollback" || !got.DryRun {
		t.Errorf("%s of %+v", action, got)
	}

	runRemote(t.Context(), "status", "myapp").Want(t, command.ExitOK, "http: tcp 127.0.0.1:8080 (myapp.socket)\n", "")
	runRemote(t.Context(), "status", "myapp@3").Want(t, command.ExitNotRunning, "failed", "")
	runRemote(t.Context(), "status", "nosuch").Want(t, command.ExitNoSuchUnit, "", "there is none")
	runRemote(t.Context(), "history", "myapp").Want(t, command.ExitOK, "rolled back  1.0.0 → 1.1.0", "")
	runRemote(t.Context(), "freeze", "--reason=audit", "myapp").Want(t, command.ExitOK, "Upgrades of myapp are frozen.\n", "")
	runRemote(t.Context(), "thaw", "myapp").Want(t, command.ExitOK, "Upgrades of myapp are allowed.\n", "")
	h.mu.Lock()
	if want := []string{"myapp.service by root: audit", "not myapp.service"}; !reflect.DeepEqual(h.frozen, want) {
		t.Errorf("frozen %q, want %q", h.frozen, want)
	}
	h.mu.Unlock()

	for i, tt := range []struct {
		err  error
		unit string
		code int
		want string
	}{
		{&upgrade.NoUnitError{Unit: "a.service"}, "a", command.ExitNoSuchUnit, "there is none"},
		{&upgrade.PreconditionError{Unit: "myapp.service", What: "it has no ExecReload=", Hint: "holdfast check myapp.service", Unfit: true}, "myapp", command.ExitNotSuitable, "next: holdfast check myapp.service"},
		{&upgrade.PreconditionError{Unit: "myapp@3.service", What: "it is not active", Inactive: true}, "myapp@3", command.ExitNotRunning, "it is not active"},
		{&upgrade.FrozenError{Unit: "a.service", Freeze: upgrade.Freeze{By: "alice"}}, "a", command.ExitFailed, "frozen"},
		{&upgrade.RequestError{Field: "gates.soak", Value: 1, Want: "is odd"}, "a", command.ExitUsage, "is odd"},
		{errors.New("disk full"), "a", command.ExitFailed, "disk full"},
	} {
		h.set(nil, tt.err)
		runRemote(t.Context(), "upgrade", fmt.Sprintf("--request-id=e%d", i), tt.unit).Want(t, tt.code, "", tt.want)
	}
}

// A command that stops waiting says that the request goes on.
func TestRemoteStopsWaiting(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("root is needed: the service lets others in only as polkit says, which a bus of the test's own does not have")
	}
	privateBus(t)
	ctx, cancel := context.WithCancel(t.Context())
	gate := make(chan struct{})
	h := &fakeHelper{report: done(), events: rollout()[:3], during: func() {
		cancel()
		<-gate
	}}
	serveFake(t, h)
	t.Cleanup(func() { close(gate) })
	runRemote(ctx, "upgrade", "--request-id=r1", "-q", "myapp").Want(t, command.ExitUnknown, "", "holdfast upgrade: request r1 ")
}

// The bus is restarted in the middle: the request goes on, and its end is heard.
func TestRemoteBusRestart(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("root is needed: the service lets others in only as polkit says, which a bus of the test's own does not have")
	}
	stop, start := privateBus(t)
	h := &fakeHelper{report: done(), events: rollout()[:3], during: func() {
		stop()
		start()
	}}
	serveFake(t, h)
	runRemote(t.Context(), "upgrade", "--request-id=r1", "-q", "myapp").Want(t, command.ExitOK, "", "")
	if action, got := h.asked(); action != "rollout" || got.ID != "r1" {
		t.Errorf("%s of %+v", action, got)
	}
}

// The bus does not come back: whether the upgrade has failed is not known.
func TestRemoteBusGone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("root is needed: the service lets others in only as polkit says, which a bus of the test's own does not have")
	}
	before := busPatience
	busPatience = time.Second
	t.Cleanup(func() { busPatience = before })
	stop, start := privateBus(t)
	gate, ended := make(chan struct{}), make(chan struct{})
	h := &fakeHelper{report: done(), events: rollout()[:3], during: func() {
		defer close(ended)
		stop()
		<-gate
		start() // the service ends in order
	}}
	serveFake(t, h)
	t.Cleanup(func() {
		close(gate)
		<-ended
	})
	o := runRemote(t.Context(), "upgrade", "--request-id=r1", "-q", "myapp", "other")
	o.Want(t, command.ExitUnknown, "", "request r1 may go on")
	if want := `Try "holdfast status myapp other".`; o.LastLine() != want {
		t.Errorf("last line %q, want %q", o.LastLine(), want)
	}
}

func TestNoService(t *testing.T) {
	privateBus(t)
	runRemote(t.Context(), "upgrade", "myapp").Want(t, command.ExitFailed, "", "org.holdfast.Upgrade1 is not installed")
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")
	runRemote(t.Context(), "upgrade", "myapp").Want(t, command.ExitFailed, "", "connect to the system bus")
	for _, args := range [][]string{{"upgrade", "--direct", "--via-service", "a"}, {"status", "--user", "--via-service", "a"}, {"freeze", "--user", "--via-service", "a"}} {
		runCommand(t.Context(), args...).Want(t, command.ExitUsage, "", "--via-service: ")
	}
}
