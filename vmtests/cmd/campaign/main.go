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
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"syscall"

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

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	o := campaign.KillOptions{Log: func(text string) { fmt.Fprintln(stderr, text) }}
	flags := flag.NewFlagSet("campaign", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.Rounds, "rounds", 2000, "how often processes are killed, on all versions together")
	flags.Uint64Var(&o.Seed, "seed", 0, "of all rounds; 0 chooses one")
	flags.Uint64Var(&o.Replay, "replay", 0, "`seed` of one round, to run it alone on each version")
	systemd := flags.String("systemd", "247,252,257,262", "`versions` of systemd")
	if err := flags.Parse(args); err != nil {
		return err
	}
	for text := range strings.SplitSeq(*systemd, ",") {
		v, err := vmtests.ParseVersion(text)
		if err != nil {
			return err
		}
		o.Versions = append(o.Versions, v)
	}
	for o.Seed == 0 {
		o.Seed = uint64(rand.Uint32())
	}
	o.Mode = reexec.Overlap
	if o.Replay != 0 {
		o.Rounds = len(o.Versions)
	}
	programs, err := campaign.Build(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, programs.Close()) }()
	report, err := campaign.Kill(ctx, programs, o)
	fmt.Fprint(stdout, report)
	return err
}
