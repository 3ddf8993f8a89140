// SPDX-License-Identifier: Apache-2.0

// Command packages builds the packages holdfast and myapp: .deb and .rpm, for amd64 and
// arm64, out of the descriptions in packaging/nfpm. The same sources give the same bytes.
//
// Usage:
//
//	packages [-version=1.2.3] [-package=holdfast,myapp] [-arch=amd64,arm64] [-format=deb,rpm] [-output=DIR] [-exec=PROGRAM]
//
// Without -version it is what git says of the commit. A semantic version 1.3.0-rc.1 is
// 1.3.0~rc.1 for dpkg and rpm, which sort that before 1.3.0. The time in the packages is
// SOURCE_DATE_EPOCH, or that of the commit. PROGRAM, already built, is packed as
// /usr/bin/myapp (or /usr/bin/holdfast, with -package=holdfast). The go command must be
// in PATH, and the working directory inside the module.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

var (
	allPackages = []string{"holdfast", "myapp"}
	allArchs    = []string{"amd64", "arm64"}
	allFormats  = []string{"deb", "rpm"}
)

// run is the whole program, for main and for tests.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("packages", flag.ContinueOnError)
	flags.SetOutput(stderr)
	packages := list{allPackages, allPackages}
	archs := list{allArchs, allArchs}
	formats := list{allFormats, allFormats}
	flags.Var(&packages, "package", "`names` of the packages")
	flags.Var(&archs, "arch", "`architectures`, as Go calls them")
	flags.Var(&formats, "format", "`formats`")
	version := flags.String("version", "", "`version` of the packages, and of the programs in them (what git says)")
	output := flags.String("output", ".build/packages", "`directory` for the packages")
	program := flags.String("exec", "", "a `program` that is built already, for /usr/bin")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "packages: %q: takes options only\n", flags.Arg(0))
		return 2
	}
	if *program != "" && (len(packages.chosen) != 1 || len(archs.chosen) != 1) {
		fmt.Fprintln(stderr, "packages: -exec is one program: choose one -package and one -arch")
		return 2
	}
	if err := build(ctx, stdout, *version, packages.chosen, archs.chosen, formats.chosen, *output, *program); err != nil {
		fmt.Fprintln(stderr, "packages:", err)
		return 1
	}
	return 0
}

// list is a flag of words from a fixed set.
type list struct{ known, chosen []string }

func (l *list) String() string { return strings.Join(l.chosen, ",") }

func (l *list) Set(value string) error {
	l.chosen = strings.Split(value, ",")
	for _, word := range l.chosen {
		if !slices.Contains(l.known, word) {
			return fmt.Errorf("%q: use %s", word, strings.Join(l.known, " or "))
		}
	}
	return nil
}

func build(ctx context.Context, stdout io.Writer, version string, packages, archs, formats []string, output, program string) error {
	b, err := newBuilder(ctx, version)
	if err != nil {
		return err
	}
	defer b.close()
	if output, err = filepath.Abs(output); err != nil {
		return err
	}
	if program != "" {
		if program, err = filepath.Abs(program); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(output, 0o755); err != nil {
		return err
	}
	for _, name := range packages {
		if err := b.prepare(ctx, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, arch := range archs {
			if err := b.program(ctx, name, arch, program); err != nil {
				return fmt.Errorf("%s for %s: %w", name, arch, err)
			}
			for _, format := range formats {
				p, err := b.pack(ctx, name, arch, format, output)
				if err != nil {
					return fmt.Errorf("%s for %s, .%s: %w", name, arch, format, err)
				}
				fmt.Fprintln(stdout, p)
			}
		}
	}
	return nil
}
