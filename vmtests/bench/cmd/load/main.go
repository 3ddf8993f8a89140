// SPDX-License-Identifier: Apache-2.0

// Command load is the load generator of the benchmark. It runs where the service does, in a container
// perhaps, and speaks JSON with the runner; see package load.
package main

import (
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/load"
)

func main() {
	// ^C on a terminal is for the runner, who wants to know what was counted. This process ends with its input.
	signal.Ignore(syscall.SIGINT)
	if err := load.Serve(os.Stdin, os.Stdout); err != nil {
		log.Fatal(err)
	}
}
