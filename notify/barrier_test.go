// SPDX-License-Identifier: Apache-2.0

package notify_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/notify"
	"github.com/holdfast-go/holdfast/notify/notifytest"
)

// sd_notify(3): "BARRIER=1 ... will only happen after all previous
// notification messages sent before this command have been processed".
func TestBarrierWaitsForWhatWasSentBefore(t *testing.T) {
	release := make(chan struct{})
	m := notifytest.NewManager(t, notifytest.Handle(func(*notifytest.Message) { <-release }))
	n := open(t, m.Socket())
	if err := n.Notify(notify.Ready()); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- n.Barrier(t.Context()) }()
	select {
	case err := <-done:
		t.Errorf("barrier returned before the message was processed: %v", err)
		close(release)
		return
	case release <- struct{}{}:
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	all := m.Messages()
	if len(all) != 2 || !all[0].Has("READY=1") || string(all[1].Payload) != "BARRIER=1" || all[1].Descriptors != 1 {
		t.Errorf("messages are %v, want READY=1 and a barrier with one descriptor", all)
	}
}

func TestBarrierEndsWithItsContext(t *testing.T) {
	socket := listen(t)
	n := open(t, socket.Address())
	before := openDescriptors(t)
	cause := errors.New("service stops")
	for range 5 {
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error)
		go func() { done <- n.Barrier(ctx) }()
		message, err := socket.Receive(t.Context()) // so the barrier has been sent
		if err != nil {
			t.Fatal(err)
		}
		cancel(cause)
		if err := <-done; !errors.Is(err, cause) || !strings.HasPrefix(err.Error(), "barrier: manager has not reached it: ") {
			t.Errorf("got %v, want an error that wraps the cause", err)
		}
		if err := message.Close(); err != nil {
			t.Error(err)
		}
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}

	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := n.Barrier(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want context.DeadlineExceeded", err)
	}
	<-ctx.Done()
	if err := n.Barrier(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("context done before: got %v, want context.DeadlineExceeded", err)
	}
}

// A barrier that cannot even be sent ends with its context too, long before
// the send timeout.
func TestBarrierEndsWithItsContextWhileTheQueueIsFull(t *testing.T) {
	socket := listen(t)
	_ = fill(t, socket.Address())
	n := open(t, socket.Address(), notify.SendTimeout(time.Hour))
	before := openDescriptors(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- n.Barrier(ctx) }()
	waitUntilBlocked(t)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
}

func TestBarrierThatIsAnswered(t *testing.T) {
	socket := listen(t)
	n := open(t, socket.Address())
	done := make(chan error)
	go func() { done <- n.Barrier(t.Context()) }()
	message, err := socket.Receive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := message.Files[0].WriteString("?"); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "manager wrote") {
		t.Errorf("got %v, want an error", err)
	}
	message.Close()
}

// A child that inherited the pipe would hold up the barrier for as long as it
// lives.
func TestBarrierPipeIsNotInherited(t *testing.T) {
	m := notifytest.NewManager(t)
	n := open(t, m.Socket())
	stdin, hold, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stop := make(chan struct{})
	started := make(chan []*os.Process)
	go func() {
		var children []*os.Process
		defer func() { started <- children }()
		for len(children) < 20 {
			child, err := os.StartProcess("/bin/cat", []string{"cat"}, &os.ProcAttr{Files: []*os.File{stdin, os.Stdout, os.Stderr}})
			if err != nil {
				t.Error(err)
				return
			}
			children = append(children, child)
		}
		<-stop
	}()
	for range 200 {
		if err := n.Barrier(ctx); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	children := <-started
	hold.Close() // ends the children
	for _, child := range children {
		if _, err := child.Wait(); err != nil {
			t.Error(err)
		}
	}
}
