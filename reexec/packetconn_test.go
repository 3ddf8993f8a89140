// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func mustListenPacket(t *testing.T, inv *inventory) *packetConn {
	t.Helper()
	c, err := inv.listenPacket("x", "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return c.(*packetConn)
}

func sendTo(t *testing.T, c net.PacketConn, text string) {
	t.Helper()
	conn, err := net.Dial("udp", c.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

type read struct {
	text string
	err  error
}

// readOne reads in the background.
func readOne(c net.PacketConn) <-chan read {
	got := make(chan read, 1)
	go func() {
		buf := make([]byte, 64)
		n, _, err := c.ReadFrom(buf)
		got <- read{string(buf[:n]), err}
	}()
	return got
}

func mustRead(t *testing.T, got <-chan read, want string, wantErr error) {
	t.Helper()
	select {
	case r := <-got:
		if r.text != want || !errors.Is(r.err, wantErr) {
			t.Errorf("read %q, %v; want %q, %v", r.text, r.err, want, wantErr)
		}
	case <-time.After(patience):
		t.Fatal("ReadFrom does not return")
	}
}

func TestPausedPacketConn(t *testing.T) {
	inv := firstInventory(t)
	c := mustListenPacket(t, inv)
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

// The user's deadlines hold, paused or not, and are not those of a pause.
func TestPacketConnDeadlines(t *testing.T) {
	inv := firstInventory(t)
	c := mustListenPacket(t, inv)
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
		c := mustListenPacket(t, inv)
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
		c := mustListenPacket(t, inv)
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
		// What the service has closed itself is no error at its end.
		if err := inv.close(ours); err != nil {
			t.Errorf("at the end: %v", err)
		}
	}
}

func TestListenPacketRefuses(t *testing.T) {
	inv := firstInventory(t)
	c := mustListenPacket(t, inv)
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

// Two generations read from one socket in turns; no datagram is lost, none is
// read twice.
func TestNoDatagramIsLostWhileTheGateFlips(t *testing.T) {
	a := firstInventory(t)
	connA := mustListenPacket(t, a)
	b := nextInventory(t, a)
	connB := mustListenPacket(t, b)
	var readers sync.WaitGroup
	answer := func(c *packetConn) {
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
	readers.Go(func() { answer(connA) })
	readers.Go(func() { answer(connB) })

	conn, err := net.Dial("udp", connA.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	buf := make([]byte, 64)
	for i := range 2000 {
		if _, err := conn.Write([]byte{byte(i), byte(i >> 8)}); err != nil {
			t.Fatal(err)
		}
		from, to := a, b
		if i%2 == 1 {
			from, to = b, a
		}
		from.pause()
		to.accept()
		n, err := conn.Read(buf)
		if err != nil || n != 2 || int(buf[0])|int(buf[1])<<8 != i {
			t.Fatalf("datagram %d: %v, %v", i, buf[:n], err)
		}
	}
	for _, inv := range []*inventory{a, b} {
		if err := inv.close(successors); err != nil {
			t.Error(err)
		}
	}
	readers.Wait()
}
