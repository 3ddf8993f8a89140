// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/activation"
	"github.com/holdfast-go/holdfast/notify"
	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/fingerprint"
	"github.com/holdfast-go/holdfast/reexec/internal/handover"
	"github.com/holdfast-go/holdfast/reexec/internal/machine"
	"github.com/holdfast-go/holdfast/reexec/internal/observe"
)

// Service is one generation of a service: this process. Make one with [New]
// early in main, claim listeners, register servers, then call Run.
type Service struct {
	opts     Options
	log      *slog.Logger
	notifier *notify.Notifier

	fingerprint fingerprint.Fingerprint // of this build

	began       time.Time // when New was called
	instance    string
	generation  int
	predecessor *predecessor // nil if no other process started this one
	renewed     *renewal     // nil if this program was not executed in place

	inv     *inventory
	store   *fdStore // nil without a manager
	states  *states
	drain   *drain
	workers []*worker
	// reloaders do not change once Run is called.
	reloaders []namedReloader
	tickets   *ticketKeys
	history   *history
	// lastGood is nil unless the launcher has started the service.
	lastGood *lastGood

	events   chan event
	upgrades chan os.Signal // SIGUSR2
	hangups  chan os.Signal // SIGHUP, once there is something to reload
	stops    chan os.Signal // SIGTERM and SIGINT, which no flood of others may displace
	done     chan struct{}  // closed when Run returns
	main     chan struct{}  // closed when this generation is main and has what its predecessor left

	turned  atomic.Int64                 // when Run's loop has turned last: nanoseconds since began
	metrics atomic.Pointer[http.Handler] // of SetMetrics
	asking  askedHealth
	// observers does not change once Run was called.
	observers []observe.Observer

	lease    atomic.Bool               // this generation writes what outlives it
	follower atomic.Pointer[successor] // of the upgrade under way: hears what changes

	controlListener *net.UnixListener // nil without a runtime directory

	run runner // used by Run's goroutine only

	mu        sync.Mutex // what others may ask for
	state     machine.State
	since     time.Time
	child     *control.Process
	elders    []*elder
	last      *control.Verdict
	adopting  bool
	adopted   int // connections that came from other generations
	lastDrain *control.Drain
	previous  *control.Program
	reloaded  control.Reloads
	watchers  map[*watcher]bool
	running   bool
}

var (
	created sync.Mutex
	exists  bool
)

// ErrTwice is returned by a second New: a process is one generation.
var ErrTwice = errors.New("reexec: New was called before in this process")

