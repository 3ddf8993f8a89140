// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/units/bus"
	"github.com/holdfast-go/holdfast/units/upgrade"
	"github.com/holdfast-go/holdfast/vmtests"
)

// nobody runs a command as a user without rights.
var nobody = []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}

// Somebody without rights watches a unit over the system bus: each change is told by
// systemd, also after it has executed itself anew and dbus was restarted.
func TestBusWatch(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startOperated(t, v, brisk)
		out, in := io.Pipe()
		var log bytes.Buffer
		p, err := m.Start(m.ctx, vmtests.Command{Args: append(nobody, upgraderPath, "watch", myappUnit), Stdout: in, Stderr: &log})
		if err != nil {
			t.Fatal(err)
		}
		go func() { in.CloseWithError(p.Wait()) }()
		defer func() {
			_ = p.Kill()
			_ = p.Wait()
			if t.Failed() {
				t.Logf("the watcher wrote:\n%s", log.Bytes())
			}
		}()
		lines := make(chan bus.Unit, 100)
		go func() {
			defer close(lines)
			for d := json.NewDecoder(out); ; {
				var u bus.Unit
				if d.Decode(&u) != nil {
					return
				}
				lines <- u
			}
		}()
		seen := func(what string, is func(bus.Unit) bool) {
			t.Helper()
			for timeout := time.After(2 * time.Minute); ; {
				select {
				case u, ok := <-lines:
					if !ok {
						t.Fatalf("the watcher has ended before it saw %s", what)
					}
					if is(u) {
						return
					}
				case <-timeout:
					t.Fatalf("the watcher did not see %s", what)
				}
			}
		}
		old := m.mainPID()
		seen("the service", func(u bus.Unit) bool { return u.ActiveState == "active" && u.MainPID == old })
		m.put(v2)
		reload := m.reloadInBackground()
		seen("the reload", func(u bus.Unit) bool { return u.ActiveState == "reloading" })
		if err := <-reload; err != nil {
			t.Fatal(err)
		}
		seen("the new process", func(u bus.Unit) bool { return u.ActiveState == "active" && u.MainPID == m.mainPID() })

		m.systemctl("daemon-reexec")
		m.systemctl("stop", myappUnit)
		seen("the stop", func(u bus.Unit) bool { return u.ActiveState == "inactive" && u.MainPID == 0 })
		m.systemctl("restart", "dbus.service")
		m.systemctl("start", myappUnit)
		seen("the start", func(u bus.Unit) bool { return u.ActiveState == "active" && u.MainPID == m.mainPID() })
	})
}

// A user without rights changes nothing, and is told which right is missing.
func TestOperatorWrongUser(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startOperated(t, v, brisk)
		m.put(v2)
		before := m.mainPID()
		as := func(args ...string) string {
			t.Helper()
			text, err := m.Output(m.ctx, append(append(nobody, upgraderPath), args...)...)
			if err != nil {
				t.Fatal(err)
			}
			return text
		}
		const ask = `{"id":"mine","units":["myapp"]}`
		if text := as("rollout", ask); !strings.Contains(text, `"type":"*bus.PermissionError"`) || !strings.Contains(text, "write the journal below /var/lib/holdfast") {
			t.Errorf("with the journal of root: %s", text)
		}
		if text := as("-directory=/tmp/mine", "rollout", ask); !strings.Contains(text, `"type":"*bus.PermissionError"`) || !strings.Contains(text, "use the control socket of myapp.service: this user may not") {
			t.Errorf("with a journal of its own: %s", text)
		}
		// What anybody may know, it is told.
		var status struct{ Answer upgrade.UnitStatus }
		if err := json.Unmarshal([]byte(as("status", "myapp")), &status); err != nil || status.Answer.Unit.MainPID != before || status.Answer.Service != nil || status.Answer.ServiceError == "" {
			t.Errorf("status %+v, %v", status, err)
		}
		if m.mainPID() != before {
			t.Error("the service was upgraded")
		}
	})
}

// The same in the manager of a user, for its own services.
func TestOperatorUserManager(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := &myapp{Machine: vmtests.BootTest(t, v), t: t, ctx: t.Context(), timeout: loadTimeout}
		m.copy(program(t, "github.com/holdfast-go/holdfast/units/cmd/holdfast", build{}), "/usr/bin/holdfast", 0o755)
		m.operator()
		m.put(v1)
		m.run("useradd", "--create-home", "--uid", "1000", "jane")
		m.systemctl("start", "user@1000.service")
		files, err := units.Render(units.Options{
			Name: "myapp", Exec: myappPath, Args: []string{"-probation=1s"}, Systemd: int(v), User: true,
			Sockets: []units.Socket{{Name: "http", Address: "127.0.0.1:8080"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if err := m.WriteFile(m.ctx, "/etc/systemd/user/"+f.Name, []byte(f.Content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		jane := func(argv ...string) string {
			t.Helper()
			return m.run(append([]string{
				"setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "env", "HOME=/home/jane", "XDG_RUNTIME_DIR=/run/user/1000",
			}, argv...)...)
		}
		jane("systemctl", "--user", "daemon-reload")
		jane("systemctl", "--user", "start", myappSocket, myappUnit)
		l := m.load()
		m.put(v2)
		if text := jane(upgraderPath, "-user", "rollout", `{"units":["myapp"],"gates":{"soak":1000000000}}`); !strings.Contains(text, `"outcome":"done"`) {
			t.Errorf("rollout: %s", text)
		}
		m.waitAnswers(l, "2.0.0", 20)
		before := l.Progress().Versions["1.0.0"]
		if text := jane(upgraderPath, "-user", "rollback", `{"units":["myapp"]}`); !strings.Contains(text, `"outcome":"done"`) {
			t.Errorf("rollback: %s", text)
		}
		m.waitAnswers(l, "1.0.0", before+20)
		m.nothingLost(l)
		// The journal is in the user's own directory.
		if text := jane("ls", "/home/jane/.local/state/holdfast/history"); text != "myapp.service.json" {
			t.Errorf("history: %q", text)
		}
	})
}

// The helper has the rights of root, and the path of a control socket is the service's to
// change: one that leads to another service is not followed.
func TestOperatorForeignSocket(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startOperated(t, v, brisk)
		files, err := units.Render(units.Options{
			Name: "other", Exec: myappPath, Args: []string{"-probation=1s"}, Systemd: int(v),
			Sockets: []units.Socket{{Name: "http", Address: "127.0.0.1:8081"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if err := m.WriteFile(m.ctx, "/etc/systemd/system/"+f.Name, []byte(f.Content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		m.systemctl("daemon-reload")
		m.systemctl("start", "other.socket", "other.service")
		m.put(v2)
		m.help("rollout", request("mine")).reports(upgrade.Done)
		other, err := m.MainPID(m.ctx, "other.service")
		if err != nil {
			t.Fatal(err)
		}
		m.run("ln", "-sf", "/run/other/control.sock", "/run/myapp/control.sock")
		for _, verb := range []string{"rollout", "rollback"} {
			m.help(verb, request(verb)).refuses("*upgrade.PreconditionError", "its path leads to the socket of another service")
		}
		if now, err := m.MainPID(m.ctx, "other.service"); err != nil || now != other {
			t.Errorf("MainPID of the other service is %d, was %d (%v)", now, other, err)
		}
	})
}
