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

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/control/command"
	"github.com/holdfast-go/holdfast/reexec/fingerprint"
)

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
		fmt.Fprint(stderr, help())
		return command.ExitUsage
	}
	switch name, rest := args[0], args[1:]; name {
	case "-h", "-help", "--help", "help":
		if name == "help" && len(rest) > 0 {
			if c, ok := findCommand(rest[0]); ok {
				return c.run(ctx, []string{"--help"}, stdout, stderr)
			}
			return unknownCommand(stderr, rest[0])
		}
		fmt.Fprint(stdout, help())
		return command.ExitOK
	case "-version", "--version":
		fmt.Fprintf(stdout, "holdfast %s (control protocol %d, %s)\n", buildVersion(), control.Version, runtime.Version())
		return command.ExitOK
	default:
		c, ok := findCommand(name)
		if !ok {
			return unknownCommand(stderr, name)
		}
		return c.run(ctx, rest, stdout, stderr)
	}
}

func unknownCommand(stderr io.Writer, name string) int {
	fmt.Fprintf(stderr, "holdfast: unknown command %q: use %s; \"holdfast --help\" says more\n", name, commandNames())
	return command.ExitUsage
}

func buildVersion() string {
	if version != "" {
		return version
	}
	build, err := fingerprint.Self()
	if err != nil {
		return "unknown"
	}
	return build.String()
}
