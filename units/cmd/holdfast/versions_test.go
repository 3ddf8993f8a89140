// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/control/command"
	"github.com/holdfast-go/holdfast/units/versions"
)

// following is a service that upgrades to what the link leads to, or does not.
type following struct {
	current string // the link

	mu      sync.Mutex
	status  control.Status
	verdict control.Outcome
	hang    bool
}

func (f *following) Status() control.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

func (f *following) Upgrade(ctx context.Context, _ func(control.Status)) control.Verdict {
	f.mu.Lock()
	hang := f.hang
	f.mu.Unlock()
	if hang {
		<-ctx.Done()
		return control.Verdict{Outcome: control.Stopped} // nobody reads it
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	target, err := os.Readlink(f.current)
	to := control.Process{PID: 2, Generation: f.status.Generation + 1, Version: filepath.Base(target)}
	v := control.Verdict{Outcome: f.verdict, From: control.Process{PID: 1, Version: f.status.Version}, To: &to}
	switch {
	case err != nil:
		v.Outcome, v.Reason = control.Refused, err.Error()
	case f.verdict == control.Upgraded:
		f.status.Version, f.status.Generation = to.Version, to.Generation
	default:
		v.Reason = "it was ill"
	}
	return v
}

func (f *following) Rollback(ctx context.Context, _ string, progress func(control.Status)) control.Verdict {
	return f.Upgrade(ctx, progress)
}

func (*following) Reload(context.Context) control.Reload {
	return control.Reload{Outcome: control.Refused, Reason: "not in this test"}
}

func (f *following) set(change func(*following)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// side is a directory with versions 1.0, 2.0 and 3.0, of which the first is current,
// and a service that runs it.
func side(t *testing.T) (dir, socket string, f *following) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "program")
	for _, v := range []string{"1.0", "2.0", "3.0"} {
		if err := os.WriteFile(program, []byte(v), 0o755); err != nil {
			t.Fatal(err)
		}
		runCommand(t.Context(), "versions", "install", "--name=myapp", dir, v, program).Want(t, command.ExitOK, "Installed "+dir+"/versions/"+v+"/myapp.\n", "")
		at := time.Date(2026, 11, int(v[0]-'0'), 12, 0, 0, 0, time.Local)
		if err := os.Chtimes(filepath.Join(dir, "versions", v), at, at); err != nil {
			t.Fatal(err)
		}
	}
	runCommand(t.Context(), "versions", "switch", dir, "1.0").Want(t, command.ExitOK, dir+"/current leads to 1.0, and led to nothing.\n", "")
	socket = filepath.Join(t.TempDir(), control.SocketName)
	f = &following{
		current: filepath.Join(dir, "current"), verdict: control.Upgraded,
		status: control.Status{Name: "myapp", Instance: "i1", State: "running", Version: "1.0", PID: os.Getpid(), Generation: 1},
	}
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := control.NewServer(f, slog.New(slog.DiscardHandler))
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(ln)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-served
	})
	return dir, socket, f
}

// mustLead checks where the links lead, and that no switch is under way.
func mustLead(t *testing.T, dir, current, previous string) {
	t.Helper()
	for link, want := range map[string]string{"current": current, "previous": previous} {
		got, err := os.Readlink(filepath.Join(dir, link))
		if want == "" && os.IsNotExist(err) {
			continue
		}
		if err != nil || got != "versions/"+want {
			t.Errorf("%s leads to %q, %v; want %s", link, got, err, want)
		}
	}
	d, err := versions.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if s, ok, err := d.Unfinished(); ok || err != nil {
		t.Errorf("unfinished: %v, %v", s, err)
	}
}

func TestVersionsSwitch(t *testing.T) {
	dir, socket, f := side(t)
	switchTo := func(version string) []string {
		return []string{"versions", "switch", "--socket=" + socket, dir, version}
	}
	o := runCommand(t.Context(), switchTo("2.0")...)
	o.Want(t, command.ExitOK, "Upgraded myapp from 1.0 to 2.0", "")
	o.Want(t, command.ExitOK, dir+"/current leads to 2.0, and led to 1.0.\n", "")
	mustLead(t, dir, "2.0", "1.0")

	// What fails is switched back, whichever way it fails.
	for _, outcome := range []control.Outcome{control.Refused, control.RolledBack, control.Busy, control.Stopped} {
		f.set(func(f *following) { f.verdict = outcome })
		o := runCommand(t.Context(), switchTo("3.0")...)
		if o.Code == command.ExitOK || o.LastLine() != dir+"/current leads to 2.0 again." || !strings.Contains(o.Stderr, "it was ill") {
			t.Errorf("%s: exit code %d, stderr %q", outcome, o.Code, o.Stderr)
		}
		mustLead(t, dir, "2.0", "1.0")
	}
	runCommand(t.Context(), "versions", "switch", "--socket=/none/control.sock", dir, "3.0").Want(t, command.ExitNotRunning, "", "current leads to 2.0 again.")
	mustLead(t, dir, "2.0", "1.0")

	f.set(func(f *following) { f.verdict = control.Upgraded })
	runCommand(t.Context(), switchTo("previous")...).Want(t, command.ExitOK, "Upgraded myapp from 2.0 to 1.0", "")
	mustLead(t, dir, "1.0", "2.0")
	runCommand(t.Context(), append(switchTo("previous"), "-q")...).Want(t, command.ExitOK, "", "")
	mustLead(t, dir, "2.0", "1.0")
	runCommand(t.Context(), switchTo("4.0")...).Want(t, command.ExitFailed, "", `version "4.0" is not in `+dir+`/versions: install it first`)
}

