// SPDX-License-Identifier: Apache-2.0

// Package mixed is the service of the soak. It serves all kinds of sockets and connections at once, so that
// one upgrade has to carry all of them across.
package mixed

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/reexec"
	"github.com/holdfast-go/holdfast/vmtests/internal/mark"
)

// Name is that of the service.
const Name = "mixed"

// A Socket is one that the service asks for by name.
type Socket struct{ Name, Network, Address string }

// The sockets. Without a service manager they are bound to these addresses.
var (
	HTTP      = Socket{"http", "tcp", "127.0.0.1:8080"}
	HTTPS     = Socket{"https", "tcp", "127.0.0.1:8443"} // HTTP/1.1 and HTTP/2
	Lines     = Socket{"lines", "tcp", "127.0.0.1:8081"}
	UDP       = Socket{"udp", "udp", "127.0.0.1:8082"}
	UnixHTTP  = Socket{"unix", "unix", "/run/mixed-sockets/http"}
	Datagrams = Socket{"datagrams", "unixgram", "/run/mixed-sockets/datagrams"}
	Packets   = Socket{"packets", "unixpacket", "/run/mixed-sockets/packets"}
)

// A Config is what the flags say.
type Config struct {
	Cert, Key        string // files
	Probation, Drain time.Duration
	Beat             time.Duration
}

// What is wrong with a version, in its mark.
const (
	Sound      = ""
	BadCheck   = "check"  // the pre-check fails
	BadStart   = "start"  // it ends before it is ready
	FallingIll = "health" // it is not healthy any more soon after it was ready
)

// IllAfter is how long a version with [FallingIll] is healthy: until it is on trial, where the probation is
// longer.
const IllAfter = 100 * time.Millisecond

// Run serves until the service is told to stop or the next version has taken over.
func Run(c Config) error {
	version, fault := mark.Mine()
	var healthy sync.Once
	var since time.Time
	svc, err := reexec.New(reexec.Options{
		Name: Name, Version: fmt.Sprint(version), Probation: c.Probation, Beat: c.Beat, DrainTimeout: c.Drain,
		Check: func(context.Context) error {
			if fault == BadCheck {
				return errors.New("this version was made to fail its check")
			}
			_, err := tls.LoadX509KeyPair(c.Cert, c.Key)
			return err
		},
		Health: func(context.Context) error {
			healthy.Do(func() { since = time.Now() })
			if fault == FallingIll && time.Since(since) > IllAfter {
				return errors.New("this version was made to fall ill")
			}
			return nil
		},
	})
	if err != nil {
		return err
	}
	if fault == BadStart {
		return errors.New("this version was made to fail when it starts")
	}
	if err := serve(svc, c); err != nil {
		return err
	}
	return svc.Run(context.Background())
}

// serve registers a server for each socket.
func serve(svc *reexec.Service, c Config) error {
	pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return fmt.Errorf("load certificate: %w", err)
	}
	for _, s := range []Socket{HTTP, UnixHTTP, HTTPS} {
		ln, err := svc.Listen(s.Name, s.Network, s.Address)
		if err != nil {
			return err
		}
		srv := &http.Server{Handler: Handler(svc.Generation())}
		if s == HTTPS {
			srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}}
		}
		svc.Serve(srv, ln)
	}
	for _, s := range []Socket{Lines, Packets} {
		ln, err := svc.Listen(s.Name, s.Network, s.Address)
		if err != nil {
			return err
		}
		go newSessions(svc, s.Name).serve(ln) // ends when Run closes the listener
	}
	for _, s := range []Socket{UDP, Datagrams} {
		conn, err := svc.ListenPacket(s.Name, s.Network, s.Address)
		if err != nil {
			return err
		}
		go echoDatagrams(conn) // ends when Run ends the reading
	}
	return nil
}
