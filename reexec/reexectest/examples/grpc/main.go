// SPDX-License-Identifier: Apache-2.0

// Command health is a gRPC service that is upgraded while it serves, and whose
// upgrade is tested: see upgrade_test.go. What it serves is the health protocol
// of gRPC, and sums, which has a stream of each kind.
package main

import (
	"context"
	"flag"
	"log"
	"time"

	"github.com/holdfast-go/holdfast/reexec"
)

func main() {
	probation := flag.Duration("probation", 5*time.Second, "how long a new version is on trial")
	drain := flag.Duration("drain", 30*time.Second, "how long an old version may finish what it has")
	flag.Parse()

	service, err := reexec.New(reexec.Options{Name: "health", Probation: *probation, DrainTimeout: *drain})
	if err != nil {
		log.Fatal(err)
	}
	listener, err := service.Listen("grpc", "tcp", "127.0.0.1:50051")
	if err != nil {
		log.Fatal(err)
	}
	server := newServer(listener)
	service.OnDrain("grpc", server.drain)
	go func() {
		if err := server.serve(); err != nil {
			log.Fatal(err)
		}
	}()
	if err := service.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
}
