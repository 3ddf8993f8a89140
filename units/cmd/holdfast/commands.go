// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/holdfast-go/holdfast/reexec/control/command"
)

// A subcommand is one word after "holdfast". With --help as its only argument it
// prints its help, from which its man page and its completion are made, and does
// nothing else.
type subcommand struct {
	name    string
	summary string // one line, as in the help of holdfast
	// run returns the exit code. args come without the name.
	run func(ctx context.Context, args []string, stdout, stderr io.Writer) int
}

// commands are all of them, in the order of the help. It is a function, so that
// nothing is made before it is known to be wanted: "holdfast reload" runs at every
// reload.
func commands() []subcommand {
	return []subcommand{
		{"upgrade", "upgrade units, watch them, and go back if the new version is bad", with(connectHelper, runUpgrade)},
		{"rollback", "go back to the version before", with(connectHelper, runRollback)},
		{"status", "show who serves, and how the last upgrades went", with(connectHelper, runStatus)},
		{"history", "list the upgrades and rollbacks of a unit", with(connectHelper, runHistory)},
		{"wait", "wait until a service runs and no upgrade is under way", with(direct, runWait)},
		{"freeze", "have upgrades of units refused", with(connectHelper, runFreeze)},
		{"thaw", "allow upgrades of units again", with(connectHelper, runThaw)},
		{"reload", "upgrade one running service and wait for its verdict, without D-Bus", command.Reload},
		{"check", "say whether units are fit for upgrades", checkUnits},
		{"render", "write the systemd units of a service", without(render)},
		{"launch", "start a service, for ExecStart=: its file, or the last good version", without(command.Launch)},
		{"versions", "keep versions side by side, and switch between them", runVersions},
		{"retry", "have a file that failed start again", without(command.Retry)},
		{"completion", "write a completion script for a shell", without(completion)},
		{"serve", "serve org.holdfast.Upgrade1 on D-Bus, for those who are not root", serve},
	}
}

// without is for commands that wait for nothing: they need no context.
func without(run func(args []string, stdout, stderr io.Writer) int) func(context.Context, []string, io.Writer, io.Writer) int {
	return func(_ context.Context, args []string, stdout, stderr io.Writer) int { return run(args, stdout, stderr) }
}

func findCommand(name string) (subcommand, bool) {
	for _, c := range commands() {
		if c.name == name {
			return c, true
		}
	}
	return subcommand{}, false
}

// commandNames are the names as a sentence has them: "a, b or c".
func commandNames() string {
	all := commands()
	names := make([]string, len(all))
	for i, c := range all {
		names[i] = c.name
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// help is that of holdfast itself.
func help() string {
	var b strings.Builder
	b.WriteString(helpHead)
	for _, c := range commands() {
		fmt.Fprintf(&b, "  %-10s  %s\n", c.name, c.summary)
	}
	b.WriteString(helpTail)
	return b.String()
}

const helpHead = `holdfast works with services that upgrade without losing a connection.

  holdfast upgrade myapp         upgrade to the binary now installed, watch it, and
                                 go back if it does not hold
  holdfast status myapp          show who serves, and how the last upgrades went
  holdfast render --name=myapp --exec=/usr/bin/myapp \
      --socket=http=127.0.0.1:8080 --output-dir=/etc/systemd/system

Usage: holdfast COMMAND [OPTIONS]

Commands:
`

const helpTail = `
Options:
  -h, --help     show this help, or that of a command
      --version  show the version

` + command.ExitCodesHelp
