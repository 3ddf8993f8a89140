// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
)

// Promise 2: a failed upgrade changes nothing, whatever kind of file is there.
func TestRefusedVersions(t *testing.T) {
	holdfast := func(m *myapp) {
		m.copy(program(m.t, "github.com/holdfast-go/holdfast/units/cmd/holdfast", build{}), myappPath, 0o755)
	}
	mode := func(mode string) func(*myapp) {
		return func(m *myapp) { m.put(v2); m.run("chmod", mode, myappPath) }
	}
	text := func(m *myapp) {
		if err := m.WriteFile(m.ctx, myappPath+".new", []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
			m.t.Fatal(err)
		}
		m.run("mv", "-f", myappPath+".new", myappPath)
	}
	bad := func(damage string) func(*myapp) {
		return func(m *myapp) { m.put(build{version: "2.0.0", damage: damage}) }
	}
	kinds := []struct {
		name    string
		install func(*myapp)
		reason  string
	}{
		{"crash at start", bad("crash-at-start"), "damaged on purpose: crash at start"},
		{"crash in init", bad("crash-in-init"), "damaged on purpose: crash in an init function"},
		{"hangs at start", bad("hang-at-start"), "not ready within 4s"},
		{"hangs in the check", bad("hang-in-check"), "did not end within"},
		{"never healthy", bad("ill-at-start"), "not ready within 4s"},
		{"other architecture", func(m *myapp) { m.put(build{version: "2.0.0", goarch: otherArchitecture()}) }, "is built for"},
		{"not executable", mode("0644"), "is not executable"},
		{"others may write", mode("0757"), "others than its owner may write it"},
		{"a script", text, "is not an ELF executable"},
		{"another program", holdfast, "is the program"},
		{"missing", func(m *myapp) { m.run("rm", "-f", myappPath) }, "no such file or directory"},
		{"a directory", func(m *myapp) { m.run("rm", "-f", myappPath); m.run("mkdir", myappPath) }, "is not a regular file but a directory"},
	}
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startMyapp(t, v, brisk)
		l := m.load()
		for _, k := range kinds {
			k.install(m)
			m.mustRefuse(k.reason)
			m.run("rm", "-rf", myappPath)
			if t.Failed() {
				t.Fatalf("after %q", k.name)
			}
		}
		// And the next good one works.
		m.put(v2)
		m.mustReload()
		m.waitAnswers(l, "2.0.0", 20)
		m.nothingLost(l)
		if n := m.prop("NRestarts"); n != "0" {
			t.Errorf("NRestarts=%s", n)
		}
	})
}
