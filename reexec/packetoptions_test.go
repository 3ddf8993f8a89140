// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"bytes"
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// onSocket does something to the socket itself.
func onSocket(t *testing.T, c syscall.Conn, what string, f func(fd int) error) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(raw.Control(func(fd uintptr) { err = f(int(fd)) }), err); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func setOption(t *testing.T, c syscall.Conn, level, option, value int) {
	t.Helper()
	onSocket(t, c, "setsockopt", func(fd int) error { return unix.SetsockoptInt(fd, level, option, value) })
}

func mustHaveOption(t *testing.T, c syscall.Conn, level, option, want int) {
	t.Helper()
	onSocket(t, c, "getsockopt", func(fd int) error {
		got, err := unix.GetsockoptInt(fd, level, option)
		if err == nil && got != want {
			t.Errorf("option %d of level %d is %d, want %d", option, level, got, want)
		}
		return err
	})
}

// ancillary finds the data of one kind.
func ancillary(t *testing.T, oob []byte, level, kind int32) []byte {
	t.Helper()
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		if m.Header.Level == level && m.Header.Type == kind {
			return m.Data
		}
	}
	t.Fatalf("no ancillary data %d of level %d in %+v", kind, level, list)
	return nil
}

// What one generation has set on a socket works in the next: datagrams that the
// kernel has put together, and takes apart, and the address they were sent to.
func TestPacketOptionsCross(t *testing.T) {
	for _, c := range []struct {
		network, address string
		pktinfo          [3]int // level, option, kind of ancillary data
		local            []byte
	}{
		{"udp4", "127.0.0.1:0", [3]int{unix.SOL_IP, unix.IP_PKTINFO, unix.IP_PKTINFO}, net.IPv4(127, 0, 0, 1).To4()},
		{"udp6", "[::1]:0", [3]int{unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, unix.IPV6_PKTINFO}, net.IPv6loopback},
	} {
		t.Run(c.network, func(t *testing.T) {
			const segment = 100
			a := firstInventory(t)
			connA := mustListenPacket(t, a, c.network, c.address).(*udpConn)
			a.accept()
			setOption(t, connA, unix.SOL_UDP, unix.UDP_GRO, 1)
			setOption(t, connA, unix.SOL_UDP, unix.UDP_SEGMENT, segment)
			setOption(t, connA, c.pktinfo[0], c.pktinfo[1], 1)
			a.pause()
			client := dialPackets(t, connA).(*net.UDPConn)
			setOption(t, client, unix.SOL_UDP, unix.UDP_SEGMENT, segment)
			burst := bytes.Repeat([]byte("0123456789"), 45) // four segments and a half
			// One waits through the handover, one comes after it.
			send(t, client, string(burst))
			b := nextInventory(t, a)
			connB := mustListenPacket(t, b, c.network, c.address).(*udpConn)
			b.accept()
			send(t, client, string(burst))

			mustHaveOption(t, connB, unix.SOL_UDP, unix.UDP_GRO, 1)
			mustHaveOption(t, connB, unix.SOL_UDP, unix.UDP_SEGMENT, segment)
			mustHaveOption(t, connB, c.pktinfo[0], c.pktinfo[1], 1)
			buf, oob := make([]byte, 1000), make([]byte, 200)
			for range 2 {
				n, oobn, _, from, err := connB.ReadMsgUDPAddrPort(buf, oob)
				if err != nil || !bytes.Equal(buf[:n], burst) || from.String() != client.LocalAddr().String() {
					t.Fatalf("%d bytes from %v, %v; want all %d together", n, from, err, len(burst))
				}
				size := ancillary(t, oob[:oobn], unix.SOL_UDP, unix.UDP_GRO)
				if got := *(*int32)(unsafe.Pointer(&size[0])); got != segment {
					t.Errorf("segments of %d bytes, want %d", got, segment)
				}
				if info := ancillary(t, oob[:oobn], int32(c.pktinfo[0]), int32(c.pktinfo[2])); !bytes.Contains(info, c.local) {
					t.Errorf("sent to %v, want %v", info, c.local)
				}
			}
			// The answer leaves in one call and arrives in pieces.
			if _, err := connB.WriteTo(burst, client.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			for left := len(burst); left > 0; left -= segment {
				if n, err := client.Read(buf); err != nil || n != min(left, segment) {
					t.Fatalf("the client reads %d bytes, %v; want %d", n, err, min(left, segment))
				}
			}
		})
	}
}

// An error that came before the handover is read by the next generation: as an
// error of its first read, and in full from the error queue.
func TestPendingErrorsCross(t *testing.T) {
	for _, c := range []struct {
		network, address string
		level, option    int
	}{
		{"udp4", "127.0.0.1:0", unix.SOL_IP, unix.IP_RECVERR},
		{"udp6", "[::1]:0", unix.SOL_IPV6, unix.IPV6_RECVERR},
	} {
		t.Run(c.network, func(t *testing.T) {
			a := firstInventory(t)
			connA := mustListenPacket(t, a, c.network, c.address).(*udpConn)
			setOption(t, connA, c.level, c.option, 1)
			// A port that nobody has any more.
			gone, err := net.ListenPacket(c.network, c.address)
			if err != nil {
				t.Fatal(err)
			}
			_ = gone.Close()
			if _, err := connA.WriteTo([]byte("anybody?"), gone.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			onSocket(t, connA, "wait for the error", func(fd int) error {
				for {
					// POLLERR is always waited for.
					n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd)}}, int(patience.Milliseconds()))
					if n == 0 && err == nil {
						err = os.ErrDeadlineExceeded
					}
					if err != unix.EINTR {
						return err
					}
				}
			})

			b := nextInventory(t, a)
			connB := mustListenPacket(t, b, c.network, c.address).(*udpConn)
			b.accept()
			buf, oob := make([]byte, 100), make([]byte, 200)
			if _, _, err := connB.ReadFrom(buf); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("the first read: %v, want connection refused", err)
			}
			raw, err := connB.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			var n, oobn int
			var to unix.Sockaddr
			var readErr error
			err = raw.Read(func(fd uintptr) bool {
				n, oobn, _, to, readErr = unix.Recvmsg(int(fd), buf, oob, unix.MSG_ERRQUEUE)
				return readErr != unix.EAGAIN
			})
			if err := errors.Join(err, readErr); err != nil || string(buf[:n]) != "anybody?" {
				t.Fatalf("error queue: %q, %v; want what was sent", buf[:n], err)
			}
			if portOf(to) != gone.LocalAddr().(*net.UDPAddr).Port {
				t.Errorf("it was sent to %+v, want %v", to, gone.LocalAddr())
			}
			data := ancillary(t, oob[:oobn], int32(c.level), int32(c.option))
			if e := (*unix.SockExtendedErr)(unsafe.Pointer(&data[0])); syscall.Errno(e.Errno) != syscall.ECONNREFUSED {
				t.Errorf("error queue: %v, want connection refused", syscall.Errno(e.Errno))
			}

			// That was all: the next read is of a datagram.
			sendTo(t, connB, "x")
			mustRead(t, readOne(connB), "x", nil)
		})
	}
}

func portOf(sa unix.Sockaddr) int {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return sa.Port
	case *unix.SockaddrInet6:
		return sa.Port
	}
	return 0
}
