// SPDX-License-Identifier: Apache-2.0

// Plain is myapp before it adopted Holdfast: it serves on the socket that systemd passes, else on one of its
// own, and ends on SIGTERM when it has answered.
package main

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

// version is set by the linker.
var version = "0"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ln, err := listen()
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Myapp-Version", version)
		w.Header().Set("X-Myapp-Pid", strconv.Itoa(os.Getpid()))
		_, _ = io.Copy(w, r.Body) // an error here is the client's
	})}
	if err := ready(); err != nil {
		log.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ln) }()
	select {
	case err := <-ended:
		log.Fatal(err)
	case <-ctx.Done():
	}
	if err := server.Shutdown(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func listen() (net.Listener, error) {
	const firstPassed = 3 // SD_LISTEN_FDS_START
	if os.Getenv("LISTEN_FDS") == "" {
		return net.Listen("tcp", "127.0.0.1:8080")
	}
	return net.FileListener(os.NewFile(firstPassed, "listen"))
}

// ready tells systemd, where the unit wants that.
func ready() error {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return nil
	}
	conn, err := net.Dial("unixgram", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte("READY=1"))
	return err
}
