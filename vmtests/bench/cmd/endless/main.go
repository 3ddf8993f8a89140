// SPDX-License-Identifier: Apache-2.0

// Command endless is the toy service on github.com/fvbock/endless, as in its README: SIGHUP upgrades.
package main

import (
	"log"

	"github.com/fvbock/endless"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/toy"
)

func main() {
	config := toy.Flags()
	endless.DefaultHammerTime = config.Drain
	server := endless.NewServer(config.Address, toy.Handler())
	var err error
	if config.Protocol == toy.TLS {
		plain, configErr := config.Server()
		if configErr != nil {
			log.Fatal(configErr)
		}
		server.TLSConfig = plain.TLSConfig
		err = server.ListenAndServeTLS(config.Cert, config.Key)
	} else {
		err = server.ListenAndServe()
	}
	log.Print(err) // also after an upgrade: its listener is closed
}
