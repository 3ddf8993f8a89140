// SPDX-License-Identifier: Apache-2.0

// Command restart is the toy service on go-systemd: a socket unit holds its socket, and systemctl restart
// upgrades it. Without systemd it binds the socket itself.
package main

import (
	"context"
	"errors"
	"log"
	"net"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/toy"
)

func main() {
	if err := run(toy.Flags()); err != nil {
		log.Fatal(err)
	}
}

func run(config *toy.Config) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if config.Protocol == toy.UDP {
		return runDatagrams(ctx, config)
	}
	service, err := toy.NewService(config)
	if err != nil {
		return err
	}
	ln, err := listen(config)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- service.Serve(ln) }()
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	_, err = daemon.SdNotify(false, daemon.SdNotifyStopping)
	if config.Protocol == toy.Line {
		err = errors.Join(err, ln.Close())
	}
	return errors.Join(err, service.Shutdown())
}

func listen(config *toy.Config) (net.Listener, error) {
	listeners, err := activation.Listeners()
	if err != nil || len(listeners) == 0 {
		return net.Listen("tcp", config.Address)
	}
	if listeners[0] == nil {
		return nil, errors.New("what systemd passed is no listener")
	}
	return listeners[0], nil
}

func runDatagrams(ctx context.Context, config *toy.Config) error {
	conns, err := activation.PacketConns()
	if err != nil {
		return err
	}
	var conn net.PacketConn
	if len(conns) > 0 && conns[0] != nil {
		conn = conns[0]
	} else if conn, err = net.ListenPacket("udp", config.Address); err != nil {
		return err
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		toy.EchoDatagrams(conn)
	}()
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return err
	}
	<-ctx.Done()
	// A deadline lets the answer under way go out.
	if err := conn.SetReadDeadline(time.Now()); err != nil {
		return err
	}
	<-served
	return nil
}
