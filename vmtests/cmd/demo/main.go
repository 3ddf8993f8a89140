// SPDX-License-Identifier: Apache-2.0

// Demo upgrades myapp under systemd while clients make requests without a pause: to good versions, to bad
// ones, and over a crash.
//
// Usage:
//
//	demo [-on=container|user|stand-in] [-systemd=VERSION] [-programs=DIR] [-prepare]
//
// It installs myapp with the units of package units, and goes through its steps; each is checked. The
// service lives in a container with a systemd of its own, which needs root; or under the service manager of
// this login, in units of their own that are removed at the end; or under the stand-in for systemd of
// package reexectest, which needs nothing. Without -on it is the first of these that there is. The first
// line says which, and why.
//
// The programs are built by the go command, in the module's directory, unless -programs says where they
// are. With -prepare the demo only builds what it needs.
//
// The last line on standard output is
//
//	demo: requests=N failed=N upgrades=N rollbacks=N refused=N crashes=N cut=N
//
// where failed counts requests that were lost and steps that did not go as they must, and cut the requests
// that a process had accepted when the demo had it die. Exit status: 0 when failed is 0, 1 otherwise or
// when the demo could not run, 2 for wrong usage, 130 after an interrupt. Only in the first two cases there
// is such a line.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
)

func main() {
	// The last two come when nobody reads on: the terminal is gone, or the other end of a pipe.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout *os.File, stderr io.Writer) int {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: demo [-on=PLACE] [-systemd=VERSION] [-programs=DIR] [-prepare]")
		flags.PrintDefaults()
	}
	var o options
	flags.StringVar(&o.on, "on", "", "`place` of the service: "+strings.Join(places, ", ")+"; default: the first of these that there is")
	systemd := flags.String("systemd", "257", "`version` of systemd in the container, or that is stood in for")
	flags.StringVar(&o.programs, "programs", "", "`directory` of the programs; they must be there, unless with -prepare")
	flags.BoolVar(&o.prepare, "prepare", false, "build what the demo needs, and say how long that takes")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		flags.Usage()
		return 2
	}
	var err error
	if o.version, err = vmtests.ParseVersion(*systemd); err == nil && o.on != "" && !slices.Contains(places, o.on) {
		err = fmt.Errorf("-on=%s: must be one of %s", o.on, strings.Join(places, ", "))
	}
	if err != nil {
		fmt.Fprintln(stderr, "demo:", err)
		return 2
	}
	if err := demonstrate(ctx, o, stdout, stderr); err != nil {
		var failed failedError
		switch {
		case errors.As(err, &failed):
			return failed.tally.exitStatus()
		case ctx.Err() != nil:
			fmt.Fprintln(stderr, "demo: interrupted; nothing is left behind")
			return 130
		case errors.Is(err, vmtests.ErrNotRoot):
			fmt.Fprintf(stderr, "demo: %v\ndemo: type: sudo env \"PATH=$PATH\" make demo\n", err)
		default:
			fmt.Fprintln(stderr, "demo:", err)
		}
		return 1
	}
	return 0
}

// options are those of the command line.
type options struct {
	on       string // one of places, or empty
	version  vmtests.Version
	programs string
	prepare  bool
}

// A failedError says that the demo ran, and that something failed.
type failedError struct{ tally tally }

func (e failedError) Error() string { return e.tally.String() }

func demonstrate(ctx context.Context, o options, stdout *os.File, stderr io.Writer) error {
	if o.prepare {
		return prepare(ctx, o, stdout, stderr)
	}
	where, err := choose(ctx, o.on, o.version)
	if err != nil {
		return err
	}
	dir := o.programs
	if dir == "" {
		if dir, err = programsDir(ctx); err == nil {
			err = buildPrograms(ctx, dir)
		}
	} else {
		err = findPrograms(dir)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "on %s: %s\n", where.name, where.why)
	d := &demo{place: where.place, programs: dir, view: newView(stdout, 1+len(steps))}
	r, err := d.run(ctx)
	if err != nil {
		return err
	}
	if err := r.write(stdout); err != nil {
		return err
	}
	if r.tally.exitStatus() != 0 {
		return failedError{r.tally}
	}
	return nil
}

// prepare installs and builds what the demo needs.
func prepare(ctx context.Context, o options, stdout *os.File, stderr io.Writer) error {
	if o.on == inContainer || o.on == "" && os.Geteuid() == 0 {
		err := prepareImage(ctx, o.version, stdout)
		switch {
		case err == nil:
		case o.on == "" && ctx.Err() == nil && vmtests.RequireContainers() != nil:
			fmt.Fprintln(stderr, "demo:", err) // it can do without
		default:
			return err
		}
	}
	dir, err := o.programs, error(nil)
	if dir == "" {
		dir, err = programsDir(ctx)
	}
	if err != nil {
		return err
	}
	// With an empty cache this compiles the standard library for two architectures, so say it first.
	fmt.Fprintf(stdout, "%-40s ", fmt.Sprintf("%d programs for the demo", len(allPrograms())))
	began := time.Now()
	if err := buildPrograms(ctx, dir); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "built, %.1f s\n", time.Since(began).Seconds())
	return err
}

// prepareImage runs the command that installs what a container needs and builds the image, and tells how
// long that takes.
func prepareImage(ctx context.Context, version vmtests.Version, stdout *os.File) error {
	if err := vmtests.RequireContainers(); errors.Is(err, vmtests.ErrNotRoot) {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "run", "github.com/holdfast-go/holdfast/vmtests/cmd/prepare", "-lane=containers", strconv.Itoa(int(version)))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // so that it shares the build cache with the programs
	cmd.Stdout, cmd.Stderr = stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it must not leave dpkg half-way
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("prepare the image of %v: %w", version, err)
	}
	return nil
}
