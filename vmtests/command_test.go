// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/control/command"
	"github.com/holdfast-go/holdfast/units/upgrade"
	"github.com/holdfast-go/holdfast/vmtests"
)

// holdfast runs the command and returns what it wrote and its exit code.
func (m *myapp) holdfast(args ...string) (stdout, stderr string, code int) {
	m.t.Helper()
	return m.exits(append([]string{"holdfast"}, args...)...)
}

func (m *myapp) exits(argv ...string) (stdout, stderr string, code int) {
	m.t.Helper()
	var out, errs bytes.Buffer
	p, err := m.Start(m.ctx, vmtests.Command{Args: argv, Stdout: &out, Stderr: &errs})
	if err == nil {
		err = p.Wait()
	}
	var exit *vmtests.ExitError
	switch {
	case errors.As(err, &exit):
		code = exit.Code
	case err != nil:
		m.t.Fatal(err)
	}
	return out.String(), errs.String(), code
}

// wantExit runs the command and wants a code, and a text in what it writes.
func (m *myapp) wantExit(code int, text string, args ...string) (stdout, stderr string) {
	m.t.Helper()
	stdout, stderr, got := m.holdfast(args...)
	if got != code || !strings.Contains(stdout+stderr, text) {
		m.t.Errorf("holdfast %s: exit code %d, want %d and %q\nstdout:\n%s\nstderr:\n%s", strings.Join(args, " "), got, code, text, stdout, stderr)
	}
	return stdout, stderr
}

// What an operator types, from one end to the other: each command, each exit code
// that can be had from outside, with systemd and under load.
func TestCommand(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startMyapp(t, v, brisk)
		l := m.load()
		m.put(v2)
		m.wantExit(command.ExitOK, "dry run: it would be upgraded now", "upgrade", "--dry-run", "myapp")
		if st := m.status(); st.Version != "1.0.0" {
			t.Errorf("a dry run has upgraded to %s", st.Version)
		}
		stdout, stderr := m.wantExit(command.ExitOK, "Upgraded myapp.service from 1.0.0 to 2.0.0 in ", "upgrade", "--soak=1s", "--version=2.0.0", "myapp")
		if !strings.Contains(stderr, "myapp.service: version 2.0.0 serves") || strings.Contains(stdout, "serves:") || strings.Contains(stdout+stderr, "\x1b") {
			t.Errorf("progress in a pipe:\nstdout:\n%s\nstderr:\n%s", stdout, stderr)
		}
		m.waitAnswers(l, "2.0.0", 20)
		m.wantExit(command.ExitOK, "myapp.service serves 2.0.0 already: nothing was done.", "upgrade", "--version=2.0.0", "myapp")
		m.wantExit(command.ExitOK, "myapp is served by PID", "wait", "--version=2.0.0", "myapp")

		screen, _ := m.wantExit(command.ExitOK, "(myapp.socket)\n", "status", "myapp")
		for _, want := range []string{"myapp.service 2.0.0", "the unit is active (running)", "by root", "  done  1.0.0 → 2.0.0 in "} {
			if !strings.Contains(screen, want) {
				t.Errorf("the screen lacks %q:\n%s", want, screen)
			}
		}
		m.wantExit(command.ExitOK, "done       1.0.0 → 2.0.0", "history", "myapp")
		stdout, _ = m.wantExit(command.ExitOK, "", "status", "--json=short", "myapp")
		var st struct {
			control.Status
			Systemd struct {
				MainPID int `json:"main_pid"`
			} `json:"systemd"`
			Upgrades []upgrade.Report `json:"upgrades"`
		}
		if err := json.Unmarshal([]byte(stdout), &st); err != nil || st.PID != m.mainPID() || st.Systemd.MainPID != st.PID || len(st.Upgrades) != 2 {
			t.Errorf("status as JSON: %v\n%s", err, stdout)
		}

		// A version that does not start is refused by the service, one that is ill later is undone.
		m.put(build{version: "3.0.0", damage: "crash-at-start"})
		_, stderr = m.wantExit(command.ExitFailed, "The upgrade of myapp.service failed: ", "upgrade", "myapp")
		if !strings.HasSuffix(stderr, "\n") || !strings.Contains(stderr, "\nmyapp.service is still served by PID ") || !strings.Contains(stderr, `Try "journalctl -e -u myapp.service`) {
			t.Errorf("a refused version:\n%s", stderr)
		}
		m.wantExit(command.ExitOK, "3.0.0", "history", "myapp")

		m.wantExit(command.ExitOK, "Upgrades of myapp are frozen.", "freeze", "--reason=audit until Friday", "myapp")
		m.wantExit(command.ExitFailed, "frozen since", "upgrade", "myapp")
		m.wantExit(command.ExitOK, "by root: audit until Friday", "status", "myapp")
		m.wantExit(command.ExitOK, "Upgrades of myapp are allowed.", "thaw", "myapp")

		stdout, _ = m.wantExit(command.ExitOK, `"outcome":"done"`, "rollback", "--json=short", "myapp")
		var report upgrade.Report
		if err := json.Unmarshal([]byte(stdout), &report); err != nil || report.Action != "rollback" || len(report.Units) != 1 || report.Units[0].To.Version != "1.0.0" {
			t.Errorf("rollback as JSON: %v\n%s", err, stdout)
		}
		m.waitAnswers(l, "1.0.0", 20)
		m.nothingLost(l)

		// What cannot be done, and for whom.
		m.wantExit(command.ExitNoSuchUnit, `unit "nosuch.service": there is none`, "upgrade", "nosuch")
		m.wantExit(command.ExitNoSuchUnit, "there is none", "wait", "nosuch")
		m.wantExit(command.ExitNoSuchUnit, "there is none", "status", "nosuch")
		m.wantExit(command.ExitUsage, "name the service", "upgrade", "myapp.socket")
		plain := "[Service]\nExecStart=/bin/sleep infinity\n"
		if err := m.WriteFile(m.ctx, "/etc/systemd/system/plain.service", []byte(plain), 0o644); err != nil {
			t.Fatal(err)
		}
		m.wantExit(command.ExitNotRunning, `Try "systemctl start plain.service".`, "upgrade", "plain")
		m.systemctl("start", "plain.service")
		m.wantExit(command.ExitNotSuitable, `Try "holdfast check plain.service".`, "upgrade", "plain")
		m.systemctl("stop", "plain.service")
		m.run("useradd", "--uid", "1000", "jane") // the bus knows nobody without a name
		jane := []string{"setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "holdfast"}
		stdout, stderr, code := m.exits(append(jane, "upgrade", "myapp")...)
		if code != command.ExitNoPermission || !strings.Contains(stderr, "sudo holdfast upgrade") {
			t.Errorf("as a user: exit code %d\n%s%s", code, stdout, stderr)
		}
		stdout, stderr, code = m.exits(append(jane, "status", "myapp")...)
		if code != command.ExitNoPermission || !strings.Contains(stdout, "active") {
			t.Errorf("status as a user: exit code %d\n%s%s", code, stdout, stderr)
		}

		m.systemctl("stop", myappUnit, myappSocket)
		m.wantExit(command.ExitNotRunning, `Try "systemctl start myapp.service".`, "upgrade", "myapp")
		m.wantExit(command.ExitNotRunning, "State: inactive", "status", "myapp")
		m.wantExit(command.ExitUnknown, "stopped waiting after --timeout=1s", "wait", "--timeout=1s", "myapp")
	})
}
