// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/control/command"
	"github.com/holdfast-go/holdfast/reexec/control/command/term"
	"github.com/holdfast-go/holdfast/reexec/fingerprint"
	"github.com/holdfast-go/holdfast/units/bus"
	"github.com/holdfast-go/holdfast/units/upgrade"
)

// serving is a service after an upgrade, and its unit.
func serving() upgrade.UnitStatus {
	return upgrade.UnitStatus{
		Unit: bus.Unit{
			Name: "myapp.service", LoadState: "loaded", ActiveState: "active", SubState: "running", StateChange: now.Add(-time.Hour),
			Service: bus.Service{MainPID: 133, FileDescriptorStoreMax: 64, NFileDescriptorStore: 3},
		},
		Sockets: []bus.Socket{{Name: "myapp.socket", FileDescriptorName: "http", Listen: []bus.Listen{{Type: "Stream", Address: "127.0.0.1:8080"}}}},
		Service: &control.Status{
			Protocol: 1, Name: "myapp", Instance: "649680fd56103485", State: "running", Since: now.Add(-5 * time.Second),
			Generation: 2, Version: "2.0.0", PID: 133, Mode: "overlap",
			Fingerprint: &fingerprint.Fingerprint{Program: "example.org/myapp", Version: "2.0.0", Revision: "3f2a9c1d5e7b"},
			Previous:    &control.Program{Version: "1.0.0", Path: "/var/lib/myapp.holdfast/previous", Since: now.Add(-49 * time.Hour)},
			Listeners: []control.Listener{
				{Name: "http", Network: "tcp", Address: "127.0.0.1:8080", Origin: "socket unit"},
				{Name: "admin", Network: "unix", Address: "/run/myapp/admin.sock", Origin: "bound"},
			},
			Store: &control.Store{Limit: 64, Entries: []control.StoreEntry{{Name: "bound/admin@1", Kind: "bound"}, {Name: "state/limiter@4", Kind: "state"}, {Name: "state/tickets@2", Kind: "state"}}},
			Last: &control.Verdict{
				Outcome: control.Upgraded, Started: now.Add(-10 * time.Second),
				From:   control.Process{PID: 88, Generation: 1, Version: "1.0.0"},
				To:     &control.Process{PID: 133, Generation: 2, Version: "2.0.0"},
				Phases: []control.Phase{{Name: "checking", Seconds: 0.01}, {Name: "starting", Seconds: 0.03}, {Name: "probation", Seconds: 5}, {Name: "promoting", Seconds: 0.002}},
			},
		},
		Last: []upgrade.Report{
			{
				ID: "r2", Action: "rollout", Outcome: upgrade.RolledBack, By: "deploy",
				Units: []upgrade.UnitReport{{
					Unit: "myapp.service", Outcome: upgrade.RolledBack, Gate: "health", Reason: "health: http://127.0.0.1:8080/ answers 500 Internal Server Error",
					From: upgrade.Version{Version: "1.0.0"}, To: upgrade.Version{Version: "1.0.0"}, Started: now.Add(-26 * time.Hour), Seconds: 9.4,
					Verdict: &control.Verdict{Outcome: control.Upgraded, Started: now.Add(-26 * time.Hour), To: &control.Process{PID: 70, Version: "1.1.0"}},
				}},
			},
			{
				ID: "r1", Action: "rollout", Outcome: upgrade.Failed, By: "deploy",
				Units: []upgrade.UnitReport{{
					Unit: "myapp.service", Outcome: upgrade.Failed, Reason: "refused: successor (PID 71) exited with status 2",
					From: upgrade.Version{Version: "1.0.0"}, To: upgrade.Version{Version: "1.0.0"}, Started: now.Add(-50 * time.Hour), Seconds: 0.3,
				}},
			},
		},
	}
}

