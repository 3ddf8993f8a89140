// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/units/check"
	"github.com/holdfast-go/holdfast/vmtests"
)

// flaw is a line that breaks an upgrade.
type flaw struct {
	option string
	since  vmtests.Version // the first of ours that knows the option
	lines  string          // of the [Service] of a drop-in
	level  check.Level
	// upgrade tries it; the error is what goes wrong.
	upgrade func(m *myapp) error
}

// tried is slow enough that a start timeout can be longer than a start, and shorter than an upgrade.
var tried = timing{probation: 8 * time.Second, start: 20 * time.Second, drain: 20 * time.Second}

var flaws = map[string]flaw{
	"a file in ExecPaths": {
		option: "ExecPaths", since: 252, level: check.Error, upgrade: byReload,
		lines: "ExecPaths=\nExecPaths=/usr/bin/myapp /usr/bin/holdfast %S/myapp.holdfast",
	},
	"no Unix sockets": {
		option: "RestrictAddressFamilies", level: check.Error, upgrade: byReload,
		lines: "RestrictAddressFamilies=\nRestrictAddressFamilies=AF_INET AF_INET6",
	},
	"KillMode mixed": {option: "KillMode", level: check.Error, lines: "KillMode=mixed", upgrade: andCrash},
	"private PIDs":   {option: "PrivatePIDs", since: 257, level: check.Error, lines: "PrivatePIDs=yes", upgrade: byReload},
	"a start timeout": {
		option: "TimeoutStartSec", level: check.Error, lines: "TimeoutStartSec=6s", upgrade: byReload,
	},
	"a reload that only signals": {
		option: "ExecReload", level: check.Error, upgrade: byReload,
		lines: "ExecReload=\nExecReload=/bin/kill -HUP $MAINPID",
	},
	"no runtime directory": {option: "RuntimeDirectory", level: check.Error, lines: "RuntimeDirectory=", upgrade: byReload},
}

// byReload starts version 1 and has systemctl reload upgrade it to version 2.
func byReload(m *myapp) error {
	if err := m.Run(m.ctx, "systemctl", "start", myappSocket, myappUnit); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	m.put(v2)
	if err := m.reload(); err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	var st control.Status
	out, err := m.Output(m.ctx, "/usr/bin/holdfast", "status", "--json=short", myappUnit)
	if err == nil {
		err = json.Unmarshal([]byte(out), &st)
	}
	if err != nil || st.Version != v2.version || st.Generation != 2 {
		return fmt.Errorf("version %q, generation %d after a reload that succeeded (%v)", st.Version, st.Generation, err)
	}
	return nil
}

// andCrash kills the new version while the old one still answers a request.
func andCrash(m *myapp) error {
	m.systemctl("start", myappSocket, myappUnit)
	request := m.slowRequest(15 * time.Second)
	m.put(v2)
	m.mustReload()
	if err := m.Kill(m.ctx, m.mainPID(), "KILL"); err != nil {
		m.t.Fatal(err)
	}
	return request.rest()
}

// afresh stops myapp and has version 1 there, which has failed never, with drop-ins.
func (m *myapp) afresh(dropIns map[string]string) {
	m.t.Helper()
	m.systemctl("stop", myappUnit, myappSocket)
	m.run("sh", "-c", "systemctl reset-failed myapp.service myapp.socket 2>/dev/null; rm -rf /etc/systemd/system/myapp.service.d /var/lib/private/myapp.holdfast/*")
	m.put(v1)
	for name, text := range dropIns {
		if err := m.WriteFile(m.ctx, "/etc/systemd/system/myapp.service.d/"+name, []byte(text), 0o644); err != nil {
			m.t.Fatal(err)
		}
	}
	m.systemctl("daemon-reload")
}

// check is holdfast check of running units.
func (m *myapp) check(names ...string) (reports []check.Report, err error) {
	m.t.Helper()
	out, err := m.Output(m.ctx, append([]string{"/usr/bin/holdfast", "check", "--json=short"}, names...)...)
	var exit *vmtests.ExitError
	if err != nil && !errors.As(err, &exit) {
		m.t.Fatal(err)
	}
	if jsonErr := json.Unmarshal([]byte(out), &reports); jsonErr != nil || len(reports) != len(names) {
		m.t.Fatalf("holdfast check %q: %v (%v)\n%s", names, jsonErr, err, out)
	}
	return reports, err
}

// TestCheckIsTrue: what holdfast check finds in a running unit breaks an upgrade on this systemd, and
// what it says to write mends it. It finds nothing in the rendered unit, and no error in
// any other unit of the machine.
func TestCheckIsTrue(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := installMyapp(t, vmtests.BootTest(t, v), tried, nil)
		m.systemctl("start", myappSocket, myappUnit)
		reports, err := m.check(myappUnit)
		if r := reports[0]; err != nil || len(r.Findings) > 0 || !r.Running || r.Mode != "overlap" || r.Systemd != int(v) {
			t.Fatalf("the rendered unit: %v, %+v", err, r)
		}
		var others []string
		for line := range strings.Lines(m.systemctl("list-units", "--type=service", "--state=loaded", "--all", "--plain", "--no-legend")) {
			if name, _, _ := strings.Cut(strings.TrimSpace(line), " "); name != myappUnit {
				others = append(others, name)
			}
		}
		if reports, err := m.check(others...); err != nil {
			t.Errorf("other units: %v\n%+v", err, reports)
		}

		for name, f := range flaws {
			if v < f.since {
				continue
			}
			t.Run(name, func(t *testing.T) {
				m := &myapp{Machine: m.Machine, t: t, ctx: t.Context(), timeout: m.timeout}
				broken := map[string]string{"10-broken.conf": "[Service]\n" + f.lines + "\n"}
				m.afresh(broken)
				reports, err := m.check(myappUnit)
				i := slices.IndexFunc(reports[0].Findings, func(found check.Finding) bool {
					return found.Option == f.option && found.Level == f.level
				})
				if i < 0 || err == nil {
					t.Fatalf("no %s of %s= was found (%v): %+v", f.level, f.option, err, reports[0])
				}
				found := reports[0].Findings[i]
				if err := f.upgrade(m); err == nil {
					t.Errorf("with %q all is well, against what is said: %s", f.lines, found.Why)
				} else {
					t.Logf("with %q: %v", f.lines, err)
				}

				mend := "[Service]\n"
				if strings.Contains(f.lines, f.option+"=\n") && f.option != "RestrictAddressFamilies" {
					mend += f.option + "=\n" // a list, of which another line does not just add
				}
				broken["20-mended.conf"] = mend + strings.Join(found.Write, "\n") + "\n"
				m.afresh(broken)
				if reports, err = m.check(myappUnit); err != nil {
					t.Errorf("with %q: %v, %+v", found.Write, err, reports[0])
				}
				if err := f.upgrade(m); err != nil {
					t.Errorf("with %q: %v", found.Write, err)
				}
			})
		}
	})
}
