// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/vmtests"
)

const (
	ledgerPackage = "github.com/holdfast-go/holdfast/reexec/reexectest/examples/ledger"
	ledgerPath    = "/usr/bin/ledger"
	ledgerUnit    = "ledger.service"
)

// ledger is a service with states in one machine, hardened as rendered, and what
// its clients know.
type ledger struct {
	*myapp
	told     []string // entries that were confirmed
	requests uint64
}

func startLedger(t *testing.T, v vmtests.Version, probation time.Duration) *ledger {
	t.Helper()
	l := &ledger{myapp: &myapp{Machine: vmtests.BootTest(t, v), t: t, ctx: t.Context()}}
	l.copy(program(t, "github.com/holdfast-go/holdfast/units/cmd/holdfast", build{}), "/usr/bin/holdfast", 0o755)
	l.put("1.0")
	files, err := units.Render(units.Options{
		Name: "ledger", Exec: ledgerPath, Systemd: int(v), Args: []string{"-probation=" + probation.String()},
		Sockets: []units.Socket{{Name: "http", Address: "127.0.0.1:8080"}}, Probation: probation,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := l.WriteFile(l.ctx, "/etc/systemd/system/"+f.Name, []byte(f.Content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l.systemctl("daemon-reload")
	l.systemctl("start", "ledger.socket", ledgerUnit)
	return l
}

func (l *ledger) put(version string) {
	l.t.Helper()
	l.copy(program(l.t, ledgerPackage, build{version: version}), ledgerPath, 0o755)
}

// ask makes a request on a connection of its own, with what every machine has.
func (l *ledger) ask(method, body string) (text string) {
	l.t.Helper()
	request := fmt.Sprintf("%s / HTTP/1.0\\r\\nContent-Length: %d\\r\\n\\r\\n%s", method, len(body), body)
	answer := l.run("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080 && printf '"+request+"' >&3 && cat <&3")
	head, text, _ := strings.Cut(answer, "\r\n\r\n")
	if !strings.HasPrefix(head, "HTTP/1.0 200") {
		l.t.Fatalf("%s %q: %s", method, body, answer)
	}
	l.requests++
	return text
}

func (l *ledger) add() {
	l.t.Helper()
	text := fmt.Sprintf("entry %d", len(l.told))
	l.ask("POST", text)
	l.told = append(l.told, text)
}

func (l *ledger) check(version string, exact bool) {
	l.t.Helper()
	var a struct {
		Version  string
		Entries  []struct{ Text string }
		Requests uint64
	}
	text := l.ask("GET", "")
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		l.t.Fatalf("%q: %v", text, err)
	}
	var has []string
	for _, e := range a.Entries {
		has = append(has, e.Text)
	}
	if a.Version != version || strings.Join(has, ",") != strings.Join(l.told, ",") {
		l.t.Errorf("version %s answers and has %q; version %s should, and %q were confirmed", a.Version, has, version, l.told)
	}
	if exact && a.Requests != l.requests {
		l.t.Errorf("version %s has counted %d requests, there were %d", version, a.Requests, l.requests)
	}
	l.requests = a.Requests
}

// killed kills main and returns when systemd has started the service again.
func (l *ledger) killed() {
	l.t.Helper()
	old, err := l.MainPID(l.ctx, ledgerUnit)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := l.Kill(l.ctx, old, "KILL"); err != nil {
		l.t.Fatal(err)
	}
	if _, err := l.WaitProps(l.ctx, ledgerUnit, []string{"ActiveState", "MainPID"}, func(p map[string]string) bool {
		return p["ActiveState"] == "active" && p["MainPID"] != "0" && p["MainPID"] != fmt.Sprint(old)
	}); err != nil {
		l.t.Fatal(err)
	}
}

// to upgrades, and returns when the old version has ended.
func (l *ledger) to(version string, ok bool) {
	l.t.Helper()
	l.put(version)
	old, err := l.MainPID(l.ctx, ledgerUnit)
	if err != nil {
		l.t.Fatal(err)
	}
	err = l.Run(l.ctx, "systemctl", "reload", ledgerUnit)
	if (err == nil) != ok {
		l.t.Fatalf("systemctl reload to %s: %v", version, err)
	}
	if ok {
		l.run("tail", "--pid="+fmt.Sprint(old), "-f", "/dev/null")
	}
}

// Promise 4: what was confirmed survives a crash, in the hardened unit of every
// systemd; and an upgrade, a rollback, a restart and the way back to an older format.
func TestStatesOutliveTheService(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		l := startLedger(t, v, 500*time.Millisecond)
		l.add()
		l.check("1.0", true)
		l.killed()
		l.check("1.0", false)
		l.to("1.1", true)
		l.check("1.1", true)
		l.add()
		l.to("1.2-ill", false)
		l.check("1.1", true)
		l.put("1.1") // or the crash would start what was undone
		l.killed()
		l.check("1.1", false)
		l.add()
		l.to("2.0", true)
		l.check("2.0", false)
		old := l.told
		l.add()
		l.systemctl("daemon-reload")
		l.killed()
		l.check("2.0", false)
		l.systemctl("restart", ledgerUnit)
		l.check("2.0", true)
		l.put("1.1")
		l.systemctl("restart", ledgerUnit)
		l.told = old
		l.check("1.1", true)
		l.put("2.0")
		l.systemctl("restart", ledgerUnit)
		l.check("2.0", true) // what 1.1 has committed is newer than its own
		if n, err := l.Prop(l.ctx, ledgerUnit, "NFileDescriptorStore"); err != nil || n != "4" {
			t.Errorf("NFileDescriptorStore=%s, %v; want a frame of each format, one of the count, and the history of upgrades", n, err)
		}
	})
}
