// SPDX-License-Identifier: Apache-2.0

// Puppet is a service that does what it is told: send a notify message, keep a descriptor, fork, end. Package
// vmtests/agreement runs it under real systemd and under the stand-in and compares what becomes of it.
//
// Usage:
//
//	puppet ROLE HUB [ARGUMENT...]
//
// It dials HUB, says what it found when it started, and obeys; package vmtests/agreement/hub has the words.
// When the hub hangs up, it exits.
package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests/agreement/hub"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: puppet ROLE HUB [ARGUMENT...]")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "puppet:", err)
		os.Exit(3)
	}
}

// A puppet is this process.
type puppet struct {
	hub     string
	conn    net.Conn
	mu      sync.Mutex // of out
	out     *json.Encoder
	signals chan os.Signal

	trapMu sync.Mutex
	traps  map[syscall.Signal]hub.Command

	children sync.WaitGroup   // that are to be reaped
	kept     map[string][]int // descriptors by label: the one to pass first, then what keeps it alive
	sockets  []passed
	notifier int // socket to the manager, -1 before the first message
}

func run(role, address string) error {
	// A core file would be left in the working directory.
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	hello, sockets, err := look(role)
	if err != nil {
		return err
	}
	conn, err := net.Dial("unix", address)
	if err != nil {
		return err
	}
	p := &puppet{
		hub: address, conn: conn, out: json.NewEncoder(conn), signals: make(chan os.Signal, 16),
		traps: make(map[syscall.Signal]hub.Command), kept: make(map[string][]int), sockets: sockets, notifier: -1,
	}
	go p.report()
	p.say(hub.Report{Hello: hello})
	in := json.NewDecoder(conn)
	for {
		var c hub.Command
		if err := in.Decode(&c); err != nil {
			return nil // the hub is gone
		}
		r, err := p.do(c)
		r.Answer = c.ID
		if err != nil {
			r.Error = err.Error()
		}
		p.say(r)
	}
}

func (p *puppet) say(r hub.Report) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.out.Encode(r); err != nil {
		os.Exit(0) // the hub is gone
	}
}

// report tells the hub of each signal that is trapped.
func (p *puppet) report() {
	for s := range p.signals {
		sig, ok := s.(syscall.Signal)
		if !ok {
			continue
		}
		p.say(hub.Report{Signal: int(sig)})
		p.trapMu.Lock()
		c := p.traps[sig]
		p.trapMu.Unlock()
		if c.Then == hub.ThenExit {
			p.waitChildren()
			os.Exit(c.Code)
		}
	}
}

// waitChildren waits a moment for children that got the same signal. Otherwise it would be left to chance whether
// this process or the manager reaps them.
func (p *puppet) waitChildren() {
	reaped := make(chan struct{})
	go func() {
		p.children.Wait()
		close(reaped)
	}()
	select {
	case <-reaped:
	case <-time.After(200 * time.Millisecond):
	}
}

func (p *puppet) do(c hub.Command) (hub.Report, error) {
	switch c.Do {
	case hub.Notify:
		return hub.Report{}, p.notify(c)
	case hub.Make:
		return p.make(c.Label, c.Kind)
	case hub.Adopt:
		file, err := describe(c.Number)
		p.kept[c.Label] = []int{c.Number}
		return hub.Report{Made: &file}, err
	case hub.Close:
		return hub.Report{}, p.close(c.Label, 0)
	case hub.HangUp:
		return hub.Report{}, p.close(c.Label, 1)
	case hub.Fork:
		pid, err := p.fork(c.Kind)
		return hub.Report{PID: pid}, err
	case hub.Trap:
		p.trap(c)
		return hub.Report{}, nil
	case hub.Serve:
		p.serve()
		return hub.Report{}, nil
	case hub.WriteFile:
		return hub.Report{}, writeFile(c.Path, c.Text)
	case hub.Exit:
		os.Exit(c.Code)
	case hub.Die:
		die(syscall.Signal(c.Signal))
	}
	return hub.Report{}, fmt.Errorf("verb %q is not known", c.Do)
}

func (p *puppet) trap(c hub.Command) {
	sig := syscall.Signal(c.Signal)
	p.trapMu.Lock()
	defer p.trapMu.Unlock()
	p.traps[sig] = c
	switch c.Then {
	case hub.ThenDefault:
		signal.Reset(sig)
	case hub.ThenIgnore:
		signal.Ignore(sig)
	default:
		signal.Notify(p.signals, sig)
	}
}
