// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests"
)

// A network connects to what listens on the loopback device of a machine, which is none of this one's.
type network struct {
	calls  chan func()
	closed chan struct{}
}

// enterNetwork enters the network of a machine with one thread. The caller closes it.
func enterNetwork(m *vmtests.Machine) (*network, error) {
	pid, err := m.HostPID(1)
	if err != nil {
		return nil, err
	}
	namespace, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, err
	}
	n := &network{calls: make(chan func()), closed: make(chan struct{})}
	entered := make(chan error)
	go func() {
		// The thread ends with this goroutine, which never unlocks it: nothing else may run there.
		runtime.LockOSThread()
		err := os.NewSyscallError("setns", unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET))
		namespace.Close()
		entered <- err
		if err != nil {
			return
		}
		for {
			select {
			case call := <-n.calls:
				call()
			case <-n.closed:
				return
			}
		}
	}()
	if err := <-entered; err != nil {
		return nil, fmt.Errorf("enter the network of %s: %w", m.Name, err)
	}
	return n, nil
}

func (n *network) close() { close(n.closed) }

// dial connects in the machine. To a loopback address that is done at once, or refused.
func (n *network) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	over := make(chan struct{})
	call := func() {
		defer close(over)
		// This goroutine makes the socket, since there is one address to try.
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
	}
	select {
	case n.calls <- call:
		<-over
		return conn, err
	case <-n.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
