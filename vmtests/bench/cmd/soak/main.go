// SPDX-License-Identifier: Apache-2.0

// Command soak keeps a service of all kinds of sockets under load for a long time and changes its version
// about every second: by upgrades, by versions that are refused, and by some that are undone. Nothing may be
// lost, and nothing may grow from generation to generation. "make soak" runs it.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/mixed"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/prepare"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second one ends all at once; the kernel cleans up then
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			os.Exit(2)
		}
		fmt.Fprintf(os.Stderr, "soak: %v\n", err)
		os.Exit(1)
	}
}

// errFailed says that the report tells more.
var errFailed = errors.New("something was lost or grows, see above")

func run(ctx context.Context, args []string, stdout io.Writer, stderr *os.File) (err error) {
	var s settings
	flags := flag.NewFlagSet("soak", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&s.on, "on", "", "`where` the service runs: container or stand-in; default what there is")
	flags.IntVar(&s.systemd, "systemd", 257, "version of systemd: 247, 252, 257 or 262")
	flags.DurationVar(&s.length, "for", 30*time.Minute, "how long")
	flags.DurationVar(&s.every, "every", time.Second, "a change begins so long after the one before, half of it more or less")
	flags.IntVar(&s.changes, "changes", 0, "end after so many changes; 0 is without limit")
	flags.Uint64Var(&s.seed, "seed", 0, "of the sequence of changes; 0 chooses one")
	flags.DurationVar(&s.probation, "probation", 250*time.Millisecond, "how long a new version is on trial")
	flags.DurationVar(&s.drain, "drain", 5*time.Second, "how long connections that are left may take")
	dir := flags.String("dir", "", "write soak.txt, soak.json and soak.svg into this `directory`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("argument %q: there are flags only, see -help", flags.Arg(0))
	}
	if s.length <= 0 || s.changes < 0 || s.every <= 0 || s.probation <= mixed.IllAfter || s.drain <= 0 {
		return fmt.Errorf("-for, -every and -drain must be above 0, -changes not negative, -probation above %v", mixed.IllAfter)
	}
	for s.seed == 0 {
		s.seed = rand.Uint64() >> 32 // short enough to be typed
	}
	var why string
	if s.on, why, err = prepare.Where(s.on); err != nil {
		return err
	}
	fmt.Fprintf(stderr, "soak: %s (%s), for %v, seed %d\n", s.manager(), why, s.length, s.seed)
	return report(ctx, s, stdout, *dir, newProgress(stderr))
}

// manager says what service manager it is.
func (s settings) manager() string {
	if s.on == prepare.OnStandIn {
		return fmt.Sprintf("the stand-in for systemd %d (package reexectest)", s.systemd)
	}
	return fmt.Sprintf("systemd %d in a container", s.systemd)
}

// report soaks and writes the report.
func report(ctx context.Context, s settings, stdout io.Writer, dir string, progress func(string)) error {
	r := &result{
		Began: time.Now().UTC().Truncate(time.Second), Kernel: prepare.Kernel(), CPUs: runtime.NumCPU(), Go: runtime.Version(),
		Systemd: s.manager(), Seed: s.seed, Every: s.every, Probation: s.probation, Drain: s.drain,
	}
	progress("build")
	soak, err := newSoak(ctx, s)
	if err != nil {
		return err
	}
	soak.run(ctx, r, progress)
	if err := soak.close(); err != nil {
		r.trouble(fmt.Errorf("clean up: %w", err))
	}
	progress("")
	r.conclude()
	if err := r.write(stdout, dir); err != nil {
		return err
	}
	if len(r.Problems) > 0 {
		return errFailed
	}
	return nil
}

// write prints the report, and writes the files if there is a directory for them.
func (r *result) write(stdout io.Writer, dir string) error {
	var text bytes.Buffer
	if err := r.print(&text); err != nil {
		return err
	}
	if _, err := stdout.Write(text.Bytes()); err != nil || dir == "" {
		return err
	}
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, content := range map[string][]byte{"soak.txt": text.Bytes(), "soak.json": append(data, '\n'), "soak.svg": r.draw()} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// newProgress returns a function that shows one line in place on a terminal. Elsewhere it writes a line in a
// while, for those who follow a long run.
func newProgress(out *os.File) func(text string) {
	if _, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS); err == nil && os.Getenv("TERM") != "dumb" {
		return func(text string) { fmt.Fprintf(out, "\r\x1b[K%s", text) }
	}
	var last time.Time
	return func(text string) {
		if text != "" && time.Since(last) > time.Minute {
			last = time.Now()
			fmt.Fprintf(out, "soak: %s\n", text)
		}
	}
}
