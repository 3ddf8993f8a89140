// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
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
	roleStored  = "stored" // of an update: an entry of the fd store
)

// inventory is everything that this generation holds and its successor gets.
type inventory struct {
	gate  *gate
	store *fdStore
	log   *slog.Logger

	mu        sync.Mutex
	set       *activation.Set // from systemd, directly or through predecessors
	sources   map[string]activation.Source
	bound     []boundSocket // bound by an earlier generation, not claimed yet
	listeners []*listener
	packets   []*packetConn
	sessions  []*sessionKind
	kept      map[string]*keptFile
	closed    bool
}

// errStopped is returned to those who listen when it is too late.
var errStopped = errors.New("reexec: the service is stopping")

func newInventory(set *activation.Set, store *fdStore, log *slog.Logger) *inventory {
	inv := &inventory{
		gate: newGate(), set: set, store: store, log: log,
		sources: map[string]activation.Source{}, kept: map[string]*keptFile{},
	}
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
	ln, b, err := takeBound(inv, name, network, address, boundSocket.listen)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reexec: listen %q: take over %s %s: %w", name, network, address, err)
	case ln != nil:
		lanes = []*lane{{
			Listener: ln, network: network, address: address, key: b.key,
			bound: true, inherited: !b.found, source: b.source,
		}}
	default:
		if err := inv.makeRoom(name, network, address); err != nil {
			return nil, fmt.Errorf("reexec: listen %q: %w", name, err)
		}
		var got activation.Listening
		err := inv.bind(name, network, address, func() (err error) {
			got, err = inv.set.Listen(context.Background(), name, network, address)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("reexec: listen %q: %w", name, err)
		}
		for _, ln := range got.Listeners {
			lanes = append(lanes, &lane{
				Listener: ln, network: network, address: address, key: boundKey(name, network, address), bound: !got.Passed,
			})
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
	key, bound := boundKey(name, network, address), true
	conn, b, err := takeBound(inv, name, network, address, boundSocket.listenPacket)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reexec: listen for packets %q: take over %s %s: %w", name, network, address, err)
	case conn != nil:
		key = b.key
	default:
		if err := inv.makeRoom(name, network, address); err != nil {
			return nil, fmt.Errorf("reexec: listen for packets %q: %w", name, err)
		}
		var got activation.ListeningPackets
		err := inv.bind(name, network, address, func() (err error) {
			got, err = inv.set.ListenPacket(context.Background(), name, network, address)
			return err
		})
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
	c.name, c.network, c.address, c.key, c.bound = name, network, address, key, bound
	c.inherited, c.source = b.file != nil && !b.found, b.source
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

// close stops accepting for good. Paths of Unix sockets that a generation has
// bound are removed, unless they are somebody else's. Datagram sockets stay open
// for answers until closePackets.
func (inv *inventory) close(paths ownership) error {
	// What is in the fd store is used on after a restart.
	remove := func(bound, inherited bool, key string) bool {
		return bound && (paths == ours || paths == predecessors && !inherited) && inv.store.newest(key) == ""
	}
	inv.pause()
	inv.mu.Lock()
	defer inv.mu.Unlock()
	inv.closed = true
	var errs []error
	for _, l := range inv.listeners {
		for _, lane := range l.lanes {
			if u, ok := lane.Listener.(*net.UnixListener); ok {
				u.SetUnlinkOnClose(remove(lane.bound, lane.inherited, lane.key))
			}
		}
		errs = append(errs, l.Close())
	}
	for _, c := range inv.packets {
		c.finish()
		addr := c.sock.LocalAddr()
		if path := addr.String(); remove(c.bound, c.inherited, c.key) && isUnixPath(addr.Network(), path) {
			if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	for _, k := range inv.kept {
		_ = k.file.Close()
	}
	clear(inv.kept)
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
	add := func(name string, addr net.Addr, bound bool, source activation.Source) {
		origin := "bound"
		if !bound {
			source = inv.sources[name]
		}
		if source != 0 {
			origin = source.String()
		}
		out = append(out, control.Listener{Name: name, Network: addr.Network(), Address: addr.String(), Origin: origin})
	}
	for _, l := range inv.listeners {
		for _, lane := range l.lanes {
			add(l.name, lane.Addr(), lane.bound, lane.source)
		}
	}
	for _, c := range inv.packets {
		add(c.name, c.sock.LocalAddr(), c.bound, c.source)
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
	passed := func(name string) handover.Descriptor {
		return handover.Descriptor{Role: roleSocket, Name: name, Source: uint8(inv.sources[name])}
	}
	for _, l := range inv.listeners {
		for _, lane := range l.lanes {
			d := passed(l.name)
			if lane.bound {
				d = handover.Descriptor{
					Role: roleBound, Name: l.name, Network: lane.network, Address: lane.address,
					Source: uint8(lane.source), Stored: inv.store.newest(lane.key),
				}
			}
			if err := add(d, lane.Listener); err != nil {
				return out, err
			}
		}
	}
	for _, c := range inv.packets {
		d := passed(c.name)
		if c.bound {
			d = handover.Descriptor{
				Role: roleBound, Name: c.name, Network: c.network, Address: c.address,
				Source: uint8(c.source), Stored: inv.store.newest(c.key),
			}
		}
		if err := add(d, c.sock); err != nil {
			return out, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(inv.kept)) {
		d := handover.Descriptor{Role: roleKept, Name: name, Stored: inv.store.newest(storeKey(storeKept, name))}
		if err := add(d, inv.kept[name].file); err != nil {
			return out, err
		}
	}
	for _, info := range inv.set.Unclaimed() {
		fd, err := unix.FcntlInt(uintptr(info.FD), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return out, fmt.Errorf("pass on %q: %w", info.Name, err)
		}
		out = append(out, passing{passed(info.Name), fd})
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
