// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/holdfast-go/holdfast/reexec/control/command"
)

// What it serves is tested in package upgrade1, and with the real systemd in vmtests.
func TestServeUsage(t *testing.T) {
	for want, args := range map[string][]string{
		`"myapp": takes no arguments`:               {"serve", "myapp"},
		"--idle -1s: must not be negative":          {"serve", "--idle=-1s"},
		`invalid value "soon" for flag --idle`:      {"serve", "--idle=soon"},
		"flag provided but not defined: --nonsense": {"serve", "--nonsense"},
	} {
		runCommand(t.Context(), args...).Want(t, command.ExitUsage, "", want)
	}
}

func TestServeWithoutBus(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+t.TempDir()+"/none")
	t.Setenv("STATE_DIRECTORY", t.TempDir())
	runCommand(t.Context(), "serve", "--address=unix:path="+t.TempDir()+"/none").
		Want(t, command.ExitFailed, "", "Failed to serve org.holdfast.Upgrade1: ")
}
