// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// packetNetworks are those that a service may ask for, each with an address of
// the test's own.
func packetNetworks(t *testing.T) map[string]string {
	t.Helper()
	networks := map[string]string{
		"udp4": "127.0.0.1:0", "udp6": "[::1]:0",
		"unixgram": t.TempDir() + "/s", "unixgram abstract": abstractName(),
	}
	raw, err := net.ListenPacket("ip4:253", "127.0.0.1")
	if errors.Is(err, os.ErrPermission) {
		t.Logf("without raw sockets: %v", err)
		return networks
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Close()
	networks["ip4:253"] = "127.0.0.1"
	return networks
}

var abstractNames atomic.Int64

func abstractName() string {
	return fmt.Sprintf("@holdfast-test-%d-%d", os.Getpid(), abstractNames.Add(1))
}

func mustListenPacket(t *testing.T, inv *inventory, network, address string) net.PacketConn {
	t.Helper()
	network, _, _ = strings.Cut(network, " ")
	c, err := inv.listenPacket("x", network, address)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// mustListenUDP listens on a port of the loopback.
func mustListenUDP(t *testing.T, inv *inventory) *udpConn {
	t.Helper()
	return mustListenPacket(t, inv, "udp", "127.0.0.1:0").(*udpConn)
}

// dialPackets makes a client that can be answered.
func dialPackets(t *testing.T, to net.PacketConn) net.Conn {
	t.Helper()
	var conn net.Conn
	var err error
	switch addr := to.LocalAddr().(type) {
	case *net.UnixAddr:
		conn, err = net.DialUnix("unixgram", &net.UnixAddr{Name: abstractName(), Net: "unixgram"}, addr)
	case *net.IPAddr:
		conn, err = net.Dial("ip4:253", addr.String())
	default:
		conn, err = net.Dial(addr.Network(), addr.String())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

func send(t *testing.T, client net.Conn, text string) {
	t.Helper()
	if _, err := client.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

func sendTo(t *testing.T, c net.PacketConn, text string) {
	t.Helper()
	send(t, dialPackets(t, c), text)
}

type read struct {
	text string
	err  error
}

// reader is one method that reads.
type reader func(p []byte) (n int, err error)

// in reads in the background.
func (r reader) in() <-chan read {
	got := make(chan read, 1)
	go func() {
		buf := make([]byte, 64)
		n, err := r(buf)
		got <- read{string(buf[:max(n, 0)]), err} // some methods of package net return -1
	}()
	return got
}

// readOne reads in the background.
func readOne(c net.PacketConn) <-chan read {
	return reader(func(p []byte) (int, error) { n, _, err := c.ReadFrom(p); return n, err }).in()
}

// mustRead checks the end of a read. What is before the text is a header of
// raw sockets.
func mustRead(t *testing.T, got <-chan read, want string, wantErr error) {
	t.Helper()
	select {
	case r := <-got:
		if !strings.HasSuffix(r.text, want) || (want == "") != (r.text == "") || !errors.Is(r.err, wantErr) {
			t.Errorf("read %q, %v; want %q, %v", r.text, r.err, want, wantErr)
		}
	case <-time.After(patience):
		t.Fatal("the read does not return")
	}
}

// readers are the methods of a socket that read.
func readers(c net.PacketConn) map[string]reader {
	list := map[string]reader{
		"Read":     c.(net.Conn).Read,
		"ReadFrom": func(p []byte) (n int, err error) { n, _, err = c.ReadFrom(p); return },
		"SyscallConn": func(p []byte) (n int, err error) {
			raw, err := c.(packetSocket).SyscallConn()
			if err != nil {
				return 0, err
			}
			var readErr error
			err = raw.Read(func(fd uintptr) bool {
				n, readErr = unix.Read(int(fd), p)
				return readErr != unix.EAGAIN
			})
			if err == nil {
				err = readErr
			}
			return max(n, 0), err
		},
	}
	switch c := c.(type) {
	case *udpConn:
		list["ReadFromUDP"] = func(p []byte) (n int, err error) { n, _, err = c.ReadFromUDP(p); return }
		list["ReadFromUDPAddrPort"] = func(p []byte) (n int, err error) { n, _, err = c.ReadFromUDPAddrPort(p); return }
		list["ReadMsgUDP"] = func(p []byte) (n int, err error) { n, _, _, _, err = c.ReadMsgUDP(p, nil); return }
		list["ReadMsgUDPAddrPort"] = func(p []byte) (n int, err error) { n, _, _, _, err = c.ReadMsgUDPAddrPort(p, nil); return }
	case *unixgramConn:
		list["ReadFromUnix"] = func(p []byte) (n int, err error) { n, _, err = c.ReadFromUnix(p); return }
		list["ReadMsgUnix"] = func(p []byte) (n int, err error) { n, _, _, _, err = c.ReadMsgUnix(p, nil); return }
	case *ipConn:
		list["ReadFromIP"] = func(p []byte) (n int, err error) { n, _, err = c.ReadFromIP(p); return }
		list["ReadMsgIP"] = func(p []byte) (n int, err error) { n, _, _, _, err = c.ReadMsgIP(p, nil); return }
	}
	return list
}

// shared gives what the methods of all kinds work on.
func shared(c net.PacketConn) *packetConn {
	switch c := c.(type) {
	case *udpConn:
		return c.packetConn
	case *unixgramConn:
		return c.packetConn
	case *ipConn:
		return c.packetConn
	}
	panic(fmt.Sprintf("%T", c))
}

// waitReading returns when a read waits in the kernel.
func waitReading(t *testing.T, c *packetConn) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; runtime.Gosched() {
		c.mu.Lock()
		reading := c.reading
		c.mu.Unlock()
		if reading > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody reads")
		}
	}
}

// Each way to read leaves alone what comes while the other generation reads,
// goes on after that, keeps to the user's deadline, and ends with the drain.
func TestPacketConnReads(t *testing.T) {
	for network, address := range packetNetworks(t) {
		t.Run(network, func(t *testing.T) {
			a := firstInventory(t)
			connA := mustListenPacket(t, a, network, address)
			a.accept()
			b := nextInventory(t, a)
			connB := mustListenPacket(t, b, network, address)
			if len(b.bound) != 0 {
				t.Fatal("the successor did not take the socket over")
			}
			client := dialPackets(t, connA)
			for name, r := range readers(connA) {
				t.Run(name, func(t *testing.T) {
					got := r.in()
					waitReading(t, shared(connA))
					a.pause()
					b.accept()
					send(t, client, "one")
					mustRead(t, readOne(connB), "one", nil)
					b.pause()
					send(t, client, "two")
					a.accept()
					mustRead(t, got, "two", nil)

					for _, paused := range []bool{false, true} {
						if got = r.in(); paused {
							waitReading(t, shared(connA))
							a.pause()
						}
						if err := connA.SetReadDeadline(time.Unix(1, 0)); err != nil {
							t.Fatal(err)
						}
						mustRead(t, got, "", os.ErrDeadlineExceeded)
						if err := connA.SetDeadline(time.Time{}); err != nil {
							t.Fatal(err)
						}
					}
					a.accept()
				})
			}
			var got []<-chan read
			for _, r := range readers(connA) {
				got = append(got, r.in())
			}
			waitReading(t, shared(connA))
			if err := a.close(successors); err != nil {
				t.Error(err)
			}
			for _, got := range got {
				mustRead(t, got, "", net.ErrClosed)
			}
			for _, r := range readers(connA) {
				mustRead(t, r.in(), "", net.ErrClosed)
			}
		})
	}
}

// What the service gets has every method of its type in package net. One that is
// new there must be looked at: it may read, or work on all copies of the socket.
func TestPacketConnMethods(t *testing.T) {
	passed := []string{
		"LocalAddr", "RemoteAddr", "SetReadBuffer", "SetWriteBuffer", "SetWriteDeadline", "Write", "WriteTo",
		"WriteToUDP", "WriteToUDPAddrPort", "WriteMsgUDP", "WriteMsgUDPAddrPort",
		"WriteToUnix", "WriteMsgUnix", "WriteToIP", "WriteMsgIP",
	}
	own := []string{"Close", "CloseRead", "CloseWrite", "File", "SetDeadline", "SetReadDeadline"} // and readers
	for network, address := range packetNetworks(t) {
		c := mustListenPacket(t, firstInventory(t), network, address)
		reads := readers(c)
		plain := reflect.TypeOf(shared(c).sock)
		for i := range plain.NumMethod() {
			m := plain.Method(i)
			if _, ok := reflect.TypeOf(c).MethodByName(m.Name); !ok {
				t.Errorf("%s: %T has no %s", network, c, m.Name)
			}
			if _, ok := reads[m.Name]; !ok && !slices.Contains(passed, m.Name) && !slices.Contains(own, m.Name) {
				t.Errorf("%s: nobody has decided about %s", network, m.Name)
			}
		}
	}
}

func TestPausedPacketConn(t *testing.T) {
	inv := firstInventory(t)
	c := mustListenUDP(t, inv)
	got := readOne(c)
	sendTo(t, c, "one")
	select {
	case r := <-got:
		t.Fatalf("read %+v before it was accepted", r)
	default:
	}
	inv.accept()
	mustRead(t, got, "one", nil)

	// A read that waits in the kernel when the pause comes.
	got = readOne(c)
	for range 100 {
		inv.pause()
		inv.accept()
	}
	inv.pause()
	sendTo(t, c, "two")
	inv.accept()
	mustRead(t, got, "two", nil)
	if _, err := c.WriteTo([]byte("x"), c.LocalAddr()); err != nil {
		t.Errorf("write: %v", err)
	}
	mustRead(t, readOne(c), "x", nil)
}

// Once pause has returned nothing is taken: all that comes then is the other
// generation's.
func TestPauseOfPacketConnIsExact(t *testing.T) {
	a := firstInventory(t)
	connA := mustListenUDP(t, a)
	b := nextInventory(t, a)
	connB := mustListenPacket(t, b, "udp", "127.0.0.1:0")
	client := dialPackets(t, connA)
	var loops sync.WaitGroup
	for name, r := range readers(connA) { // all of them at once
		loops.Go(func() {
			buf := make([]byte, 64)
			for {
				n, err := r(buf)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err != nil || string(buf[:n]) != "early" {
					t.Errorf("%s: %q, %v", name, buf[:n], err)
				}
			}
		})
	}
	const rounds, each = 500, 3
	for i := range rounds {
		a.accept()
		for range each {
			send(t, client, "early")
		}
		a.pause()
		for range each {
			send(t, client, "late")
		}
		b.accept()
		for late := 0; late < each; {
			select {
			case r := <-readOne(connB):
				if r.err != nil {
					t.Fatal(r.err)
				}
				if r.text == "late" {
					late++
				}
			case <-time.After(patience):
				t.Fatalf("round %d: %d of %d datagrams reached the other generation", i, late, each)
			}
		}
		b.pause()
	}
	if err := a.close(successors); err != nil {
		t.Error(err)
	}
	loops.Wait()
}

// The user's deadlines hold, paused or not, and are not those of a pause.
func TestPacketConnDeadlines(t *testing.T) {
	inv := firstInventory(t)
	c := mustListenUDP(t, inv)
	past := time.Unix(1, 0)
	for _, accepting := range []bool{false, true} {
		if accepting {
			inv.accept()
		}
		if err := c.SetReadDeadline(past); err != nil {
			t.Fatal(err)
		}
		mustRead(t, readOne(c), "", os.ErrDeadlineExceeded)

		if err := c.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		got := readOne(c)
		if err := c.SetReadDeadline(past); err != nil {
			t.Fatal(err)
		}
		mustRead(t, got, "", os.ErrDeadlineExceeded)

		if err := c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		mustRead(t, readOne(c), "", os.ErrDeadlineExceeded)

		// And put off.
		if err := c.SetReadDeadline(time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		got = readOne(c)
		if err := c.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		sendTo(t, c, "late")
		if !accepting {
			inv.accept()
		}
		mustRead(t, got, "late", nil)
		inv.pause()
	}

	// A deadline that was set in a pause holds after it.
	if err := c.SetReadDeadline(past); err != nil {
		t.Fatal(err)
	}
	inv.accept()
	mustRead(t, readOne(c), "", os.ErrDeadlineExceeded)
}

// A deadline that is set while a read waits for the end of a pause ends it:
// that is how servers are stopped.
func TestPacketConnDeadlineDuringAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inv := firstInventory(t)
		c := mustListenUDP(t, inv)
		got := readOne(c)
		synctest.Wait()
		if err := c.SetReadDeadline(time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		mustRead(t, got, "", os.ErrDeadlineExceeded)

		// And one that is put off does not.
		if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		got = readOne(c)
		synctest.Wait()
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		mustRead(t, got, "", os.ErrDeadlineExceeded)
		if took := time.Since(begin); took != 10*time.Second {
			t.Errorf("ended after %v, want 10s", took)
		}
	})
}

func TestClosedPacketConn(t *testing.T) {
	for _, accepting := range []bool{false, true} {
		inv := firstInventory(t)
		c := mustListenUDP(t, inv)
		if accepting {
			inv.accept()
		}
		got := readOne(c)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		mustRead(t, got, "", net.ErrClosed)
		if err := c.Close(); err != nil {
			t.Errorf("closing again: %v", err)
		}
		if err := c.SetReadDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("set a deadline: %v", err)
		}
		if _, err := c.File(); err == nil || !strings.Contains(err.Error(), `copy the descriptor of "x"`) {
			t.Errorf("copy: %v", err)
		}
		// What the service has closed itself is no error at its end.
		if err := inv.close(ours); err != nil {
			t.Errorf("at the end: %v", err)
		}
	}
}

func TestListenPacketRefuses(t *testing.T) {
	inv := firstInventory(t)
	c := mustListenUDP(t, inv)
	for _, x := range []struct{ name, network, address, want string }{
		{"x", "udp", "127.0.0.1:0", `listen for packets "x": the name is taken`},
		{"y", "udp", c.LocalAddr().String(), "address already in use"},
		{"z", "tcp", "127.0.0.1:0", `listen for packets "z"`},
	} {
		if _, err := inv.listenPacket(x.name, x.network, x.address); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s %s: %v, want %q", x.name, x.network, err, x.want)
		}
	}
	if err := inv.close(ours); err != nil {
		t.Error(err)
	}
	if _, err := inv.listenPacket("late", "udp", "127.0.0.1:0"); !errors.Is(err, errStopped) {
		t.Errorf("after the end: %v", err)
	}
}

