// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/vmtests"
)

// failedUpgrades are versions that an upgrade finds to be bad.
var failedUpgrades = []struct {
	name, reason string
	build        build
	lastsLoad    bool // it strikes when requests come
}{
	{"refused at the check", "did not end within", build{version: "2.0.1", damage: "hang-in-check"}, false},
	{"dies in the start", "crash at start", build{version: "2.0.2", damage: "crash-at-start"}, false},
	{"undone in probation", "the database is gone", build{version: "2.0.3", damage: "ill-in-probation", after: "1ms"}, true},
}

// Promise: after a bad version, whatever starts the service next starts the last
// good one; and a newer file starts again.
func TestLastGoodAfterFailedUpgrade(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startMyapp(t, v, brisk)
		m.waitLine(becameGood)
		m.fastRestart("")
		for _, k := range failedUpgrades {
			m.put(k.build)
			stop := func() {}
			if k.lastsLoad {
				l := m.load()
				stop = func() { m.nothingLost(l) }
			}
			if err := m.reload(); err == nil {
				t.Fatalf("%s: the reload succeeded", k.name)
			}
			stop()
			if st := m.status(); st.LastGood == nil || len(st.LastGood.Failed) == 0 || !strings.Contains(st.LastGood.Failed[0].Reason, k.reason) {
				t.Errorf("%s: last good: %s; want a mark because of %q", k.name, asJSON(st.LastGood), k.reason)
			}
			for _, next := range []string{"crash", "restart"} {
				m.startAgain(next)
				m.mustFallBack(k.name+", "+next, k.reason)
			}
			if t.Failed() {
				t.FailNow()
			}
		}
		// The operator may try again; the verdict says what is known.
		m.put(build{version: "2.0.2", damage: "crash-at-start"})
		m.mustRefuse("the same file had failed before: version 2.0.2 failed at ")
		// And a newer file is a fresh chance, by an upgrade as by a restart.
		m.put(v2)
		m.mustReload()
		m.waitLine(becameGood + " version=2.0.0")
		m.startAgain("crash")
		m.mustRunFile("2.0.0")
	})
}

// counted is the reason for a file that only its starts have shown to be bad.
const counted = "it was started 3 times"

// badFile is a file that a start finds to be bad.
type badFile struct {
	name    string
	install func(*myapp)
	reason  string
}

func badFiles() []badFile {
	script := func(text string) func(*myapp) {
		return func(m *myapp) {
			if err := m.WriteFile(m.ctx, myappPath+".new", []byte(text), 0o755); err != nil {
				m.t.Fatal(err)
			}
			m.run("mv", "-f", myappPath+".new", myappPath)
		}
	}
	bad := func(damage string) func(*myapp) {
		return func(m *myapp) { m.put(build{version: "3.0.0", damage: damage}) }
	}
	return []badFile{
		{"crashes at each start", bad("crash-always"), counted},
		{"crashes in init", bad("crash-in-init"), counted},
		{"hangs at start", bad("hang-at-start"), counted},
		{"never healthy", bad("ill-at-start"), counted},
		{"exits 0", bad("exit-always"), counted},
		// Or NoExecPaths= does not let the shell's loader run, where there is that.
		{"a script", script("#!/bin/sh\nexit 0\n"), ""},
		{"script without an interpreter", script("#!/opt/none\n"), "no such file or directory"},
		{"neither program nor script", script("hello\n"), "exec format error"},
		{"other architecture", func(m *myapp) { m.put(build{version: "3.0.0", goarch: otherArchitecture()}) }, "is built for"},
		{"segmentation fault before main", func(m *myapp) {
			m.put(build{version: "3.0.0"})
			// Its entry point (e_entry of ELF, 64 bits) is where nothing is mapped.
			m.run("sh", "-c", `cp "$1" "$1.new" && printf '\020\0\0\0\0\0\0\0' | dd of="$1.new" bs=1 seek=24 conv=notrunc status=none && mv -f "$1.new" "$1"`, "-", myappPath)
		}, counted},
		{"cut off", func(m *myapp) {
			m.put(build{version: "3.0.0"})
			m.run("sh", "-c", `head -c 1000000 "$1" >"$1.new" && chmod 755 "$1.new" && mv -f "$1.new" "$1"`, "-", myappPath)
		}, "is not an ELF executable: EOF"}, // the table of its sections is at the end
		{"not executable", func(m *myapp) { m.put(build{version: "3.0.0"}); m.run("chmod", "0644", myappPath) }, "permission denied"},
		{"a directory", func(m *myapp) { m.run("rm", "-f", myappPath); m.run("mkdir", myappPath) }, "is not a regular file"},
		{"missing", func(m *myapp) { m.run("rm", "-rf", myappPath) }, "no such file or directory"},
	}
}

