// SPDX-License-Identifier: Apache-2.0

// Command health is a gRPC service that is upgraded while it serves, and whose
// upgrade is tested: see upgrade_test.go. What it serves is the health protocol
// of gRPC.
package main

import (
	"context"
	"flag"
	"log"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/holdfast-go/holdfast/reexec"
)

func main() {
	probation := flag.Duration("probation", 5*time.Second, "how long a new version is on trial")
	flag.Parse()

	service, err := reexec.New(reexec.Options{Name: "health", Probation: *probation})
	if err != nil {
		log.Fatal(err)
	}
	listener, err := service.Listen("grpc", "tcp", "127.0.0.1:50051")
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	go func() {
		if err := server.Serve(listener); err != nil {
			log.Printf("serve: %v", err)
		}
	}()
	go func() {
		// The next version is main, or the service stops: clients are told to
		// go elsewhere, and what they have asked is answered.
		<-service.Draining()
		server.GracefulStop()
	}()
	if err := service.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
}
