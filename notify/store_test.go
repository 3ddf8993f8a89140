// SPDX-License-Identifier: Apache-2.0

package notify_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/notify"
	"github.com/holdfast-go/holdfast/notify/notifytest"
)

// inode identifies what a descriptor refers to.
func inode(t testing.TB, file *os.File) uint64 {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	return stat.Ino
}

// memfd returns a file that is not pollable, as a service keeps its state in.
func memfd(t testing.TB, content string) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "state")
	t.Cleanup(func() { _ = file.Close() })
	if _, err := file.WriteString(content); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestStoreAndRemove(t *testing.T) {
	m := notifytest.NewManager(t)
	n := open(t, m.Socket())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	state := memfd(t, "42")
	for _, one := range []struct {
		name string
		conn syscall.Conn
	}{{"http@1", listener.(*net.TCPListener)}, {"state@1", state}} {
		if err := n.Store(one.name, one.conn); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"http@1", "state@1"} {
		got := m.Want(t, "FDNAME="+name)
		if want := "FDSTORE=1\nFDNAME=" + name; string(got.Payload) != want || got.Descriptors != 1 {
			t.Errorf("got %v, want %q with one descriptor", got, want)
		}
	}
	// The manager's copy is the same open file, not another one of its kind.
	for _, entry := range m.Store().Entries() {
		if entry.Name == "state@1" && inode(t, entry.File) != inode(t, state) {
			t.Error("another file was stored")
		}
	}
	// What is stored outlives the service's own copy.
	listener.Close()
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatalf("stored listener refuses: %v", err)
	}
	client.Close()

	if err := n.Remove("http@1"); err != nil {
		t.Fatal(err)
	}
	if err := n.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	if names := m.Store().Names(); !slices.Equal(names, []string{"state@1"}) {
		t.Errorf("stored are %q, want state@1", names)
	}
	if client, err := net.Dial("tcp", listener.Addr().String()); err == nil {
		client.Close()
		t.Error("removed listener still accepts")
	}
}

func TestStoreNoPoll(t *testing.T) {
	m := notifytest.NewManager(t)
	n := open(t, m.Socket())
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := n.Store("dns", conn.(*net.UDPConn), notify.NoPoll()); err != nil {
		t.Fatal(err)
	}
	if err := n.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := string(m.Messages()[0].Payload); got != "FDSTORE=1\nFDNAME=dns\nFDPOLL=0" {
		t.Errorf("payload is %q", got)
	}
	if entries := m.Store().Entries(); len(entries) != 1 || entries[0].Poll {
		t.Errorf("stored are %+v, want one that is not polled", entries)
	}
}

// The kinds of sockets that systemd drops as soon as it watches them.
func TestStoreRefusesWhatWouldBeDropped(t *testing.T) {
	m := notifytest.NewManager(t)
	n := open(t, m.Socket())

	bound, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	socket := os.NewFile(uintptr(bound), "bound")
	defer socket.Close()
	if err := unix.Bind(bound, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	err = n.Store("bound", socket)
	if want := `store descriptor "bound": ` + notify.ErrHungUp.Error() + " (POLLHUP): store a socket once it listens, or use NoPoll"; !errors.Is(err, notify.ErrHungUp) || err.Error() != want {
		t.Errorf("bound socket: got %v, want %s", err, want)
	}

	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	conn, err := net.Dial("udp", closed.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("to nobody")); err != nil {
		t.Fatal(err)
	}
	// Over loopback the ICMP error is there when Write returns.
	if err := n.Store("refused", conn.(*net.UDPConn)); !errors.Is(err, notify.ErrHungUp) || !strings.Contains(err.Error(), "POLLERR") {
		t.Errorf("UDP socket with an error: got %v, want ErrHungUp", err)
	}
	if err := n.Store("kept", conn.(*net.UDPConn), notify.NoPoll()); err != nil {
		t.Errorf("with NoPoll: %v", err)
	}
	if err := n.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	if names := m.Store().Names(); !slices.Equal(names, []string{"kept"}) {
		t.Errorf("stored are %q, want only the last", names)
	}
}

func TestStoreRefusesNames(t *testing.T) {
	m := notifytest.NewManager(t)
	n := open(t, m.Socket())
	for _, name := range []string{"", "a:b", "a\nb", "ü", strings.Repeat("n", 256)} {
		var fieldErr *notify.FieldError
		if err := n.Store(name, os.Stdin); !errors.As(err, &fieldErr) || fieldErr.Name != "FDNAME" {
			t.Errorf("Store(%q): got %v, want a FieldError for FDNAME", name, err)
		}
		if err := n.Remove(name); !errors.As(err, &fieldErr) || fieldErr.Name != "FDNAME" {
			t.Errorf("Remove(%q): got %v, want a FieldError for FDNAME", name, err)
		}
	}
	if err := n.Store("a", nil); err == nil {
		t.Error("Store without a descriptor was accepted")
	}
	if err := n.Store("a", os.Stdin, notify.FDName("b")); err == nil {
		t.Error("Store with two names was accepted")
	}
	if err := n.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all := m.Messages(); len(all) != 1 {
		t.Errorf("%d messages, want the barrier only: %v", len(all), all)
	}
}

func TestLongestName(t *testing.T) {
	m := notifytest.NewManager(t)
	n := open(t, m.Socket())
	name := strings.Repeat("~", notify.MaxName)
	if err := n.Store(name, memfd(t, "")); err != nil {
		t.Fatal(err)
	}
	if err := n.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	if names := m.Store().Names(); !slices.Equal(names, []string{name}) {
		t.Errorf("stored are %q", names)
	}
}

// O_NONBLOCK is shared by all copies of a description: a Store that touched it
// would change the service's own socket under its feet.
func TestStoreKeepsTheBlockingMode(t *testing.T) {
	m := notifytest.NewManager(t)
	n := open(t, m.Socket())
	for _, mode := range []int{0, unix.O_NONBLOCK} {
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|mode); err != nil {
			t.Fatal(err)
		}
		reader, writer := os.NewFile(uintptr(fds[0]), "reader"), os.NewFile(uintptr(fds[1]), "writer")
		if err := n.Store(fmt.Sprintf("pipe %d", mode), reader); err != nil {
			t.Error(err)
		}
		flags, err := unix.FcntlInt(uintptr(fds[0]), unix.F_GETFL, 0)
		if err != nil || flags&unix.O_NONBLOCK != mode {
			t.Errorf("flags are %#x, %v, want O_NONBLOCK %#x", flags, err, mode)
		}
		reader.Close()
		writer.Close()
	}
}

func TestStoreLeaksNothing(t *testing.T) {
	m := notifytest.NewManager(t)
	n := open(t, m.Socket())
	state := memfd(t, "")
	before := openDescriptors(t)
	for i := range 20 {
		// The manager closes a duplicate, so only the first one stays.
		if err := n.Store(fmt.Sprint("state@", i), state); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Remove("state@0"); err != nil {
		t.Fatal(err)
	}
	if err := n.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Barrier returned when the manager closed its end, so nothing is on its way.
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
}
