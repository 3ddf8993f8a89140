// SPDX-License-Identifier: Apache-2.0

// Command holdfast is for operators and packagers of services that upgrade with
// Holdfast: it renders their units, upgrades them and says how they are. Run it
// without arguments for help.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/control/command"
)

const help = `holdfast works with services that upgrade without losing a connection.

  holdfast reload myapp          upgrade to the binary now installed, and wait
  holdfast status myapp          show who serves, and how the last upgrade went
  holdfast render --name=myapp --exec=/usr/bin/myapp \
      --socket=http=127.0.0.1:8080 --output-dir=/etc/systemd/system

Usage: holdfast COMMAND [OPTIONS]

Commands:
  reload     upgrade a running service and wait for the verdict
  status     show what a running service says about itself
  render     write the systemd units of a service
  launch     start a service, for ExecStart=: its file, or the last good version
  retry      have a file that failed start again

Options:
  -h, --help     show this help, or that of a command
      --version  show the version

` + command.ExitCodesHelp

// version is set by packagers: -ldflags '-X main.version=1.2.3'. Otherwise the
// build information has it.
var version string

func main() {
	if len(os.Args) > 1 && os.Args[1] == "launch" {
		// A signal is for the service: nothing here may catch it.
		os.Exit(command.Launch(os.Args[2:], os.Stdout, os.Stderr))
	}
	ctx, stop := command.SignalContext(context.Background())
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program, for main and for tests.
func run(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, help)
		return command.ExitUsage
	}
	switch name, rest := args[0], args[1:]; name {
	case "reload":
		return command.Reload(ctx, rest, stdout, stderr)
	case "status":
		return command.Status(ctx, rest, stdout, stderr)
	case "render":
		return render(rest, stdout, stderr)
	case "launch":
		return command.Launch(rest, stdout, stderr)
	case "retry":
		return command.Retry(rest, stdout, stderr)
	case "-h", "-help", "--help", "help":
		fmt.Fprint(stdout, help)
		return command.ExitOK
	case "-version", "--version":
		fmt.Fprintf(stdout, "holdfast %s (control protocol %d, %s)\n", buildVersion(), control.Version, runtime.Version())
		return command.ExitOK
	default:
		fmt.Fprintf(stderr, "holdfast: unknown command %q: use reload, status, render, launch or retry; \"holdfast --help\" says more\n", name)
		return command.ExitUsage
	}
}

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
