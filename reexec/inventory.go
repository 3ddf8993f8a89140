// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/activation"
	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// The roles of descriptors in a handover.
const (
	roleSocket  = "socket"
	roleBound   = "bound"
	roleControl = "control"
	roleElder   = "elder"
	roleState   = "state"
	roleKept    = "kept"
)

// inventory is everything that this generation holds and its successor gets.
type inventory struct {
	gate *gate

	mu        sync.Mutex
	set       *activation.Set // from systemd, directly or through predecessors
	sources   map[string]activation.Source
	bound     []boundSocket // bound by an earlier generation, not claimed yet
	listeners []*listener
	packets   []*packetConn
	sessions  []*sessionKind
	closed    bool
}

// boundSocket is a socket that an earlier generation bound itself.
type boundSocket struct {
	name, network, address string
	file                   *os.File
}

// listen takes the file over, also on an error. Package activation knows vsock,
// which package net does not.
func (b boundSocket) listen() (net.Listener, error) {
	set, err := activation.NewSet([]activation.Passed{{File: b.file, Name: b.name}})
	if err != nil {
		return nil, errors.Join(err, b.file.Close())
	}
	ln, err := set.Listener(b.name)
	return ln, errors.Join(err, set.Close())
}

// errStopped is returned to those who listen when it is too late.
var errStopped = errors.New("reexec: the service is stopping")

func newInventory(set *activation.Set) *inventory {
	inv := &inventory{gate: newGate(), set: set, sources: map[string]activation.Source{}}
	for _, info := range set.All() {
		inv.sources[info.Name] = info.Source
	}
	return inv
}

func (inv *inventory) listen(name, network, address string) (net.Listener, error) {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	if inv.closed {
		return nil, errStopped
	}
	if i := slices.IndexFunc(inv.listeners, func(l *listener) bool { return l.name == name }); i >= 0 {
		return nil, fmt.Errorf("reexec: listen %q: the name is taken by %v", name, inv.listeners[i].Addr())
	}
	var lanes []*lane
	if b, ok := inv.takeBound(name, network, address); ok {
		ln, err := b.listen()
		if err != nil {
			return nil, fmt.Errorf("reexec: listen %q: take over %s %s: %w", name, network, address, err)
		}
		lanes = []*lane{{Listener: ln, network: network, address: address, bound: true, inherited: true}}
	} else {
		if err := inv.makeRoom(name, network, address); err != nil {
			return nil, fmt.Errorf("reexec: listen %q: %w", name, err)
		}
		got, err := inv.set.Listen(context.Background(), name, network, address)
		if err != nil {
			return nil, fmt.Errorf("reexec: listen %q: %w", name, err)
		}
		for _, ln := range got.Listeners {
			lanes = append(lanes, &lane{Listener: ln, network: network, address: address, bound: !got.Passed})
		}
	}
	l := newListener(name, lanes, inv.gate)
	inv.listeners = append(inv.listeners, l)
	return l, nil
}

func (inv *inventory) listenPacket(name, network, address string) (net.PacketConn, error) {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	if inv.closed {
		return nil, errStopped
	}
	if slices.ContainsFunc(inv.packets, func(c *packetConn) bool { return c.name == name }) {
		return nil, fmt.Errorf("reexec: listen for packets %q: the name is taken", name)
	}
	var conn net.PacketConn
	var bound, inherited bool
	if b, ok := inv.takeBound(name, network, address); ok {
		var err error
		conn, err = net.FilePacketConn(b.file)
		if err := errors.Join(err, b.file.Close()); err != nil {
			return nil, fmt.Errorf("reexec: listen for packets %q: take over %s %s: %w", name, network, address, err)
		}
		bound, inherited = true, true
	} else {
		if err := inv.makeRoom(name, network, address); err != nil {
			return nil, fmt.Errorf("reexec: listen for packets %q: %w", name, err)
		}
		got, err := inv.set.ListenPacket(context.Background(), name, network, address)
		if err != nil {
			return nil, fmt.Errorf("reexec: listen for packets %q: %w", name, err)
		}
		if n := len(got.PacketConns); n > 1 {
			for _, conn := range got.PacketConns {
				_ = conn.Close()
			}
			return nil, fmt.Errorf("reexec: listen for packets %q: %d sockets have this name: give each ListenDatagram= a .socket unit with a FileDescriptorName= of its own", name, n)
		}
		conn, bound = got.PacketConns[0], !got.Passed
	}
	c, face, err := newPacketConn(conn, inv.gate)
	if err != nil {
		return nil, fmt.Errorf("reexec: listen for packets %q: %w", name, err)
	}
	c.name, c.network, c.address, c.bound, c.inherited = name, network, address, bound, inherited
	inv.packets = append(inv.packets, c)
	return face, nil
}

