// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/internal/load"
)

// testReboot shows what starts when the machine does: the file on disk or, after a bad one, the last good
// version; with nothing of what systemd kept.
func testReboot(t *testing.T, on *vmtests.Machine) {
	m := installMyapp(t, on, patient, nil)
	defer m.uninstall()
	k := m.installKeeper("kept", "FileDescriptorStorePreserve=yes")
	defer k.uninstall()
	m.systemctl("enable", "--now", myappSocket, myappUnit, k.unit)
	m.waitLine(becameGood)

	if on.Version == vmtests.Systemd257 { // half of it for each version: a boot takes its time
		// The reset button after an upgrade: what was synced starts, as package managers do.
		m.put(v2)
		m.mustReload()
		m.waitLine(becameGood + " version=2.0.0")
		m.run("sync")
		if err := on.Reset(m.ctx); err != nil {
			t.Fatal(err)
		}
		m.mustServeAlone("2.0.0")
		m.mustRunFile("2.0.0")
		k.mustHaveFound("")

		m.put(build{version: "3.0.0", goarch: otherArchitecture()})
		m.mustRefuse("is built for")
		m.run("sync")
		if err := on.Reboot(m.ctx); err != nil {
			t.Fatal(err)
		}
		m.mustServeAlone("2.0.0")
		m.mustFallBack("a reboot after a refused version", "is built for")
		k.mustHaveFound("")
		m.put(v1)
		m.startAgain("restart")
		m.mustRunFile("1.0.0")
		return
	}

	l := m.load()
	m.put(build{version: "3.0.0", damage: "ill-in-probation"})
	m.mustRefuse("damaged on purpose: the database is gone")
	m.nothingLost(l)
	m.run("sync")
	if err := on.Reboot(m.ctx); err != nil {
		t.Fatal(err)
	}
	m.mustServeAlone("1.0.0")
	m.mustFallBack("a reboot after an undone version", "the database is gone")
	k.mustHaveFound("")
}

// mustServeAlone says that this version runs, as the first of its kind, and has what the socket unit passed.
func (m *myapp) mustServeAlone(version string) {
	m.t.Helper()
	st := m.status()
	if st.Version != version || st.Generation != 1 || st.State != "running" || st.Last != nil {
		m.t.Errorf("holdfast status: %+v, want a first generation of %s", st, version)
	}
	if len(st.Listeners) != 1 || st.Listeners[0].Origin != "socket unit" {
		m.t.Errorf("listeners: %+v, want that of the socket unit", st.Listeners)
	}
	if n := m.prop("NFileDescriptorStore"); n != "0" {
		m.t.Errorf("NFileDescriptorStore=%s after a boot, want 0", n)
	}
}

// testSoftReboot shows what outlives a reboot of user space: with the units as they are rendered, nothing; with
// units.Options.SoftReboot the sockets, whose clients wait, and what the service has stored.
func testSoftReboot(t *testing.T, on *vmtests.Machine) {
	for _, test := range []struct {
		name string
		soft bool
		keep string // FileDescriptorStorePreserve= of a service that has stored something
		find string // what that service finds
	}{
		{"default", false, "restart", ""},
		{"outlives", true, "yes", keptName},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := installMyapp(t, on, patient, func(o *units.Options) { o.SoftReboot = test.soft })
			defer m.uninstall()
			k := m.installKeeper("kept", "FileDescriptorStorePreserve="+test.keep)
			defer k.uninstall()
			m.systemctl("enable", "--now", myappSocket, myappUnit, k.unit)
			client := m.startSurvivor()
			before := m.listener()
			if err := on.SoftReboot(m.ctx); err != nil {
				t.Fatal(err)
			}
			m.mustServeAlone("1.0.0")
			k.mustHaveFound(test.find)
			after, s := m.listener(), client.stop()
			refused := 0
			for _, f := range s.Failures {
				if strings.Contains(f.Error, "refused") {
					refused++
				}
			}
			t.Logf("%d requests, %d failed, of these %d refused; longest gap in answers %v", s.OK+s.Failed, s.Failed, refused, s.LongestGap.Duration)
			if outlived := before == after; outlived != test.soft {
				t.Errorf("the socket outlived the soft-reboot: %v, want %v (inode %s, then %s)", outlived, test.soft, before, after)
			}
			cut := 0
			if on.Version < 258 {
				cut = survivorClients // the service runs until systemd kills what is left, and serves meanwhile
			}
			if test.soft && (refused > 0 || s.Failed > cut) {
				t.Error(s.FailureText(10))
			}
			if !test.soft && refused == 0 {
				t.Error("no connection was refused with the default dependencies: tell it in the README")
			}
		})
	}
}

