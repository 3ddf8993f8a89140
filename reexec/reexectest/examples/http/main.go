// SPDX-License-Identifier: Apache-2.0

// Command greeter is an HTTP service that is upgraded while it serves, and
// whose upgrade is tested: see upgrade_test.go.
package main

import (
	"context"
	"flag"
	"io"
	"log"
	"net/http"
	"time"

	"github.com/holdfast-go/holdfast/reexec"
)

func main() {
	probation := flag.Duration("probation", 5*time.Second, "how long a new version is on trial")
	flag.Parse()

	service, err := reexec.New(reexec.Options{Name: "greeter", Probation: *probation})
	if err != nil {
		log.Fatal(err)
	}
	listener, err := service.Listen("http", "tcp", "127.0.0.1:8080")
	if err != nil {
		log.Fatal(err)
	}
	service.Serve(&http.Server{Handler: http.HandlerFunc(greet)}, listener)
	if err := service.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

// greet answers with the name that it was sent.
func greet(w http.ResponseWriter, r *http.Request) {
	name, err := io.ReadAll(io.LimitReader(r.Body, 1<<10))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = io.WriteString(w, "Hello, "+string(name)+"!\n")
}
