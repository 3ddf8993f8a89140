// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// serviceOf is a service without a process: it drains when it is told.
func serviceOf(inv *inventory) *Service {
	return &Service{log: slog.New(slog.DiscardHandler), inv: inv, drain: newDrain(inv)}
}

func TestMoveSessionThatCannotMove(t *testing.T) {
	_, server, _ := acceptedPair(t, "tcp")
	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	for _, c := range []struct {
		name, kind string
		conn       net.Conn
		state      []byte
		drains     bool
		want       error  // nil: any
		text       string // of the error
	}{
		{name: "not draining", kind: "k", conn: server, want: ErrNoSuccessor, text: `reexec: move session "k" of 127.0.0.1:`},
		{name: "nobody to move to", kind: "k", conn: server, drains: true, want: ErrNoSuccessor},
		{name: "TLS", kind: "k", conn: tls.Server(server, &tls.Config{}), drains: true, want: errors.ErrUnsupported, text: "a *tls.Conn has no descriptor"},
		{name: "a pipe", kind: "k", conn: pipe, drains: true, want: errors.ErrUnsupported},
		{name: "much state", kind: "k", conn: server, state: make([]byte, MaxSessionState+1), drains: true, text: "state of 65537 bytes: at most 65536"},
		{name: "no kind", conn: server, drains: true, text: "the kind must have 1 to 64 bytes of UTF-8"},
		{name: "bytes", kind: "k\xff", conn: server, drains: true, text: "the kind must have 1 to 64 bytes of UTF-8"},
		{name: "long kind", kind: strings.Repeat("k", 65), conn: server, drains: true, text: "the kind must have 1 to 64 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serviceOf(firstInventory(t))
			if c.drains {
				done := make(chan error, 1)
				s.drain.begin(ours, func(err error) { done <- err })
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
			err := s.MoveSession(c.kind, c.conn, c.state)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v, %q", err, c.want, c.text)
			}
		})
	}
	// It is still the service's.
	if _, err := server.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	_ = server.Close()
	s := serviceOf(firstInventory(t))
	if err := s.MoveSession("k", server, nil); err == nil {
		t.Error("a closed connection was moved")
	}
}

func TestHandleSessionPanics(t *testing.T) {
	s := serviceOf(firstInventory(t))
	s.HandleSession("k", func(net.Conn, []byte) {})
	mustPanic := func(kind string, take func(net.Conn, []byte)) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Errorf("kind %q was accepted", kind)
			}
		}()
		s.HandleSession(kind, take)
	}
	for _, kind := range []string{"", "k", "\xff", strings.Repeat("k", 65)} {
		mustPanic(kind, func(net.Conn, []byte) {})
	}
	mustPanic("other", nil)
}

// What arrives is handled or refused, whatever it is; nothing stays open.
func TestAdoptSession(t *testing.T) {
	inv := firstInventory(t)
	got := make(chan string, 1)
	inv.handle("k", func(conn net.Conn, state []byte) {
		text, _ := io.ReadAll(conn)
		_ = conn.Close()
		got <- string(text) + " " + string(state)
	})
	connected := func(network string) (*os.File, net.Conn) {
		t.Helper()
		_, server, client := acceptedPair(t, network)
		file, err := server.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		_ = server.Close()
		return file, client
	}
	for _, network := range []string{"tcp", "unix"} {
		file, client := connected(network)
		a, err := inv.adoptAny(handover.Connection{Session: "k", State: []byte("state")}, file)
		if err != nil {
			t.Fatal(err)
		}
		if n := inv.openConnections(); n != 1 {
			t.Errorf("%d connections are open, want 1", n)
		}
		if _, err := client.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		closeWrite(t, client)
		a.begin()
		if text := <-got; text != "hello state" {
			t.Errorf("%s: got %q", network, text)
		}
		if n := inv.openConnections(); n != 0 {
			t.Errorf("%d connections are open, want none", n)
		}
	}
	mustRefuse := func(kind string, file *os.File, text string) {
		t.Helper()
		_, err := inv.adoptAny(handover.Connection{Session: kind}, file)
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want %q", err, text)
		}
		if n := inv.openConnections(); n != 0 {
			t.Errorf("%d connections are open, want none", n)
		}
	}
	file, _ := connected("tcp")
	mustRefuse("other", file, `session "other": this version handles none of that kind`)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	mustRefuse("k", null, `session "k": `)
	file, _ = connected("tcp")
	if err := inv.close(ours); err != nil {
		t.Fatal(err)
	}
	mustRefuse("k", file, errStopped.Error())
}

