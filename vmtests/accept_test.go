// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
)

// A process for each connection (Accept=yes) is upgraded by a new file: what connects
// after that gets the new version, what is connected keeps the old one.
func TestAcceptYes(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := &myapp{Machine: vmtests.BootTest(t, v), t: t, ctx: t.Context(), timeout: loadTimeout}
		put := func(b build) {
			t.Helper()
			m.copy(program(t, "github.com/holdfast-go/holdfast/activation/examples/accept", b), "/usr/bin/answer", 0o755)
		}
		put(v1)
		for _, name := range []string{"answer.socket", "answer@.service"} {
			unit, err := os.ReadFile("../activation/examples/accept/systemd/" + name)
			if err != nil {
				t.Fatal(err)
			}
			if err := m.WriteFile(m.ctx, "/etc/systemd/system/"+name, unit, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		m.systemctl("daemon-reload")
		m.systemctl("start", "answer.socket")
		const keptAlive = 3
		l, err := m.StartLoad(m.ctx, vmtests.LoadOptions{
			URL: "http://127.0.0.1:8080/", New: 2, KeepAlive: keptAlive, Think: 20 * time.Millisecond, Timeout: 30 * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		m.waitAnswers(l, v1.version, 20)
		for i := range 4 {
			b := build{version: fmt.Sprintf("2.0.%d", i)}
			put(b)
			now, err := l.Mark(m.ctx, b.version)
			if err != nil {
				t.Fatal(err)
			}
			m.waitAnswers(l, b.version, 10)
			// More than the new connections that the old file may still have got.
			m.waitAnswers(l, v1.version, now.Versions[v1.version]+10)
		}
		s := m.nothingLost(l)
		// Each new connection had a process, and each that was kept alive had one all the time.
		longest := 0
		for _, served := range s.Served {
			if served.Version == v1.version && served.OK > 10 {
				longest++
			}
		}
		if longest != keptAlive {
			t.Errorf("%d processes of the first version have served long, want %d:\n%+v", longest, keptAlive, s.Served)
		}
		if n := m.run("systemctl", "show", "-P", "NRefused", "answer.socket"); n != "0" {
			t.Errorf("%s connections were refused", n)
		}
		m.systemctl("stop", "answer.socket", "answer@*.service")
		m.quietJournal()
	})
}