// listener is the inode of the socket that listens, which is another one when it was opened anew.
func (m *myapp) listener() string {
	m.t.Helper()
	for field := range strings.FieldsSeq(m.run("ss", "-Hltne", "sport = :8080")) {
		if inode, ok := strings.CutPrefix(field, "ino:"); ok {
			return inode
		}
	}
	m.t.Fatal("nothing listens on port 8080")
	return ""
}

// A survivor is a client that no reboot of user space ends.
type survivor struct{ m *myapp }

const (
	survivorOutput  = "/run/survivor.json"
	survivorClients = 2
)

// startSurvivor starts new connections, one after the other, as systemd-soft-reboot.service(8) says that a
// process may survive.
func (m *myapp) startSurvivor() survivor {
	m.t.Helper()
	m.copy(program(m.t, "github.com/holdfast-go/holdfast/vmtests/cmd/load", build{}), "/run/survivor", 0o755)
	m.run("systemd-run", "--quiet", "--unit=survivor", "--property=DefaultDependencies=no", "--property=SurviveFinalKillSignal=yes",
		"--property=IgnoreOnIsolate=yes", "--property=StandardOutput=truncate:"+survivorOutput,
		// Its input must not end.
		"sh", "-c", fmt.Sprintf("mkfifo /run/survivor.fifo && exec /run/survivor -new=%d -think=10ms -timeout=3m "+myappURL+"/echo <>/run/survivor.fifo", survivorClients))
	// Its lines come ten times a second, and the third says that it has begun.
	m.run("timeout", "60", "sh", "-c", "tail -n +1 -f "+survivorOutput+" | sed -n 3q")
	return survivor{m}
}

// stop ends it and returns what it has seen.
func (s survivor) stop() vmtests.LoadSummary {
	s.m.t.Helper()
	s.m.run("systemctl", "stop", "survivor.service")
	text, err := s.m.ReadFile(s.m.ctx, survivorOutput)
	if err != nil {
		s.m.t.Fatal(err)
	}
	s.m.run("rm", "-f", survivorOutput, "/run/survivor", "/run/survivor.fifo")
	for lines := json.NewDecoder(bytes.NewReader(text)); ; {
		var line load.Line
		if err := lines.Decode(&line); err != nil {
			s.m.t.Fatalf("the client that survives has ended without a summary: %v", err)
		}
		if line.Summary != nil {
			return *line.Summary
		}
	}
}

// keptName is what a keeper stores under.
const keptName = "kept@1"

// A keeper is a service that stores a descriptor and does nothing else.
type keeper struct {
	m    *myapp
	unit string
}

// installKeeper installs a keeper with one more line for its [Service].
func (m *myapp) installKeeper(name, line string) keeper {
	m.t.Helper()
	k := keeper{m, name + ".service"}
	script := "echo found \"${LISTEN_FDNAMES-}\" >/run/" + name + "\nexec 9</etc/os-release\n" +
		"exec systemd-notify --ready --fd=9 --fdname=" + keptName + " --exec \\; sleep infinity\n"
	for file, text := range map[string]string{
		"/usr/lib/keeper.sh": script,
		"/etc/systemd/system/" + k.unit: "[Service]\nType=notify\nNotifyAccess=main\nFileDescriptorStoreMax=8\n" +
			"ExecStart=/bin/sh /usr/lib/keeper.sh\n" + line + "\n[Install]\nWantedBy=multi-user.target\n",
	} {
		if err := m.WriteFile(m.ctx, file, []byte(text), 0o644); err != nil {
			m.t.Fatal(err)
		}
	}
	m.systemctl("daemon-reload")
	return k
}

// mustHaveFound says what systemd passed to the keeper that runs.
func (k keeper) mustHaveFound(want string) {
	k.m.t.Helper()
	k.m.systemctl("is-active", k.unit)
	text := k.m.run("cat", "/run/"+strings.TrimSuffix(k.unit, ".service"))
	if got := strings.TrimSpace(strings.TrimPrefix(text, "found")); got != want {
		k.m.t.Errorf("%s found %q in its store, want %q", k.unit, got, want)
	}
}

func (k keeper) uninstall() {
	k.m.t.Helper()
	k.m.run("systemctl", "disable", "--now", k.unit)
	k.m.run("systemctl", "clean", "--what=fdstore", k.unit)
	k.m.run("sh", "-c", `rm "/etc/systemd/system/$1" "/run/${1%.service}"`, "sh", k.unit)
	k.m.systemctl("daemon-reload")
}