// A switch whose end nobody has seen is ended by the next call: to what runs then.
func TestVersionsMend(t *testing.T) {
	dir, socket, f := side(t)
	f.set(func(f *following) { f.hang = true })
	interrupted := func() {
		t.Helper()
		o := runCommand(t.Context(), "versions", "switch", "--socket="+socket, "--timeout=50ms", dir, "2.0")
		o.Want(t, command.ExitUnknown, "", "/current leads to 2.0 until the end of the upgrade is known")
		runCommand(t.Context(), "versions", "list", dir).Want(t, command.ExitOK, "2.0", "switch from 1.0 to 2.0 of ")
	}
	next := func() []string { return []string{"versions", "prune", "--keep=9", dir} }

	interrupted()
	f.set(func(f *following) { f.status.State = "probation" })
	runCommand(t.Context(), next()...).Want(t, command.ExitFailed, "", "has not ended: its upgrade is under way (probation): wait until that is over")
	f.set(func(f *following) { f.status.State = "running" })
	runCommand(t.Context(), next()...).Want(t, command.ExitOK, "", "had not ended: it went back to 1.0\n")
	mustLead(t, dir, "1.0", "")

	interrupted()
	f.set(func(f *following) { f.status.Version = "2.0" })
	runCommand(t.Context(), next()...).Want(t, command.ExitOK, "", "had not ended: it went on to 2.0\n")
	mustLead(t, dir, "2.0", "1.0")
	runCommand(t.Context(), next()...).Want(t, command.ExitOK, "", "")

	// The service is gone: what was proven starts.
	f.set(func(f *following) { f.status.Version = "2.0" })
	d, err := versions.OpenToChange(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Begin("3.0", filepath.Join(t.TempDir(), "none")); err != nil {
		t.Fatal(err)
	}
	runCommand(t.Context(), next()...).Want(t, command.ExitFailed, "", "another process is at work there")
	_ = d.Close()
	runCommand(t.Context(), next()...).Want(t, command.ExitOK, "", "it went back to 2.0\n")
	mustLead(t, dir, "2.0", "1.0")

	// Without a service, what was asked for is done.
	if d, err = versions.OpenToChange(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Begin("3.0", ""); err != nil {
		t.Fatal(err)
	}
	_ = d.Close()
	runCommand(t.Context(), next()...).Want(t, command.ExitOK, "", "it went on to 3.0\n")
	mustLead(t, dir, "3.0", "2.0")
}

func TestVersionsList(t *testing.T) {
	dir, _, _ := side(t)
	runCommand(t.Context(), "versions", "switch", dir, "2.0").Want(t, command.ExitOK, "current leads to 2.0, and led to 1.0.\n", "")
	runCommand(t.Context(), "versions", "list", dir).Want(t, command.ExitOK,
		"3.0                  2026-11-03 12:00:00\n2.0                  2026-11-02 12:00:00  current\n1.0                  2026-11-01 12:00:00  previous\n", "")
	var all []versions.Version
	o := runCommand(t.Context(), "versions", "list", "--json=short", dir)
	if err := json.Unmarshal([]byte(o.Stdout), &all); err != nil || len(all) != 3 || !all[1].Current || !all[2].Previous {
		t.Errorf("%s: %+v, %v", o.Stdout, all, err)
	}
	runCommand(t.Context(), "versions", "prune", "--keep=2", dir).Want(t, command.ExitOK, "Removed 3.0.\n", "")
	runCommand(t.Context(), "versions", "list", "--json=short", t.TempDir()).Want(t, command.ExitOK, "[]\n", "")
}

func TestVersionsUsage(t *testing.T) {
	dir := t.TempDir()
	for args, want := range map[string]string{
		"":                                   "say what to do: list, install, switch or prune",
		"remove " + dir:                      `"remove": use list, install, switch or prune`,
		"list":                               "list takes DIR, and got []",
		"switch " + dir:                      "switch takes DIR VERSION, and got [",
		"install " + dir + " 1.0":            "install takes DIR VERSION FILE",
		"switch --unit=a --socket=b x 1":     `--unit="a" and --socket="b": use one of them`,
		"list --unit=a " + dir:               "--unit= and --socket= are for switch",
		"prune " + dir:                       "say how many versions are to be left: --keep=N",
		"list --json=yes " + dir:             `--json="yes": must be short, pretty or off`,
		"switch --timeout=-1s " + dir + " 1": "--timeout=-1s: must not be negative",
		"switch --unit=/x " + dir + " 1.0":   "is a path: use --socket=",
		"switch --unit=myapp@ " + dir + " 1": "is a template",
		"list --wait " + dir:                 "flag provided but not defined: --wait",
	} {
		runCommand(t.Context(), append([]string{"versions"}, strings.Fields(args)...)...).Want(t, command.ExitUsage, "", want)
	}
	runCommand(t.Context(), "versions", "list", dir+"/none").Want(t, command.ExitFailed, "", "no such file or directory")
}
