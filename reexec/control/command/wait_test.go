// SPDX-License-Identifier: Apache-2.0

package command

import (
	"encoding/json"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/control/command/commandtest"
)

// A wait ends with what it waits for, and not before.
func TestWait(t *testing.T) {
	settled := func(*control.Status) {}
	inProbation := func(st *control.Status) {
		st.State, st.Successor = "probation", &control.Process{PID: 812, Generation: 4, Version: "1.3"}
	}
	older := func(st *control.Status) { st.Version = "1.1" }
	for _, tt := range []struct {
		name    string
		args    []string
		at      func(*control.Status)
		waiting bool
	}{
		{"at once", nil, settled, false},
		{"its version", []string{"--version=1.2"}, settled, false},
		{"an upgrade", nil, inProbation, true},
		{"another version", []string{"--version=1.2"}, older, true},
		{"stopping", nil, func(st *control.Status) { st.State = "stopping" }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), control.SocketName)
			now := running()
			tt.at(&now)
			s := start(t, socket, now, nil)
			ended := make(chan commandtest.Output, 1)
			go func() {
				args := append([]string{"--socket=" + socket}, tt.args...)
				ended <- commandtest.Run(func(stdout, stderr io.Writer) int { return Wait(t.Context(), args, stdout, stderr) })
			}()
			if tt.waiting {
				select {
				case o := <-ended:
					t.Fatalf("did not wait: %+v", o)
				case <-time.After(3 * waitInterval):
				}
				s.set(func(st *control.Status) { *st = running() })
			}
			o := <-ended
			o.Want(t, ExitOK, "myapp is served by PID 640, version 1.2 (generation 3).\n", "")
		})
	}
}

// A service that is not there yet is waited for, also across a restart.
func TestWaitForStart(t *testing.T) {
	socket := filepath.Join(t.TempDir(), control.SocketName)
	ended := make(chan commandtest.Output, 1)
	go func() {
		ended <- commandtest.Run(func(stdout, stderr io.Writer) int {
			return Wait(t.Context(), []string{"--json=short", "--socket=" + socket}, stdout, stderr)
		})
	}()
	select {
	case o := <-ended:
		t.Fatalf("did not wait: %+v", o)
	case <-time.After(2 * waitInterval):
	}
	start(t, socket, running(), nil)
	o := <-ended
	var st control.Status
	if err := json.Unmarshal([]byte(o.Stdout), &st); err != nil || st.PID != 640 || o.Code != ExitOK {
		t.Errorf("%+v: %v", o, err)
	}
}

func TestWaitGivesUp(t *testing.T) {
	wait := func(args ...string) commandtest.Output {
		return commandtest.Run(func(stdout, stderr io.Writer) int { return Wait(t.Context(), args, stdout, stderr) })
	}
	socket := filepath.Join(t.TempDir(), control.SocketName)
	wait("--timeout=50ms", "--socket="+socket).Want(t, ExitUnknown, "", "stopped waiting after --timeout=50ms")
	now := running()
	now.Version = "1.2\x1b[2J"
	start(t, socket, now, nil)
	o := wait("--timeout=1s", "--version=9", "--socket="+socket)
	o.Want(t, ExitUnknown, "", `myapp is running, served by PID 640, version 1.2\x1b[2J (generation 3).`)
	// Nothing comes of waiting for what speaks another protocol.
	wait("--socket="+answers(t, reply(200, `{}`))).Want(t, ExitNotSuitable, "", "has no protocol version")
	wait("--quiet", "--socket="+answers(t, reply(404, `{"error":"no","versions":[7]}`))).Want(t, ExitNotSuitable, "", "protocol version 7")
}
