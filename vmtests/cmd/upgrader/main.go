// SPDX-License-Identifier: Apache-2.0

// Upgrader is package upgrade as a program, for the stories of vmtests: what the
// command holdfast makes of arguments, it takes as JSON, so that a story can ask for
// all that there is.
//
//	upgrader [-user] rollout|rollback REQUEST    one line for each event
//	upgrader [-user] resume
//	upgrader [-user] status|history|freeze|thaw UNIT
//	upgrader [-user] watch UNIT                  one line whenever it has changed
//
// The last line has the answer, or the error with the name of its type.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/units/bus"
	"github.com/holdfast-go/holdfast/units/upgrade"
)

// line is one of the output.
type line struct {
	Event *upgrade.Event `json:"event,omitempty"`
	// Answer is what the call has returned.
	Answer any    `json:"answer,omitempty"`
	Error  string `json:"error,omitempty"`
	Type   string `json:"type,omitempty"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "upgrader:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("upgrader", flag.ContinueOnError)
	user := flags.Bool("user", false, "units of the user's own manager")
	dir := flags.String("directory", "", "where the journal is")
	if err := flags.Parse(args); err != nil {
		return err
	}
	lines := json.NewEncoder(out)
	if flags.Arg(0) == "watch" {
		return watch(ctx, *user, flags.Arg(1), lines)
	}
	u, err := upgrade.New(upgrade.Options{User: *user, Directory: *dir, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	defer u.Close()
	onEvent := func(e upgrade.Event) { _ = lines.Encode(line{Event: &e}) }
	answer, err := ask(ctx, u, flags.Arg(0), flags.Arg(1), onEvent)
	last := line{Answer: answer}
	if err != nil {
		last = line{Error: err.Error(), Type: kind(err)}
	}
	return lines.Encode(last)
}

// watch writes what systemd says of a unit.
func watch(ctx context.Context, user bool, unit string, lines *json.Encoder) error {
	conn, err := bus.Connect(ctx, bus.Options{User: user, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	defer conn.Close()
	// So rarely that what is seen was told by systemd.
	news, err := conn.Watch(ctx, unit, time.Hour)
	if err != nil {
		return err
	}
	for unit := range news {
		if err := lines.Encode(unit); err != nil {
			return err
		}
	}
	return nil
}

func ask(ctx context.Context, u *upgrade.Upgrader, verb, what string, onEvent func(upgrade.Event)) (any, error) {
	var request upgrade.Request
	if verb == "rollout" || verb == "rollback" {
		if err := json.Unmarshal([]byte(what), &request); err != nil {
			return nil, err
		}
	}
	switch verb {
	case "rollout":
		return u.Rollout(ctx, request, onEvent)
	case "rollback":
		return u.Rollback(ctx, request, onEvent)
	case "resume":
		return u.Resume(ctx, onEvent)
	case "status":
		return u.Status(ctx, what)
	case "history":
		return u.History(ctx, what)
	case "freeze":
		return "frozen", u.Freeze(ctx, what, "a story", "to be sure")
	case "thaw":
		return "thawed", u.Thaw(ctx, what, "a story", "")
	default:
		return nil, fmt.Errorf("verb %q: must be rollout, rollback, resume, status, history, freeze or thaw", verb)
	}
}

// kind is the type of the first error of err that has one of interest.
func kind(err error) string {
	if joined, ok := err.(interface{ Unwrap() []error }); ok && len(joined.Unwrap()) > 0 {
		return kind(joined.Unwrap()[0])
	}
	return fmt.Sprintf("%T", err)
}