// makeRoom removes a stale path before a socket is bound to it, unless the
// name was passed and nothing will be bound.
func (inv *inventory) makeRoom(name, network, address string) error {
	if slices.ContainsFunc(inv.set.All(), func(i activation.Info) bool { return i.Name == name }) {
		return nil
	}
	_, err := removeStale(network, address) // bind(2) says it if it is in use
	return err
}

// takeBound finds what an earlier generation bound for the same name and the
// same address. Another address is another socket.
func (inv *inventory) takeBound(name, network, address string) (boundSocket, bool) {
	i := slices.IndexFunc(inv.bound, func(b boundSocket) bool {
		return b.name == name && b.network == network && b.address == address
	})
	if i < 0 {
		return boundSocket{}, false
	}
	b := inv.bound[i]
	inv.bound = slices.Delete(inv.bound, i, i+1)
	return b, true
}

func (inv *inventory) accept() { inv.gate.set(true) }

func (inv *inventory) pause() {
	inv.gate.set(false)
	inv.mu.Lock()
	defer inv.mu.Unlock()
	for _, l := range inv.listeners {
		l.pause()
	}
	for _, c := range inv.packets {
		c.pause()
	}
}

// dropUnclaimed closes what earlier generations bound and this one does not
// want. What came from systemd is kept and passed on, claimed or not: the next
// version, or the last one after a rollback, may want it.
func (inv *inventory) dropUnclaimed() (dropped []string) {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	for _, b := range inv.bound {
		_ = b.file.Close()
		if isUnixPath(b.network, b.address) && filepath.IsAbs(b.address) && !inv.usesPath(b.address) {
			_ = os.Remove(b.address)
		}
		dropped = append(dropped, fmt.Sprintf("%q (%s %s)", b.name, b.network, b.address))
	}
	inv.bound = nil
	return dropped
}

// usesPath says whether a socket of ours is bound to the path.
func (inv *inventory) usesPath(path string) bool {
	for _, l := range inv.listeners {
		if slices.ContainsFunc(l.lanes, func(l *lane) bool { return l.Addr().String() == path }) {
			return true
		}
	}
	return slices.ContainsFunc(inv.packets, func(c *packetConn) bool { return c.sock.LocalAddr().String() == path })
}