// New finds out how this process was started: by systemd, by a predecessor,
// by hand, or as a pre-check. As a pre-check it runs Options.Check and does
// not return: the process exits. Call it after the configuration was read and
// before anything that others can see is done.
//
// In a successor it receives what the predecessor hands over, which takes as
// long as StartTimeout at most, the predecessor's or Options'. It installs the handler for
// SIGUSR2, since a signal may come before Run is called.
func New(opts Options) (_ *Service, err error) {
	if opts, err = opts.withDefaults(); err != nil {
		return nil, err
	}
	build, err := opts.build()
	if err != nil {
		return nil, err
	}
	switch w, ok, err := inCheckMode(opts); {
	case err != nil:
		return nil, err
	case ok:
		os.Exit(runCheck(w, opts, build))
	}
	created.Lock()
	defer created.Unlock()
	if exists {
		return nil, ErrTwice
	}

	s := &Service{
		opts: opts, log: opts.Logger, fingerprint: build, began: time.Now(), generation: 1,
		events:   make(chan event, 64),
		upgrades: make(chan os.Signal, 1),
		hangups:  make(chan os.Signal, 1),
		stops:    make(chan os.Signal, 4),
		done:     make(chan struct{}),
		main:     make(chan struct{}),

		watchers: map[*watcher]bool{},
	}
	s.since = s.began
	s.run.farewell = func() bool { return false }
	s.run.thaw = func() {}
	s.run.adding = make(chan struct{}, 1)
	s.lastGood = openLastGood(opts.Version, argv[0], opts.Logger)
	signal.Notify(s.upgrades, syscall.SIGUSR2)
	pred, got, err := join(s.hello(), opts.StartTimeout)
	if err != nil {
		return nil, err
	}
	if pred == nil {
		if s.renewed, got, err = renew(opts.Name); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil && pred != nil {
			pred.leave(err)
		}
	}()
	if s.notifier, err = notify.FromEnv(); err != nil {
		return nil, fmt.Errorf("reexec: %w", err)
	}
	if s.store = newFDStore(s.notifier); s.store != nil {
		s.store.heard = s.untilAdopted
		s.store.changed = s.storeChanged
	}
	var hello handover.Hello
	switch {
	case pred != nil:
		s.predecessor, s.state, hello = pred, machine.Joining, pred.hello
	case s.renewed != nil:
		s.state, hello = machine.Renewed, s.renewed.Hello
	default:
		if got.set, err = activation.FromEnv(); err != nil {
			return nil, fmt.Errorf("reexec: %w", err)
		}
		id := make([]byte, 8)
		_, _ = rand.Read(id) // never fails, see crypto/rand
		hello.Instance, hello.Generation = hex.EncodeToString(id), 1
		s.store.arrive(got.set)
	}
	s.generation, s.instance, s.last, s.elders = hello.Generation, hello.Instance, hello.Last, got.elders
	for _, stored := range got.stored {
		s.store.learn(stored, false)
	}
	if pred == nil {
		s.store.take(true, false) // systemd hears its main process from the start
		s.lease.Store(true)
	}
	s.states = newStates(s.store, s.log, opts.StartTimeout)
	for _, f := range got.states {
		// What a program that was executed in place has left has nobody to go back to.
		f.current = f.current && pred != nil
		s.states.arrive(f.Name, f)
	}
	for _, e := range s.store.found(storeState) {
		name, _ := stateOf(e.key)
		s.states.arrive(name, &heldFrame{file: e.file, stored: e.name, origin: fromStore})
	}
	if s.tickets, err = newTicketState(s.states, time.Now()); err != nil {
		return nil, err
	}
	if s.history, err = newHistory(s.states); err != nil {
		return nil, err
	}
	s.inv = newInventory(got.set, s.store, s.log)
	s.inv.bound = got.bound
	for name, k := range got.kept {
		s.inv.kept[name] = k
	}
	s.inv.foundSockets()
	s.inv.foundKept()
	s.drain = newDrain(s.inv)
	if err := s.openControl(got.control); err != nil {
		return nil, err
	}
	if pred != nil {
		go pred.listen(s.post, s.adopt, s.update, s.noteDrain)
	}
	exists = true
	s.logBirth(hello)
	return s, nil
}

// hello is what this generation says of itself to another.
func (s *Service) hello() handover.Hello {
	return handover.Hello{
		Versions: handover.Ours, Name: s.opts.Name, Version: s.opts.Version, PID: os.Getpid(), Fingerprint: &s.fingerprint,
	}
}

// logBirth says which build this is, and which one was there before it.
func (s *Service) logBirth(before handover.Hello) {
	args := []any{"version", s.fingerprint.String(), "program", s.fingerprint.Program, "generation", s.generation}
	switch {
	case before.Fingerprint != nil:
		args = append(args, "after", before.Fingerprint.String())
	case before.Version != "":
		args = append(args, "after", before.Version)
	}
	s.log.Info("starting", args...)
}

