// SPDX-License-Identifier: Apache-2.0

package notifytest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/notify/notifytest"
)

func TestManagerWait(t *testing.T) {
	m := notifytest.NewManager(t, notifytest.Abstract())
	if !strings.HasPrefix(m.Socket(), "@") || m.Environ() != "NOTIFY_SOCKET="+m.Socket() {
		t.Errorf("socket is %q, environment %q", m.Socket(), m.Environ())
	}
	m.Setenv(t)
	conn := dial(t, os.Getenv("NOTIFY_SOCKET"))
	for _, payload := range []string{"READY=1", "STATUS=one", "RELOADING=1", "READY=1\nSTATUS=two", "STOPPING=1"} {
		write(t, conn, payload)
	}
	// Each Want goes on after the one before.
	if got := m.Want(t, "READY=1"); len(got.Fields) != 1 {
		t.Errorf("got %v, want the first", got)
	}
	if got := m.Want(t, "READY=1", "STATUS"); !got.Has("STATUS=two") {
		t.Errorf("got %v, want the second", got)
	}
	m.Want(t)
	cause := errors.New("no more")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	write(t, conn, "X_A=1")
	m.Want(t, "X_A=1")
	write(t, conn, "X_A=2")
	for len(m.Messages()) < 7 {
		runtime.Gosched()
	}
	_, err := m.Wait(ctx, "READY=1", "ERRNO")
	if !errors.Is(err, cause) || !strings.HasPrefix(err.Error(), "wait for READY=1 ERRNO: no more; came instead: [\"X_A=2\" from PID ") {
		t.Errorf("got %v", err)
	}
	if all := m.Messages(); len(all) != 7 {
		t.Errorf("%d messages: %v", len(all), all)
	}
}

// failing is a test that records its failure.
type failing struct {
	testing.TB
	ctx     context.Context
	message string
}

func (f *failing) Helper()                  {}
func (f *failing) Context() context.Context { return f.ctx }
func (f *failing) Fatal(args ...any) {
	f.message = fmt.Sprint(args...)
	runtime.Goexit()
}

func TestManagerWantFailsTheTest(t *testing.T) {
	m := notifytest.NewManager(t)
	ctx, cancel := context.WithCancel(t.Context())
	f := &failing{TB: t, ctx: ctx}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.Want(f, "READY=1")
		t.Error("Want returned")
	}()
	cancel()
	<-ended
	if f.message != "wait for READY=1: context canceled; came instead: []" {
		t.Errorf("message is %q", f.message)
	}
}

// A barrier is over once everything before it was handled and recorded, and
// not earlier.
func TestManagerBarrier(t *testing.T) {
	handled := 0
	m := notifytest.NewManager(t, notifytest.Handle(func(*notifytest.Message) { handled++ }))
	conn := dial(t, m.Socket())
	for _, test := range []struct {
		payload string
		copies  int
	}{{"BARRIER=1", 1}, {"BARRIER=1", 3}, {"BARRIER=1\nREADY=1", 1}, {"READY=1", 1}} {
		for range 5 {
			write(t, conn, "WATCHDOG=1")
		}
		reader, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		write(t, conn, test.payload, slices.Repeat([]int{int(writer.Fd())}, test.copies)...)
		writer.Close()
		if _, err := reader.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%q: got %v, want EOF", test.payload, err)
		}
		reader.Close()
		all := m.Messages()
		last := all[len(all)-1]
		if string(last.Payload) != test.payload || last.Descriptors != test.copies || last.Files != nil {
			t.Errorf("last message is %v, want %q", last, test.payload)
		}
	}
	// Barriers, and what is sent along with one, are nobody's to handle.
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if handled != 4*5+1 {
		t.Errorf("%d messages handled, want 21", handled)
	}
}

func TestManagerStore(t *testing.T) {
	m := notifytest.NewManager(t, notifytest.StoreMax(1))
	conn := dial(t, m.Socket())
	for _, name := range []string{"a", "b"} {
		file := memfd(t)
		write(t, conn, "FDSTORE=1\nFDNAME="+name, int(file.Fd()))
		file.Close()
	}
	m.Want(t, "FDNAME=b")
	if got := m.Store().Names(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("stored are %q, want a", got)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if got := m.Store().Names(); got != nil {
		t.Errorf("stored after Close are %q", got)
	}
}

// The handler may take what it wants before the rest is closed.
func TestManagerHandleTakesFiles(t *testing.T) {
	taken := make(chan *os.File, 1)
	m := notifytest.NewManager(t, notifytest.Handle(func(message *notifytest.Message) {
		taken <- message.Files[0]
		message.Files = message.Files[1:]
	}))
	file := memfd(t)
	defer file.Close()
	if _, err := file.WriteString("state"); err != nil {
		t.Fatal(err)
	}
	write(t, dial(t, m.Socket()), "X_TAKE=1", int(file.Fd()), int(file.Fd()))
	m.Want(t, "X_TAKE=1")
	got := <-taken
	defer got.Close()
	content := make([]byte, 5)
	if _, err := got.ReadAt(content, 0); err != nil || string(content) != "state" {
		t.Errorf("got %q, %v", content, err)
	}
}

func TestManagerRecreate(t *testing.T) {
	m := notifytest.NewManager(t)
	old := dial(t, m.Socket())
	write(t, old, "X_I=1")
	m.Want(t, "X_I=1")
	if err := m.Recreate(); err != nil {
		t.Fatal(err)
	}
	if _, err := old.Write([]byte("X_I=2")); err == nil {
		t.Error("the old socket still takes messages")
	}
	write(t, dial(t, m.Socket()), "X_I=3")
	m.Want(t, "X_I=3")
	if all := m.Messages(); len(all) != 2 {
		t.Errorf("messages are %v, want both", all)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	for call, err := range map[string]error{"Recreate": m.Recreate(), "Close": m.Close()} {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s after Close: got %v, want os.ErrClosed", call, err)
		}
	}
}

func TestStartRefuses(t *testing.T) {
	if _, err := notifytest.Start("relative"); err == nil {
		t.Error("a relative path was accepted")
	}
}
