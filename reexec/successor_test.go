// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// What fits into one frame is all there before the successor has said a word,
// and of more there is only the hello: the rest would count against the limit of
// descriptors on their way all the time that it needs to start.
func TestHandOverAtOnce(t *testing.T) {
	for _, c := range []struct {
		name  string
		count int
		early []handover.Kind
	}{
		{"nothing", 0, []handover.Kind{handover.KindHello, handover.KindComplete}},
		{"one frame", handover.MaxDescriptors, []handover.Kind{handover.KindHello, handover.KindDescriptors, handover.KindComplete}},
		{"two frames", handover.MaxDescriptors + 1, []handover.Kind{handover.KindHello}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ours, file, err := handover.Pair()
			if err != nil {
				t.Fatal(err)
			}
			defer ours.Close()
			theirs, err := handover.New(file)
			if err != nil {
				t.Fatal(err)
			}
			defer theirs.Close()
			var list []passing
			for range c.count {
				fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				list = append(list, passing{handover.Descriptor{Role: roleSocket}, fd})
			}
			defer closePassing(list)
			s := &successor{conn: ours}
			done := make(chan error, 1)
			go func() { done <- s.handOver(handover.Hello{Versions: handover.Ours}, list) }()

			next := func() (handover.Kind, int) {
				t.Helper()
				_ = theirs.SetReadDeadline(time.Now().Add(10 * time.Second))
				f, files, err := theirs.Receive()
				if err != nil {
					t.Fatal(err)
				}
				closeFiles(files)
				return f.Kind, len(files)
			}
			got := 0
			for _, want := range c.early {
				kind, n := next()
				if kind != want {
					t.Fatalf("%v comes before the successor has spoken, want %v", kind, want)
				}
				got += n
			}
			if err := theirs.Send(handover.KindHello, handover.Hello{Versions: handover.Ours}); err != nil {
				t.Fatal(err)
			}
			if got > 0 {
				if err := theirs.Send(handover.KindReceived, handover.Received{Count: got}); err != nil {
					t.Fatal(err)
				}
			}
			for complete := len(c.early) > 1; !complete; {
				kind, n := next()
				if got += n; n > 0 {
					if err := theirs.Send(handover.KindReceived, handover.Received{Count: got}); err != nil {
						t.Fatal(err)
					}
				}
				complete = kind == handover.KindComplete
			}
			if err := <-done; err != nil || got != c.count {
				t.Errorf("%d of %d descriptors arrived: %v", got, c.count, err)
			}
		})
	}
}
