// SPDX-License-Identifier: Apache-2.0

// Guest is what package vmtests runs inside its machines.
//
// Usage:
//
//	guest watch UNIT PROPERTY...
//	guest serve
//
// Watch writes the properties of a unit as one JSON object a line, at once and then whenever systemd
// signals that one has changed, until it is killed. Values are as in "systemctl show".
//
// Serve runs the commands that come through the virtio-serial port called holdfast, for virtual machines.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var err error
	switch {
	case len(args) >= 3 && args[0] == "watch":
		err = watch(ctx, args[1], args[2:], stdout)
	case len(args) == 1 && args[0] == "serve":
		err = serve()
	default:
		fmt.Fprint(stderr, "usage: guest watch UNIT PROPERTY...\n       guest serve\n")
		return 2
	}
	if err != nil && !errors.Is(err, io.EOF) {
		fmt.Fprintln(stderr, "guest:", err)
		return 1
	}
	return 0
}
