// SPDX-License-Identifier: Apache-2.0

package command

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/control/command/term"
)

func TestStatus(t *testing.T) {
	t.Setenv("TZ", "UTC")
	root := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", root)
	st := running()
	st.Successor = &control.Process{PID: 700, Generation: 4}
	st.Draining = []control.Process{{PID: 600, Generation: 2, Version: "1.1"}, {PID: 590, Generation: 1}}
	st.Listeners = []control.Listener{
		{Name: "http", Network: "tcp", Address: "127.0.0.1:8080", Origin: "socket unit"},
		{Name: "admin", Network: "unix", Address: "/run/admin.sock", Origin: "bound"},
	}
	st.Store = &control.Store{
		Limit: 4, Warning: "a crash would lose 1 of 3 descriptors",
		Entries: []control.StoreEntry{{Name: "bound/admin/unix/x@1", Kind: "bound"}, {Name: "state/a@2", Kind: "state"}},
	}
	st.Adopted = 412
	st.LastGood = &control.LastGood{
		Fallback: "it hangs", Version: "1.2", Path: "/var/lib/myapp.holdfast/good-1", Since: since,
		Failed: []control.FailedFile{{Version: "1.3", Reason: "refused: died", At: since}, {Reason: "counted", At: since}},
	}
	last := upgraded
	last.Outcome, last.Reason, last.From = control.RolledBack, "the health check failed:\nno database \x1b[2J", control.Process{PID: 640, Generation: 3, Version: "1.2"}
	st.Last = &last
	socket := socketIn(t, root, "myapp@1")
	start(t, socket, st, nil)

	for _, args := range [][]string{
		{"status", "--user", "myapp@1"}, {"status", "myapp@1.service", "--user"}, {"status", "--socket", socket},
	} {
		o := runCommand(t.Context(), args...)
		o.Want(t, ExitOK, "myapp 1.2\n", "")
		for _, want := range []string{
			"         State: running since Fri 2026-01-02 03:04:05 UTC",
			"     Served by: PID 640, version 1.2 (generation 3)\n",
			"     Successor: PID 700 (generation 4)\n",
			"      Draining: PID 600, version 1.1 (generation 2)\n               PID 590 (generation 1)\n",
			"     Listeners: http: tcp 127.0.0.1:8080 (socket unit)\n               admin: unix /run/admin.sock (bound)\n",
			"      FD store: 2 of 4 in use (1 bound, 1 state)\n               warning: a crash would lose 1 of 3 descriptors\n",
			"       Adopted: 412 connections\n",
			"  Last upgrade: rolled back on Fri 2026-01-02 04:04:05 UTC",
			"               from PID 640, version 1.2 (generation 3) to PID 812, version 1.3 (generation 4)\n",
			"               the health check failed:\n                   no database \\x1b[2J\n",
			"               pre-check 0.1s, probation 5.0s\n",
			"  Runs instead: the last good version, because it hangs\n",
			"     Last good: 1.2 of Fri 2026-01-02 03:04:05 UTC",
			" ago, /var/lib/myapp.holdfast/good-1\n",
			"        Failed: 1.3 on Fri 2026-01-02 03:04:05 UTC",
			" ago: refused: died\n               a file on Fri 2026-01-02 03:04:05 UTC",
			"      Instance: i1\n",
		} {
			want = strings.TrimPrefix(want, " ") // the label's width is 14
			if !strings.Contains(o.Stdout, want) {
				t.Errorf("%v: output lacks %q:\n%s", args, want, o.Stdout)
			}
		}
		if strings.ContainsAny(o.Stdout, "\x1b") {
			t.Errorf("%v: the service's escape sequence reached the terminal: %q", args, o.Stdout)
		}
	}

	t.Setenv("RUNTIME_DIRECTORY", filepath.Dir(socket)+":/run/other")
	o := runCommand(t.Context(), "status", "--json=short")
	o.Want(t, ExitOK, `{"protocol":1,"name":"myapp","instance":"i1"`, "")
	var got control.Status
	if err := json.Unmarshal([]byte(o.Stdout), &got); err != nil || got.PID != 640 || got.Last == nil || got.Last.Reason != last.Reason {
		t.Errorf("JSON %s: %v", o.Stdout, err)
	}
	runCommand(t.Context(), "status", "--json=pretty").Want(t, ExitOK, "\n\t\"name\": \"myapp\",\n", "")
	runCommand(t.Context(), "status", "--json=off").Want(t, ExitOK, "myapp 1.2\n", "")
}

// A minimal status has no empty rows.
func TestStatusMinimal(t *testing.T) {
	got := View{Service: &control.Status{Name: "myapp", Instance: "i1", State: "running", PID: 1, Generation: 1}}.Screen(term.Terminal{}, since)
	want := "myapp\n        State: running since an unknown time\n    Served by: PID 1 (generation 1)\n     Instance: i1\n"
	if got != want {
		t.Errorf("screen is %q, want %q", got, want)
	}
}
