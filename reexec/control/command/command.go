// SPDX-License-Identifier: Apache-2.0

// Package command is the part of the command holdfast that talks to a running
// service: "holdfast reload", "holdfast rollback" and "holdfast status", and the one that starts it,
// "holdfast launch" with "holdfast retry". Programs that stand in for
// the command run the same code, as package reexectest does for
// ExecReload=/usr/bin/holdfast reload. It is built from the standard library
// and package control alone, for it runs at every reload inside the sandbox of
// the service.
//
// The command line, the exit codes, the JSON and the last line of a failure are
// the interface. Other texts may change.
package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// The exit codes of the command. [ExitCodesHelp] says what each means.
const (
	ExitOK           = 0
	ExitFailed       = 1
	ExitUsage        = 2
	ExitNotRunning   = 3
	ExitNoPermission = 4
	ExitNoSuchUnit   = 5
	ExitNotSuitable  = 6
	ExitDown         = 7
	ExitUnknown      = 8
)

// ExitCodesHelp ends the help of every command.
const ExitCodesHelp = `Exit codes:
  0  done: the service was upgraded, or the command did what it was asked
  1  the upgrade failed and the service is up: the last line says who serves it
  2  the command line is wrong
  3  the service is not running: nobody serves its control socket, or its unit is
     not active
  4  this user may not control the service: be root or the service's user
  5  there is no such unit
  6  the unit is not fit for upgrades, or what serves the control socket speaks
     another version of the protocol, or something else
  7  the upgrade failed and the service is down or going down
  8  unknown: the waiting ended first (--timeout, SIGINT, SIGTERM); an upgrade
     that was asked for goes on
`

// A signalError is the cause of a context that a signal ended.
type signalError struct{ signal os.Signal }

func (e signalError) Error() string { return fmt.Sprintf("stopped waiting by signal: %v", e.signal) }

// SignalContext returns the context that [Reload] and [Status] are to be run
// with in a process of their own. It ends with the first SIGINT or SIGTERM, and
// remembers which it was; the second one ends the process as usual.
func SignalContext(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		select {
		case s := <-signals:
			signal.Stop(signals)
			cancel(signalError{s})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
	}
}

// ExitCode is that of an error before an upgrade was asked for.
func ExitCode(err error) int {
	var (
		notRunning *control.NotRunningError
		permission *control.PermissionError
		version    *control.VersionError
		unknowing  *control.UnsupportedError
		protocol   *control.ProtocolError
		broken     *control.BrokenError
	)
	switch {
	case errors.As(err, &notRunning), errors.As(err, &broken):
		return ExitNotRunning
	case errors.As(err, &permission):
		return ExitNoPermission
	case errors.As(err, &version), errors.As(err, &protocol), errors.As(err, &unknowing):
		return ExitNotSuitable
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.As(err, new(signalError)), errors.As(err, new(timeoutError)):
		return ExitUnknown
	default:
		return ExitFailed
	}
}

// Flags is what the commands have in common: flags, output and errors.
type Flags struct {
	*flag.FlagSet
	help           string
	stdout, stderr io.Writer
}

// NewFlags returns the flags of the command called name. Help is printed on
// --help.
func NewFlags(name, help string, stdout, stderr io.Writer) *Flags {
	f := &Flags{flag.NewFlagSet("holdfast "+name, flag.ContinueOnError), help, stdout, stderr}
	f.SetOutput(io.Discard) // the errors are printed here
	f.FlagSet.Usage = func() {}
	return f
}

var (
	longFlagRE = regexp.MustCompile(`(flag |: |for )-([a-z][a-z-]+)`)
	flagNameRE = regexp.MustCompile(` for (?:flag )?-([a-z][a-z-]*)$`)
)

// Read parses args. Unless done is false the command has ended with code.
func (f *Flags) Read(args []string) (code int, done bool) {
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(f.stdout, f.help)
		return ExitOK, true
	case err != nil:
		// Package flag writes one dash, the help two.
		return f.Wrong("%s", longFlagRE.ReplaceAllString(f.wanted(err.Error()), "$1--$2")), true
	default:
		return 0, false
	}
}

// wanted says what a flag must be, of which package flag knows only that it is not that.
func (f *Flags) wanted(text string) string {
	before, ok := strings.CutSuffix(text, ": parse error")
	if !ok {
		return text
	}
	of := flagNameRE.FindStringSubmatch(before)
	if of == nil || f.Lookup(of[1]) == nil {
		return text
	}
	value, ok := f.Lookup(of[1]).Value.(flag.Getter)
	if !ok {
		return text
	}
	switch value.Get().(type) {
	case time.Duration:
		return before + ": must be a time with its unit, as in 10s, 500ms or 1m30s"
	case int:
		return before + ": must be a whole number"
	case float64:
		return before + ": must be a number, as in 0.05"
	case bool:
		return before + ": must be true or false"
	default:
		return text
	}
}

// ReadMixed is Read for commands whose operands may stand between flags. It returns
// the operands.
func (f *Flags) ReadMixed(args []string) (operands []string, code int, done bool) {
	for {
		if code, done := f.Read(args); done {
			return nil, code, true
		}
		if f.NArg() == 0 {
			return operands, 0, false
		}
		operands = append(operands, f.Arg(0))
		args = f.Args()[1:]
	}
}

// Say prints one message. Texts of other processes are in it: nothing reaches
// the terminal that is not printable.
func (f *Flags) Say(format string, args ...any) {
	fmt.Fprintf(f.stderr, "%s\n", printable(fmt.Sprintf(format, args...)))
}

// Wrong says what is wrong with the command line and returns [ExitUsage].
func (f *Flags) Wrong(format string, args ...any) int {
	f.Say("%s: %s", f.Name(), fmt.Sprintf(format, args...))
	f.Say("Try \"%s --help\".", f.Name())
	return ExitUsage
}
