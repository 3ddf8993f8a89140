// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/vmtests"
)

// press is a service that reads its configuration again, hardened as rendered.
type press struct{ *counting }

func startPress(t *testing.T, v vmtests.Version, probation string) *press {
	t.Helper()
	m := vmtests.BootTest(t, v)
	p := &press{&counting{myapp: &myapp{Machine: m, t: t, ctx: t.Context()}, example: "config", unit: "press", port: 8080}}
	p.copy(program(t, "github.com/holdfast-go/holdfast/units/cmd/holdfast", build{}), "/usr/bin/holdfast", 0o755)
	p.put("1")
	p.run("mkdir", "-p", "/etc/press")
	p.edition(1)
	files, err := units.Render(units.Options{
		Name: "press", Exec: "/usr/bin/press", Systemd: int(v), Args: []string{"-probation=" + probation},
		Sockets: []units.Socket{{Name: "http", Address: "127.0.0.1:8080"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := p.WriteFile(p.ctx, "/etc/systemd/system/"+f.Name, []byte(f.Content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p.systemctl("daemon-reload")
	p.systemctl("start", "press.socket", "press")
	return p
}

// edition puts a configuration in place by rename. What is not positive is refused.
func (p *press) edition(n int) {
	p.t.Helper()
	text := fmt.Sprintf(`{"edition": %d, "page": "%d {{.Edition}} %d"}`, n, n, n)
	if err := p.WriteFile(p.ctx, "/etc/press/new", []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
	p.run("mv", "/etc/press/new", "/etc/press/press.json")
}

func (p *press) mustPrint(edition int) {
	p.t.Helper()
	if code, body := p.ask("/"); code != 200 || body != fmt.Sprintf("%d %d %d", edition, edition, edition) {
		p.t.Errorf("answer %d, %q; want edition %d", code, body, edition)
	}
}

// dropIn changes the service.
func (p *press) dropIn(lines ...string) {
	p.t.Helper()
	p.run("mkdir", "-p", "/etc/systemd/system/press.service.d")
	if err := p.WriteFile(p.ctx, "/etc/systemd/system/press.service.d/reload.conf", []byte("[Service]\n"+strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		p.t.Fatal(err)
	}
	p.systemctl("daemon-reload")
}

// waitStatus waits for a status text.
func (p *press) waitStatus(part string) {
	p.t.Helper()
	p.wait(part, []string{"StatusText", "ActiveState", "SubState"}, func(q map[string]string) bool {
		return strings.Contains(q["StatusText"], part) && q["ActiveState"] == "active" && q["SubState"] == "running"
	})
}

// waitReloaded waits for the first good reload in the journal.
func (p *press) waitReloaded() {
	p.t.Helper()
	p.run("timeout", "60", "bash", "-c",
		`journalctl --no-pager -f -n 500 -u press -o cat | grep -q -m1 -F -- "configuration was read again"`)
}

func (p *press) controlStatus() control.Status {
	p.t.Helper()
	var st control.Status
	text := p.run("holdfast", "status", "--json=short", "press")
	if err := json.Unmarshal([]byte(text), &st); err != nil {
		p.t.Fatalf("holdfast status: %v\n%s", err, text)
	}
	return st
}

// killMain is how an operator sends a signal to main alone.
func (p *press) killMain(v vmtests.Version) {
	p.t.Helper()
	flag := "--kill-whom=main"
	if v < 252 {
		flag = "--kill-who=main"
	}
	p.systemctl("kill", "-s", "HUP", flag, "press")
}

// The configuration is read again at SIGHUP, by the command and by systemctl reload,
// in each kind of unit; a bad one changes nothing, and systemd knows why.
func TestConfigurationIsReadAgain(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		p := startPress(t, v, "1s")
		p.mustPrint(1)

		// systemctl reload is the upgrade.
		p.edition(2)
		p.killMain(v)
		p.waitReloaded()
		p.mustPrint(2)
		p.edition(-1)
		p.killMain(v)
		p.waitStatus("the configuration was refused at ")
		p.mustPrint(2)
		err := p.Run(p.ctx, "holdfast", "reload", "--config", "press")
		var exit *vmtests.ExitError
		if !errors.As(err, &exit) || !strings.Contains(err.Error(), "edition=-1: must be 1 or more") {
			t.Errorf("holdfast reload --config: %v", err)
		}
		p.edition(3)
		p.run("holdfast", "reload", "--config", "press")
		p.waitStatus("running: ")
		p.mustPrint(3)

		// The new version of an upgrade reads it, too.
		p.edition(4)
		p.upgrade("2", nil)
		p.mustPrint(4)
		main := p.main()

		// systemctl reload reads the configuration.
		p.dropIn("ExecReload=", "ExecReload=/usr/bin/holdfast reload --config --socket=%t/press/control.sock --timeout=60s")
		p.edition(5)
		p.systemctl("reload", "press")
		p.mustPrint(5)
		p.edition(0)
		if err := p.Run(p.ctx, "systemctl", "reload", "press"); err == nil {
			t.Error("systemctl reload succeeds with a bad configuration")
		}
		p.waitStatus("the configuration was refused at ")
		p.mustPrint(5)
		p.edition(6)
		p.systemctl("reload", "press")
		p.mustPrint(6)
		if now := p.main(); now != main {
			t.Errorf("MainPID was %s and is %s", main, now)
		}

		// With Type=notify-reload systemd sends the signal, and waits for READY=1.
		if v >= 253 {
			p.dropIn("Type=notify-reload", "ReloadSignal=SIGHUP", "ExecReload=")
			p.systemctl("restart", "press")
			for edition := 7; edition < 10; edition++ {
				p.edition(edition)
				p.systemctl("reload", "press")
				p.mustPrint(edition)
			}
			p.edition(0)
			p.systemctl("reload", "press") // systemd knows no reload that fails
			p.waitStatus("the configuration was refused at ")
			p.mustPrint(9)
		}
		p.systemctl("stop", "press", "press.socket")
		if r, err := p.Prop(p.ctx, "press.service", "Result"); err != nil || r != "success" {
			t.Errorf("Result=%s after stop, %v", r, err)
		}
	})
}

// SIGHUP in the probation is done by the new main, which may have read too early.
func TestHangUpDuringAnUpgrade(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		p := startPress(t, v, "8s") // there is time to change it meanwhile
		p.put("2")
		old := p.main()
		verdict := make(chan error, 1)
		go func() { verdict <- p.Run(p.ctx, "systemctl", "reload", "press") }()
		p.wait("probation", []string{"StatusText"}, func(q map[string]string) bool {
			return strings.HasPrefix(q["StatusText"], "probation") && strings.Contains(q["StatusText"], "is next")
		})
		p.mustPrint(1) // the new version has read this one
		p.edition(2)
		p.killMain(v)
		if err := <-verdict; err != nil {
			t.Fatal(err)
		}
		p.waitReloaded()
		p.waitStatus("running: ")
		p.mustPrint(2)
		if now := p.main(); now == old {
			t.Errorf("MainPID is %s still", now)
		}
		st := p.controlStatus()
		if st.Generation != 2 || st.Reloads == nil || st.Reloads.Done != 1 || st.Last == nil || st.Last.Outcome != control.Upgraded {
			t.Errorf("status %+v, reloads %+v", st, st.Reloads)
		}
	})
}
