// SPDX-License-Identifier: Apache-2.0

// Command holdfast is the toy service on package reexec: upgraded by SIGUSR2 or systemctl reload.
package main

import (
	"context"
	"flag"
	"log"
	"net/http"
	"runtime"
	"time"

	"github.com/holdfast-go/holdfast/reexec"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/heap"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/toy"
)

func main() {
	probation := flag.Duration("probation", 5*time.Second, "how long a new version is on trial")
	bytes := flag.Int64("heap", 0, "`bytes` of objects that the service has")
	state := flag.Int64("state", 0, "`bytes` of a state that outlives a crash")
	config := toy.Flags()
	if err := run(config, *probation, *bytes, *state); err != nil {
		log.Fatal(err)
	}
}

func run(config *toy.Config, probation time.Duration, bytes, state int64) error {
	service, err := reexec.New(reexec.Options{
		Name: "toy", Version: toy.Version(), Probation: probation, DrainTimeout: config.Drain,
	})
	if err != nil {
		return err
	}
	// After New, which a pre-check does not leave: it needs no state.
	objects := heap.Fill(bytes)
	defer runtime.KeepAlive(objects)
	if state > 0 {
		if err := keepState(service, state); err != nil {
			return err
		}
	}
	if config.Protocol == toy.UDP {
		conn, err := service.ListenPacket("toy", "udp", config.Address)
		if err != nil {
			return err
		}
		go toy.EchoDatagrams(conn)
		return service.Run(context.Background())
	}
	ln, err := service.Listen("toy", "tcp", config.Address)
	if err != nil {
		return err
	}
	if config.Protocol == toy.Line {
		serveLines(service, ln)
		return service.Run(context.Background())
	}
	var srv *http.Server
	if srv, err = config.Server(); err != nil {
		return err
	}
	service.Serve(srv, ln)
	return service.Run(context.Background())
}