// Listen returns the listener of that name: the predecessor's, or the one
// that systemd passed (FileDescriptorName= of the socket unit), or, when
// nobody passed one, a new one bound to the address. A name stands for all
// sockets that share it. Network is "tcp", "tcp4", "tcp6", "unix",
// "unixpacket" or "vsock".
//
// Nothing is accepted before the service is ready and the predecessor lets
// it. The service closes the listener when it drains; Accept then returns
// net.ErrClosed.
func (s *Service) Listen(name, network, address string) (net.Listener, error) {
	ln, err := s.inv.listen(name, network, address)
	s.notReady(err)
	s.storeLate(err)
	return ln, err
}

// ListenPacket is Listen for datagram sockets: "udp", "unixgram" and such. A
// name stands for one socket. Its queue, its options and its pending errors
// cross to the next generation with it.
//
// The connection has every method of its type in package net, *net.UDPConn or
// *net.UnixConn, but is none: look for the methods that are needed.
//
//	udp, ok := conn.(interface {
//		ReadMsgUDPAddrPort(b, oob []byte) (n, oobn, flags int, addr netip.AddrPort, err error)
//		SyscallConn() (syscall.RawConn, error)
//	})
//
// All that reads waits while another generation reads, also the Read of
// SyscallConn; a deadline ends the wait. When the service drains, reads return
// net.ErrClosed, and writing goes on until the drain is over. The drain waits a
// second for readers to come back for the next datagram, so a loop that answers
// what it has read before it reads again loses nothing. Who answers elsewhere,
// or takes longer, registers a function with [Service.OnDrain] that waits for the
// answers.
func (s *Service) ListenPacket(name, network, address string) (net.PacketConn, error) {
	conn, err := s.inv.listenPacket(name, network, address)
	s.notReady(err)
	s.storeLate(err)
	return conn, err
}

// notReady tells the predecessor what is in the way. Should this process end,
// or not be ready in time, the verdict says so.
func (s *Service) notReady(err error) {
	if err == nil || s.predecessor == nil {
		return
	}
	s.mu.Lock()
	joining := s.state == machine.Joining
	s.mu.Unlock()
	if joining {
		s.sayUp(handover.KindBeat, handover.Beat{Ill: err.Error()})
	}
}

// Serve makes Run serve HTTP on ln with srv, TLS if srv.TLSConfig has
// certificates. Each version loads its own, and clients resume their TLS
// sessions across versions ([Service.ShareTicketKeys]). Serve wraps srv.Handler and
// srv.ConnState, sets srv.TLSNextProto for HTTP/2, and clones srv.TLSConfig; after
// that, srv is the service's. Call it before Run.
//
// When the service drains for another generation, idle connections move there if
// ln is what Listen has returned and only HTTP/1 without TLS is spoken on it.
// Other clients are led away before anything is closed. On HTTP/1 the next answer
// says Connection: close. On HTTP/2, with TLS or without, GOAWAY asks the client
// to send new requests elsewhere; all that it has sent until it reads that is
// answered. This is so for the HTTP/2 of net/http, and up to Go 1.26 for that of
// ConfigureServer of golang.org/x/net/http2. Another one in srv.TLSNextProto sees
// Connection: close, like HTTP/1. One that hijacks connections, such as
// golang.org/x/net/http2/h2c, is not known to the service.
func (s *Service) Serve(srv *http.Server, ln net.Listener) {
	if srv.TLSConfig != nil && !s.opts.OwnTicketKeys {
		srv.TLSConfig = srv.TLSConfig.Clone()
		s.tickets.share(nameOf(ln), srv.TLSConfig)
	}
	s.drain.servers = append(s.drain.servers, newHTTPServer(srv, ln, s.drain.servers))
}

// Main is closed when this generation becomes main: at the start of the service,
// or with the verdict of an upgrade and once Load has put the last word of the
// predecessor in place, if there is an [Exclusive] state. What is written after
// that is replaced by nobody.
func (s *Service) Main() <-chan struct{} { return s.main }

