// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// Fault is something that goes wrong on request, see [Unit.Fault].
type Fault struct{ fault wire.Fault }

// DropNotify loses messages to systemd that have all of these fields, and the
// descriptors in them. A field is "READY=1", or "MAINPID" for any value. Without
// fields it loses every message.
func DropNotify(fields ...string) Fault {
	return Fault{wire.Fault{Kind: wire.DropNotify, Fields: fields}}
}

// DelayNotify has such messages read late. Those that come after them wait
// too, because there is one queue.
func DelayNotify(by time.Duration, fields ...string) Fault {
	return Fault{wire.Fault{Kind: wire.DelayNotify, Fields: fields, Delay: by}}
}

// HoldProcesses stops every new process of the unit with SIGSTOP as soon as it
// is seen, at most some milliseconds after its birth, and continues it after that time.
func HoldProcesses(d time.Duration) Fault {
	return Fault{wire.Fault{Kind: wire.HoldProcess, Delay: d}}
}

// CloseNotify takes the notify socket away.
func CloseNotify() Fault { return Fault{wire.Fault{Kind: wire.CloseNotify}} }

// FullStore has the store take no more descriptors.
func FullStore() Fault { return Fault{wire.Fault{Kind: wire.FullStore}} }

// Times ends the fault after it has struck so often.
func (f Fault) Times(n int) Fault {
	f.fault.Count = n
	return f
}

func (f Fault) String() string {
	s := string(f.fault.Kind)
	for _, field := range f.fault.Fields {
		s += " " + field
	}
	if f.fault.Delay > 0 {
		s += " for " + f.fault.Delay.String()
	}
	if f.fault.Count > 0 {
		s += fmt.Sprintf(", %d times", f.fault.Count)
	}
	return s
}

// Fault puts a fault in place. It lasts until it has struck as often as it may,
// clear is called, or the unit ends. Clear also lets go what the fault holds; to
// call it again does nothing.
func (u *Unit) Fault(f Fault) (clear func(), err error) {
	ctx, cancel := u.patient(context.Background(), "fault")
	defer cancel()
	request := wire.Request{Verb: wire.SetFault, Fault: &f.fault}
	u.tell("fault: %v", f)
	id, wait := u.begin(&request)
	if _, err := wait(ctx); err != nil {
		return nil, fmt.Errorf("%s: fault %v: %w", u.service, f, err)
	}
	return sync.OnceFunc(func() {
		u.tell("fault cleared: %v", f)
		ctx, cancel := u.patient(context.Background(), "clear the fault")
		defer cancel()
		// It fails only if the manager is gone, and the fault with it.
		_, _ = u.call(ctx, wire.Request{Verb: wire.ClearFault, FaultID: id})
	}), nil
}
