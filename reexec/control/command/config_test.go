// SPDX-License-Identifier: Apache-2.0

package command

import (
	"testing"

	"github.com/holdfast-go/holdfast/reexec/control"
)

func TestReloadConfig(t *testing.T) {
	socket := socketIn(t, t.TempDir(), "myapp")
	s := start(t, socket, running(), ends(upgraded))
	answer := func(v control.Reload) { s.reload = func() control.Reload { return v } }

	answer(control.Reload{Outcome: control.Reloaded, Seconds: 0.25})
	runCommand(t.Context(), "reload", "--config", "--socket="+socket).Want(t, ExitOK, " has read its configuration again in 0.2s.\n", "")
	runCommand(t.Context(), "reload", "--config", "-q", "--socket="+socket).Want(t, ExitOK, "", "")
	runCommand(t.Context(), "reload", "--config", "--json=short", "--socket="+socket).Want(t, ExitOK, `{"exit":0,"reload":{"outcome":"reloaded"`, "")

	answer(control.Reload{Outcome: control.Refused, Reason: "line 3: no such \x1b[1mcolour"})
	runCommand(t.Context(), "reload", "--config", "--socket="+socket).Want(t, ExitFailed, "", `was refused: line 3: no such \x1b[1mcolour`)
	runCommand(t.Context(), "reload", "--config", "--json=short", "--socket="+socket).Want(t, ExitFailed, `{"exit":1,"reload":{"outcome":"refused"`, "is served as before.")

	answer(control.Reload{Outcome: control.Stopped})
	runCommand(t.Context(), "reload", "--config", "--socket="+socket).Want(t, ExitDown, "", "is stopping")
	t.Setenv("MAINPID", "640") // in ExecReload= a stop is no failure
	runCommand(t.Context(), "reload", "--config", "--socket="+socket).Want(t, ExitOK, "", "was ended by a stop")

	s.die()
	runCommand(t.Context(), "reload", "--config", "--socket="+socket).Want(t, ExitNotRunning, "", "nobody serves it")
}
