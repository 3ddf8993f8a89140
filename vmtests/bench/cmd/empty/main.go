// SPDX-License-Identifier: Apache-2.0

// Command empty is an HTTP server on the one socket of its unit, and nothing else: what a service costs that
// does nothing for its own survival.
package main

import (
	"log"
	"net"
	"net/http"
	"os"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/toy"
)

func main() {
	const firstPassed = 3 // sd_listen_fds(3)
	ln, err := net.FileListener(os.NewFile(firstPassed, "socket"))
	if err != nil {
		log.Fatalf("listen on descriptor %d: %v: start it by its socket unit", firstPassed, err)
	}
	log.Fatal(http.Serve(ln, toy.Handler()))
}