// Pausing, accepting and closing may come at any moment and from anywhere.
func TestPacketConnUnderContention(t *testing.T) {
	for range 50 {
		inv := firstInventory(t)
		c := mustListenUDP(t, inv)
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() { mustRead(t, readOne(c), "", net.ErrClosed) })
			all.Go(func() {
				for range 20 {
					inv.accept()
					inv.pause()
				}
			})
		}
		all.Go(func() { _ = inv.close(ours) })
		all.Wait()
	}
}

// Two generations read from one socket in turns; no datagram is lost, none is
// answered twice.
func TestNoDatagramIsLostWhileTheGateFlips(t *testing.T) {
	for network, address := range packetNetworks(t) {
		if network == "ip4:253" {
			continue // every raw socket gets what any other sends
		}
		t.Run(network, func(t *testing.T) {
			a := firstInventory(t)
			connA := mustListenPacket(t, a, network, address)
			b := nextInventory(t, a)
			connB := mustListenPacket(t, b, network, address)
			var loops sync.WaitGroup
			answer := func(c net.PacketConn) {
				buf := make([]byte, 64)
				for {
					n, from, err := c.ReadFrom(buf)
					if err != nil {
						if !errors.Is(err, net.ErrClosed) {
							t.Error(err)
						}
						return
					}
					if _, err := c.WriteTo(buf[:n], from); err != nil {
						t.Error(err)
					}
				}
			}
			for range 2 {
				loops.Go(func() { answer(connA) })
				loops.Go(func() { answer(connB) })
			}

			const window = 8 // below net.unix.max_dgram_qlen
			client := dialPackets(t, connA)
			answered := map[int]bool{}
			buf := make([]byte, 64)
			next := func() {
				n, err := client.Read(buf)
				if err != nil {
					t.Fatalf("after %d answers: %v", len(answered), err)
				}
				number, err := strconv.Atoi(string(buf[:n]))
				if err != nil || answered[number] {
					t.Fatalf("answer %q: %v, seen before: %t", buf[:n], err, answered[number])
				}
				answered[number] = true
			}
			const total = 3000
			for i := range total {
				if i >= window {
					next()
				}
				send(t, client, strconv.Itoa(i))
				from, to := a, b
				if i%2 == 1 {
					from, to = b, a
				}
				// In one order and in the other: both read for a moment, or nobody does.
				if i%3 == 0 {
					from.pause()
					to.accept()
				} else {
					to.accept()
					from.pause()
				}
			}
			for len(answered) < total {
				next()
			}
			for _, inv := range []*inventory{a, b} {
				if err := inv.close(successors); err != nil {
					t.Error(err)
				}
			}
			loops.Wait()
		})
	}
}

