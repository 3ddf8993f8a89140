// SPDX-License-Identifier: Apache-2.0

// Server answers on 127.0.0.1:8080 and tells systemd when it does. It stands for a service in the tests
// of the lanes. On SIGUSR2 it closes every connection it has, answered or not: what no service should do.
package main

import (
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
)

var version = "1"

func main() {
	ln, err := net.Listen("tcp", "127.0.0.1:8080")
	if err != nil {
		log.Fatal(err)
	}
	var mu sync.Mutex
	open := make(map[net.Conn]bool)
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("X-Myapp-Pid", strconv.Itoa(os.Getpid()))
			w.Header().Set("X-Myapp-Version", version)
		}),
		ConnState: func(conn net.Conn, state http.ConnState) {
			mu.Lock()
			defer mu.Unlock()
			switch state {
			case http.StateNew:
				open[conn] = true
			case http.StateClosed, http.StateHijacked:
				delete(open, conn)
			}
		},
	}
	breakOff := make(chan os.Signal, 1)
	signal.Notify(breakOff, syscall.SIGUSR2)
	go func() {
		for range breakOff {
			mu.Lock()
			for conn := range open {
				conn.Close()
			}
			log.Printf("closed %d connections", len(open))
			mu.Unlock()
		}
	}()
	if address := os.Getenv("NOTIFY_SOCKET"); address != "" {
		conn, err := net.Dial("unixgram", address)
		if err != nil {
			log.Fatal(err)
		}
		if _, err := io.WriteString(conn, "READY=1"); err != nil {
			log.Fatal(err)
		}
	}
	log.Fatal(server.Serve(ln))
}
