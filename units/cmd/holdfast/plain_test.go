// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/control/command/commandtest"
)

// What prints plain lines does so on every screen. These are the ends of each such
// command, good and bad.
func TestPlainOutput(t *testing.T) {
	dir, socket, f := side(t)
	var got strings.Builder
	show := func(o commandtest.Output, args ...string) {
		fmt.Fprintf(&got, "$ holdfast %s\n%s-- stderr, exit code %d\n%s\n", strings.Join(args, " "), o.Stdout, o.Code, o.Stderr)
	}
	run := func(args ...string) { show(runCommand(t.Context(), args...), args...) }

	h := new(fakeHelper)
	for _, args := range [][]string{
		{"freeze", "--reason=audit until Friday", "myapp", "other@1"},
		{"thaw", "myapp"},
		{"freeze"},
		{"freeze", "--until=Friday", "myapp"},
	} {
		show(h.run(t, args...), args...)
	}

	run("reload", "--socket="+socket)
	f.set(func(f *following) { f.verdict = control.RolledBack })
	run("reload", "--socket="+socket)
	run("reload", "--config", "--socket="+socket)
	run("reload", "--socket=/none/control.sock")
	run("rollback", "--socket="+socket, "--reason=it is slow")
	run("wait", "--socket="+socket, "--version=9", "--timeout=10ms")
	run("wait", "--socket="+socket)

	run("versions", "list", dir)
	f.set(func(f *following) { f.verdict = control.Upgraded })
	run("versions", "switch", "--socket="+socket, dir, "2.0")
	run("versions", "list", dir)
	run("versions", "list", "--json=short", dir)
	run("versions", "switch", dir, "4.0")
	run("versions", "prune", "--keep=1", dir)

	record := filepath.Join(t.TempDir(), "myapp.holdfast")
	run("retry", "--state="+record)
	if err := os.Mkdir(record, 0o700); err != nil {
		t.Fatal(err)
	}
	run("retry", "--state="+record)
	run("completion", "tcsh")

	text := strings.NewReplacer(dir, "/usr/lib/myapp", socket, "/run/myapp/control.sock", record, "/var/lib/myapp.holdfast").Replace(got.String())
	for pattern, with := range map[string]string{
		`PID [0-9]+`: "PID 133", `-u 00[0-9]`: "-u myapp", `in [0-9.]+m?s`: "in 0.4s", `[0-9]+(\.[0-9]+)?m?s left`: "1s left",
	} {
		text = regexp.MustCompile(pattern).ReplaceAllString(text, with)
	}
	golden(t, "plain.golden", text)
	if strings.Contains(text, "\x1b") {
		t.Error("there is an escape sequence")
	}
}