// A drain ends reading at once; what was read is answered.
func TestDrainOfPacketConn(t *testing.T) {
	for network, address := range packetNetworks(t) {
		t.Run(network, func(t *testing.T) {
			inv := firstInventory(t)
			c := mustListenPacket(t, inv, network, address)
			inv.accept()
			client := dialPackets(t, c)
			// A loop that takes its time with an answer.
			read, answer, left := make(chan struct{}), make(chan struct{}), make(chan error)
			go func() {
				buf := make([]byte, 64)
				n, from, err := c.ReadFrom(buf)
				close(read)
				<-answer
				_, writeErr := c.WriteTo(buf[:n], from)
				_, _, endErr := c.ReadFrom(buf)
				if !errors.Is(endErr, net.ErrClosed) {
					err = errors.Join(err, fmt.Errorf("the next read: %w", endErr))
				}
				left <- errors.Join(err, writeErr)
			}()
			send(t, client, "question")
			<-read
			if err := inv.close(ours); err != nil {
				t.Error(err)
			}
			if path := c.LocalAddr().String(); network == "unixgram" {
				if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s is still there: %v", path, err)
				}
			}
			settled := shared(c).settled
			select {
			case <-settled:
				t.Error("settled before the answer")
			default:
			}
			close(answer)
			inv.waitAnswers(nil)
			<-settled
			if err := <-left; err != nil {
				t.Error(err)
			}
			inv.closePackets()
			if _, err := c.WriteTo([]byte("late"), client.LocalAddr()); !errors.Is(err, net.ErrClosed) {
				t.Errorf("write after the drain: %v", err)
			}
			mustRead(t, reader(client.Read).in(), "question", nil)
		})
	}
}

