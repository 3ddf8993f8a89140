// SPDX-License-Identifier: Apache-2.0

// Command echo-server is a UDP service that is upgraded while it serves, and
// whose upgrade is tested: see upgrade_test.go.
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
	flag.Parse()

	service, err := reexec.New(reexec.Options{Name: "echo", Probation: *probation})
	if err != nil {
		log.Fatal(err)
	}
	conn, err := service.ListenPacket("echo", "udp", "127.0.0.1:7777")
	if err != nil {
		log.Fatal(err)
	}
	go echo(conn)
	if err := service.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

// echo answers until this generation drains. What comes while another one reads
// is that one's. Run ends when echo has come back for the next datagram, so what
// was read is answered.
func echo(conn net.PacketConn) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			log.Printf("read: %v", err)
			continue
		}
		if _, err := conn.WriteTo(buf[:n], from); err != nil {
			log.Printf("answer %v: %v", from, err)
		}
	}
}
