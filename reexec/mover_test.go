// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"os"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// sessionOffer is one of a connection whose client waits.
func sessionOffer(t *testing.T, state []byte) *offer {
	t.Helper()
	_, server, _ := acceptedPair(t, "tcp")
	fd, err := duplicate(server)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "session")
	t.Cleanup(func() { _ = file.Close() })
	return &offer{Connection: handover.Connection{Session: "k", State: state}, fd: fd}
}

// When the move is to end, what is on its way may be the other's, and the rest
// stays: nothing more is sent, whoever waits with it.
func TestMoverSendsNothingAfterItsEnd(t *testing.T) {
	const waiting = 8
	received := make(chan int, waiting+2)
	l := linked(t, nil, func(_ *link, f handover.Frame, files []*os.File) {
		closeFiles(files)
		received <- len(files) // and no answer
	})
	m := l.mover
	full := make([]byte, MaxSessionState) // two of them do not fit into a frame
	m.begin(nil)
	fates := make(chan fate, waiting+1)
	go func() { fates <- m.offer(sessionOffer(t, full)) }()
	if n := <-received; n != 1 {
		t.Fatalf("%d sessions are on their way, want 1", n)
	}
	m.end()
	if got := <-fates; got != taken {
		t.Errorf("what was sent became %d, want %d: it may be the other's", got, taken)
	}
	<-m.over

	// The same with some that have come to the mover and did not fit in, or are
	// about to come.
	l = linked(t, nil, func(_ *link, _ handover.Frame, files []*os.File) {
		closeFiles(files)
		received <- len(files)
	})
	m = l.mover
	next := sessionOffer(t, full)
	next.answer = make(chan fate, 1)
	m.next = next
	m.end()
	offers := make(chan *offer)
	m.offers = offers
	for range waiting {
		go func(o *offer) { fates <- m.offer(o) }(sessionOffer(t, nil))
	}
	go m.run()
	<-m.over
	if got := <-next.answer; got != unsent {
		t.Errorf("what was not sent became %d, want %d", got, unsent)
	}
	for range waiting {
		if got := <-fates; got != unsent {
			t.Errorf("what came after the end became %d, want %d", got, unsent)
		}
	}
	select {
	case n := <-received:
		t.Errorf("%d sessions were sent after the end", n)
	default:
	}
}
