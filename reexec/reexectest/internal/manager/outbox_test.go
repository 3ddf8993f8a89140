// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"net"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// Who asks whether the test is far behind is told when it has caught up.
func TestOutboxBehind(t *testing.T) {
	near, far := net.Pipe()
	test := wire.NewConn(far)
	defer test.Close()
	caughtUp := make(chan struct{})
	o := newOutbox(wire.NewConn(near), func() { close(caughtUp) })
	line := wire.Message{Event: &wire.Event{Journal: &wire.JournalEntry{Message: strings.Repeat("x", maxLine)}}}
	n := 0
	for ; n*maxLine <= maxOutbox; n++ {
		if o.farBehind() {
			t.Fatalf("behind after %d lines", n)
		}
		o.put(line)
	}
	if !o.farBehind() {
		t.Fatalf("not behind after %d lines", n)
	}
	for range n {
		var m wire.Message
		if err := test.Receive(&m); err != nil {
			t.Fatal(err)
		}
	}
	<-caughtUp
	if o.close(); o.farBehind() || o.size != 0 {
		t.Errorf("behind %v, size %d", o.behind, o.size)
	}
}