// A reader that does not come back does not hold the drain up for long, one that
// was closed does not at all, and a cut ends the wait.
func TestDrainDoesNotWaitForReaders(t *testing.T) {
	for name, c := range map[string]struct {
		leave func(c net.PacketConn)
		cut   bool
		want  time.Duration
	}{
		"gone":          {leave: func(net.PacketConn) {}, want: answerTime},
		"cut":           {leave: func(net.PacketConn) {}, cut: true},
		"closed":        {leave: func(c net.PacketConn) { _ = c.Close() }},
		"never read":    {},
		"left in error": {leave: func(c net.PacketConn) { _ = c.SetReadDeadline(time.Unix(1, 0)); _, _, _ = c.ReadFrom(nil) }, want: answerTime},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inv := firstInventory(t)
				conn := mustListenUDP(t, inv)
				inv.accept()
				if c.leave != nil {
					sendTo(t, conn, "x")
					mustRead(t, readOne(conn), "x", nil)
					c.leave(conn)
				}
				if err := inv.close(ours); err != nil {
					t.Error(err)
				}
				stop := make(chan struct{})
				if c.cut {
					close(stop)
				}
				begin := time.Now()
				inv.waitAnswers(stop)
				if took := time.Since(begin); took != c.want {
					t.Errorf("waited %v, want %v", took, c.want)
				}
			})
		})
	}
}

