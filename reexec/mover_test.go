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

// The answer to what is on its way counts also when the move is to end: what the
// other side refuses is not closed on both.
func TestMoverHearsTheLastAnswer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		answer func(*link) error
		want   fate
	}{
		{"refused", func(l *link) error { return l.b.Send(handover.KindTaken, handover.Taken{Count: 1}) }, refused},
		{"taken", func(l *link) error { return l.b.Send(handover.KindTaken, handover.Taken{Count: 1, Kept: []int{0}}) }, taken},
		{"gone", func(l *link) error { return l.b.Close() }, unsent},
	} {
		t.Run(c.name, func(t *testing.T) {
			ended := make(chan struct{})
			received := make(chan struct{})
			l := linked(t, nil, func(l *link, _ handover.Frame, files []*os.File) {
				closeFiles(files)
				close(received)
				<-ended
				if err := c.answer(l); err != nil {
					t.Error(err)
				}
			})
			l.mover.begin(nil)
			became := make(chan fate, 1)
			go func() { became <- l.mover.offer(sessionOffer(t, nil)) }()
			<-received
			l.mover.end()
			close(ended)
			if got := <-became; got != c.want {
				t.Errorf("it became %d, want %d", got, c.want)
			}
			<-l.mover.over
		})
	}
}
