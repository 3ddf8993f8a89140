// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/control/command/term"
)

const waitHelp = `Wait until a service runs and no upgrade of it is under way; with --version, until
that version does.

  holdfast wait myapp
  holdfast wait --version=2.1.0 --timeout=5m myapp

Usage: holdfast wait [OPTIONS] [UNIT]

` + targetHelpText + `
A service that is not running is waited for, too.

Options:
      --version=VERSION  the version to wait for
      --socket=PATH      the control socket
      --user             UNIT is one of your own service manager
      --timeout=TIME     how long to wait (2m); 0 is without end
  -q, --quiet            print errors only
      --json=MODE        print the status as JSON: short, pretty or off
  -h, --help             show this help

` + ExitCodesHelp

const (
	defaultWaitTimeout = 2 * time.Minute
	// waitInterval is how often a service is asked: it is not told of, but a
	// question costs it little.
	waitInterval = 100 * time.Millisecond
	// askTimeout bounds one question to a service that accepts connections but
	// does not answer.
	askTimeout = 2 * time.Second
)

// Wait is "holdfast wait": it returns once a service runs and no upgrade is under
// way. Args, environment and ctx are as for [Reload].
func Wait(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c := NewFlags("wait", waitHelp, stdout, stderr)
	var (
		q     question
		quiet bool
	)
	version := c.String("version", "", "")
	c.BoolVar(&quiet, "quiet", false, "")
	c.BoolVar(&quiet, "q", false, "")
	if code, done := q.read(c, defaultWaitTimeout, args); done {
		return code
	}
	ctx, cancel := WithTimeout(ctx, q.timeout)
	defer cancel()
	watch := &watcher{Flags: c, client: control.NewClient(q.socket), version: *version}
	watch.show = !quiet && !q.asJSON.On() && term.Of(stderr).Width > 0
	st, err := watch.until(ctx)
	name := q.displayName(q.operands, q.socket, st.Name)
	if err != nil {
		c.Say("%s: %v", c.Name(), err)
		if watch.seen {
			c.Say("%s is %s, served by %s.", name, st.State, describe(processOf(st)))
		}
		return ExitCode(err)
	}
	switch {
	case q.asJSON.On():
		if err := q.asJSON.Write(stdout, st); err != nil {
			c.Say("%s: write the status: %v", c.Name(), err)
			return ExitFailed
		}
	case !quiet:
		fmt.Fprintln(stdout, term.Line(fmt.Sprintf("%s is served by %s.", name, describe(processOf(st)))))
	}
	return ExitOK
}

// watcher asks a service until it is as it should be.
type watcher struct {
	*Flags
	client  *control.Client
	version string // or empty
	show    bool
	seen    bool // an answer
	last    string
}

// until returns the status that was waited for, or with an error the last one.
func (w *watcher) until(ctx context.Context) (last control.Status, err error) {
	tick := time.NewTicker(waitInterval)
	defer tick.Stop()
	for {
		st, err := w.ask(ctx)
		var (
			notRunning *control.NotRunningError
			broken     *control.BrokenError
		)
		switch {
		case ctx.Err() != nil:
			return last, context.Cause(ctx)
		case err == nil:
			last, w.seen = st, true
			if st.State == "running" && st.Successor == nil && (w.version == "" || st.Version == w.version) {
				return st, nil
			}
			w.tell(fmt.Sprintf("%s: %s", st.State, describe(processOf(st))))
		case errors.As(err, &notRunning), errors.As(err, &broken), errors.Is(err, context.DeadlineExceeded):
			w.tell("nobody answers")
		default:
			// It will not become another one by waiting.
			return last, err
		}
		select {
		case <-ctx.Done():
			return last, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

func (w *watcher) ask(ctx context.Context) (control.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return w.client.Status(ctx)
}

// tell shows what is news to somebody who watches.
func (w *watcher) tell(text string) {
	if text != w.last && w.show {
		w.Say("%s", term.Line(text))
	}
	w.last = text
}
