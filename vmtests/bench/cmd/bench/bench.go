// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/prepare"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/toy"
)

// A bench is what all measurements share.
type bench struct {
	settings

	dir    string // what is made, and removed at the end
	ca     []byte
	proxy  *http.Server // behind the proxies; nil until one asks
	behind string       // its address
}

// settings are what the flags say.
type settings struct {
	on       string // where services that need systemd run
	systemd  int
	upgrades int

	peerUpgrades, costUpgrades, crashRounds int

	steady    time.Duration
	clients   int
	idle      int
	think     time.Duration
	drain     time.Duration
	probation time.Duration
}

// newBench makes what measurements need. The caller closes it.
func newBench(ctx context.Context, s settings, chosen []peer) (_ *bench, err error) {
	b := &bench{settings: s}
	if b.dir, err = os.MkdirTemp("", "holdfast-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	// For the users that services run as.
	if err := os.Chmod(b.dir, 0o755); err != nil {
		return nil, err
	}
	if err := b.makeKeys(); err != nil {
		return nil, err
	}
	return b, b.build(ctx, chosen)
}

func (b *bench) close() error {
	var err error
	if b.proxy != nil {
		err = b.proxy.Close()
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

// file is the path of a program.
func (b *bench) file(program string, version int) string {
	return filepath.Join(b.dir, strconv.Itoa(version), program)
}

// holdfastCommand is the path of the command, not of the toy service of that name.
func (b *bench) holdfastCommand() string { return filepath.Join(b.dir, "command", "holdfast") }

func (b *bench) certFile() string    { return filepath.Join(b.dir, "cert.pem") }
func (b *bench) keyFile() string     { return filepath.Join(b.dir, "key.pem") }
func (b *bench) bothFile() string    { return filepath.Join(b.dir, "both.pem") }
func (b *bench) ticketFile() string  { return filepath.Join(b.dir, "ticket.key") }
func (b *bench) ticketsFile() string { return filepath.Join(b.dir, "tickets.keys") }

// build compiles what runs: every toy service as version 1 and, with a mark at its end, as version 2.
func (b *bench) build(ctx context.Context, chosen []peer) error {
	packages := []string{"./cmd/keep", "./cmd/load", "./cmd/empty"}
	var services []string
	for _, p := range chosen {
		if p.missing == nil && !slices.Contains(services, p.program) {
			services = append(services, p.program)
			packages = append(packages, "./cmd/"+p.program)
		}
	}
	if err := b.compile(ctx, "1", packages...); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(b.dir, "2"), 0o755); err != nil {
		return err
	}
	for _, program := range services {
		binary, err := os.ReadFile(b.file(program, 1))
		if err != nil {
			return err
		}
		if err := os.WriteFile(b.file(program, 2), append(binary, toy.Mark(2)...), 0o755); err != nil {
			return err
		}
	}
	if b.on == prepare.InContainer {
		return b.compile(ctx, "command", "github.com/holdfast-go/holdfast/units/cmd/holdfast")
	}
	return nil
}

// compile builds packages into the directory name.
func (b *bench) compile(ctx context.Context, name string, packages ...string) error {
	return prepare.Compile(ctx, filepath.Join(b.dir, name), packages...)
}

// makeKeys makes a certificate for localhost, which only this run trusts, and keys of session tickets.
func (b *bench) makeKeys() error {
	cert, key, err := prepare.Certificate()
	if err != nil {
		return err
	}
	b.ca = cert
	var tickets strings.Builder
	ticket := make([]byte, 80)
	for range 3 {
		_, _ = rand.Read(ticket) // never fails
		fmt.Fprintln(&tickets, base64.StdEncoding.EncodeToString(ticket))
	}
	for file, content := range map[string][]byte{
		b.certFile(): cert, b.keyFile(): key, b.bothFile(): slices.Concat(cert, key),
		b.ticketFile(): ticket, b.ticketsFile(): []byte(tickets.String()),
	} {
		// Users that services run as must read them, and they are worth nothing.
		if err := os.WriteFile(file, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// backend returns the address of the toy handler behind the proxies. It stays the same through all upgrades.
func (b *bench) backend() (string, error) {
	if b.proxy == nil {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		b.proxy, b.behind = &http.Server{Handler: toy.Handler()}, ln.Addr().String()
		go func() { _ = b.proxy.Serve(ln) }() // until close
	}
	return b.behind, nil
}
