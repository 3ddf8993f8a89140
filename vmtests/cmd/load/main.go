// SPDX-License-Identifier: Apache-2.0

// Load makes requests to a server on this machine and counts every one, answered or lost.
//
// Usage:
//
//	load [flags] http://127.0.0.1:PORT/PATH
//
// It goes on for -duration; without that, until its standard input ends. SIGTERM, SIGINT and the command
// "stop" on standard input end it too. Another command is "mark NAME". Standard output gets JSON lines:
// the progress ten times a second, each mark, and at last the summary with the failures in detail.
// Exit status: 0 whatever the requests came to, 1 when the load could not be made, 2 for wrong usage.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/internal/load"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var options load.Options
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: load [flags] http://127.0.0.1:PORT/PATH")
		flags.PrintDefaults()
	}
	flags.IntVar(&options.New, "new", 0, "`workers` that open a connection for each request")
	flags.IntVar(&options.KeepAlive, "keepalive", 0, "`workers` that post over one connection, strictly")
	flags.IntVar(&options.Transport, "transport", 0, "`workers` that post over one connection as net/http does")
	flags.IntVar(&options.Connect, "connect", 0, "`workers` that only connect")
	flags.DurationVar(&options.Think, "think", 0, "pause of each worker after a request")
	flags.DurationVar(&options.Timeout, "timeout", 10*time.Second, "after which a request has failed")
	flags.IntVar(&options.BodySize, "body", 512, "`bytes` of each post")
	flags.BoolVar(&options.Redial, "redial", false, "let -keepalive workers whose connection was closed meanwhile open another")
	flags.BoolVar(&options.Results, "results", false, "write every result, not only failures")
	duration := flags.Duration("duration", 0, "how long; 0 means until standard input ends")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if flags.NArg() != 1 {
		flags.Usage()
		return 2
	}
	options.URL = flags.Arg(0)
	generator, err := load.New(options)
	if err != nil {
		fmt.Fprintln(stderr, "load:", err)
		return 2
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if *duration > 0 {
		timer := time.AfterFunc(*duration, cancel)
		defer timer.Stop()
	} else {
		stdin = &untilEnd{stdin, cancel}
	}
	if err := load.Stream(ctx, generator, stdin, stdout); err != nil {
		fmt.Fprintln(stderr, "load:", err)
		return 1
	}
	return 0
}

// An untilEnd calls ended when its reader ends.
type untilEnd struct {
	io.Reader
	ended func()
}

func (u *untilEnd) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if err != nil {
		u.ended()
	}
	return n, err
}
