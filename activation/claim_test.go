// SPDX-License-Identifier: Apache-2.0

package activation_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/activation"
)

// kindFile opens the descriptor that the openers call by this name.
func kindFile(t *testing.T, name string) *os.File {
	t.Helper()
	for _, o := range openers() {
		if o.name == name {
			return o.file(t)
		}
	}
	t.Fatalf("no opener %q", name)
	return nil
}

func TestClaimErrorsSayWhatToChange(t *testing.T) {
	set := newSet(t,
		activation.Passed{File: kindFile(t, "tcp4 listener"), Name: "web"},
		activation.Passed{File: kindFile(t, "unix listener"), Name: "web"},
		activation.Passed{File: kindFile(t, "udp"), Name: "dns"},
		activation.Passed{File: kindFile(t, "unix stream connection"), Name: "connection"},
		activation.Passed{File: kindFile(t, "FIFO"), Name: ""},
		activation.Passed{File: kindFile(t, "unix bound only"), Name: "dead"},
	)
	number := func(index int) int { return set.All()[index].FD }
	const passed = `(passed: "web", "dns", "connection", "", "dead")`
	cases := []struct {
		claim func() error
		want  string
	}{
		{
			func() error { _, err := set.Listener("http"); return err },
			`listener "http" was not passed: set FileDescriptorName=http in the .socket unit ` + passed,
		},
		{
			func() error { _, err := set.Conns("ssh"); return err },
			`connection "ssh" was not passed: set FileDescriptorName=ssh in the .socket unit ` + passed,
		},
		{
			func() error { _, err := set.PacketConn("log"); return err },
			`packet socket "log" was not passed: set FileDescriptorName=log in the .socket unit ` + passed,
		},
		{
			func() error { _, err := set.File("config"); return err },
			`file "config" was not passed: set FileDescriptorName=config in the .socket unit, or OpenFile=path:config in the .service unit ` + passed,
		},

		{
			func() error { _, err := set.Listener("web"); return err },
			`listener "web": 2 were passed under this name: claim all of them with Listeners, or leave one Listen*= line in the .socket unit`,
		},

		{
			func() error { _, err := set.Listener("dns"); return err },
			fmt.Sprintf(`listener "dns": descriptor %d is of kind packet socket (udp %s): use ListenStream= in the .socket unit, or claim it with PacketConns`, number(2), set.All()[2].Addr),
		},
		{
			func() error { _, err := set.Listeners("connection"); return err },
			fmt.Sprintf(`listener "connection": descriptor %d is of kind connection (unix): set Accept=no in the .socket unit, or claim it with Conns`, number(3)),
		},
		{
			func() error { _, err := set.Listeners("dead"); return err },
			fmt.Sprintf(`listener "dead": descriptor %d is of kind socket (unix %s): do not call shutdown on the listeners of a .socket unit, or claim it with Files`, number(5), set.All()[5].Addr),
		},
		{
			func() error { _, err := set.Conn("web"); return err },
			fmt.Sprintf(`connection "web": descriptor %d is of kind listener (tcp %s): set Accept=yes in the .socket unit, or claim it with Listeners`, number(0), set.All()[0].Addr),
		},
		{
			func() error { _, err := set.PacketConns("web"); return err },
			fmt.Sprintf(`packet socket "web": descriptor %d is of kind listener (tcp %s): use ListenDatagram= in the .socket unit, or claim it with Listeners`, number(0), set.All()[0].Addr),
		},
		{
			func() error { _, err := set.Conn(""); return err },
			fmt.Sprintf(`connection "": descriptor %d is of kind FIFO (%s): claim it with Files`, number(4), set.All()[4].Addr),
		},
		{
			func() error { _, err := set.File("web"); return err },
			fmt.Sprintf(`file "web": descriptor %d is of kind listener (tcp %s): claim it with Listeners`, number(0), set.All()[0].Addr),
		},
	}
	for _, c := range cases {
		if err := c.claim(); err == nil || err.Error() != c.want {
			t.Errorf("got  %v\nwant %s", err, c.want)
		}
	}
	if left := set.Unclaimed(); len(left) != 6 {
		t.Errorf("after errors only, %d of 6 are unclaimed", len(left))
	}
}

