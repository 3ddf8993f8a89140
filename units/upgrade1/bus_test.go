// SPDX-License-Identifier: Apache-2.0

package upgrade1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/holdfast-go/holdfast/units/bus"
	"github.com/holdfast-go/holdfast/units/upgrade"
)

// patience is for what must happen, on a machine that is busy.
const patience = 60 * time.Second

// daemon is a message bus of the test's own.
type daemon struct {
	t       *testing.T
	dir     string
	address string
	cmd     *exec.Cmd
}

const daemonConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=%s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_type="method_call"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow send_type="signal"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
  </policy>
</busconfig>
`

func startDaemon(t *testing.T) *daemon {
	t.Helper()
	if _, err := exec.LookPath("dbus-daemon"); err != nil {
		if os.Geteuid() == 0 {
			t.Fatalf("dbus-daemon is needed: sh .ci/install: %v", err)
		}
		t.Skipf("dbus-daemon is not here and only root can install it: %v", err)
	}
	dir, err := os.MkdirTemp("", "upgrade1-*") // short: the path of a socket has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	d := &daemon{t: t, dir: dir, address: "unix:path=" + filepath.Join(dir, "bus")}
	if err := os.WriteFile(filepath.Join(dir, "bus.conf"), fmt.Appendf(nil, daemonConfig, filepath.Join(dir, "bus")), 0o600); err != nil {
		t.Fatal(err)
	}
	d.start()
	t.Cleanup(d.stop)
	return d
}

// start returns when the bus listens.
func (d *daemon) start() {
	d.t.Helper()
	d.cmd = exec.Command("dbus-daemon", "--config-file="+filepath.Join(d.dir, "bus.conf"), "--nofork", "--nopidfile", "--print-address")
	d.cmd.Stderr = os.Stderr
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		d.t.Fatalf("dbus-daemon: %v", err)
	}
}

func (d *daemon) stop() {
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
	d.cmd = nil
	_ = os.Remove(filepath.Join(d.dir, "bus"))
}

// service is Serve on a bus of its own, in this process.
type service struct {
	*daemon
	*double
	ctx    context.Context
	cancel context.CancelFunc
	ended  chan struct{} // then err is what Serve returned
	err    error

	mu   sync.Mutex
	uids map[string]uint32 // of those who are not root
}

type testLog struct{ t *testing.T }

func (l testLog) Write(text []byte) (int, error) {
	l.t.Logf("%s", text)
	return len(text), nil
}

// serve starts it, and returns when it has the name.
func serve(t *testing.T, d *daemon, u *double, change func(*Options)) *service {
	t.Helper()
	s := &service{daemon: d, double: u, uids: make(map[string]uint32), ended: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(t.Context())
	options := Options{
		Upgrader: u, Address: d.address, Version: "1.2.3",
		Logger: slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
		userOf: func(sender string) (uint32, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.uids[sender], nil
		},
	}
	if change != nil {
		change(&options)
	}
	watch := s.dial()
	owners := make(chan *dbus.Signal, 16)
	watch.Signal(owners)
	if err := watch.AddMatchSignal(dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, Name)); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(s.ended)
		s.err = Serve(s.ctx, options)
	}()
	t.Cleanup(func() {
		s.cancel()
		<-s.ended
	})
	timeout := time.After(patience)
	for {
		select {
		case signal := <-owners:
			if strings.HasSuffix(signal.Name, ".NameOwnerChanged") && signal.Body[0] == Name && signal.Body[2] != "" {
				return s
			}
		case <-s.ended:
			t.Fatalf("Serve: %v", s.err)
		case <-timeout:
			t.Fatal("the service does not take its name")
		}
	}
}

// dial returns a connection that is closed at the end of the test.
func (d *daemon) dial() *dbus.Conn {
	d.t.Helper()
	conn, err := dbus.Connect(d.address)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// client calls the service.
type client struct {
	t       *testing.T
	conn    *dbus.Conn
	signals chan *dbus.Signal
	// interactive: polkit may ask for a password.
	interactive bool
}

// client returns one that is taken for the user uid.
func (s *service) client(uid uint32) *client {
	s.t.Helper()
	c := &client{t: s.t, conn: s.dial(), signals: make(chan *dbus.Signal, 1024)}
	s.mu.Lock()
	s.uids[c.conn.Names()[0]] = uid
	s.mu.Unlock()
	c.conn.Signal(c.signals)
	if err := c.conn.AddMatchSignal(dbus.WithMatchInterface(Interface)); err != nil {
		s.t.Fatal(err)
	}
	if err := c.conn.AddMatchSignal(dbus.WithMatchInterface("org.freedesktop.DBus.Properties"), dbus.WithMatchObjectPath(Path)); err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (c *client) call(method string, args ...any) *dbus.Call {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if c.interactive {
		return bus.CallInteractive(ctx, c.conn, Name, Path, Interface+"."+method, args...)
	}
	return c.conn.Object(Name, Path).CallWithContext(ctx, Interface+"."+method, 0, args...)
}

// text is the answer of a method that has one string.
func (c *client) text(method string, args ...any) string {
	c.t.Helper()
	var text string
	if err := c.call(method, args...).Store(&text); err != nil {
		c.t.Fatalf("%s%v: %v", method, args, err)
	}
	return text
}

// wantError says that a call fails by this name, and with this text.
func (c *client) wantError(name, text string, method string, args ...any) {
	c.t.Helper()
	err := c.call(method, args...).Err
	var e dbus.Error
	if !errors.As(err, &e) || e.Name != name || !strings.Contains(e.Error(), text) {
		c.t.Errorf("%s%v: got %v (%s), want %s with %q", method, args, err, e.Name, name, text)
	}
}

// wait returns the first signal of this name that f takes.
func (c *client) wait(name string, f func(body []any) bool) []any {
	c.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case signal, ok := <-c.signals:
			if !ok {
				c.t.Fatalf("wait for %s: the connection has ended", name)
			}
			if signal.Name == name && f(signal.Body) {
				return signal.Body
			}
		case <-timeout:
			c.t.Fatalf("no signal %s", name)
		}
	}
}

type options = map[string]dbus.Variant

func variants(pairs ...any) options {
	o := options{}
	for i := 0; i < len(pairs); i += 2 {
		o[pairs[i].(string)] = dbus.MakeVariant(pairs[i+1])
	}
	return o
}

// double is an Upgrader whose rollouts take as long as the test wants.
type double struct {
	begun chan upgrade.Request // of each that has started
	end   chan upgrade.Outcome // ends one of them each

	mu      sync.Mutex
	units   []string
	fails   map[string]error // of Rollout, by unit
	frozen  map[string]string
	records map[string]upgrade.Found
	left    []string // for Resume
	// checks, unless nil, is closed when the checks are over.
	checks chan struct{}
}

func newDouble(units ...string) *double {
	return &double{
		begun: make(chan upgrade.Request, 256), end: make(chan upgrade.Outcome),
		units: units, fails: make(map[string]error), frozen: make(map[string]string), records: make(map[string]upgrade.Found),
	}
}

func (d *double) failWith(unit string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fails[unit] = err
}

func (d *double) Match(_ context.Context, units []string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for _, pattern := range units {
		found := false
		for _, unit := range d.units {
			if ok, _ := filepath.Match(pattern, unit); ok {
				names, found = append(names, unit), true
			}
		}
		if !found {
			return nil, &bus.NoUnitError{Unit: pattern}
		}
	}
	return names, nil
}

func (d *double) Find(_ context.Context, id string) (upgrade.Found, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	found, ok := d.records[id]
	if !ok {
		return found, &upgrade.NoRequestError{ID: id}
	}
	return found, nil
}

func (d *double) Rollout(ctx context.Context, r upgrade.Request, onEvent func(upgrade.Event)) (upgrade.Report, error) {
	return d.run(ctx, rollout, r, onEvent)
}

func (d *double) Rollback(ctx context.Context, r upgrade.Request, onEvent func(upgrade.Event)) (upgrade.Report, error) {
	return d.run(ctx, rollback, r, onEvent)
}

func (d *double) run(ctx context.Context, action string, r upgrade.Request, onEvent func(upgrade.Event)) (upgrade.Report, error) {
	report := upgrade.Report{ID: r.ID, Action: action, By: r.By, Outcome: upgrade.Interrupted}
	if d.checks != nil {
		<-d.checks
	}
	d.mu.Lock()
	for _, unit := range r.Units {
		if err := d.fails[unit]; err != nil {
			d.mu.Unlock()
			return report, err
		}
		report.Units = append(report.Units, upgrade.UnitReport{Unit: unit})
	}
	d.records[r.ID] = upgrade.Found{Request: r, Report: report}
	d.mu.Unlock()
	onEvent(upgrade.Event{Kind: "wave", Text: "wave 1 of 1\x1b[2J", Total: len(r.Units)})
	d.begun <- r
	select {
	case <-ctx.Done():
		report.Reason = "interrupted"
		return report, nil
	case report.Outcome = <-d.end:
	}
	if report.Outcome == upgrade.Failed {
		report.Reason = "not healthy\xff\x00"
	}
	onEvent(upgrade.Event{Kind: "state", Unit: r.Units[0], State: "running", Phase: "reload", Done: 1, Total: len(r.Units)})
	onEvent(upgrade.Event{Kind: "done", Report: &report})
	d.mu.Lock()
	d.records[r.ID] = upgrade.Found{Request: r, Report: report, Finished: true}
	d.mu.Unlock()
	return report, nil
}

func (d *double) Resume(ctx context.Context, onEvent func(upgrade.Event)) ([]upgrade.Report, error) {
	var reports []upgrade.Report
	for _, id := range d.left {
		d.mu.Lock()
		found := d.records[id]
		d.mu.Unlock()
		report, err := d.run(ctx, found.Report.Action, found.Request, func(event upgrade.Event) {
			event.ID = id
			onEvent(event)
		})
		if err != nil {
			return reports, err
		}
		reports = append(reports, report)
	}
	return reports, nil
}

func (d *double) Status(_ context.Context, unit string) (upgrade.UnitStatus, error) {
	if !slices.Contains(d.units, unit) {
		return upgrade.UnitStatus{}, &bus.NoUnitError{Unit: unit}
	}
	return upgrade.UnitStatus{Unit: bus.Unit{Name: unit, ActiveState: "active"}}, nil
}

func (d *double) History(_ context.Context, unit string) ([]upgrade.Report, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var reports []upgrade.Report
	for _, id := range slices.Sorted(maps.Keys(d.records)) {
		if r := d.records[id]; r.Finished && slices.Contains(r.Request.Units, unit) {
			reports = append(reports, r.Report)
		}
	}
	return reports, nil
}

func (d *double) Freeze(_ context.Context, unit, by, reason string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.frozen[unit] = by + ": " + reason
	d.fails[unit] = &upgrade.FrozenError{Unit: unit, Freeze: upgrade.Freeze{By: by, Reason: reason, Since: time.Now()}}
	return nil
}

func (d *double) Thaw(_ context.Context, unit, _, _ string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.frozen, unit)
	delete(d.fails, unit)
	return nil
}

func (d *double) frozenUnits() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.frozen))
}

// next waits until another rollout has started.
func (s *service) next() upgrade.Request {
	s.t.Helper()
	select {
	case r := <-s.begun:
		return r
	case <-time.After(patience):
		s.t.Fatal("no rollout starts")
		return upgrade.Request{}
	}
}

// nothingStarted says that none has.
func (s *service) nothingStarted() {
	s.t.Helper()
	select {
	case r := <-s.begun:
		s.t.Errorf("a rollout has started: %+v", r)
	default:
	}
}
