// SPDX-License-Identifier: Apache-2.0

// Package toy is the service that every peer of the benchmark runs: an echo that says which version and
// which process answered. A peer's program adds nothing but how it is upgraded.
package toy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// version is read once.
var version = readVersion()

// Version is that of this binary: 1, or that of a [Mark].
func Version() string { return version }

const (
	markPrefix = "\ntoy-version="
	markLength = len(markPrefix) + 4
)

// Mark returns what at the end of a binary makes it another version. To link each version would take the
// longer part of a short run.
func Mark(version int) []byte { return fmt.Appendf(nil, "%s%04d", markPrefix, version) }

func readVersion() string {
	const first = "1"
	binary, err := os.Open("/proc/self/exe")
	if err != nil {
		return first
	}
	defer binary.Close()
	mark := make([]byte, markLength)
	if _, err := binary.Seek(-int64(markLength), io.SeekEnd); err != nil {
		return first
	}
	if _, err := io.ReadFull(binary, mark); err != nil {
		return first
	}
	number, ok := strings.CutPrefix(string(mark), markPrefix)
	if !ok {
		return first
	}
	return strings.TrimLeft(number, "0")
}

// Headers by which an answer says who gave it.
const (
	HeaderVersion = "X-Toy-Version"
	HeaderPID     = "X-Toy-Pid"
)

// Protocols that a toy service speaks, one in a process.
const (
	HTTP = "http"
	TLS  = "tls"  // HTTP/1.1 and HTTP/2
	Line = "line" // sessions of lines over TCP
	UDP  = "udp"
)

// A Config is what the flags of every toy service say.
type Config struct {
	Protocol  string
	Address   string
	Cert, Key string        // files, for TLS
	Drain     time.Duration // how long what is left may take
}

// Flags defines the flags and parses them.
func Flags() *Config {
	c := new(Config)
	flag.StringVar(&c.Protocol, "protocol", HTTP, "`name`: http, tls, line or udp")
	flag.StringVar(&c.Address, "listen", "127.0.0.1:8080", "`address` to serve")
	flag.StringVar(&c.Cert, "cert", "", "certificate `file` for tls")
	flag.StringVar(&c.Key, "key", "", "key `file` for tls")
	flag.DurationVar(&c.Drain, "drain", 30*time.Second, "how long connections that are left may take")
	flag.Parse()
	return c
}

// Network is that of Address.
func (c *Config) Network() string {
	if c.Protocol == UDP {
		return "udp"
	}
	return "tcp"
}

// Handler echoes the body of a request.
func Handler() http.Handler {
	pid := strconv.Itoa(os.Getpid())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set(HeaderVersion, version)
		w.Header().Set(HeaderPID, pid)
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(body) // the client is gone
	})
}

// Server returns an HTTP server for Protocol HTTP or TLS.
func (c *Config) Server() (*http.Server, error) {
	srv := &http.Server{Addr: c.Address, Handler: Handler()}
	if c.Protocol == HTTP {
		return srv, nil
	}
	pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}}
	return srv, nil
}

// A Service serves one protocol for programs that have to accept and drain themselves.
type Service struct {
	config  *Config
	http    *http.Server
	leading atomic.Bool
	lines   sync.WaitGroup
	ended   chan error
}

// NewService prepares to serve.
func NewService(c *Config) (*Service, error) {
	s := &Service{config: c, ended: make(chan error, 1)}
	if c.Protocol == HTTP || c.Protocol == TLS {
		srv, err := c.Server()
		if err != nil {
			return nil, err
		}
		next := srv.Handler
		srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if s.leading.Load() {
				w.Header().Set("Connection", "close")
			}
			next.ServeHTTP(w, r)
		})
		s.http = srv
	}
	return s, nil
}

// Serve serves on ln until it is closed.
func (s *Service) Serve(ln net.Listener) error {
	var err error
	switch {
	case s.http == nil:
		err = s.serveLines(ln)
	case s.http.TLSConfig != nil:
		err = s.http.ServeTLS(ln, "", "")
	default:
		err = s.http.Serve(ln)
	}
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (s *Service) serveLines(ln net.Listener) error {
	defer ln.Close() // as net/http does; for some peers it waits for connections
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		s.lines.Go(func() { EchoLines(conn) })
	}
}

// Lead has every answer lead its client away with "Connection: close", and closes nothing.
func (s *Service) Lead() { s.leading.Store(true) }

// Shutdown lets what is left end, no longer than Config.Drain. The listener must be closed or be the server's.
func (s *Service) Shutdown() error {
	ctx, cancel := context.WithTimeout(context.Background(), s.config.Drain)
	defer cancel()
	if s.http != nil {
		return s.http.Shutdown(ctx)
	}
	done := make(chan struct{})
	go func() {
		s.lines.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// EchoLines answers every line with the version, the PID and the line, until the client ends the session.
func EchoLines(conn net.Conn) {
	defer conn.Close()
	_, _ = AnswerLines(conn, bufio.NewReader(conn)) // either end may end it
}

// AnswerLines answers lines until there is an error, and returns what was read of a line without its end.
func AnswerLines(to io.Writer, from *bufio.Reader) (begun []byte, err error) {
	for {
		line, err := from.ReadString('\n')
		if err != nil {
			return []byte(line), err
		}
		if _, err := fmt.Fprintf(to, "%s %d %s", version, os.Getpid(), line); err != nil {
			return nil, err
		}
	}
}

// EchoDatagrams answers every datagram as EchoLines answers a line, until conn is closed.
func EchoDatagrams(conn net.PacketConn) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil {
			log.Printf("read: %v", err)
			continue
		}
		answer := fmt.Appendf(nil, "%s %d %s", version, os.Getpid(), buf[:n])
		if _, err := conn.WriteTo(answer, from); err != nil {
			log.Printf("answer %v: %v", from, err)
		}
	}
}
