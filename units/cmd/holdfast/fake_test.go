// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/control/command/commandtest"
	"github.com/holdfast-go/holdfast/units/upgrade"
)

// sgr is a sequence that changes the colour.
var sgr = regexp.MustCompile(`\x1b\[[0-9;]*m`)

// fakeHelper is a helper with units that are only told of.
type fakeHelper struct {
	connectErr error
	units      []upgrade.UnitStatus
	history    []upgrade.Report
	// report or err is the answer to Rollout and Rollback, and err to Freeze and
	// Thaw, after the events.
	report upgrade.Report
	events []upgrade.Event
	err    error
	during func() // runs after the events, unless nil

	mu sync.Mutex // of all, where another goroutine calls

	userManager bool
	action      string
	request     upgrade.Request
	frozen      []string
	closed      bool
}

// run runs one of the commands that need a helper.
func (h *fakeHelper) run(t *testing.T, args ...string) commandtest.Output {
	t.Helper()
	commands := map[string]func(context.Context, connector, []string, io.Writer, io.Writer) int{
		"upgrade": runUpgrade, "rollback": runRollback, "status": runStatus, "history": runHistory,
		"wait": runWait, "freeze": runFreeze, "thaw": runThaw,
	}
	connected := false
	connect := func(w where) (helper, error) {
		if h.connectErr != nil {
			return nil, h.connectErr
		}
		connected, h.closed, h.userManager = true, false, w.user
		return h, nil
	}
	o := commandtest.Run(func(stdout, stderr io.Writer) int {
		return commands[args[0]](t.Context(), connect, args[1:], stdout, stderr)
	})
	if connected && !h.closed {
		t.Errorf("%v has not closed its helper", args)
	}
	return o
}

func (h *fakeHelper) act(action string, r upgrade.Request, onEvent func(upgrade.Event)) (upgrade.Report, error) {
	h.mu.Lock()
	h.action, h.request = action, r
	report, events, err, during := h.report, h.events, h.err, h.during
	h.mu.Unlock()
	for _, e := range events {
		if onEvent != nil {
			onEvent(e)
		}
	}
	if during != nil {
		during()
	}
	return report, err
}

// asked is what was asked for last.
func (h *fakeHelper) asked() (action string, r upgrade.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.action, h.request
}

// set changes what is answered.
func (h *fakeHelper) set(events []upgrade.Event, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events, h.err = events, err
}

func (h *fakeHelper) Rollout(_ context.Context, r upgrade.Request, onEvent func(upgrade.Event)) (upgrade.Report, error) {
	return h.act("rollout", r, onEvent)
}

func (h *fakeHelper) Rollback(_ context.Context, r upgrade.Request, onEvent func(upgrade.Event)) (upgrade.Report, error) {
	return h.act("rollback", r, onEvent)
}

func (h *fakeHelper) Status(_ context.Context, unit string) (upgrade.UnitStatus, error) {
	name := strings.TrimSuffix(unit, ".service") + ".service"
	for _, u := range h.units {
		if u.Unit.Name == name {
			return u, nil
		}
	}
	return upgrade.UnitStatus{}, &upgrade.NoUnitError{Unit: name}
}

func (h *fakeHelper) Match(_ context.Context, patterns []string) ([]string, error) {
	var names []string
	for _, p := range patterns {
		for _, u := range h.units {
			if ok, _ := filepath.Match(p, u.Unit.Name); ok {
				names = append(names, u.Unit.Name)
			}
		}
	}
	if len(names) == 0 {
		return nil, &upgrade.NoUnitError{Unit: patterns[0]}
	}
	return names, nil
}

func (h *fakeHelper) History(_ context.Context, unit string) ([]upgrade.Report, error) {
	return h.history, h.err
}

func (h *fakeHelper) Freeze(_ context.Context, unit, by, reason string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.frozen = append(h.frozen, unit+" by "+by+": "+reason)
	return h.err
}

func (h *fakeHelper) Thaw(_ context.Context, unit, by, reason string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.frozen = append(h.frozen, "not "+unit)
	return h.err
}

func (h *fakeHelper) Close() error {
	h.closed = true
	return nil
}

// statusBackend is a service that only says how it is.
type statusBackend struct{ now func() control.Status }

func (b statusBackend) Status() control.Status { return b.now() }

func (b statusBackend) Upgrade(context.Context, func(control.Status)) control.Verdict {
	return control.Verdict{Outcome: control.Refused, Reason: "not in this test", From: control.Process{PID: b.now().PID}}
}

func (b statusBackend) Rollback(ctx context.Context, _ string, progress func(control.Status)) control.Verdict {
	return b.Upgrade(ctx, progress)
}

func (statusBackend) Reload(context.Context) control.Reload {
	return control.Reload{Outcome: control.Refused, Reason: "not in this test"}
}

// serveStatus serves st on the control socket of a unit below root.
func serveStatus(t *testing.T, root, unit string, st control.Status) {
	t.Helper()
	dir := filepath.Join(root, unit)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, control.SocketName), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	server := control.NewServer(statusBackend{func() control.Status { return st }}, logger)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(control.NewPeerListener(ln, uint32(os.Getuid()), logger))
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-served
	})
}
