// SPDX-License-Identifier: Apache-2.0

// Command tally is a service of lines on bare TCP connections, which are open for
// long and have a state. It moves them to its next version as they are, see
// session.go, and its upgrade is tested: see upgrade_test.go.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"net"
	"time"

	"github.com/holdfast-go/holdfast/reexec"
)

func main() {
	probation := flag.Duration("probation", 5*time.Second, "how long a new version is on trial")
	drain := flag.Duration("drain", 30*time.Second, "how long an old version may finish what it has")
	flag.Parse()

	service, err := reexec.New(reexec.Options{Name: "tally", Probation: *probation, DrainTimeout: *drain})
	if err != nil {
		log.Fatal(err)
	}
	listener, err := service.Listen("tally", "tcp", "127.0.0.1:7070")
	if err != nil {
		log.Fatal(err)
	}
	sessions := newSessions(service)
	service.HandleSession(kind, sessions.resume)
	service.OnDrain("sessions", sessions.drain)
	go accept(listener, sessions)
	if err := service.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

// accept ends when Run closes the listener.
func accept(listener net.Listener, sessions *sessions) {
	for {
		conn, err := listener.Accept()
		switch {
		case err == nil:
			go sessions.serve(&session{conn: conn})
		case errors.Is(err, net.ErrClosed):
			return
		default: // such as too many open files, which passes
			log.Print(err)
			time.Sleep(50 * time.Millisecond)
		}
	}
}
