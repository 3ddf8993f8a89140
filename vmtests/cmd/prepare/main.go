// SPDX-License-Identifier: Apache-2.0

// Prepare gets a machine ready for the stories of vmtests: it installs the Debian packages that are
// missing and builds the images.
//
// Usage:
//
//	prepare [-lane all|containers|vm] [version ...]
//
// Versions are systemd's, such as 257, and choose containers; without any, all are prepared. What is
// there already costs nothing.
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
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr *os.File) int {
	flags := flag.NewFlagSet("prepare", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: prepare [-lane all|containers|vm] [version ...]")
		flags.PrintDefaults()
	}
	lane := flags.String("lane", "all", "what to prepare: all, containers, or vm, the virtual machines")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	versions := vmtests.Versions()
	if flags.NArg() > 0 {
		versions = nil
		for _, arg := range flags.Args() {
			v, err := vmtests.ParseVersion(arg)
			if err != nil {
				fmt.Fprintln(stderr, "prepare:", err)
				return 2
			}
			versions = append(versions, v)
		}
	}
	var vm bool
	switch *lane {
	case "all":
		vm = true
	case "containers":
	case "vm":
		versions, vm = nil, true
	default:
		fmt.Fprintf(stderr, "prepare: -lane=%q: must be all, containers or vm\n", *lane)
		return 2
	}
	if err := prepare(ctx, newReport(stdout, stderr), versions, vm); err != nil {
		fmt.Fprintln(stderr, "prepare:", err)
		return 1
	}
	return 0
}

// A job builds one image.
type job struct {
	name  string
	build func(context.Context, io.Writer) (*vmtests.Image, error)
}

// keepImages is how long images of former recipes stay: another checkout may still want them.
const keepImages = 30 * 24 * time.Hour

// prepare prepares containers of the given versions, and the virtual machines if vm says so.
func prepare(ctx context.Context, r *report, versions []vmtests.Version, vm bool) error {
	defer r.close()
	var jobs []job
	if len(versions) > 0 {
		if err := install(ctx, r, vmtests.RequireContainers); err != nil {
			return err
		}
	}
	for _, v := range versions {
		jobs = append(jobs, job{fmt.Sprintf("image of %v", v), func(ctx context.Context, log io.Writer) (*vmtests.Image, error) {
			return vmtests.ContainerImage(ctx, v, log)
		}}, job{fmt.Sprintf("image of %v with polkit", v), func(ctx context.Context, log io.Writer) (*vmtests.Image, error) {
			return vmtests.PolkitImage(ctx, v, log)
		}})
	}
	if vm {
		err := install(ctx, r, vmtests.RequireVMs)
		switch {
		case err == nil:
			for _, v := range vmtests.VMVersions() {
				jobs = append(jobs, job{fmt.Sprintf("image of %v for virtual machines", v), func(ctx context.Context, log io.Writer) (*vmtests.Image, error) {
					return vmtests.VMImage(ctx, v, log)
				}})
			}
		case len(versions) > 0 && errors.Is(err, errors.ErrUnsupported):
			fmt.Fprintln(r.stdout, err) // all that this machine can do is prepared
		default:
			return err
		}
	}

	// Unpacking packages keeps one core busy.
	var building sync.WaitGroup
	slots := make(chan struct{}, runtime.NumCPU())
	errs := make([]error, len(jobs))
	for i, j := range jobs {
		slots <- struct{}{}
		building.Go(func() {
			defer func() { <-slots }()
			s := r.begin(j.name)
			image, err := j.build(ctx, s)
			if err != nil {
				s.end("failed")
				errs[i] = err
				return
			}
			errs[i] = image.Close()
			if image.Built {
				s.end("built")
			} else {
				s.end("was there")
			}
		})
	}
	building.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return vmtests.PruneImages(ctx, keepImages)
}

// install installs what require misses.
func install(ctx context.Context, r *report, require func() error) error {
	err := require()
	var missing *vmtests.MissingError
	if !errors.As(err, &missing) || len(missing.Packages) == 0 {
		return err
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("%w (by hand: there is no apt-get here)", missing)
	}
	s := r.begin("install " + strings.Join(missing.Packages, " "))
	for _, args := range [][]string{
		{"update"},
		append([]string{"install", "--yes", "--no-install-recommends"}, missing.Packages...),
	} {
		if err := aptGet(ctx, s, args...); err != nil {
			s.end("failed")
			return err
		}
	}
	s.end("done")
	return require()
}

func aptGet(ctx context.Context, log io.Writer, args ...string) error {
	args = append([]string{"-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"}, args...)
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it must not leave dpkg half-way
	var said strings.Builder
	cmd.Stdout = io.MultiWriter(log, &said)
	cmd.Stderr = cmd.Stdout
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("apt-get %s: %w\n%s", args[len(args)-1], err, said.String())
	}
	return nil
}

// A report tells what is done: one line for each step when it is over, and on a terminal meanwhile one
// line that shows what goes on.
type report struct {
	stdout   io.Writer
	terminal io.Writer // nil when stderr is none
	stop     chan struct{}
	stopped  sync.WaitGroup

	mu      sync.Mutex
	running []*step
}

// A step is one thing that takes time. What is written to it shows on the terminal.
type step struct {
	report *report
	name   string
	start  time.Time
	last   string // line
}

func newReport(stdout, stderr *os.File) *report {
	r := &report{stdout: stdout, stop: make(chan struct{})}
	if !isTerminal(stderr) {
		return r
	}
	r.terminal = stderr
	r.stopped.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-r.stop:
				return
			case <-tick.C:
				r.mu.Lock()
				r.draw()
				r.mu.Unlock()
			}
		}
	})
	return r
}

func (r *report) close() {
	close(r.stop)
	r.stopped.Wait()
}

func (r *report) begin(name string) *step {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &step{report: r, name: name, start: time.Now()}
	r.running = append(r.running, s)
	r.draw()
	return s
}

func (s *step) end(how string) {
	r := s.report
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.running {
		if r.running[i] == s {
			r.running = append(r.running[:i], r.running[i+1:]...)
			break
		}
	}
	r.erase()
	fmt.Fprintf(r.stdout, "%-40s %s, %.1f s\n", s.name, how, time.Since(s.start).Seconds())
	r.draw()
}

func (s *step) Write(text []byte) (int, error) {
	s.report.mu.Lock()
	defer s.report.mu.Unlock()
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" {
			s.last = line
		}
	}
	return len(text), nil
}

// draw shows the running steps on one line of the terminal. The caller holds mu.
func (r *report) draw() {
	if r.terminal == nil {
		return
	}
	r.erase()
	var shown []string
	for _, s := range r.running {
		shown = append(shown, fmt.Sprintf("%s %.0f s", s.name, time.Since(s.start).Seconds()))
	}
	line := strings.Join(shown, ", ")
	if len(r.running) == 1 && r.running[0].last != "" {
		line += ": " + r.running[0].last
	}
	const width = 79
	if len(line) > width {
		line = line[:width]
	}
	fmt.Fprint(r.terminal, line)
}

// erase clears the line that draw wrote. The caller holds mu.
func (r *report) erase() {
	if r.terminal != nil {
		fmt.Fprint(r.terminal, "\r\x1b[K")
	}
}