// troubled is a service in an upgrade, with all that can be said of it. Its words
// are hostile.
func troubled() upgrade.UnitStatus {
	s := serving()
	s.Unit.ActiveState, s.Unit.SubState, s.Unit.NeedDaemonReload = "reloading", "reload", true
	st := s.Service
	st.State, st.Version = "probation", "2.0.0\x1b[2J\nfake: line"
	st.Successor = &control.Process{PID: 190, Generation: 3, Version: "2.1.0"}
	st.Draining = []control.Process{{PID: 88, Generation: 1, Version: "1.0.0"}}
	st.Store.Warning = "FileDescriptorStoreMax=3 is too small: a crash would lose 1 of 4 descriptors: set FileDescriptorStoreMax=8"
	st.Adopted = 412
	st.LastDrain = &control.Drain{Process: control.Process{PID: 80, Generation: 0, Version: "0.9"}, Seconds: 30, Holders: []control.Holder{{Name: "http", Connections: 3, Seconds: 30, Cut: true, Left: 1}}}
	st.Last.Outcome, st.Last.Reason = control.RolledBack, "successor (PID 133) is not healthy:\nthe database is gone\x07"
	st.LastGood = &control.LastGood{
		Fallback: "/usr/bin/myapp: version 2.1.0 failed", Version: "2.0.0", Path: "/var/lib/myapp.holdfast/good-2", Since: now.Add(-time.Hour),
		Failed: []control.FailedFile{{Version: "2.1.0", Reason: "rolled back: it hangs", At: now.Add(-time.Minute)}},
	}
	s.Frozen = &upgrade.Freeze{By: "alice", Reason: "audit until Friday", Since: now.Add(-3 * time.Hour)}
	s.Busy = &upgrade.Holder{ID: "r3", By: "deploy", PID: 4711, Since: now.Add(-2 * time.Second)}
	s.JournalError = "read /var/lib/holdfast/history: permission denied"
	return s
}

// stopped is a unit that does not run.
func stopped() upgrade.UnitStatus {
	err := &control.NotRunningError{Socket: "/run/myapp/control.sock", Err: errors.New("no such file or directory")}
	return upgrade.UnitStatus{
		Unit: bus.Unit{
			Name: "myapp@3.service", LoadState: "loaded", ActiveState: "failed", SubState: "failed", StateChange: now.Add(-4 * time.Minute),
			Service: bus.Service{StatusText: "running: 1.0.0 (generation 1)"},
		},
		Err: err, ServiceError: err.Error(),
	}
}

func statusOf(s upgrade.UnitStatus) unitStatus {
	all, err := byHelper(context.Background(), &fakeHelper{units: []upgrade.UnitStatus{s}}, []string{s.Unit.Name})
	if err != nil {
		panic(err)
	}
	return all[0]
}

func TestStatusScreens(t *testing.T) {
	bare := unitStatus{Status: serving().Service, unit: "myapp.service"}
	bare.Status.Last, bare.Status.Store, bare.Since = nil, nil, time.Time{}
	for name, s := range map[string]unitStatus{
		"status": statusOf(serving()), "status-troubled": statusOf(troubled()), "status-stopped": statusOf(stopped()),
		"status-no-dbus": bare,
	} {
		got := onScreens(func(t term.Terminal) string { return s.view().Screen(t, now) })
		golden(t, name+".golden", got)
		wantTame(t, got)
	}
}

func TestStatusTable(t *testing.T) {
	instance := func(i int, s upgrade.UnitStatus) command.View {
		s.Unit.Name = fmt.Sprintf("myapp@%d.service", i)
		return statusOf(s).view()
	}
	upgrading, undone := serving(), serving()
	upgrading.Service.State, upgrading.Service.Version = "probation", "1.0.0"
	upgrading.Service.Last, upgrading.Last = nil, nil
	undone.Service.Generation, undone.Service.Version, undone.Service.PID = 3, "1.0.0", 4141
	undone.Unit.MainPID = 4141
	undone.Service.Last = nil
	for name, views := range map[string][]command.View{
		"status-table":   {instance(1, serving()), instance(2, undone), instance(3, upgrading), instance(4, stopped())},
		"status-hostile": {instance(1, troubled()), instance(2, stopped())},
	} {
		got := onScreens(func(t term.Terminal) string { return command.Table(views, t, now) })
		golden(t, name+".golden", got)
		wantTame(t, got)
	}
}

