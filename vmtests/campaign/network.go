// SPDX-License-Identifier: Apache-2.0

package campaign

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// A network makes sockets in the network namespace of a machine, for use by this process.
type network struct {
	calls chan func()
	done  chan struct{}
}

// enterNetwork enters the network namespace of a process with one thread. The caller closes the network.
func enterNetwork(pid int) (*network, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, err
	}
	n := &network{calls: make(chan func()), done: make(chan struct{})}
	entered := make(chan error)
	go func() {
		// The thread stays in the namespace, and so must not be used for anything else: it ends with this
		// goroutine, which never unlocks it.
		runtime.LockOSThread()
		err := os.NewSyscallError("setns", unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET))
		ns.Close()
		entered <- err
		if err != nil {
			return
		}
		for call := range n.calls {
			call()
		}
		close(n.done)
	}()
	if err := <-entered; err != nil {
		return nil, fmt.Errorf("enter the network of process %d: %w", pid, err)
	}
	return n, nil
}

func (n *network) close() {
	close(n.calls)
	<-n.done
}

// inside runs f on the thread in the namespace, one call at a time.
func (n *network) inside(ctx context.Context, f func()) error {
	over := make(chan struct{})
	select {
	case n.calls <- func() { f(); close(over) }:
		<-over
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// dial connects to a loopback address of the machine. A connection to one is made at once or refused, or waits
// for room in the listener's queue; that would hold up the others, and a service whose queue of 4096 is full
// has failed the campaign anyway.
func (n *network) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	insideErr := n.inside(ctx, func() {
		// The goroutine that calls makes the socket, since there is one address to try.
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
	})
	if insideErr != nil {
		return nil, insideErr
	}
	return conn, err
}