// close stops accepting for good. Paths of Unix sockets that a generation has
// bound are removed, unless they are somebody else's. Datagram sockets stay open
// for answers until closePackets.
func (inv *inventory) close(paths ownership) error {
	remove := func(bound, inherited bool) bool {
		return bound && (paths == ours || paths == predecessors && !inherited)
	}
	inv.pause()
	inv.mu.Lock()
	defer inv.mu.Unlock()
	inv.closed = true
	var errs []error
	for _, l := range inv.listeners {
		for _, lane := range l.lanes {
			if u, ok := lane.Listener.(*net.UnixListener); ok {
				u.SetUnlinkOnClose(remove(lane.bound, lane.inherited))
			}
		}
		errs = append(errs, l.Close())
	}
	for _, c := range inv.packets {
		c.finish()
		addr := c.sock.LocalAddr()
		if path := addr.String(); remove(c.bound, c.inherited) && isUnixPath(addr.Network(), path) {
			if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	errs = append(errs, inv.set.Close())
	return errors.Join(errs...)
}

// answerTime is what a drain gives those who have read a datagram, so that a
// plain loop of ReadFrom and WriteTo loses no answer. [Service.OnDrain] is for
// answers that take longer, or that the loop does not write itself.
const answerTime = time.Second

// waitAnswers waits until whoever has read a datagram comes back for the next
// one, or stop is closed.
func (inv *inventory) waitAnswers(stop <-chan struct{}) {
	inv.mu.Lock()
	packets := slices.Clone(inv.packets)
	inv.mu.Unlock()
	late := time.After(answerTime)
	for _, c := range packets {
		select {
		case <-c.settled:
		case <-late:
			return
		case <-stop:
			return
		}
	}
}

// closePackets closes the datagram sockets: nothing is answered any more.
func (inv *inventory) closePackets() {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	for _, c := range inv.packets {
		_ = c.Close() // no data of ours is lost by it
	}
}

// connections are those of all listeners and kinds of sessions.
func (inv *inventory) connections() []*connections {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	var all []*connections
	for _, l := range inv.listeners {
		all = append(all, l.conns)
	}
	for _, k := range inv.sessions {
		all = append(all, k.conns)
	}
	return all
}

// openConnections counts what is still open.
func (inv *inventory) openConnections() int {
	n := 0
	for _, conns := range inv.connections() {
		n += conns.count()
	}
	return n
}

func (inv *inventory) all() []*listener {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	return slices.Clone(inv.listeners)
}

// list is for the status.
func (inv *inventory) list() []control.Listener {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	var out []control.Listener
	add := func(name string, addr net.Addr, bound bool) {
		origin := "bound"
		if !bound {
			origin = inv.sources[name].String()
		}
		out = append(out, control.Listener{Name: name, Network: addr.Network(), Address: addr.String(), Origin: origin})
	}
	for _, l := range inv.listeners {
		for _, lane := range l.lanes {
			add(l.name, lane.Addr(), lane.bound)
		}
	}
	for _, c := range inv.packets {
		add(c.name, c.sock.LocalAddr(), c.bound)
	}
	return out
}

// passing is a descriptor on its way to the successor. fd is a copy of ours,
// to be closed when its receipt was acknowledged.
type passing struct {
	handover.Descriptor
	fd int
}

// pass copies every descriptor that the successor gets.
func (inv *inventory) pass() (out []passing, err error) {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	defer func() {
		if err != nil {
			closePassing(out)
			out = nil
		}
	}()
	add := func(d handover.Descriptor, conn any) error {
		fd, err := duplicate(conn)
		if err != nil {
			return fmt.Errorf("pass on %q: %w", d.Name, err)
		}
		out = append(out, passing{d, fd})
		return nil
	}
	describe := func(name, network, address string, bound bool) handover.Descriptor {
		if bound {
			return handover.Descriptor{Role: roleBound, Name: name, Network: network, Address: address}
		}
		return handover.Descriptor{Role: roleSocket, Name: name, Source: uint8(inv.sources[name])}
	}
	for _, l := range inv.listeners {
		for _, lane := range l.lanes {
			if err := add(describe(l.name, lane.network, lane.address, lane.bound), lane.Listener); err != nil {
				return out, err
			}
		}
	}
	for _, c := range inv.packets {
		if err := add(describe(c.name, c.network, c.address, c.bound), c.sock); err != nil {
			return out, err
		}
	}
	for _, info := range inv.set.Unclaimed() {
		fd, err := unix.FcntlInt(uintptr(info.FD), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return out, fmt.Errorf("pass on %q: %w", info.Name, err)
		}
		out = append(out, passing{describe(info.Name, "", "", false), fd})
	}
	return out, nil
}

func closePassing(list []passing) {
	for _, p := range list {
		_ = unix.Close(p.fd)
	}
}

// duplicate copies the descriptor of a socket without touching its blocking
// mode, which all copies share. That is why it is not conn.File().Fd().
func duplicate(conn any) (int, error) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return -1, fmt.Errorf("%T has no descriptor", conn)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var dupErr error
	err = raw.Control(func(from uintptr) {
		fd, dupErr = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0)
	})
	return fd, errors.Join(err, dupErr)
}
