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
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/activation"
)

// boundSocket is a socket that an earlier generation bound itself.
type boundSocket struct {
	name, network, address string
	file                   *os.File
	key                    string // in the fd store
	source                 activation.Source
	// found says that it was in the fd store at this start: no other process
	// uses it.
	found bool
	local string // address that it is really bound to, if found
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

// listenPacket takes the file over, also on an error.
func (b boundSocket) listenPacket() (net.PacketConn, error) {
	conn, err := net.FilePacketConn(b.file)
	return conn, errors.Join(err, b.file.Close())
}

// foundSockets are those that were in the fd store. What is no socket that
// somebody could listen on is dropped.
func (inv *inventory) foundSockets() {
	for _, e := range inv.store.found(storeBound) {
		b := boundSocket{file: e.file, key: e.key, source: activation.SourceStore, found: true, local: e.info.Addr}
		b.name, b.network, b.address = boundParts(e.key)
		switch {
		case e.info.Kind != activation.KindListener && e.info.Kind != activation.KindPacket:
			inv.log.Warn("an entry of the fd store is of the wrong kind", "entry", e.name, "kind", e.info.Kind.String())
		case isUnixPath(b.network, b.local) && !isSocket(b.local):
			// Nobody reaches it any more.
			inv.log.Warn("the path of a socket in the fd store is gone: set RuntimeDirectoryPreserve=restart if it is in the runtime directory", "entry", e.name, "path", b.local)
		default:
			inv.bound = append(inv.bound, b)
			continue
		}
		_ = e.file.Close()
		inv.store.doom(e.name)
	}
}

func isSocket(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && st.Mode().Type() == fs.ModeSocket
}

// takeBound finds what an earlier generation bound for the same name and the
// same address, and opens it. Another address is another socket. One that was
// found in the fd store may have had another name: nothing else can be bound to
// its address. Without a socket, or with one that cannot be used, b is empty and
// the service binds another.
func takeBound[T any](inv *inventory, name, network, address string, open func(boundSocket) (T, error)) (opened T, b boundSocket, err error) {
	var none T
	key := boundKey(name, network, address)
	i := slices.IndexFunc(inv.bound, func(b boundSocket) bool { return b.key == key })
	if i < 0 {
		i = slices.IndexFunc(inv.bound, func(b boundSocket) bool {
			return b.found && b.network == network && b.address == address && !choosesPort(network, address)
		})
	}
	if i < 0 {
		return none, boundSocket{}, nil
	}
	b = inv.bound[i]
	inv.bound = slices.Delete(inv.bound, i, i+1)
	opened, err = open(b)
	if err != nil && b.found {
		inv.log.Warn("a socket in the fd store cannot be used", "entry", b.key, "error", err)
		inv.store.doom(inv.store.under(b.key)...)
		return none, boundSocket{}, nil
	}
	return opened, b, err
}

// choosesPort says that the kernel chooses: several sockets may be bound to that
// address.
func choosesPort(network, address string) bool {
	port := addressPort(network, address)
	return port == "" || port == "0"
}

// addressPort is the port of an address, or the whole of one that has none, such as
// a path.
func addressPort(network, address string) string {
	switch network {
	case "unix", "unixpacket", "unixgram":
		return address
	case "vsock":
		return address[1+lastColon(address):]
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return port
}

func lastColon(s string) int {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == ':' {
			return i
		}
	}
	return -1
}

// freeTimeout bounds the wait for an address that a socket in the fd store was
// bound to: systemd closes it a moment after it was removed.
const freeTimeout = 2 * time.Second

// bind binds a socket. What was found in the fd store and is in the way, such as
// the one that the service listened on before its address was changed, is
// closed first.
func (inv *inventory) bind(name, network, address string, try func() error) error {
	err := try()
	if !errors.Is(err, syscall.EADDRINUSE) || !inv.makeWay(name, network, address) {
		return err
	}
	for deadline := time.Now().Add(freeTimeout); ; time.Sleep(2 * time.Millisecond) {
		if err = try(); !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return err
		}
	}
}

// makeWay closes what was found and has this name or this port.
func (inv *inventory) makeWay(name, network, address string) (done bool) {
	port := addressPort(network, address)
	inv.bound = slices.DeleteFunc(inv.bound, func(b boundSocket) bool {
		if !b.found || b.name != name && addressPort(b.network, b.local) != port {
			return false
		}
		inv.drop(b)
		inv.log.Info("a socket in the fd store is in the way: closed", "entry", b.key)
		done = true
		return true
	})
	if done {
		if err := inv.store.flush(context.Background()); err != nil {
			inv.log.Warn("fd store", "error", err)
		}
	}
	return done
}

// drop closes a socket that nobody wants, and removes its path.
func (inv *inventory) drop(b boundSocket) {
	_ = b.file.Close()
	inv.store.doom(inv.store.under(b.key)...)
	path := b.address
	if b.found {
		path = b.local
	}
	if isUnixPath(b.network, path) && filepath.IsAbs(path) && !inv.usesPath(path) {
		_ = os.Remove(path)
	}
}

// dropUnclaimed closes what earlier generations bound and this one does not
// want. What came from systemd is kept and passed on, claimed or not: the next
// version, or the last one after a rollback, may want it.
func (inv *inventory) dropUnclaimed() (dropped []string) {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	for _, b := range inv.bound {
		inv.drop(b)
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
