// SPDX-License-Identifier: Apache-2.0

package activation_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/activation"
)

// listenerFile returns a listening TCP socket and its address.
func listenerFile(t *testing.T) (*os.File, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	return file, ln.Addr().String()
}

func newSet(t *testing.T, passed ...activation.Passed) *activation.Set {
	t.Helper()
	set, err := activation.NewSet(passed)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = set.Close() })
	return set
}

func listenerSet(t *testing.T, names ...string) *activation.Set {
	t.Helper()
	var passed []activation.Passed
	for _, name := range names {
		file, _ := listenerFile(t)
		passed = append(passed, activation.Passed{File: file, Name: name})
	}
	return newSet(t, passed...)
}

func isListening(addr string) bool {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

func names(infos []activation.Info) []string {
	var all []string
	for _, info := range infos {
		all = append(all, info.Name)
	}
	return all
}

func TestNewSetTakesOver(t *testing.T) {
	file, addr := listenerFile(t)
	set := newSet(t, activation.Passed{File: file, Name: "http", Source: activation.SourceStore})
	if err := file.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the file is still open: closing it gives %v", err)
	}
	info := set.All()[0]
	if info.Source != activation.SourceStore || info.Claimed || info.Addr != addr {
		t.Errorf("%+v, want an unclaimed listener at %s from the store", info, addr)
	}
	flags, err := unix.FcntlInt(uintptr(info.FD), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor %d: flags %#x, %v; want it close-on-exec", info.FD, flags, err)
	}
	if want := fmt.Sprintf(`fd %d "http", listener (tcp %s), from fd store`, info.FD, addr); info.String() != want {
		t.Errorf("%q, want %q", info, want)
	}
}

func TestNewSetLeavesFilesOnError(t *testing.T) {
	good, addr := listenerFile(t)
	defer good.Close()
	closed, _ := listenerFile(t)
	_ = closed.Close()
	for name, bad := range map[string]*os.File{"no file": nil, "use of closed file": closed} {
		set, err := activation.NewSet([]activation.Passed{{File: good, Name: "good"}, {File: bad, Name: "bad"}})
		if set != nil || err == nil || !strings.Contains(err.Error(), `descriptor 1 ("bad"): `) || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, %v; want an error that names descriptor 1, bad, and %q", set, err, name)
		}
		if !isListening(addr) {
			t.Error("the good file was closed")
		}
	}
}

func TestEmptySet(t *testing.T) {
	set := newSet(t)
	if err := set.Reason(); !errors.Is(err, activation.ErrNotActivated) {
		t.Errorf("reason %v, want ErrNotActivated", err)
	}
	if len(set.All())+len(set.Unclaimed())+len(set.TakeUnclaimed()) > 0 {
		t.Error("an empty set has descriptors")
	}
	for want, claim := range claims(set) {
		_, err := claim("http")
		var missing *activation.NotPassedError
		if !errors.As(err, &missing) || !errors.Is(err, activation.ErrNotActivated) {
			t.Errorf("claim a %s: %v, want a NotPassedError for ErrNotActivated", want, err)
		}
	}
	if listenerSet(t, "http").Reason() != nil {
		t.Error("a set with descriptors has a reason to be empty")
	}
}

