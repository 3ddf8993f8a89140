// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/notify/notifytest"
	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// holdInterval is how often the processes of the unit are looked at while new
// ones are to be held.
const holdInterval = time.Millisecond

// faults are what goes wrong on request.
type faults struct {
	all    []*fault // also those that have ended, but may still hold something
	active []*fault
	hold   *fault // the one of active that holds new processes
}

type fault struct {
	wire.Fault
	id      int64
	struck  int
	release *alarm         // of a delayed message
	held    map[int]*alarm // by PID
}

// strike returns the first fault of that kind that a message meets, and counts
// it. The message may be nil for kinds that do not look at one.
func (f *faults) strike(kind wire.FaultKind, message *notifytest.Message) *fault {
	for _, fault := range f.active {
		if fault.Kind == kind && (message == nil || message.Has(fault.Fields...)) {
			f.count(fault)
			return fault
		}
	}
	return nil
}

// count ends a fault that has struck often enough. What it holds stays held for its time.
func (f *faults) count(fault *fault) {
	fault.struck++
	if fault.Count > 0 && fault.struck >= fault.Count {
		f.end(fault)
	}
}

func (f *faults) end(ended *fault) {
	f.active = slices.DeleteFunc(f.active, func(other *fault) bool { return other == ended })
	if f.hold == ended {
		f.hold = nil
	}
}

// setFault puts a fault in place.
func (m *manager) setFault(id int64, spec wire.Fault) *wire.Error {
	fault := &fault{Fault: spec, id: id, held: make(map[int]*alarm)}
	switch spec.Kind {
	case wire.DropNotify, wire.DelayNotify, wire.FullStore:
	case wire.HoldProcess:
		if m.faults.hold != nil {
			return &wire.Error{Name: wire.ErrInvalidArgs, Message: "new processes are held already: clear that fault first"}
		}
		// Who is there now is not new.
		m.lookAround()
		m.faults.hold = fault
		m.watchBirths()
	case wire.CloseNotify:
		m.closeNotify()
		m.struck(fault, 0)
	default:
		return &wire.Error{Name: wire.ErrInvalidArgs, Message: fmt.Sprintf("no fault is called %q", spec.Kind)}
	}
	m.faults.active = append(m.faults.active, fault)
	m.faults.all = append(m.faults.all, fault)
	return nil
}

// clearFault ends a fault and lets go what it holds.
func (m *manager) clearFault(id int64) *wire.Error {
	for _, fault := range m.faults.all {
		if fault.id != id {
			continue
		}
		active := slices.Contains(m.faults.active, fault)
		m.faults.end(fault)
		if fault.release != nil && fault.release.index >= 0 {
			fault.release.stop()
			m.releaseNotify()
		}
		for pid, alarm := range fault.held {
			alarm.stop()
			m.letGo(fault, pid)
		}
		if fault.Kind == wire.CloseNotify && active {
			if err := m.listenNotify(); err != nil {
				return &wire.Error{Name: wire.ErrBadWorld, Message: err.Error()}
			}
		}
		return nil
	}
	return &wire.Error{Name: wire.ErrInvalidArgs, Message: fmt.Sprintf("no fault was put in place by request %d", id)}
}

// struck tells the test.
func (m *manager) struck(fault *fault, pid int) {
	m.event(wire.Event{Kind: wire.FaultStruck, Fault: &wire.FaultStrike{ID: fault.id, Kind: fault.Kind, PID: pid}})
}

// holdFor says that a new process is stopped or about to stop itself.
func (m *manager) holdFor(pid int) {
	fault := m.faults.hold
	if fault == nil {
		return
	}
	m.faults.count(fault)
	m.struck(fault, pid)
	fault.held[pid] = m.loop.after(fault.Delay, priorityNormal, func() { m.letGo(fault, pid) })
}

// letGo continues a held process.
func (m *manager) letGo(fault *fault, pid int) {
	delete(fault.held, pid)
	if p, err := readProcess(pid); err == nil && p.state != 'T' && m.spawned[pid] != nil {
		// It has not come so far as to stop itself.
		fault.held[pid] = m.loop.after(holdInterval, priorityNormal, func() { m.letGo(fault, pid) })
		return
	}
	_ = signalDescendant(m.pid(), pid, syscall.SIGCONT)
}
