// SPDX-License-Identifier: Apache-2.0

// Command grace is the toy service on github.com/facebookgo/grace, as in its gracedemo: SIGUSR2 upgrades.
// It has no setting for how long what is left may take: a minute.
package main

import (
	"log"

	"github.com/facebookgo/grace/gracehttp"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/toy"
)

func main() {
	srv, err := toy.Flags().Server()
	if err == nil {
		err = gracehttp.Serve(srv)
	}
	if err != nil {
		log.Fatal(err)
	}
}