func TestOwnership(t *testing.T) {
	file, addr := listenerFile(t)
	other, otherAddr := listenerFile(t)
	set := newSet(t, activation.Passed{File: file, Name: "claimed"}, activation.Passed{File: other, Name: "unclaimed"})
	ln, err := set.Listener("claimed")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if got := names(set.Unclaimed()); !slices.Equal(got, []string{"unclaimed"}) {
		t.Errorf("unclaimed: %q", got)
	}
	if all := set.All(); !all[0].Claimed || all[1].Claimed {
		t.Errorf("claimed: %t and %t, want true and false", all[0].Claimed, all[1].Claimed)
	}

	for range 2 { // closing again does nothing
		if err := set.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if isListening(otherAddr) {
		t.Error("Close left open what nobody claimed")
	}
	if !isListening(addr) {
		t.Error("Close closed what was claimed")
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if isListening(addr) {
		t.Error("somebody holds on to the listener that its owner closed")
	}

	if _, err := set.Listener("unclaimed"); !errors.Is(err, activation.ErrClosed) {
		t.Errorf("claim after Close: %v, want ErrClosed", err)
	}
	if _, err := set.Listener("claimed"); !errors.As(err, new(*activation.ClaimedError)) {
		t.Errorf("claim again after Close: %v, want a ClaimedError", err)
	}
	if set.TakeUnclaimed() != nil {
		t.Error("TakeUnclaimed returns what is closed")
	}
}

// What is in the store is handed out raw, if it is asked for; the copy of a socket
// that arrived twice is only named.
func TestTakeStored(t *testing.T) {
	first, addr := listenerFile(t)
	fd, err := unix.Dup(int(first.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	socketUnits, _ := listenerFile(t)
	set := newSet(
		t,
		activation.Passed{File: first, Name: "bound/a@1", Source: activation.SourceStore},
		activation.Passed{File: os.NewFile(uintptr(fd), "copy"), Name: "bound/b@2", Source: activation.SourceStore},
		activation.Passed{File: reader, Name: "theirs@3", Source: activation.SourceStore},
		activation.Passed{File: writer, Name: "bound/c@4", Source: activation.SourceOther},
		activation.Passed{File: socketUnits, Name: "bound/d@5", Source: activation.SourceSocket},
	)
	ours := func(name string) bool { return strings.HasPrefix(name, "bound/") }
	taken := set.TakeStored(ours)
	if len(taken) != 1 {
		t.Fatalf("taken: %v", taken)
	}
	got := taken[0]
	defer got.File.Close()
	if got.Name != "bound/a@1" || got.Kind != activation.KindListener || got.Addr != addr || !got.Claimed || !slices.Equal(got.Aliases, []string{"bound/b@2"}) {
		t.Errorf("taken: %v, claimed %t, aliases %q", got.Info, got.Claimed, got.Aliases)
	}
	if !isListening(addr) {
		t.Error("the socket was closed")
	}
	if again := set.TakeStored(ours); again != nil {
		t.Errorf("taken again: %v", again)
	}
	var left []string
	for _, info := range set.Unclaimed() {
		left = append(left, info.Name)
	}
	if want := []string{"theirs@3", "bound/c@4", "bound/d@5"}; !slices.Equal(left, want) {
		t.Errorf("left are %q, want %q", left, want)
	}
	if err := set.Close(); err != nil {
		t.Fatal(err)
	}
	if closed := set.TakeStored(func(string) bool { return true }); closed != nil {
		t.Errorf("taken of what is closed: %v", closed)
	}
}

func TestTakeUnclaimed(t *testing.T) {
	pipe, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	first, addr := listenerFile(t)
	second, _ := listenerFile(t)
	set := newSet(t, activation.Passed{File: first, Name: "web", Source: activation.SourceSocket},
		activation.Passed{File: second, Name: "mine"}, activation.Passed{File: pipe, Name: "pipe", Source: activation.SourceStore})
	mine, err := set.Listener("mine")
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()

	taken := set.TakeUnclaimed()
	if len(taken) != 2 || taken[0].Name != "web" || taken[0].Source != activation.SourceSocket ||
		taken[1].Name != "pipe" || taken[1].Source != activation.SourceStore || taken[0].File.Name() != "web" {
		t.Fatalf("%+v, want web and pipe with their sources", taken)
	}
	if again := set.TakeUnclaimed(); again != nil {
		t.Errorf("taken twice: %+v", again)
	}
	var claimed *activation.ClaimedError
	if _, err := set.Listener("web"); !errors.As(err, &claimed) || !strings.Contains(claimed.By, "set_test.go:") {
		t.Errorf("claim what was taken: %v, want a ClaimedError that names this file", err)
	}
	if err := set.Close(); err != nil {
		t.Fatal(err)
	}
	// A successor makes its Set of what the predecessor took.
	next := newSet(t, taken...)
	ln, err := next.Listener("web")
	if err != nil {
		t.Fatal(err)
	}
	if !isListening(addr) {
		t.Error("the listener did not survive the way from Set to Set")
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if isListening(addr) {
		t.Error("a copy of the listener was left on the way")
	}
}

// duplicate returns another descriptor for the same socket.
func duplicate(t *testing.T, file *os.File) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), file.Name())
}

func TestDuplicatesAreShownOnce(t *testing.T) {
	for _, c := range []struct {
		name    string
		sources [3]activation.Source // of the same socket under the names a, b and c
		kept    string
		aliases []string
	}{
		{"first wins", [3]activation.Source{activation.SourceStore, activation.SourceStore, activation.SourceStore}, "a", []string{"b", "c"}},
		{"socket unit first", [3]activation.Source{activation.SourceSocket, activation.SourceStore, activation.SourceSocket}, "a", []string{"b", "c"}},
		{"socket unit in the middle", [3]activation.Source{activation.SourceStore, activation.SourceSocket, activation.SourceStore}, "b", []string{"a", "c"}},
		{"socket unit last", [3]activation.Source{activation.SourceStore, activation.SourcePredecessor, activation.SourceSocket}, "c", []string{"a", "b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, addr := listenerFile(t)
			other, _ := listenerFile(t)
			b, c3 := duplicate(t, a), duplicate(t, a)
			set := newSet(t, activation.Passed{File: a, Name: "a", Source: c.sources[0]},
				activation.Passed{File: other, Name: "other"},
				activation.Passed{File: b, Name: "b", Source: c.sources[1]},
				activation.Passed{File: c3, Name: "c", Source: c.sources[2]})
			all := set.All()
			if len(all) != 2 {
				t.Fatalf("%v, want two descriptors", all)
			}
			i := slices.IndexFunc(all, func(info activation.Info) bool { return info.Name == c.kept })
			if i < 0 || !slices.Equal(all[i].Aliases, c.aliases) {
				t.Fatalf("%v, want %s with the aliases %q", all, c.kept, c.aliases)
			}
			// What All returns is the caller's.
			all[i].Aliases[0] = "changed"
			if again := set.All(); !slices.Equal(again[i].Aliases, c.aliases) {
				t.Error("a caller changed the set")
			}
			if _, err := set.Listener(c.aliases[0]); !errors.As(err, new(*activation.NotPassedError)) {
				t.Errorf("claim the duplicate: %v, want a NotPassedError", err)
			}
			ln, err := set.Listener(c.kept)
			if err != nil {
				t.Fatal(err)
			}
			if err := ln.Close(); err != nil {
				t.Fatal(err)
			}
			if isListening(addr) {
				t.Error("a duplicate was left open")
			}
		})
	}
}

// Only sockets are their inode: a file, a FIFO or an eventfd with the same one is another open file description.
func TestOnlySocketsAreDuplicates(t *testing.T) {
	for _, o := range openers() {
		switch o.kind {
		case activation.KindListener, activation.KindConn, activation.KindPacket, activation.KindSocket, activation.KindNetlink:
			continue
		}
		t.Run(o.name, func(t *testing.T) {
			file := o.file(t)
			copied := duplicate(t, file)
			if set := newSet(t, activation.Passed{File: file, Name: "a"}, activation.Passed{File: copied, Name: "b"}); len(set.All()) != 2 {
				t.Errorf("%v, want two descriptors", set.All())
			}
		})
	}
}

// DeclareStored is for what systemd passed; elsewhere the source is known.
func TestDeclareStoredKeepsKnownSources(t *testing.T) {
	file, _ := listenerFile(t)
	set := newSet(t, activation.Passed{File: file, Name: "cache", Source: activation.SourceSocket})
	set.DeclareStored("cache")
	if got := set.All()[0].Source; got != activation.SourceSocket {
		t.Errorf("source %v, want socket unit", got)
	}
}

// NewSet looks at files without turning the description, which a predecessor still serves, to blocking mode.
func TestNewSetKeepsBlockingMode(t *testing.T) {
	for _, nonblocking := range []bool{true, false} {
		file, _ := listenerFile(t)
		fd := int(file.Fd())
		if err := unix.SetNonblock(fd, nonblocking); err != nil {
			t.Fatal(err)
		}
		witness := duplicate(t, os.NewFile(uintptr(must(unix.Dup(fd))), "witness"))
		set := newSet(t, activation.Passed{File: file, Name: "http"})
		if got := isNonblocking(t, witness); got != nonblocking {
			t.Errorf("O_NONBLOCK is %t after NewSet, was %t", got, nonblocking)
		}
		ln, err := set.Listener("http")
		if err != nil {
			t.Fatal(err)
		}
		if !isNonblocking(t, witness) {
			t.Error("a claimed listener is in blocking mode")
		}
		_ = ln.Close()
		_ = witness.Close()
	}
}

func isNonblocking(t *testing.T, conn syscall.Conn) bool {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	flags := 0
	if controlErr := raw.Control(func(fd uintptr) { flags, err = unix.FcntlInt(fd, unix.F_GETFL, 0) }); controlErr != nil || err != nil {
		t.Fatal(controlErr, err)
	}
	return flags&unix.O_NONBLOCK != 0
}

// However many claim at once, each descriptor goes to exactly one.
func TestConcurrentClaims(t *testing.T) {
	const contenders = 16
	set := listenerSet(t, "a", "a", "b", "c")
	var mu sync.Mutex
	won := map[string]int{}
	var all []net.Listener
	var group sync.WaitGroup
	for range contenders {
		for _, name := range []string{"a", "b", "c"} {
			group.Go(func() {
				claimed, err := set.Listeners(name)
				if err != nil && !errors.As(err, new(*activation.ClaimedError)) {
					t.Errorf("claim %q: %v, want it or a ClaimedError", name, err)
				}
				mu.Lock()
				defer mu.Unlock()
				won[name] += len(claimed)
				all = append(all, claimed...)
			})
		}
		group.Go(func() { _ = set.All() })
	}
	group.Wait()
	for name, want := range map[string]int{"a": 2, "b": 1, "c": 1} {
		if won[name] != want {
			t.Errorf("%d listeners %q were claimed, want %d", won[name], name, want)
		}
	}
	for _, ln := range all {
		_ = ln.Close()
	}
	if left := set.Unclaimed(); left != nil {
		t.Errorf("unclaimed: %v", left)
	}
}