func TestCountErrorNamesTheOtherMethod(t *testing.T) {
	for opener, want := range map[string]string{
		"tcp4 listener": "listener|Listeners", "unix stream connection": "connection|Conns", "udp": "packet socket|PacketConns", "memfd": "file|Files",
	} {
		noun, method, _ := strings.Cut(want, "|")
		set := newSet(t, activation.Passed{File: kindFile(t, opener), Name: "it"}, activation.Passed{File: kindFile(t, opener), Name: "it"})
		var count *activation.CountError
		for _, claim := range []func() error{
			func() error { _, err := set.Listener("it"); return err },
			func() error { _, err := set.Conn("it"); return err },
			func() error { _, err := set.PacketConn("it"); return err },
			func() error { _, err := set.File("it"); return err },
		} {
			if errors.As(claim(), &count) {
				break
			}
		}
		if count == nil || count.Want != noun || count.Count != 2 || !strings.Contains(count.Error(), "claim all of them with "+method+",") {
			t.Errorf("%s: %v, want a CountError that names %s", opener, count, method)
		}
	}
}

// A claim of several that breaks off in the middle has claimed none, and leaves nothing open.
func TestClaimIsAllOrNothing(t *testing.T) {
	set := listenerSet(t, "http", "http", "http")
	first, second := set.All()[0], set.All()[1]
	before := countDescriptors(t)
	// The second one is no socket for a while.
	restore := replaceDescriptor(t, second.FD)
	claimed, err := set.Listeners("http")
	restore()
	if after := countDescriptors(t); after != before {
		t.Errorf("%d descriptors after the claim, %d before", after, before)
	}
	if !errors.Is(err, syscall.ENOTSOCK) || claimed != nil {
		t.Fatalf("%v, %v; want ENOTSOCK", claimed, err)
	}
	if !isListening(first.Addr) {
		t.Error("the first one does not listen any more")
	}
	if want := fmt.Sprintf(`claim listener "http" from descriptor %d: `, set.All()[1].FD); !strings.HasPrefix(err.Error(), want) {
		t.Errorf("error %q, want it to begin with %q", err, want)
	}
	if left := set.Unclaimed(); len(left) != 3 {
		t.Errorf("%d are unclaimed, want all", len(left))
	}
	claimed, err = set.Listeners("http")
	if err != nil || len(claimed) != 3 {
		t.Fatalf("%d listeners, %v; want all now", len(claimed), err)
	}
	if got := claimed[0].Addr().String(); got != first.Addr {
		t.Errorf("the first one is %s, want %s", got, first.Addr)
	}
	for _, ln := range claimed {
		_ = ln.Close()
	}
}

func countDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// replaceDescriptor puts a file in place of what a descriptor refers to, until the returned function is called.
func replaceDescriptor(t *testing.T, fd int) (restore func()) {
	t.Helper()
	original, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := unix.Dup3(int(null.Fd()), fd, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Dup3(original, fd, unix.O_CLOEXEC); err != nil {
			t.Error(err)
		}
		_ = unix.Close(original)
	}
}

func TestClaimedErrorNamesTheFirstClaim(t *testing.T) {
	set := listenerSet(t, "http")
	ln, err := set.Listener("http")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, err = set.Listeners("http")
	var claimed *activation.ClaimedError
	if !errors.As(err, &claimed) || !strings.HasPrefix(claimed.By, "activation/claim_test.go:") {
		t.Fatalf("%v, want a ClaimedError that names this file", err)
	}
	if want := fmt.Sprintf(`listener "http" is already claimed, at %s: claim it once and share it, or give each part of the program a name of its own`, claimed.By); err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
}

