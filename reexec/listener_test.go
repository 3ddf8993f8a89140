// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/activation"
	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// patience bounds what a test waits for; it is only reached by a failure.
const patience = 20 * time.Second

// firstInventory is one of a generation that was passed these files.
func firstInventory(t *testing.T, passed ...activation.Passed) *inventory {
	t.Helper()
	set, err := activation.NewSet(passed)
	if err != nil {
		t.Fatal(err)
	}
	inv := newInventory(set, nil, slog.Default())
	t.Cleanup(func() { closeInventory(t, inv) })
	return inv
}

func closeInventory(t *testing.T, inv *inventory) {
	t.Helper()
	inv.mu.Lock()
	closed := inv.closed
	inv.mu.Unlock()
	if !closed {
		if err := inv.close(successors); err != nil {
			t.Error(err)
		}
	}
	inv.closePackets()
	inv.dropUnclaimed()
}

// nextInventory hands everything over, as a predecessor and its successor do.
func nextInventory(t *testing.T, inv *inventory) *inventory {
	t.Helper()
	list, err := inv.pass()
	if err != nil {
		t.Fatal(err)
	}
	var described []handover.Descriptor
	var files []*os.File
	for _, p := range list {
		described = append(described, p.Descriptor)
		files = append(files, os.NewFile(uintptr(p.fd), p.Name))
	}
	got, err := sortOut(described, files)
	if err != nil {
		t.Fatal(err)
	}
	next := newInventory(got.set, nil, slog.Default())
	next.bound = got.bound
	t.Cleanup(func() { closeInventory(t, next) })
	return next
}

func mustListen(t *testing.T, inv *inventory, name, network, address string) *listener {
	t.Helper()
	ln, err := inv.listen(name, network, address)
	if err != nil {
		t.Fatal(err)
	}
	return ln.(*listener)
}

// answerWith accepts until the listener is closed, and answers every
// connection with one byte.
func answerWith(t *testing.T, ln net.Listener, letter byte, served *atomic.Int64) (stopped <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("accept by %c: %v", letter, err)
				}
				return
			}
			served.Add(1)
			if _, err := conn.Write([]byte{letter}); err != nil {
				t.Errorf("answer by %c: %v", letter, err)
			}
			_ = conn.Close()
		}
	}()
	return done
}

// dial connects to a listener of any kind.
func dial(addr net.Addr) (net.Conn, error) {
	if addr, ok := addr.(*activation.VsockAddr); ok {
		return DialVsock(addr.Port, patience)
	}
	return net.DialTimeout(addr.Network(), addr.String(), patience)
}

// askOnce connects and returns the answer.
func askOnce(addr net.Addr) (byte, error) {
	conn, err := dial(addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	answer, err := io.ReadAll(conn)
	if err == nil && len(answer) != 1 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, err
	}
	return answer[0], nil
}

// Two generations hold the same sockets; who accepts changes all the time.
// Every connection is answered by one of them.
func TestNoConnectionIsLostWhileTheGateFlips(t *testing.T) {
	for _, c := range []struct{ network, address string }{
		{"tcp", "127.0.0.1:0"},
		{"unix", t.TempDir() + "/s"},
		{"unix", abstractName()},
		{"unixpacket", t.TempDir() + "/p"},
		{"unixpacket", abstractName()},
		{"vsock", ":0"},
	} {
		t.Run(c.network, func(t *testing.T) {
			if c.network == "vsock" {
				vsockLoopback(t)
			}
			address := c.address
			a := firstInventory(t)
			lnA := mustListen(t, a, "x", c.network, address)
			b := nextInventory(t, a)
			lnB := mustListen(t, b, "x", c.network, address)
			if len(b.bound) != 0 || !lnB.lanes[0].bound {
				t.Fatal("the successor did not take the listener over")
			}
			var servedA, servedB, asked atomic.Int64
			a.accept()
			doneA, doneB := answerWith(t, lnA, 'A', &servedA), answerWith(t, lnB, 'B', &servedB)

			stop := make(chan struct{})
			var clients sync.WaitGroup
			for range 4 {
				clients.Go(func() {
					for {
						if _, err := askOnce(lnA.Addr()); err != nil {
							t.Errorf("a client: %v", err)
							return
						}
						asked.Add(1)
						select {
						case <-stop:
							return
						default:
						}
					}
				})
			}
			const flips = 3000
			for i := range flips {
				from, to := a, b
				if i%2 == 1 {
					from, to = b, a
				}
				// In one order and in the other: both accept for a moment, or
				// nobody does.
				if i%3 == 0 {
					from.pause()
					to.accept()
				} else {
					to.accept()
					from.pause()
				}
				if i%7 == 0 { // now A accepts, now B
					if _, err := askOnce(lnA.Addr()); err != nil {
						t.Fatalf("flip %d: %v", i, err)
					}
					asked.Add(1)
				}
			}
			// One copy is closed for good, in the middle of the load.
			b.accept()
			if err := a.close(successors); err != nil {
				t.Error(err)
			}
			<-doneA
			<-lnA.closed
			if answer, err := askOnce(lnB.Addr()); err != nil || answer != 'B' {
				t.Errorf("after the predecessor closed: %c, %v", answer, err)
			}
			asked.Add(1)
			close(stop)
			clients.Wait()
			if err := b.close(ours); err != nil {
				t.Error(err)
			}
			<-doneB
			if servedA.Load()+servedB.Load() != asked.Load() {
				t.Errorf("%d connections were answered, %d asked", servedA.Load()+servedB.Load(), asked.Load())
			}
			if servedA.Load() == 0 || servedB.Load() == 0 {
				t.Errorf("A answered %d, B %d: the gate did not flip", servedA.Load(), servedB.Load())
			}
			t.Logf("%d flips, A answered %d, B %d", flips, servedA.Load(), servedB.Load())
		})
	}
}