// Draining is closed when this generation begins to drain: another one is
// main or is about to be executed in its place, or the service stops. Servers that Serve does not know lead their
// clients away then, or move them by [Service.MoveSession]; the process waits
// until every connection that was accepted from a listener of Listen is closed
// and all that [Service.OnDrain] knows is done, or the deadline passes.
func (s *Service) Draining() <-chan struct{} { return s.drain.draining }

// OnDrain registers what this generation has to finish before it ends: a server
// of another kind, a pool of connections, a consumer of a queue. When the
// generation begins to drain, finish is called once, in a goroutine of its own,
// and the process waits until it returns, at most for Options.DrainTimeout. The
// methods Shutdown of most servers fit.
//
// A server whose listener is of [Service.Listen] finds that closed when the drain
// begins, before or after its Shutdown is called: it is no failure if its Serve
// returns [net.ErrClosed]. Servers of HTTP are better given to [Service.Serve].
//
// ctx ends a little before the rest is cut, a second or a tenth of DrainTimeout,
// so that clients who stay can be told; context.Cause is [ErrDrainTimeout] then.
// What was waited for, and the error, is in the log and in the status of the
// next main. Call OnDrain before Run.
func (s *Service) OnDrain(name string, finish func(ctx context.Context) error) {
	s.drain.finishers = append(s.drain.finishers, &finisher{name, finish})
}

// Go runs work while this generation is main, in a goroutine of its own: from
// [Service.Main] until it begins to drain, when ctx ends. The process waits for it
// as for OnDrain. The next main begins with the verdict, so the two may meet for
// as long as work takes to return. An error that comes before the end of ctx ends
// Run with it at once, without a drain, as that of a server does. Call Go before Run.
func (s *Service) Go(name string, work func(ctx context.Context) error) {
	w := &worker{name: name, work: work, over: make(chan struct{})}
	s.workers = append(s.workers, w)
	s.OnDrain(name, w.finish)
}

// Generation counts the versions since systemd started the service, from 1.
func (s *Service) Generation() int { return s.generation }

// Fingerprint is the build that runs, with what Options adds to it.
func (s *Service) Fingerprint() fingerprint.Fingerprint { return s.fingerprint }

// Version is Options.Version, or its default.
func (s *Service) Version() string { return s.opts.Version }

// Status is what the control socket says, too.
func (s *Service) Status() control.Status {
	s.lastGood.reread()
	previous := s.findPrevious()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.previous = previous
	return s.statusLocked()
}

func (s *Service) statusLocked() control.Status {
	st := control.Status{
		Protocol: control.Version, Name: s.opts.Name, Instance: s.instance,
		State: stateWord(s.state), Since: s.since,
		Generation: s.generation, Version: s.opts.Version, PID: os.Getpid(),
		Fingerprint: &s.fingerprint, Successor: s.child, Last: s.last, Listeners: s.inv.list(), Adopted: s.adopted,
		LastDrain: s.lastDrain, Store: s.store.status(), States: s.states.status(), Mode: s.opts.Mode.String(),
		LastGood: s.lastGood.status(), Previous: s.previous, Reloads: s.reloadsLocked(),
	}
	st.History, st.Attempts = s.history.list()
	s.elders = slices.DeleteFunc(s.elders, func(e *elder) bool {
		if e.handle.alive() {
			return false
		}
		e.handle.close()
		return true
	})
	for _, e := range s.elders {
		st.Draining = append(st.Draining, e.Process)
	}
	return st
}

// stateWord is a state in an operator's words.
func stateWord(s machine.State) string {
	switch s {
	case machine.Serving:
		return "running"
	case machine.Checking:
		return "pre-check"
	case machine.Booting, machine.Joining, machine.Offered, machine.Renewed:
		return "starting up"
	case machine.Trial:
		return "on trial"
	case machine.Executing, machine.Reverting:
		return control.Executing
	}
	return s.String()
}

func (s *Service) self() control.Process {
	return control.Process{PID: os.Getpid(), Generation: s.generation, Version: s.opts.Version, Build: s.fingerprint.Build()}
}