// wantTame checks that nothing is wider than its screen, that no escape sequence
// but those of colours is there, and that they are where colours are.
func wantTame(t *testing.T, got string) {
	t.Helper()
	for _, s := range screens {
		text := part(t, got, s.name)
		for line := range strings.SplitSeq(text, "\n") {
			if s.term.Width > 0 && term.Width(line) > s.term.Width {
				t.Errorf("%s: %d columns: %s", s.name, term.Width(line), line)
			}
		}
		plain := sgr.ReplaceAllString(text, "")
		if colored := plain != text; colored != s.term.Color {
			t.Errorf("%s: colours are %v, want %v", s.name, colored, s.term.Color)
		}
		if strings.ContainsAny(plain, "\x1b\x07") {
			t.Errorf("%s: has an escape sequence: %q", s.name, plain)
		}
		if s.term.ASCII && strings.ContainsAny(plain, "●→…") {
			t.Errorf("%s: is not ASCII: %q", s.name, plain)
		}
	}
}

func TestStatusCommand(t *testing.T) {
	h := &fakeHelper{units: []upgrade.UnitStatus{serving(), stopped()}}
	o := h.run(t, "status", "myapp")
	o.Want(t, command.ExitOK, "myapp.service 2.0.0 (3f2a9c1)\n", "")
	o.Want(t, command.ExitOK, "http: tcp 127.0.0.1:8080 (myapp.socket)\n", "")
	o = h.run(t, "status", "myapp", "myapp@3")
	o.Want(t, command.ExitNotRunning, "UNIT             VERSION  STATE    GENERATION  PID  SINCE", "")
	h.run(t, "status", "myapp*").Want(t, command.ExitNotRunning, "myapp@3.service  -        failed", "")
	o = h.run(t, "status", "myapp", "nosuch")
	o.Want(t, command.ExitNoSuchUnit, "myapp.service 2.0.0 (3f2a9c1)\n", `holdfast status: unit "nosuch.service": there is none`)

	// The service's words are at the top of the JSON, as they are without D-Bus.
	o = h.run(t, "status", "--json=short", "myapp", "myapp@3")
	dec := json.NewDecoder(strings.NewReader(o.Stdout))
	var first struct {
		control.Status
		Systemd *bus.Unit `json:"systemd"`
	}
	var second unitStatus
	if err := errors.Join(dec.Decode(&first), dec.Decode(&second)); err != nil {
		t.Fatalf("%v:\n%s", err, o.Stdout)
	}
	if first.PID != 133 || first.Systemd == nil || first.Systemd.MainPID != 133 || second.Status != nil || second.ServiceError == "" {
		t.Errorf("JSON is\n%s", o.Stdout)
	}
	if n := strings.Count(o.Stdout, "\n"); n != 2 {
		t.Errorf("--json=short has %d lines, want 2", n)
	}

	for _, tt := range [][]string{{"status"}, {"status", "--timeout=-1s", "myapp"}, {"status", "--json=x", "myapp"}, {"status", "--socket=/x", "myapp"}} {
		h.run(t, tt...).Want(t, command.ExitUsage, "", `Try "holdfast status --help".`)
	}
}

// Without D-Bus, the control socket says it.
func TestStatusWithoutBus(t *testing.T) {
	root := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", root)
	serveStatus(t, root, "myapp", *serving().Service)
	h := &fakeHelper{connectErr: &bus.AwayError{Op: "connect", Err: errors.New("no bus")}}
	h.run(t, "status", "--user", "myapp").Want(t, command.ExitOK, "myapp.service 2.0.0 (3f2a9c1)\n", "")
	o := h.run(t, "status", "--user", "myapp", "other")
	o.Want(t, command.ExitNotRunning, "other.service  -        no answer", "")
	h.run(t, "status", "--user", "a/b").Want(t, command.ExitUsage, "", `UNIT "a/b": UNIT "a/b" is a path`)
	h.run(t, "status", "--socket="+root+"/myapp/control.sock").Want(t, command.ExitOK, "myapp 2.0.0 (3f2a9c1)\n", "")
}
