// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
)

// Listening is the result of [Set.Listen].
type Listening struct {
	Listeners []net.Listener // at least one; the caller closes them
	Passed    bool           // they were passed, not bound by this process
}

// ListeningPackets is the result of [Set.ListenPacket].
type ListeningPackets struct {
	PacketConns []net.PacketConn // at least one; the caller closes them
	Passed      bool             // they were passed, not bound by this process
}

// Listen claims the listeners of that name, as [Set.Listeners] does, or binds one to the address if no descriptor
// has that name. What was passed decides: its addresses need not be the one given here. A name of the wrong
// kind, or already claimed, is an error and nothing is bound.
//
// The network is one of net.Listen, or "vsock" with an address of the form CID:port; an empty CID is any, and
// port 0 lets the kernel choose. A Unix listener bound here removes its path when it is closed, and takes the
// place of a path that a killed process left behind. ctx bounds the resolving of the address, not the life of
// the listeners.
func (s *Set) Listen(ctx context.Context, name, network, address string) (Listening, error) {
	claimed, err := s.Listeners(name)
	if err == nil {
		return Listening{Listeners: claimed, Passed: true}, nil
	}
	var missing *NotPassedError
	if !errors.As(err, &missing) {
		return Listening{}, err
	}
	bound, bindErr := bind(ctx, network, address)
	if bindErr != nil {
		return Listening{}, fmt.Errorf("%w; fall-back: %w", err, bindErr)
	}
	return Listening{Listeners: []net.Listener{bound}}, nil
}

func bind(ctx context.Context, network, address string) (net.Listener, error) {
	if network == "vsock" {
		return listenVsock(address)
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, network, address)
	if errors.Is(err, syscall.EADDRINUSE) && removeStaleSocket(network, address) {
		ln, err = (&net.ListenConfig{}).Listen(ctx, network, address)
	}
	return ln, err
}

// removeStaleSocket removes the path of a Unix socket that a process left behind when it was killed: one that
// nobody listens on, so that a connection is refused. Whatever else is there stays.
func removeStaleSocket(network, address string) (removed bool) {
	if network != "unix" && network != "unixpacket" || strings.HasPrefix(address, "@") {
		return false
	}
	if st, err := os.Lstat(address); err != nil || st.Mode().Type() != fs.ModeSocket {
		return false
	}
	conn, err := net.Dial(network, address)
	if err == nil {
		_ = conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED) && os.Remove(address) == nil
}

// ListenPacket is [Set.Listen] for datagram sockets. The network is one of net.ListenPacket.
func (s *Set) ListenPacket(ctx context.Context, name, network, address string) (ListeningPackets, error) {
	claimed, err := s.PacketConns(name)
	if err == nil {
		return ListeningPackets{PacketConns: claimed, Passed: true}, nil
	}
	var missing *NotPassedError
	if !errors.As(err, &missing) {
		return ListeningPackets{}, err
	}
	bound, bindErr := (&net.ListenConfig{}).ListenPacket(ctx, network, address)
	if bindErr != nil {
		return ListeningPackets{}, fmt.Errorf("%w; fall-back: %w", err, bindErr)
	}
	return ListeningPackets{PacketConns: []net.PacketConn{bound}}, nil
}
