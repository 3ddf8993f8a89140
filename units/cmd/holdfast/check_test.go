// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/control/command"
	"github.com/holdfast-go/holdfast/reexec/control/command/term"
	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/units/bus"
	"github.com/holdfast-go/holdfast/units/check"
)

// writeChecked writes the units of myapp with one line changed to another.
func writeChecked(t *testing.T, from, to string) string {
	t.Helper()
	files, err := units.Render(units.Options{
		Name: "myapp", Exec: "/usr/bin/myapp", Systemd: 257, Sockets: []units.Socket{{Name: "http", Address: "127.0.0.1:8080"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, f := range files {
		path := filepath.Join(dir, f.Name)
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(f.Content, from, to)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "myapp.service")
}

func TestCheck(t *testing.T) {
	fit := writeChecked(t, "", "")
	broken := writeChecked(t, "KillMode=control-group", "KillMode=mixed")
	warned := writeChecked(t, "Restart=on-failure", "Restart=no")
	for name, c := range map[string]struct {
		args   []string
		code   int
		stdout string // in it
		stderr string
	}{
		"fit":                {args: []string{"--systemd=257", fit}, stdout: "fit for upgrades\n mode overlap, systemd 257: nothing found"},
		"not fit":            {args: []string{broken}, code: command.ExitNotSuitable, stdout: "write: KillMode=control-group"},
		"a warning is fit":   {args: []string{warned}, stdout: "write: Restart=on-failure"},
		"several":            {args: []string{fit, broken, warned}, code: command.ExitNotSuitable, stdout: "KillMode=mixed"},
		"one is not there":   {args: []string{fit + ".service", fit}, code: command.ExitNoSuchUnit, stdout: "nothing found", stderr: "no such file"},
		"another mode":       {args: []string{"--mode=restart", fit}, stdout: "mode restart"},
		"no such mode":       {args: []string{"--mode=sideways", fit}, code: command.ExitUsage, stderr: "must be overlap, in-place or restart"},
		"too old":            {args: []string{"--systemd=200", fit}, code: command.ExitUsage, stderr: "must be 239 or later"},
		"nothing":            {code: command.ExitUsage, stderr: "name the UNIT"},
		"a socket":           {args: []string{"--files", "myapp.socket"}, code: command.ExitFailed, stderr: "name the service"},
		"below a root":       {args: []string{"--root=" + t.TempDir(), "myapp"}, code: command.ExitNoSuchUnit, stderr: "there is no such file"},
		"a root that is not": {args: []string{"--root=" + fit, "myapp"}, code: command.ExitFailed, stderr: "is no directory"},
		"without systemd":    {args: []string{"myapp"}, code: command.ExitFailed, stderr: "use --files"},
		"help":               {args: []string{"--help"}, stdout: "Usage: holdfast check"},
	} {
		t.Run(name, func(t *testing.T) {
			away := func(context.Context, bool) (busOf, error) {
				return nil, &bus.AwayError{Op: "connect", Err: os.ErrNotExist}
			}
			var stdout, stderr bytes.Buffer
			code := checkWith(t.Context(), away, c.args, &stdout, &stderr)
			if code != c.code || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
				t.Errorf("exit code %d, want %d with %q and %q\n%s\n%s", code, c.code, c.stdout, c.stderr, &stdout, &stderr)
			}
		})
	}
}

// TestCheckJSON: what is printed as JSON is the report, and of several units a list.
func TestCheckJSON(t *testing.T) {
	for _, mode := range []string{"short", "pretty"} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), []string{"check", "--json=" + mode, writeChecked(t, "", ""), writeChecked(t, "OOMPolicy=continue", "OOMPolicy=stop")}, nil, &stdout, &stderr)
		var reports []check.Report
		if err := json.Unmarshal(stdout.Bytes(), &reports); err != nil || code != 0 {
			t.Fatalf("exit code %d, %v: %s%s", code, err, &stdout, &stderr)
		}
		if len(reports) != 2 || reports[0].Findings == nil || len(reports[0].Findings) != 0 || len(reports[1].Findings) != 1 || reports[1].Findings[0].Option != "OOMPolicy" {
			t.Errorf("got %+v, want one report without findings and one with OOMPolicy=", reports)
		}
	}
}

// TestCheckLooks compares what is shown for people, on terminals and in a pipe.
func TestCheckLooks(t *testing.T) {
	r := &check.Report{
		Unit: "myapp.service", Systemd: 257, Holdfast: true, Mode: units.Overlap,
		Files: []string{"/etc/systemd/system/myapp.service", "/etc/systemd/system/myapp.service.d/\x1b[31m.conf", "/etc/systemd/system/myapp.socket"},
		Findings: []check.Finding{
			{Level: check.Error, Option: "KillMode", Section: "Service", File: "/etc/systemd/system/myapp.service", Line: 12, Found: "KillMode=mixed", Why: "a stop kills the version that still drains at once: what it was answering is lost", Write: []string{"KillMode=control-group"}},
			{Level: check.Warning, Option: "OOMPolicy", Section: "Service", File: "/etc/systemd/system/myapp.service", Why: "a new version that wants too much memory takes the old one along, which serves", Write: []string{"OOMPolicy=continue"}},
			{Level: check.Note, Option: "EnvironmentFile", Section: "Service", File: "/etc/systemd/system/myapp.service.d/\x1b[31m.conf", Line: 2, Found: "EnvironmentFile=/etc/\x07\x1b]0;x", Why: "it is read at the start"},
			{Level: check.Warning, Option: "Requires", Section: "Unit", File: "/etc/systemd/system/myapp.service", Why: "a start of the service does not start its sockets", Write: []string{"Requires=myapp.socket", "After=myapp.socket"}},
			{Level: check.Warning, Option: "NeedDaemonReload", Why: "myapp.socket: its files have changed: run systemctl daemon-reload"},
		},
	}
	other := &check.Report{Unit: "nginx.service", Systemd: 252, Findings: []check.Finding{}}
	got := strings.ReplaceAll(onScreens(func(t term.Terminal) string { return checkText(t, r) + checkText(t, other) }), "\x1b[", "ESC[")
	if strings.ContainsAny(got, "\x1b\x07") {
		t.Error("text of a file reaches the terminal as it is")
	}
	golden(t, "check.golden", got)
}
