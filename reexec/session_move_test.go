// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// drainTo drains a service to the generation at the other end of l. It is not
// over before the test.
func drainTo(t *testing.T, l *link) *Service {
	t.Helper()
	s := serviceOf(firstInventory(t))
	s.drain.mover = l.mover
	release, over := make(chan struct{}), make(chan struct{})
	s.OnDrain("test", func(context.Context) error { <-release; return nil })
	s.drain.begin(successors, func(error) { close(over) })
	t.Cleanup(func() {
		close(release)
		s.drain.abandon()
		<-over
	})
	return s
}

// linkedTo is a link to a generation that handles sessions of kind "k".
func linkedTo(t *testing.T, take func(net.Conn, []byte)) *link {
	t.Helper()
	inv := firstInventory(t)
	inv.handle("k", take)
	next := serviceOf(inv)
	return linked(t, nil, func(l *link, f handover.Frame, files []*os.File) { next.adopt(l.b, f, files) })
}

// Hundreds of sessions at the same time, with no state, some, and as much as can go
// with them. Each goes on where it was, once.
func TestManySessionsMoveAtOnce(t *testing.T) {
	const n = 300
	states := make([][]byte, n)
	for i := range states {
		size := []int{0, 1, 1000, MaxSessionState}[i%4]
		states[i] = make([]byte, size)
		_, _ = rand.Read(states[i])
	}
	var taken atomic.Int64
	l := linkedTo(t, func(conn net.Conn, state []byte) {
		defer conn.Close()
		taken.Add(1)
		var i int
		if _, err := fmt.Fscanf(conn, "%d\n", &i); err != nil {
			t.Error(err)
			return
		}
		if !bytes.Equal(state, states[i]) {
			t.Errorf("session %d goes on with %d other bytes, want %d", i, len(state), len(states[i]))
		}
		_, _ = fmt.Fprintln(conn, i)
	})
	s := drainTo(t, l)
	var all sync.WaitGroup
	for i := range n {
		_, server, client := acceptedPair(t, "tcp")
		all.Go(func() {
			if _, err := fmt.Fprintln(client, i); err != nil {
				t.Error(err)
			}
			if err := s.MoveSession("k", server, states[i]); err != nil {
				t.Error(err)
			}
			// Again, and by one who does not know.
			if err := s.MoveSession("k", server, states[i]); !errors.Is(err, net.ErrClosed) {
				t.Errorf("a second move: %v", err)
			}
			if got, err := io.ReadAll(client); err != nil || string(got) != fmt.Sprintln(i) {
				t.Errorf("session %d: %q, %v", i, got, err)
			}
		})
	}
	all.Wait()
	if got := taken.Load(); got != n {
		t.Errorf("%d sessions go on, want %d", got, n)
	}
}

// The new main hangs. What it was sent may be its own. Who waits to be sent is
// told in time, before the rest is cut, and can take leave of its client.
func TestSessionsThatWaitForOneThatHangsAreTold(t *testing.T) {
	hangs := make(chan struct{})
	l := linked(t, nil, func(_ *link, _ handover.Frame, files []*os.File) {
		closeFiles(files)
		close(hangs)
	})
	s := drainTo(t, l)
	_, sent, _ := acceptedPair(t, "tcp")
	_, waits, client := acceptedPair(t, "tcp")
	moved := make(chan error, 2)
	go func() { moved <- s.MoveSession("k", sent, nil) }()
	<-hangs
	go func() { moved <- s.MoveSession("k", waits, nil) }()
	notYet(t, moved)
	s.drain.deadline(time.Millisecond)
	var errs []error
	for range 2 {
		select {
		case err := <-moved:
			if err != nil {
				errs = append(errs, err)
			}
		case <-time.After(patience):
			s.drain.abandon() // or nothing could be closed
			t.Fatal("a session waits for ever")
		}
	}
	if len(errs) != 1 || !errors.Is(errs[0], ErrNoSuccessor) {
		t.Fatalf("got %v, want one %v", errs, ErrNoSuccessor)
	}
	if _, err := io.WriteString(waits, "goodbye"); err != nil {
		t.Error(err)
	}
	_ = waits.Close()
	if got, err := io.ReadAll(client); err != nil || string(got) != "goodbye" {
		t.Errorf("got %q, %v", got, err)
	}
}
