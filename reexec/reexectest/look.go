// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

var errClosed = errors.New("the unit is closed")

// open returns an error if the unit is closed.
func (u *Unit) open() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return fmt.Errorf("%s: %w", u.service, errClosed)
	}
	return nil
}

// gone says why the manager does not answer any more. It is called when the
// connection has ended.
func (u *Unit) gone() error {
	if u.open() != nil {
		return errClosed
	}
	if err := u.managerFailed(); err != nil {
		return err
	}
	return errors.New("the manager process has ended")
}

// call asks the manager.
func (u *Unit) call(ctx context.Context, request wire.Request) (*wire.Answer, error) {
	_, wait := u.begin(&request)
	return wait(ctx)
}

// begin is wire.Client.Begin, and says why the manager does not answer if it is gone.
func (u *Unit) begin(request *wire.Request) (id int64, wait func(context.Context) (*wire.Answer, error)) {
	verb := request.Verb
	id, answered := u.client.Begin(request)
	return id, func(ctx context.Context) (*wire.Answer, error) {
		answer, err := answered(ctx)
		var refused *wire.Error
		if err == nil || errors.As(err, &refused) || ctx.Err() != nil {
			return answer, err
		}
		<-u.client.Done()
		return nil, fmt.Errorf("%s: %w", verb, u.gone())
	}
}

// ask sends a request that is answered at once. It returns nil when the manager is
// gone.
func (u *Unit) ask(request wire.Request) *wire.Answer {
	ctx, cancel := u.patient(context.Background(), string(request.Verb))
	defer cancel()
	answer, err := u.call(ctx, request)
	if err != nil {
		return nil
	}
	return answer
}

// Show returns the properties of the service as they are now, or, of a unit
// that was closed, as they were last.
func (u *Unit) Show() Properties {
	// What changed is told before the answer. The answer itself may be older than what has been
	// told by the time that it is looked at here.
	u.ask(wire.Request{Verb: wire.Show})
	return u.known()
}

// known are the properties that were heard of last, without a question.
func (u *Unit) known() Properties {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.state
}

// MainPID is that of Show, which is 0 without a main process.
func (u *Unit) MainPID() int { return u.Show().MainPID }

// ShowSocket returns the properties of a socket unit.
func (u *Unit) ShowSocket(name string) (SocketProperties, error) {
	ctx, cancel := u.patient(context.Background(), "show "+name)
	defer cancel()
	answer, err := u.call(ctx, wire.Request{Verb: wire.Show, Unit: name})
	if err == nil && answer.Socket == nil {
		err = fmt.Errorf("%s is no socket unit", name)
	}
	if err != nil {
		return SocketProperties{}, fmt.Errorf("%s: %w", u.service, err)
	}
	s := answer.Socket
	return SocketProperties{
		ActiveState: string(s.ActiveState), SubState: s.SubState, Result: s.Result,
		NAccepted: s.NAccepted, NConnections: s.NConnections, NRefused: s.NRefused,
	}, nil
}

// Processes are those that live: all generations, and commands such as that of
// ExecReload=.
func (u *Unit) Processes() []Process {
	answer := u.ask(wire.Request{Verb: wire.Processes})
	if answer == nil {
		return nil
	}
	var all []Process
	for _, p := range answer.Processes {
		all = append(all, process(p))
	}
	return all
}

// FDStore are the stored descriptors, in the order in which the next start
// gets them.
func (u *Unit) FDStore() []StoredFD {
	answer := u.ask(wire.Request{Verb: wire.FDStore})
	if answer == nil {
		return nil
	}
	var all []StoredFD
	for _, f := range answer.Store {
		all = append(all, StoredFD(f))
	}
	return all
}

// Journal is what the processes of the unit wrote, and the stand-in about
// them, up to now: the newest lines, up to 200,000 of them and 64 MiB. A longer line than
// 48 KiB is several, as journald has it.
func (u *Unit) Journal() []JournalEntry {
	u.ask(wire.Request{Verb: wire.Show}) // what came before has arrived when this is answered
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.journal)
}

// Messages are what came on the notify socket up to now, the newest 200,000.
func (u *Unit) Messages() []Message {
	u.ask(wire.Request{Verb: wire.Show})
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.messages)
}

// Deaths are the processes that ended up to now.
func (u *Unit) Deaths() []Death {
	u.ask(wire.Request{Verb: wire.Show})
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.deaths)
}

// Addr is the address of a socket, by FileDescriptorName= of its unit or by
// the name in Options.Addresses. It panics if there is no such socket, or if it
// does not listen yet.
func (u *Unit) Addr(name string) string {
	a, err := u.address(name)
	if err != nil {
		panic(err)
	}
	return a.Address
}

// Dial connects to a socket, by that name.
func (u *Unit) Dial(ctx context.Context, name string) (net.Conn, error) {
	a, err := u.address(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := u.patient(ctx, "dial "+name)
	defer cancel()
	return new(net.Dialer).DialContext(ctx, a.Network, a.Address)
}

func (u *Unit) address(name string) (wire.Address, error) {
	if err := u.open(); err != nil {
		return wire.Address{}, err
	}
	if own, ok := u.opts.Addresses[name]; ok {
		network := "tcp"
		if strings.Contains(own, "/") {
			network = "unix"
		}
		return wire.Address{Name: name, Network: network, Address: own}, nil
	}
	u.mu.Lock()
	known := u.addresses
	u.mu.Unlock()
	if known == nil {
		known = make(map[string]wire.Address)
		if answer := u.ask(wire.Request{Verb: wire.Addresses}); answer != nil {
			for _, a := range answer.Addresses {
				// A name may stand for several sockets; the first one will do.
				if _, twice := known[a.Name]; !twice && a.Address != "" {
					known[a.Name] = a
				}
			}
			u.mu.Lock()
			u.addresses = known
			u.mu.Unlock()
		}
	}
	if a, ok := known[name]; ok {
		return a, nil
	}
	return wire.Address{}, fmt.Errorf("%s: no socket %q listens, but %q: is it FileDescriptorName= of a socket unit that was started, or in Options.Addresses?",
		u.service, name, slices.Sorted(maps.Keys(known)))
}

// Signal sends a signal to one process of the unit. After [unix.SIGSTOP] it
// waits until no thread of the process runs any more.
func (u *Unit) Signal(pid int, sig syscall.Signal) error {
	u.tell("signal %s to %d", signalName(int(sig)), pid)
	if err := u.open(); err != nil {
		return err
	}
	// With a descriptor the number cannot become another's meanwhile.
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("%s: signal %d: %w", u.service, pid, err)
	}
	defer unix.Close(fd)
	if !slices.ContainsFunc(u.Processes(), func(p Process) bool { return p.PID == pid }) {
		return fmt.Errorf("%s: signal %d: it is none of the unit's processes", u.service, pid)
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		return fmt.Errorf("%s: signal %d: %w", u.service, pid, err)
	}
	if sig == unix.SIGSTOP {
		if state := waitStopped(pid); state != "T" {
			return fmt.Errorf("%s: signal %d: it did not stop, its state is %q", u.service, pid, state)
		}
	}
	return nil
}

func signalName(n int) string {
	if name := unix.SignalName(syscall.Signal(n)); name != "" {
		return name
	}
	return "signal " + strconv.Itoa(n)
}
