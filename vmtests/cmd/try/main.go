// SPDX-License-Identifier: Apache-2.0

// Try tries what "apt upgrade" of a packaged service does to its clients, on real systemd: it boots a Debian in a
// container, installs the old .deb from a repository, puts load on the service, upgrades it to the new .deb by apt,
// and says how many requests were lost and what serves now. It is for the CI of services, whether they use
// Holdfast or not, and needs root:
//
//	go run github.com/holdfast-go/holdfast/vmtests/cmd/prepare@latest -lane=containers
//	go run github.com/holdfast-go/holdfast/vmtests/cmd/try@latest \
//		-old=myapp_1.0.0_amd64.deb -new=myapp_2.0.0_amd64.deb -with=holdfast_1.0.0_amd64.deb \
//		-url=http://127.0.0.1:8080/
//
// With -bad a third package is upgraded to, whose version must be refused or undone: then the version of -new must
// serve on.
//
// It prints a line for each upgrade, and what apt and the journal said about one that failed. Its exit code is 0 if no
// request was lost and each upgrade ended as it should, 1 if not, 2 if the command line is wrong, and 3 if it
// could not be tried.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/holdfast-go/holdfast/vmtests"
)

// Exit codes.
const (
	exitLost    = 1
	exitUsage   = 2
	exitUntried = 3
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// options are those of the command line.
type options struct {
	versions       []vmtests.Version
	old, new, bad  string
	with           []string
	unit, url      string
	newConnections int
	keepAlive      int
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "try:", err)
		return exitUsage
	}
	good := true
	for _, v := range o.versions {
		results, err := try(ctx, v, o)
		for _, r := range results {
			fmt.Fprintln(stdout, r)
			if why := r.fault(); why != "" {
				good = false
				fmt.Fprintln(stdout, why)
			}
		}
		if err != nil {
			fmt.Fprintln(stderr, "try:", err)
			return exitUntried
		}
	}
	if !good {
		return exitLost
	}
	return 0
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("try", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.old, "old", "", ".deb `file` that is installed first")
	flags.StringVar(&o.new, "new", "", ".deb `file` that is upgraded to")
	flags.StringVar(&o.bad, "bad", "", ".deb `file` of a version that must not come to serve")
	flags.StringVar(&o.url, "url", "", "`URL` of the service, with http, a loopback address and a port; a GET and a POST must be answered with 2xx")
	flags.StringVar(&o.unit, "unit", "", "`name` of the service (default: that of the package)")
	flags.Func("with", "further .deb `file` that the packages need, such as that of holdfast; may be repeated", func(file string) error {
		o.with = append(o.with, file)
		return nil
	})
	systemd := flags.String("systemd", "", "`versions` of systemd, with commas (default: all: 247, 252, 257, 262)")
	flags.IntVar(&o.newConnections, "new-connections", 4, "`number` of clients that connect for each request")
	flags.IntVar(&o.keepAlive, "keep-alive", 4, "`number` of clients that keep their connection")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("%q: no arguments are expected beside the options", flags.Args())
	}
	for _, required := range []struct{ name, value string }{{"old", o.old}, {"new", o.new}, {"url", o.url}} {
		if required.value == "" {
			return o, fmt.Errorf("-%s is missing", required.name)
		}
	}
	if err := checkLoad(o); err != nil {
		return o, err
	}
	if *systemd == "" {
		o.versions = vmtests.Versions()
		return o, nil
	}
	for text := range strings.SplitSeq(*systemd, ",") {
		v, err := vmtests.ParseVersion(text)
		if err != nil {
			return o, fmt.Errorf("-systemd: %w", err)
		}
		o.versions = append(o.versions, v)
	}
	return o, nil
}