// One .socket unit may have ListenStream=, ListenDatagram= and ListenFIFO= lines, all of one name.
func TestOneNameForSeveralKinds(t *testing.T) {
	set := newSet(t,
		activation.Passed{File: kindFile(t, "tcp4 listener"), Name: "dns"},
		activation.Passed{File: kindFile(t, "udp"), Name: "dns"},
		activation.Passed{File: kindFile(t, "FIFO"), Name: "dns"},
		activation.Passed{File: kindFile(t, "unix listener"), Name: "dns"},
		activation.Passed{File: kindFile(t, "unix datagram"), Name: "other"},
	)
	lns, err := set.Listeners("dns")
	if err != nil {
		t.Fatal(err)
	}
	packets, err := set.PacketConn("dns")
	if err != nil {
		t.Fatal(err)
	}
	file, err := set.File("dns")
	if err != nil {
		t.Fatal(err)
	}
	if len(lns) != 2 || lns[0].Addr().Network() != "tcp" || lns[1].Addr().Network() != "unix" {
		t.Errorf("%v, want the TCP and the Unix listener in the order of arrival", lns)
	}
	if left := names(set.Unclaimed()); len(left) != 1 || left[0] != "other" {
		t.Errorf("unclaimed: %q, want other", left)
	}
	for _, c := range []io.Closer{lns[0], lns[1], packets, file} {
		_ = c.Close()
	}
}

// What was claimed has the types of package net, with the raw access that a handover to a successor needs.
func TestClaimedTypes(t *testing.T) {
	for opener, want := range map[string]string{
		"tcp4 listener": "*net.TCPListener", "mptcp listener": "*net.TCPListener", "unix listener": "*net.UnixListener",
		"unix seqpacket listener": "*net.UnixListener", "vsock listener": "*activation.VsockListener",
		"tcp connection": "*net.TCPConn", "unix stream connection": "*net.UnixConn", "unix seqpacket connection": "*net.UnixConn",
		"udp": "*net.UDPConn", "udp-lite": "*net.UDPConn", "unix datagram": "*net.UnixConn", "FIFO": "*os.File", "netlink": "*os.File",
	} {
		t.Run(opener, func(t *testing.T) {
			set := newSet(t, activation.Passed{File: kindFile(t, opener), Name: "it"})
			for _, claim := range claims(set) {
				claimed, err := claim("it")
				if err != nil {
					continue // a KindError; see TestKinds
				}
				if got := fmt.Sprintf("%T", claimed[0]); got != want {
					t.Errorf("claimed as %s, want %s", got, want)
				}
				conn, ok := claimed[0].(syscall.Conn)
				if !ok {
					t.Fatalf("%T has no SyscallConn", claimed[0])
				}
				if !isCloseOnExec(t, conn) {
					t.Errorf("%T is not close-on-exec", claimed[0])
				}
				_ = claimed[0].Close()
			}
		})
	}
}

func isCloseOnExec(t *testing.T, conn syscall.Conn) bool {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	flags := 0
	if controlErr := raw.Control(func(fd uintptr) { flags, err = unix.FcntlInt(fd, unix.F_GETFD, 0) }); controlErr != nil || err != nil {
		t.Fatal(controlErr, err)
	}
	return flags&unix.FD_CLOEXEC != 0
}

// A Unix listener that was passed leaves the path in place: it is systemd's.
func TestUnixPathStays(t *testing.T) {
	file := kindFile(t, "unix listener")
	set := newSet(t, activation.Passed{File: file, Name: "it"})
	path := set.All()[0].Addr
	ln, err := set.Listener("it")
	if err != nil {
		t.Fatal(err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("closing the listener removed its path: %v", err)
	}
}

// systemd keeps a FIFO open for writing, so there is never an end of file: only Close ends a Read.
func TestCloseEndsReadOfFIFO(t *testing.T) {
	set := newSet(t, activation.Passed{File: kindFile(t, "FIFO"), Name: "it"})
	file, err := set.File("it")
	if err != nil {
		t.Fatal(err)
	}
	if err := file.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Errorf("a FIFO has no deadlines: %v", err)
	}
	if _, err := file.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read past the deadline: %v", err)
	}
	if err := file.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := file.Read(make([]byte, 1))
		ended <- err
	}()
	_ = file.Close()
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("read of a closed FIFO: %v", err)
	}
}

