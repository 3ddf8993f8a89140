// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"container/heap"
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A priority is the rank of an event: of those that are pending, the one with
// the lowest goes first. The order is that of systemd's manager.h.
type priority int

const (
	priorityExec     priority = -6 // a child executed its program
	priorityNotify   priority = -5 // one message on the notify socket
	priorityChild    priority = -4 // one dead child
	priorityEmpty    priority = -2 // no process is left
	priorityNormal   priority = 0  // timers, sockets, the fd store, files
	priorityWatchdog priority = 100
	priorityRequest  priority = 101 // what other goroutines post
	priorityJobs     priority = 102 // systemd's run queue: when nothing else is to do
	priorityJournal  priority = 103 // what services write: another process's work under systemd
)

// A loop calls back for descriptors, dead children, alarms and what other
// goroutines post: one call, then it looks again what is pending. So a message
// that was sent before its sender died is always seen before that death.
// All methods but post are for the goroutine of run, or before run.
type loop struct {
	epoll   int
	wakeup  int // eventfd that post writes to
	sources map[int]*source
	turn    uint64 // counts calls back
	alarms  alarmHeap
	// child is called while dead reports that there is one.
	dead  func() bool
	child func()
	// idle is called once when nothing is pending but the journal.
	idle func()
	// settled is called after each call back.
	settled func()

	mu     sync.Mutex
	posted []func()
	closed bool
}

// A source is a descriptor that the loop watches.
type source struct {
	loop     *loop
	fd       int
	priority priority
	ready    func(events uint32)
	last     uint64 // the turn of the last call
}

// An alarm is a moment that the loop waits for.
type alarm struct {
	loop     *loop
	at       time.Time
	priority priority
	call     func()
	index    int // in the heap; -1 when it is not there
}

func newLoop() (*loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	wakeup, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(os.NewSyscallError("eventfd", err), unix.Close(epoll))
	}
	l := &loop{
		epoll:   epoll,
		wakeup:  wakeup,
		sources: make(map[int]*source),
		dead:    func() bool { return false },
		settled: func() {},
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(wakeup)}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wakeup, &event); err != nil {
		return nil, errors.Join(os.NewSyscallError("epoll_ctl", err), l.close())
	}
	return l, nil
}

// close ends the loop's own descriptors. post does nothing from then on.
func (l *loop) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	return errors.Join(unix.Close(l.epoll), unix.Close(l.wakeup))
}

// watch has ready called while fd reports any of events, or an error or a
// hang-up. The descriptor stays the caller's; the source is removed before fd is closed.
func (l *loop) watch(fd int, events uint32, p priority, ready func(events uint32)) (*source, error) {
	event := unix.EpollEvent{Events: events, Fd: int32(fd)}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return nil, fmt.Errorf("watch descriptor %d: %w", fd, os.NewSyscallError("epoll_ctl", err))
	}
	s := &source{loop: l, fd: fd, priority: p, ready: ready}
	l.sources[fd] = s
	return s, nil
}

// remove ends the watch; ready is not called any more.
func (s *source) remove() {
	if s == nil || s.loop.sources[s.fd] != s {
		return
	}
	delete(s.loop.sources, s.fd)
	_ = unix.EpollCtl(s.loop.epoll, unix.EPOLL_CTL_DEL, s.fd, nil)
}

// after has call called once, when d is over.
func (l *loop) after(d time.Duration, p priority, call func()) *alarm {
	a := &alarm{loop: l, at: time.Now().Add(d), priority: p, call: call}
	heap.Push(&l.alarms, a)
	return a
}

// stop calls an alarm off. A nil alarm has been.
func (a *alarm) stop() {
	if a != nil && a.index >= 0 {
		heap.Remove(&a.loop.alarms, a.index)
	}
}

// post has call called by the loop with the lowest priority, in the order of
// the posts. It may be used by any goroutine.
func (l *loop) post(call func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.posted = append(l.posted, call)
	l.wakeLocked()
}

// wake has the loop look again, for example for dead children.
func (l *loop) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wakeLocked()
}

func (l *loop) wakeLocked() {
	if !l.closed {
		one := [8]byte{1, 1, 1, 1, 1, 1, 1, 1} // any number but 0, whatever the byte order
		_, _ = unix.Write(l.wakeup, one[:])    // EAGAIN: it is awake
	}
}

// run calls back until done reports true.
func (l *loop) run(done func() bool) error {
	events := make([]unix.EpollEvent, 64)
	for !done() {
		n, err := l.wait(events)
		if err != nil {
			return err
		}
		l.turn++
		if call := l.next(events[:n]); call != nil {
			call()
			l.settled()
		}
	}
	return nil
}

// wait waits until something may be pending and returns the ready descriptors.
func (l *loop) wait(events []unix.EpollEvent) (int, error) {
	for {
		n, err := unix.EpollWait(l.epoll, events, l.timeout())
		switch err {
		case nil:
			return n, nil
		case unix.EINTR:
			// The Go runtime interrupts threads.
		default:
			return 0, os.NewSyscallError("epoll_wait", err)
		}
	}
}

// timeout is how long nothing can happen but what epoll tells, in
// milliseconds.
func (l *loop) timeout() int {
	l.mu.Lock()
	posted := len(l.posted)
	l.mu.Unlock()
	if posted > 0 || l.idle != nil || l.dead() {
		return 0
	}
	if len(l.alarms) == 0 {
		return -1
	}
	left := time.Until(l.alarms[0].at)
	// Rounded up, so that the alarm is due then.
	return int(min(max(0, (left+time.Millisecond-1)/time.Millisecond), math.MaxInt32))
}

// next returns what is to be called first of all that is pending, or nil.
func (l *loop) next(events []unix.EpollEvent) func() {
	var first *source
	var ready uint32
	for _, e := range events {
		if int(e.Fd) == l.wakeup {
			var count [8]byte
			_, _ = unix.Read(l.wakeup, count[:])
			continue
		}
		s := l.sources[int(e.Fd)]
		// Of equals, the one that was not called for the longest time.
		if s != nil && (first == nil || s.priority < first.priority || s.priority == first.priority && s.last < first.last) {
			first, ready = s, e.Events
		}
	}
	rank := priority(math.MaxInt)
	if first != nil {
		rank = first.priority
	}
	if rank > priorityChild && l.dead() {
		return l.child
	}
	if a := l.due(); a != nil && a.priority <= rank {
		a.stop()
		return a.call
	}
	if rank > priorityRequest {
		if call := l.takePosted(); call != nil {
			return call
		}
	}
	if call := l.idle; call != nil && rank > priorityJobs {
		l.idle = nil
		return call
	}
	if first == nil {
		return nil
	}
	first.last = l.turn
	return func() { first.ready(ready) }
}

func (l *loop) takePosted() func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.posted) == 0 {
		return nil
	}
	call := l.posted[0]
	l.posted = l.posted[1:]
	return call
}

// due returns the alarm that is over and has the lowest priority, the oldest
// of equals; or nil.
func (l *loop) due() *alarm {
	var first *alarm
	now := time.Now()
	for _, a := range l.alarms {
		if a.at.After(now) {
			continue
		}
		if first == nil || a.priority < first.priority || a.priority == first.priority && a.at.Before(first.at) {
			first = a
		}
	}
	return first
}

// alarmHeap has the next alarm first.
type alarmHeap []*alarm

func (h alarmHeap) Len() int           { return len(h) }
func (h alarmHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }

func (h alarmHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *alarmHeap) Push(x any) {
	a := x.(*alarm)
	a.index = len(*h)
	*h = append(*h, a)
}

func (h *alarmHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	last.index = -1
	return last
}
