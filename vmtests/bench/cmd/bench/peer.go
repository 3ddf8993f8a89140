// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/load"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/toy"
)

// A peer is a way to upgrade a service.
type peer struct {
	name      string
	recipe    string   // what its documentation says to do
	program   string   // of cmd/, or of a Debian package
	protocols []string // that it can be measured with
	args      []string // beside those of toy.Flags
	// listeners is how many sockets the service has; 0 stands for 1. Only Holdfast's unit can have more.
	listeners int
	// drain is how long it lets connections that are left take where that cannot be set; else 0.
	drain time.Duration
	// stays says under which workloads its old version stays for the whole drain, since clients do not go; nil
	// for none. leads is how long it leads them away.
	stays func(w workload) bool
	leads time.Duration
	start func(ctx context.Context, b *bench, p peer, protocol string) (service, error)
	// argv is how to execute it without anything around, to see how long that takes.
	argv func(b *bench, p peer, protocol, dir, address string) ([]string, error)
	// missing says why it cannot run here; nil for never.
	missing func() error
}

// A service is a running toy service, together with what upgrades it.
type service interface {
	address() string
	// install puts version 1 or 2 of the binary where the next upgrade takes it from.
	install(ctx context.Context, version int) error
	// upgrade calls begin just before it does what starts the upgrade. It returns when all that the
	// recipe asks of an operator is done.
	upgrade(ctx context.Context, begin func()) error
	// processes are those of all generations and of what keeps them, as this process knows them.
	processes() ([]int, error)
	startLoad(ctx context.Context) (*loader, error)
	// output is the end of what the service said.
	output(ctx context.Context) string
	close() error
}

var (
	everything = []string{toy.HTTP, toy.TLS, toy.Line, toy.UDP}
	overTCP    = []string{toy.HTTP, toy.TLS, toy.Line}
	onlyHTTP   = []string{toy.HTTP, toy.TLS}
)

// under names modes of clients.
func under(modes ...string) func(workload) bool {
	return func(w workload) bool { return slices.Contains(modes, w.mode) }
}

var peers = []peer{
	{
		name: "holdfast", recipe: "SIGUSR2; a unit rendered by units",
		program: "holdfast", protocols: everything, start: startHoldfast, argv: toyArgv,
	},
	{
		name: "tableflip", recipe: "SIGHUP; Shutdown (its http_example_test.go)",
		program: "tableflip", protocols: everything, stays: under(load.Line),
		start: startBySignal(unix.SIGHUP), argv: toyArgv,
	},
	{
		name: "tableflip-lameduck", recipe: "SIGHUP; closes the listener, Connection: close for 1 s, Shutdown",
		program: "tableflip", args: []string{"-lameduck=1s"}, protocols: onlyHTTP, leads: time.Second,
		start: startBySignal(unix.SIGHUP), argv: toyArgv,
	},
	{
		name: "overseer", recipe: "SIGUSR2 (its README)",
		program: "overseer", protocols: overTCP, stays: under(load.KeepAlive, load.Idle, load.HTTP2, load.Line),
		start: startBySignal(unix.SIGUSR2), argv: toyArgv,
	},
	{
		name: "grace", recipe: "SIGUSR2; gracehttp.Serve (its gracedemo); drain of a minute, not to be set",
		program: "grace", drain: time.Minute, protocols: onlyHTTP, stays: under(load.Idle),
		start: startBySignal(unix.SIGUSR2), argv: toyArgv,
	},
	{
		name: "endless", recipe: "SIGHUP; endless.NewServer (its README)",
		program: "endless", protocols: onlyHTTP, stays: under(load.Idle), start: startBySignal(unix.SIGHUP), argv: toyArgv,
	},
	{
		name: "restart", recipe: "systemctl restart; a socket unit, go-systemd, Shutdown",
		program: "restart", protocols: everything, start: startRestart, argv: toyArgv,
	},
	{
		name: "nginx", recipe: "USR2, then QUIT to the old master (Debian's init script)",
		program: "nginx", protocols: onlyHTTP, start: startNginx, argv: nginxArgv, missing: installed("nginx"),
	},
	{
		name: "haproxy", recipe: "master-worker, USR2, idle-close-on-response (its configuration manual)",
		program: "haproxy", protocols: onlyHTTP, stays: under(load.Idle), start: startHAProxy, argv: haproxyArgv, missing: installed("haproxy"),
	},
}

// holdfastPeer is ours.
func holdfastPeer() peer { return peers[0] }

func (p peer) staysUnder(w workload) bool { return p.stays != nil && p.stays(w) }

func (p peer) speaks(protocol string) bool { return slices.Contains(p.protocols, protocol) }

// installed reports where a program of a Debian package is missing.
func installed(program string) func() error {
	return func() error {
		if _, err := packaged(program); err != nil {
			return fmt.Errorf("%s is not installed: apt-get install %[1]s", program)
		}
		return nil
	}
}

// packaged finds a program that is where daemons are, and perhaps not in a user's PATH.
func packaged(program string) (string, error) {
	path := "/usr/sbin/" + program
	if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
		return path, nil
	}
	return exec.LookPath(program)
}

// toyArgs are the arguments of a toy service.
func (b *bench) toyArgs(p peer, protocol, address, cert, key string) []string {
	return append([]string{
		"-protocol=" + protocol, "-listen=" + address, "-cert=" + cert, "-key=" + key, "-drain=" + b.drain.String(),
	}, p.args...)
}

func toyArgv(b *bench, p peer, protocol, dir, address string) ([]string, error) {
	path := dir + "/toy"
	if err := install(b.file(p.program, 1), path); err != nil {
		return nil, err
	}
	return append([]string{path}, b.toyArgs(p, protocol, address, b.certFile(), b.keyFile())...), nil
}