// A frame that is not understood as a whole is not taken in part: a session would
// go on without its state.
func TestAdoptNothingOfGarbage(t *testing.T) {
	for _, payload := range []string{
		`{"list":[{"session":"k","state":7}]}`,
		`{"list":[{"session":"k","state":"not base64"}]}`,
		`{"list":[{"session":"k"},{"session":7}]}`,
	} {
		inv := firstInventory(t)
		inv.handle("k", func(conn net.Conn, state []byte) {
			t.Errorf("%s: a session goes on with %q", payload, state)
			_ = conn.Close()
		})
		a, b := conns(t)
		s := serviceOf(inv)
		_, server, client := acceptedPair(t, "tcp")
		file, err := server.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		s.adopt(b, handover.Frame{Kind: handover.KindConnections, Payload: []byte(payload)}, []*os.File{file})
		f, _, err := a.Receive()
		if err != nil {
			t.Fatal(err)
		}
		var got handover.Taken
		if err := f.Decode(&got); err != nil || got.Count != 0 || len(got.Kept) > 0 {
			t.Errorf("%s: answered with %+v, %v", payload, got, err)
		}
		if n := inv.openConnections(); n != 0 {
			t.Errorf("%s: %d connections are open", payload, n)
		}
		// It is the sender's.
		if _, err := server.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		_ = client.Close()
	}
}

// Whatever comes: what is kept goes on once, and all else is closed.
func FuzzAdopt(f *testing.F) {
	for _, seed := range []string{
		`{"list":[{"session":"k","state":"AAAA"}]}`,
		`{"list":[{"session":"other"},{"session":"k"}]}`,
		`{"list":[{"listener":"http","left":-1}]}`,
		`{"list":[{"session":"k","listener":"x","left":9223372036854775807}]}`,
		`{"list":null}`, `[]`, `{"list":[7]}`, ``, "\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		inv := firstInventory(t)
		begun := make(chan net.Conn, 1)
		inv.handle("k", func(conn net.Conn, _ []byte) { begun <- conn })
		a, b := conns(t)
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		client := os.NewFile(uintptr(pair[0]), "client")
		defer client.Close()
		serviceOf(inv).adopt(b, handover.Frame{Kind: handover.KindConnections, Payload: payload}, []*os.File{os.NewFile(uintptr(pair[1]), "server")})
		frame, _, err := a.Receive()
		if err != nil {
			t.Fatal(err)
		}
		var got handover.Taken
		if err := frame.Decode(&got); err != nil || len(got.Kept) > 1 || len(got.Kept) == 1 && (got.Kept[0] != 0 || got.Count == 0) {
			t.Fatalf("answered with %+v, %v", got, err)
		}
		if len(got.Kept) == 1 {
			_ = (<-begun).Close()
		}
		if n := inv.openConnections(); n != 0 {
			t.Errorf("%d connections are open", n)
		}
		_ = client.SetReadDeadline(time.Now().Add(patience))
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the connection is not closed: %v", err)
		}
	})
}

// conns are the two ends of a handover.
func conns(t *testing.T) (a, b *handover.Conn) {
	t.Helper()
	a, file, err := handover.Pair()
	if err != nil {
		t.Fatal(err)
	}
	if b, err = handover.New(file); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}