// The copy of File is of the same socket, and its Fd harms nobody: with package
// net it would turn all copies to blocking mode, and the next pause would wait
// for a datagram.
func TestFileOfPacketConn(t *testing.T) {
	for network, address := range packetNetworks(t) {
		inv := firstInventory(t)
		c := mustListenPacket(t, inv, network, address)
		inv.accept()
		file, err := c.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		local, err := unix.Getsockname(int(file.Fd()))
		if err != nil || local == nil {
			t.Errorf("%s: %v, %v", network, local, err)
		}
		got := readOne(c)
		waitReading(t, shared(c))
		inv.pause()
		inv.accept()
		sendTo(t, c, "x")
		mustRead(t, got, "x", nil)
	}
}

// A function that panics in the Read of SyscallConn reads no more.
func TestPanicInSyscallConn(t *testing.T) {
	inv := firstInventory(t)
	c := mustListenUDP(t, inv)
	inv.accept()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	func() {
		defer func() { _ = recover() }()
		_ = raw.Read(func(uintptr) bool { panic("a bug of the service") })
		t.Error("no panic")
	}()
	paused := make(chan struct{})
	go func() { inv.pause(); close(paused) }()
	select {
	case <-paused:
	case <-time.After(patience):
		t.Fatal("the pause waits for a read that has ended")
	}
}

func TestUnixgramConnHasNoShutdown(t *testing.T) {
	inv := firstInventory(t)
	c := mustListenPacket(t, inv, "unixgram", abstractName()).(*unixgramConn)
	inv.accept()
	for name, shutdown := range map[string]func() error{"CloseRead": c.CloseRead, "CloseWrite": c.CloseWrite} {
		if err := shutdown(); !errors.Is(err, errShutdown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	sendTo(t, c, "x")
	mustRead(t, readOne(c), "x", nil)
}
