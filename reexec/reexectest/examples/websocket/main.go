// SPDX-License-Identifier: Apache-2.0

// Command counter is a WebSocket service that is upgraded while its sessions live on,
// and whose upgrade is tested: see upgrade_test.go. It answers each message with its
// number in the session, so it has a state that must not be lost.
//
// Sessions are of github.com/gorilla/websocket; wire.go has what it takes to move them.
package main

import (
	"context"
	"flag"
	"log"
	"net/http"
	"time"

	"github.com/holdfast-go/holdfast/reexec"
)

func main() {
	probation := flag.Duration("probation", 5*time.Second, "how long a new version is on trial")
	drain := flag.Duration("drain", 30*time.Second, "how long an old version may finish what it has")
	flag.Parse()

	service, err := reexec.New(reexec.Options{Name: "counter", Probation: *probation, DrainTimeout: *drain})
	if err != nil {
		log.Fatal(err)
	}
	listener, err := service.Listen("http", "tcp", "127.0.0.1:8081")
	if err != nil {
		log.Fatal(err)
	}
	sessions := newSessions(service)
	service.HandleSession(kind, sessions.resume)
	service.OnDrain("websocket", sessions.drain)
	service.Serve(&http.Server{Handler: http.HandlerFunc(sessions.accept)}, listener)
	if err := service.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
}
