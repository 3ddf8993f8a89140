// SPDX-License-Identifier: Apache-2.0

package command

import (
	"encoding/json"
	"net"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/control"
)

func TestRollback(t *testing.T) {
	socket := socketIn(t, t.TempDir(), "myapp")
	back := upgraded
	back.To = &control.Process{PID: 812, Generation: 4, Version: "1.1"}
	s := start(t, socket, running(), ends(back))
	good := func(version string) {
		s.set(func(st *control.Status) { st.LastGood = &control.LastGood{Version: version} })
	}
	good("1.2") // what the stand-in says that it is
	runCommand(t.Context(), "rollback", "--socket="+socket, "--reason=orders \x1b are lost").Want(t, ExitOK, "Rolled myapp back from 1.2 to 1.1 in 0.", "")
	if s.rolledBack != "orders \x1b are lost" {
		t.Errorf("the service was told %q", s.rolledBack)
	}
	good("1.3")
	o := runCommand(t.Context(), "rollback", "--socket="+socket)
	o.Want(t, ExitOK, "Rolled myapp back", "Note: a restart starts the file that is installed: put the version that runs now in its place.\n")
	o = runCommand(t.Context(), "rollback", "--json=short", "--socket="+socket)
	var got reloadResult
	if err := json.Unmarshal([]byte(o.Stdout), &got); err != nil || !got.Verdict.Rollback || got.Now == nil || got.Note == "" {
		t.Errorf("%+v, %v", got, err)
	}
	o = runCommand(t.Context(), "status", "--socket="+socket)
	o.Want(t, ExitOK, "Last rollback: done on ", "")
}

func TestRollbackFails(t *testing.T) {
	socket := socketIn(t, t.TempDir(), "myapp")
	start(t, socket, running(), ends(control.Verdict{Outcome: control.Refused, Reason: "roll back: no version before 1.2 has proven itself"}))
	o := runCommand(t.Context(), "rollback", "--socket="+socket)
	o.Want(t, ExitFailed, "", "The rollback of myapp was refused: roll back: no version before 1.2 has proven itself\n")
	if want := "myapp is served by PID 640, version 1.2 (generation 3)."; o.LastLine() != want {
		t.Errorf("last line %q, want %q", o.LastLine(), want)
	}
	runCommand(t.Context(), "rollback", "--socket=/nonexistent/control.sock").Want(t, ExitNotRunning, "", "No rollback was started.\n")
}

// A service of the release before answers that it knows nothing of it, and serves on.
func TestRollbackOfOlderRelease(t *testing.T) {
	socket := socketIn(t, t.TempDir(), "myapp")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 4096)
			n, _ := conn.Read(buf)
			code, body := "200 OK", `{"protocol":1,"instance":"i1","state":"running"}`
			if strings.HasPrefix(string(buf[:n]), "POST /v1/rollback ") {
				code, body = "404 Not Found", `{"error":"path \"/v1/rollback\": version 1 has status and upgrade only"}`
			}
			_, _ = conn.Write([]byte("HTTP/1.1 " + code + "\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" + body))
			_ = conn.Close()
		}
	}()
	o := runCommand(t.Context(), "rollback", "--socket="+socket)
	o.Want(t, ExitNotSuitable, "", "the service is of an older release of Holdfast, which knows no rollback: upgrade it to a later one first: ")
	if want := "No rollback was started."; o.LastLine() != want {
		t.Errorf("last line %q, want %q", o.LastLine(), want)
	}
}