// Pausing, accepting and closing may come at any moment and from anywhere.
func TestGateUnderContention(t *testing.T) {
	for range 50 {
		inv := firstInventory(t)
		ln := mustListen(t, inv, "x", "tcp", "127.0.0.1:0")
		var served atomic.Int64
		done := answerWith(t, ln, 'A', &served)
		var flippers sync.WaitGroup
		for range 3 {
			flippers.Go(func() {
				for range 20 {
					inv.accept()
					inv.pause()
				}
			})
		}
		flippers.Go(func() { _ = inv.close(ours) })
		flippers.Wait()
		<-done
	}
}

// While the gate is shut a connection waits in the kernel's queue.
func TestPausedListenerAcceptsNothing(t *testing.T) {
	inv := firstInventory(t)
	ln := mustListen(t, inv, "x", "tcp", "127.0.0.1:0")
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got := make(chan net.Conn, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			t.Error(err)
			close(got)
			return
		}
		got <- c
	}()
	if n := ln.conns.count(); n != 0 {
		t.Errorf("%d connections were accepted", n)
	}
	raw, err := ln.lanes[0].Listener.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	// It is the listening socket's to give: poll(2) says so.
	if err := raw.Control(func(fd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if n != 1 || err != nil {
			t.Errorf("the connection does not wait in the queue: %d, %v", n, err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	inv.accept()
	c := <-got
	if c == nil {
		t.Fatal("no connection")
	}
	defer c.Close()
	if c.RemoteAddr().String() != conn.LocalAddr().String() {
		t.Errorf("accepted %v, want %v", c.RemoteAddr(), conn.LocalAddr())
	}
}

// All sockets of one name are one listener, here and in the next generation.
func TestLanes(t *testing.T) {
	var passed []activation.Passed
	var addrs []net.Addr
	for range 3 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		f, err := ln.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		_ = ln.Close()
		addrs = append(addrs, ln.Addr())
		passed = append(passed, activation.Passed{File: f, Name: "http", Source: activation.SourceSocket})
	}
	a := firstInventory(t, passed...)
	b := func() *inventory {
		// Claimed by nobody yet: they go on all the same.
		return nextInventory(t, a)
	}()
	for name, inv := range map[string]*inventory{"first": a, "second": b} {
		ln := mustListen(t, inv, "http", "tcp", "127.0.0.1:1")
		if len(ln.lanes) != 3 || ln.Addr().String() != addrs[0].String() {
			t.Fatalf("%s generation: %d lanes, first %v", name, len(ln.lanes), ln.Addr())
		}
		for i, l := range inv.list() {
			if l.Name != "http" || l.Address != addrs[i].String() || l.Origin != "socket unit" {
				t.Errorf("%s generation lists %+v", name, l)
			}
		}
	}
	ln := b.listeners[0]
	var served atomic.Int64
	done := answerWith(t, ln, 'B', &served)
	b.accept()
	for _, addr := range addrs {
		if _, err := askOnce(addr); err != nil {
			t.Errorf("lane %v: %v", addr, err)
		}
	}
	b.pause()
	b.accept()
	for _, addr := range addrs {
		if _, err := askOnce(addr); err != nil {
			t.Errorf("lane %v after a pause: %v", addr, err)
		}
	}
	if err := b.close(ours); err != nil {
		t.Error(err)
	}
	<-done
	if served.Load() != 6 {
		t.Errorf("%d connections were answered, want 6", served.Load())
	}
}

func TestListenRefuses(t *testing.T) {
	inv := firstInventory(t)
	ln := mustListen(t, inv, "x", "tcp", "127.0.0.1:0")
	for _, c := range []struct{ name, network, address, want string }{
		{"x", "tcp", "127.0.0.1:0", `listen "x": the name is taken by ` + ln.Addr().String()},
		{"y", "tcp", ln.Addr().String(), "address already in use"},
		{"z", "udp", "127.0.0.1:0", `listen "z"`},
	} {
		if _, err := inv.listen(c.name, c.network, c.address); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("listen %q %s: %v, want %q", c.name, c.network, err, c.want)
		}
	}
	if err := inv.close(ours); err != nil {
		t.Error(err)
	}
	if _, err := inv.listen("late", "tcp", "127.0.0.1:0"); !errors.Is(err, errStopped) {
		t.Errorf("listen after the end: %v", err)
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after the end: %v", err)
	}
	if err := ln.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
}

// An error of accept(2) is the server's to judge; the lane goes on.
func TestAcceptErrorIsPassedOn(t *testing.T) {
	inv := firstInventory(t)
	fake := &fakeListener{results: make(chan accepted, 1)}
	ln := newListener("x", []*lane{{Listener: fake}}, inv.gate)
	inv.accept()
	mfile := &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", unix.EMFILE)}
	fake.results <- accepted{err: mfile}
	if _, err := ln.Accept(); !errors.Is(err, unix.EMFILE) {
		t.Errorf("got %v, want EMFILE", err)
	}
	ours, theirs := net.Pipe()
	defer theirs.Close()
	fake.results <- accepted{conn: ours}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
	<-ln.closed
}

type fakeListener struct {
	results chan accepted
	once    sync.Once
}

func (f *fakeListener) Accept() (net.Conn, error) {
	a, ok := <-f.results
	if !ok {
		return nil, net.ErrClosed
	}
	return a.conn, a.err
}

func (f *fakeListener) Close() error {
	f.once.Do(func() { close(f.results) })
	return nil
}
func (f *fakeListener) Addr() net.Addr { return &net.TCPAddr{} }

// What a lane has accepted and nobody takes must not outlive the service.
func TestConnectionThatNobodyTakes(t *testing.T) {
	inv := firstInventory(t)
	ln := mustListen(t, inv, "x", "tcp", "127.0.0.1:0")
	d := newDrain(inv)
	inv.accept()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// No Accept waits, so the connection stays in the kernel's queue, where
	// another generation finds it.
	next := nextInventory(t, inv)
	lnNext := mustListen(t, next, "x", "tcp", "127.0.0.1:0")
	inv.pause()
	next.accept()
	var served atomic.Int64
	doneNext := answerWith(t, lnNext, 'B', &served)
	_ = conn.SetDeadline(time.Now().Add(patience))
	if answer, err := io.ReadAll(conn); err != nil || string(answer) != "B" {
		t.Errorf("answer %q, %v", answer, err)
	}
	drained := make(chan error, 1)
	d.begin(successors, func(err error) { drained <- err })
	select {
	case err := <-drained:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("the drain waits for a connection that nobody takes")
	}
	d.abandon()
	if err := next.close(ours); err != nil {
		t.Error(err)
	}
	<-doneNext
}

// Once a pause has returned, not even a goroutine that was about to accept
// takes a connection: each is answered by the generation that was told to.
func TestNothingIsAcceptedAfterAPause(t *testing.T) {
	a := firstInventory(t)
	addr := mustListen(t, a, "http", "tcp", "127.0.0.1:0").Addr()
	b := nextInventory(t, a)
	mustListen(t, b, "http", "tcp", "127.0.0.1:0")
	var served atomic.Int64
	doneA := answerWith(t, a.listeners[0], 'A', &served)
	doneB := answerWith(t, b.listeners[0], 'B', &served)
	for range 1000 {
		for _, turn := range []struct {
			on, off *inventory
			want    byte
		}{{a, b, 'A'}, {b, a, 'B'}} {
			turn.off.pause()
			turn.on.accept()
			// The second finds a lane that has just accepted and is on its way back.
			for range 2 {
				if got, err := askOnce(addr); err != nil || got != turn.want {
					t.Fatalf("answered by %q, %v; want %q", got, err, turn.want)
				}
			}
		}
	}
	for inv, done := range map[*inventory]<-chan struct{}{a: doneA, b: doneB} {
		if err := inv.close(ours); err != nil {
			t.Error(err)
		}
		<-done
	}
}
