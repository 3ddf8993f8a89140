// SPDX-License-Identifier: Apache-2.0

// Command tableflip is the toy service on github.com/cloudflare/tableflip, as in its http_example_test.go:
// SIGHUP upgrades, and the old process ends with Shutdown. With -lameduck it leads its clients away first.
package main

import (
	"flag"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/cloudflare/tableflip"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/toy"
)

func main() {
	lameDuck := flag.Duration("lameduck", 0, "how long to answer with Connection: close before Shutdown")
	config := toy.Flags()
	if err := run(config, *lameDuck); err != nil {
		log.Fatal(err)
	}
}

func run(config *toy.Config, lameDuck time.Duration) error {
	upgrader, err := tableflip.New(tableflip.Options{})
	if err != nil {
		return err
	}
	defer upgrader.Stop()
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		for range hangups {
			if err := upgrader.Upgrade(); err != nil {
				log.Print(err)
			}
		}
	}()

	if config.Protocol == toy.UDP {
		conn, err := upgrader.ListenPacket("udp", config.Address)
		if err != nil {
			return err
		}
		served := make(chan struct{})
		go func() {
			defer close(served)
			toy.EchoDatagrams(conn)
		}()
		if err := upgrader.Ready(); err != nil {
			return err
		}
		<-upgrader.Exit()
		// A deadline lets the answer under way go out, which closing the socket would not.
		if err := conn.SetReadDeadline(time.Now()); err != nil {
			return err
		}
		<-served
		return nil
	}

	service, err := toy.NewService(config)
	if err != nil {
		return err
	}
	ln, err := upgrader.Listen("tcp", config.Address)
	if err != nil {
		return err
	}
	go func() {
		if err := service.Serve(ln); err != nil {
			log.Print(err)
		}
	}()
	if err := upgrader.Ready(); err != nil {
		return err
	}
	<-upgrader.Exit()

	if lameDuck > 0 {
		if err := ln.Close(); err != nil {
			return err
		}
		service.Lead()
		time.Sleep(lameDuck)
	}
	return service.Shutdown()
}
