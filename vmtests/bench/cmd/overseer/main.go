// SPDX-License-Identifier: Apache-2.0

// Command overseer is the toy service on github.com/jpillora/overseer, as in its README: SIGUSR2 to the
// first process upgrades. Its listener closes what is left after -drain.
package main

import (
	"log"

	"github.com/jpillora/overseer"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/toy"
)

func main() {
	config := toy.Flags()
	overseer.Run(overseer.Config{
		Address:          config.Address,
		TerminateTimeout: config.Drain,
		Program: func(state overseer.State) {
			service, err := toy.NewService(config)
			if err != nil {
				log.Fatal(err)
			}
			if err := service.Serve(state.Listener); err != nil {
				log.Print(err)
			}
		},
	})
}