// A file so bad that none of our code runs, or that only shows itself when it is
// started without a check.
func TestLastGoodWithoutUpgrade(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startMyapp(t, v, brisk)
		m.waitLine(becameGood)
		m.fastRestart("TimeoutStartSec=3s\n")
		for i, k := range badFiles() {
			m.run("rm", "-rf", myappPath)
			k.install(m)
			// Each on two of the four versions: all of it takes many minutes.
			next := []string{"restart", "crash"}[(i+int(v))%2]
			m.startAgain(next)
			m.mustFallBack(k.name+", "+next, k.reason)
			if t.Failed() {
				t.FailNow()
			}
		}
		m.put(v2)
		m.startAgain("restart")
		m.mustRunFile("2.0.0")
		// The same content is no newer file: it is for the operator to say.
		m.put(build{version: "3.0.0", damage: "crash-always"})
		m.startAgain("restart")
		m.mustFallBack("crash-always again", counted)
		if out := m.run("/usr/bin/holdfast", "retry", myappUnit); !strings.Contains(out, "forgotten: ") {
			t.Errorf("holdfast retry says %q", out)
		}
		m.startAgain("restart")
		m.mustFallBack("after retry", counted)
	})
}

const becameGood = "this version is the last good one"

// fastRestart has systemd not wait long after a failure.
func (m *myapp) fastRestart(lines string) {
	m.t.Helper()
	if err := m.WriteFile(m.ctx, "/etc/systemd/system/"+myappUnit+".d/fast.conf", []byte("[Service]\nRestartSec=50ms\n"+lines), 0o644); err != nil {
		m.t.Fatal(err)
	}
	m.systemctl("daemon-reload")
}

// startAgain has systemd start the service anew, and returns when a version is up.
func (m *myapp) startAgain(how string) {
	m.t.Helper()
	before := m.mainPID()
	if how == "crash" {
		m.systemctl("kill", "--kill-who=main", "--signal=KILL", myappUnit)
	} else {
		// It fails if the first attempt does; Restart= goes on.
		_ = m.Run(m.ctx, "systemctl", "restart", myappUnit)
	}
	ctx, cancel := context.WithTimeout(m.ctx, time.Minute)
	defer cancel()
	if _, err := m.WaitProps(ctx, myappUnit, []string{"MainPID", "ActiveState"}, func(p map[string]string) bool {
		return p["ActiveState"] == "active" && p["MainPID"] != strconv.Itoa(before)
	}); err != nil {
		m.t.Fatalf("the service does not come up after %s: %v", how, err)
	}
}

// mustFallBack says that the last good version runs, and that everybody says why.
func (m *myapp) mustFallBack(what, reason string) {
	m.t.Helper()
	st := m.status()
	if st.Version != "1.0.0" && st.Version != "2.0.0" || st.LastGood == nil || !strings.Contains(st.LastGood.Fallback, reason) {
		m.t.Errorf("%s: version %s runs, last good: %s; want it to run because of %q", what, st.Version, asJSON(st.LastGood), reason)
	}
	if text := m.systemctl("status", "--no-pager", "--lines=0", myappUnit); !strings.Contains(text, "the last good version, because ") {
		m.t.Errorf("%s: systemctl status does not say so:\n%s", what, text)
	}
	if text := m.run("/usr/bin/holdfast", "status", myappUnit); !strings.Contains(text, "Runs instead: the last good version, because ") {
		m.t.Errorf("%s: holdfast status does not say so:\n%s", what, text)
	}
	if comm := m.run("cat", "/proc/"+strconv.Itoa(m.mainPID())+"/comm"); comm != "myapp" {
		m.t.Errorf("%s: the process is called %q", what, comm)
	}
	if err := m.Run(m.ctx, "sh", "-c", `journalctl --no-pager -u "$1" -o cat | grep -q "starts instead: put a newer file in place"`, "-", myappUnit); err != nil {
		m.t.Errorf("%s: the journal does not say what to do: %v", what, err)
	}
}

// mustRunFile says that the service's own file runs.
func (m *myapp) mustRunFile(version string) {
	m.t.Helper()
	if st := m.status(); st.Version != version || st.LastGood != nil && st.LastGood.Fallback != "" {
		m.t.Errorf("version %s runs, last good: %s; want %s from its own file", st.Version, asJSON(st.LastGood), version)
	}
}

func asJSON(g *control.LastGood) string {
	text, err := json.Marshal(g)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
