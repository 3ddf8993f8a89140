// SPDX-License-Identifier: Apache-2.0

// Campaign breaks a service in every way, on real systemd in containers and under load, and reports what came of
// it (package campaign). "make campaign" runs it. It needs root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec"
	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/campaign"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second one ends all at once; the kernel cleans up then
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			os.Exit(2)
		}
		fmt.Fprintf(os.Stderr, "campaign: %v\n", err)
		os.Exit(1)
	}
}

// errFailed says that the reports tell more.
var errFailed = errors.New("not all is as it must be, see the report")

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	kill := campaign.KillOptions{Log: func(text string) { fmt.Fprintln(stderr, text) }}
	table := campaign.TableOptions{Log: kill.Log}
	flags := flag.NewFlagSet("campaign", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&kill.Rounds, "rounds", 2000, "how often processes are killed, on all versions together")
	flags.Uint64Var(&kill.Seed, "seed", 0, "of all rounds; 0 chooses one")
	flags.Uint64Var(&kill.Replay, "replay", 0, "`seed` of one round, to run that alone on each version")
	fault := flags.String("fault", "", "bring about only those whose names match this `expression`")
	only := flags.String("only", "", "`part`: kill or table; default both")
	systemd := flags.String("systemd", "247,252,257,262", "`versions` of systemd")
	mode := flags.String("mode", "overlap", "`modes`: "+strings.Join(slices.Sorted(maps.Keys(modes)), ", "))
	dir := flags.String("dir", "", "write campaign.txt and faults.txt into this `directory`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("argument %q: there are flags only, see -help", flags.Arg(0))
	}
	if table.Only, err = regexp.Compile(*fault); err != nil {
		return err
	}
	if kill.Versions, err = parseVersions(*systemd); err != nil {
		return err
	}
	if table.Modes, err = parseModes(*mode); err != nil {
		return err
	}
	if *only != "" && *only != "kill" && *only != "table" {
		return fmt.Errorf("-only=%s: must be kill or table", *only)
	}
	table.Versions = kill.Versions
	for kill.Seed == 0 {
		kill.Seed = uint64(rand.Uint32())
	}
	if kill.Replay != 0 {
		*only, kill.Rounds = "kill", len(kill.Versions)
	}
	programs, err := campaign.Build(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, programs.Close()) }()
	place := fmt.Sprintf("Linux %s, %d CPUs, %s\ncampaign %s\n", kernel(), runtime.NumCPU(), runtime.Version(), strings.Join(args, " "))
	var failed error
	if *only != "table" {
		for _, kill.Mode = range table.Modes {
			report, err := campaign.Kill(ctx, programs, kill)
			if len(report.Problems()) > 0 {
				failed = errFailed
			}
			if err := errors.Join(err, write(stdout, *dir, "campaign"+suffix(kill.Mode)+".txt", place+report.String())); err != nil {
				return err
			}
		}
	}
	if *only != "kill" {
		report, err := campaign.Table(ctx, programs, table)
		if len(report.Problems()) > 0 {
			failed = errFailed
		}
		if err := errors.Join(err, write(stdout, *dir, "faults.txt", place+report.String())); err != nil {
			return err
		}
	}
	return failed
}

// suffix tells the report of a mode from that of the default one.
func suffix(mode reexec.Mode) string {
	if mode == reexec.Overlap {
		return ""
	}
	return "-" + strings.ReplaceAll(mode.String(), " ", "")
}

func write(stdout io.Writer, dir, name, text string) error {
	if _, err := io.WriteString(stdout, text+"\n"); err != nil || dir == "" {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)
}

func kernel() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(name.Release[:])
}

func parseVersions(list string) ([]vmtests.Version, error) {
	var versions []vmtests.Version
	for text := range strings.SplitSeq(list, ",") {
		v, err := vmtests.ParseVersion(text)
		if err != nil {
			return nil, err
		}
		versions = append(versions, v)
	}
	return versions, nil
}

var modes = map[string]reexec.Mode{"overlap": reexec.Overlap, "inplace": reexec.InPlace, "restart": reexec.Restart}

func parseModes(list string) ([]reexec.Mode, error) {
	var found []reexec.Mode
	for text := range strings.SplitSeq(list, ",") {
		mode, ok := modes[text]
		if !ok {
			return nil, fmt.Errorf("-mode=%s: %q must be one of %s", list, text, strings.Join(slices.Sorted(maps.Keys(modes)), ", "))
		}
		found = append(found, mode)
	}
	return found, nil
}
