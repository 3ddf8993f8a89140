// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/activation"
)

// DialVsock connects to a port of this machine. It is exported for the tests of
// whole processes.
func DialVsock(port uint32, limit time.Duration) (net.Conn, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), "vsock")
	timeout := unix.NsecToTimeval(int64(limit))
	if err := errors.Join(
		// SO_VM_SOCKETS_CONNECT_TIMEOUT of linux/vm_sockets.h.
		os.NewSyscallError("setsockopt", unix.SetsockoptTimeval(fd, unix.AF_VSOCK, unix.SO_VM_SOCKETS_CONNECT_TIMEOUT, &timeout)),
		os.NewSyscallError("connect", unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_LOCAL, Port: port})),
	); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	set, err := activation.NewSet([]activation.Passed{{File: file, Name: "client"}})
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	conn, err := set.Conn("client")
	return conn, errors.Join(err, set.Close())
}

// kernelVsock skips where the kernel has just refused a socket of the family.
func kernelVsock(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == unix.EAFNOSUPPORT {
		t.Skipf("this kernel has no AF_VSOCK: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fd)
}

// vsockLoopback skips where the kernel has no transport between sockets of one
// machine: then a connection to a port that listens fails.
func vsockLoopback(t *testing.T) {
	t.Helper()
	kernelVsock(t)
	ln := mustListen(t, firstInventory(t), "x", "vsock", ":0")
	conn, err := DialVsock(ln.Addr().(*activation.VsockAddr).Port, 2*time.Second)
	if err != nil {
		t.Skipf("this kernel has no vsock_loopback: %v", err)
	}
	_ = conn.Close()
}

// A vsock listener that the service has bound crosses, also where nobody can
// reach it: it has its port, and waits for who comes.
func TestBoundVsockCrosses(t *testing.T) {
	kernelVsock(t)
	a := firstInventory(t)
	lnA := mustListen(t, a, "x", "vsock", ":0")
	b := nextInventory(t, a)
	lnB := mustListen(t, b, "x", "vsock", ":0")
	if lnA.Addr().String() != lnB.Addr().String() || !lnB.lanes[0].bound || len(b.bound) != 0 {
		t.Errorf("%v became %v", lnA.Addr(), lnB.Addr())
	}
	// The pause must end an Accept, as of any other listener.
	b.accept()
	ended := make(chan error)
	go func() {
		_, err := lnB.Accept()
		ended <- err
	}()
	for range 10 {
		b.pause()
		b.accept()
	}
	if err := b.close(ours); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("Accept does not return")
	}
}
