// SPDX-License-Identifier: Apache-2.0

// Command parrot is an HTTP service that is upgraded by a restart, without
// package reexec: systemd holds its socket, so connections wait while no version runs.
// Its restarts, stops and crashes are tested: see upgrade_test.go.
package main

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/activation"
	"github.com/holdfast-go/holdfast/notify"
)

func main() {
	stopped, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	sockets, err := activation.FromEnv()
	if err != nil {
		log.Fatal(err)
	}
	listener, err := sockets.Listener("http")
	if err != nil {
		log.Fatal(err)
	}
	manager, err := notify.FromEnv()
	if err != nil {
		log.Fatal(err)
	}
	if err := serve(stopped, listener, manager); err != nil {
		log.Fatal(err)
	}
}

// serve answers until stopped is done, and then what is asked on the connections
// that there are. Each client is told to go, and is not cut: http.Server.Shutdown
// would close a connection on which a request is on its way.
func serve(stopped context.Context, listener net.Listener, manager *notify.Notifier) error {
	var open sync.WaitGroup
	var leaving atomic.Bool
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if leaving.Load() {
				w.Header().Set("Connection", "close")
			}
			_, _ = io.Copy(w, io.LimitReader(r.Body, 1<<10))
		}),
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				open.Add(1)
			case http.StateClosed:
				open.Done()
			}
		},
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	if err := manager.Notify(notify.Ready()); err != nil {
		return err
	}
	select {
	case err := <-served:
		return err
	case <-stopped.Done():
	}
	_ = manager.Notify(notify.Stopping())
	leaving.Store(true)
	if err := listener.Close(); err != nil { // systemd's copy of the socket goes on
		return err
	}
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		return err
	}
	idle := time.AfterFunc(5*time.Second, func() { _ = server.Close() })
	defer idle.Stop()
	open.Wait()
	return nil
}