func TestListenClaimsBeforeItBinds(t *testing.T) {
	set := listenerSet(t, "http", "http")
	want := []string{set.All()[0].Addr, set.All()[1].Addr}
	got, err := set.Listen(t.Context(), "http", "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if !got.Passed || len(got.Listeners) != 2 {
		t.Fatalf("%+v, want both that were passed", got)
	}
	for i, ln := range got.Listeners {
		if ln.Addr().String() != want[i] {
			t.Errorf("listener %d at %v, want %s", i, ln.Addr(), want[i])
		}
		_ = ln.Close()
	}
	// Twice the same name is a mistake, not a reason to bind.
	if got, err := set.Listen(t.Context(), "http", "tcp", "127.0.0.1:0"); !errors.As(err, new(*activation.ClaimedError)) || got.Listeners != nil {
		t.Errorf("%+v, %v; want a ClaimedError", got, err)
	}
}

func TestListenBindsWhatWasNotPassed(t *testing.T) {
	for name, set := range map[string]*activation.Set{"nothing passed": newSet(t), "another name passed": listenerSet(t, "admin")} {
		t.Run(name, func(t *testing.T) {
			got, err := set.Listen(t.Context(), "http", "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			if got.Passed || len(got.Listeners) != 1 || !isListening(got.Listeners[0].Addr().String()) {
				t.Errorf("%+v, want one that was bound", got)
			}
			defer got.Listeners[0].Close()

			packets, err := set.ListenPacket(t.Context(), "dns", "udp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer packets.PacketConns[0].Close()
			if packets.Passed || len(packets.PacketConns) != 1 {
				t.Errorf("%+v, want one that was bound", packets)
			}
		})
	}
}

func TestListenErrors(t *testing.T) {
	set := newSet(t, activation.Passed{File: kindFile(t, "udp"), Name: "dns"}, activation.Passed{File: kindFile(t, "tcp4 listener"), Name: "web"})
	if _, err := set.Listen(t.Context(), "dns", "tcp", "127.0.0.1:0"); !errors.As(err, new(*activation.KindError)) {
		t.Errorf("%v, want a KindError", err)
	}
	if _, err := set.ListenPacket(t.Context(), "web", "udp", "127.0.0.1:0"); !errors.As(err, new(*activation.KindError)) {
		t.Errorf("%v, want a KindError", err)
	}

	// The address is in use because systemd has it, under a name that was misspelt: the error shows both.
	taken := set.All()[1].Addr
	_, err := set.Listen(t.Context(), "http", "tcp", taken)
	if !errors.Is(err, syscall.EADDRINUSE) || !errors.As(err, new(*activation.NotPassedError)) || !strings.Contains(err.Error(), `"web"`) {
		t.Errorf("%v, want the address in use, and the names that were passed", err)
	}
	_, err = set.ListenPacket(t.Context(), "log", "udp", "127.0.0.1:99999")
	if err == nil || !strings.Contains(err.Error(), "99999") {
		t.Errorf("%v, want an error that names the port", err)
	}
}

// A claim must not look at all the other names, or a service with a thousand of them starts in seconds.
func TestClaimCostsTheSameAmongMany(t *testing.T) {
	const runs = 4
	cost := func(count int) float64 {
		var names []string
		for i := range count {
			names = append(names, fmt.Sprintf("listener-%d", i))
		}
		set := listenerSet(t, names...)
		return testing.AllocsPerRun(runs, func() {
			name := names[len(names)-1]
			names = names[:len(names)-1]
			ln, err := set.Listener(name)
			if err != nil {
				t.Fatal(err)
			}
			_ = ln.Close()
		})
	}
	if few, many := cost(runs+1), cost(200); many > few {
		t.Errorf("%v allocations among 200 names, %v among %d", many, few, runs+1)
	}
}
