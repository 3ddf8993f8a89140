// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"encoding/json"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/vmtests"
)

// The same in the manager of a user, who needs no privilege for any of it.
func TestUserManager(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := &myapp{Machine: vmtests.BootTest(t, v), t: t, ctx: t.Context(), timeout: loadTimeout}
		m.copy(program(t, "github.com/holdfast-go/holdfast/units/cmd/holdfast", build{}), "/usr/bin/holdfast", 0o755)
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
		jane("systemctl", "--user", "reload", myappUnit)
		var st control.Status
		text := jane("holdfast", "status", "--user", "--json=short", myappUnit)
		if err := json.Unmarshal([]byte(text), &st); err != nil || st.Version != "2.0.0" || st.Generation != 2 {
			t.Errorf("holdfast status: %v\n%s", err, text)
		}
		m.waitAnswers(l, "2.0.0", 20)
		m.nothingLost(l)
		jane("systemctl", "--user", "stop", myappUnit, myappSocket)
		if r := jane("systemctl", "--user", "show", "-P", "Result", myappUnit); r != "success" {
			t.Errorf("Result=%s after stop", r)
		}
	})
}
