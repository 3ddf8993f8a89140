// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// hostile is a successor that keeps to no rules. Its raw socket is a copy of its
// end.
type hostile struct {
	conn *handover.Conn
	raw  int
}

// hostileSuccessors are by name what one does once it has joined, where join is
// true, or before. They end when they have done it or when they are killed.
var hostileSuccessors = map[string]struct {
	join   bool
	attack func(h hostile) error
}{
	"leaves for ever": {false, func(h hostile) error {
		for {
			if err := h.send(handover.KindLeaving, handover.Reason{Reason: "again"}); err != nil {
				return err
			}
		}
	}},
	"has another name": {false, func(h hostile) error {
		return h.send(handover.KindHello, handover.Hello{Versions: handover.Ours, Name: "another", PID: os.Getpid()})
	}},
	"has another PID": {false, func(h hostile) error {
		return h.send(handover.KindHello, handover.Hello{Versions: handover.Ours, Name: "service", PID: 1})
	}},
	"speaks of no version": {false, func(h hostile) error {
		return h.send(handover.KindHello, handover.Hello{Name: "service", PID: os.Getpid()})
	}},
	"says an empty message with descriptors": {true, func(h hostile) error {
		return sendEmpty(h.raw, h.raw, h.raw)
	}},
	"closes its writing end": {true, func(h hostile) error { return unix.Shutdown(h.raw, unix.SHUT_WR) }},
	"sends more descriptors than a frame may have": {true, func(h hostile) error {
		f, err := handover.Frame{Kind: handover.KindBeat, Seq: 2, Payload: []byte("{}")}.Append(nil)
		if err != nil {
			return err
		}
		return unix.Sendmsg(h.raw, f, unix.UnixRights(slices.Repeat([]int{h.raw}, 253)...), nil, 0)
	}},
	// Each with as many descriptors as there may be, among them the socket itself, which
	// the kernel has to find in its queue (unix(7), the garbage collector).
	"sends descriptors with every frame": {true, func(h hostile) error {
		for range 200 {
			if err := h.send(handover.KindBeat, handover.Beat{}, slices.Repeat([]int{h.raw}, handover.MaxDescriptors)...); err != nil {
				return err
			}
		}
		return h.send(handover.KindLeaving, handover.Reason{Reason: "they were all read"})
	}},
	"takes what was not sent": {true, func(h hostile) error { return h.send(handover.KindTaken, handover.Taken{Count: 1, Kept: []int{0}}) }},
	"says what the store holds": {true, func(h hostile) error {
		d := handover.Descriptor{Role: "stored", Stored: fmt.Sprintf("state/x@%d", uint64(math.MaxUint64))}
		return h.send(handover.KindUpdate, handover.Update{Descriptor: d})
	}},
	"takes back what is kept": {true, func(h hostile) error {
		return h.send(handover.KindUpdate, handover.Update{Descriptor: handover.Descriptor{Role: "kept", Name: "x"}, Removed: true})
	}},
	"replaces a state": {true, func(h hostile) error {
		return h.send(handover.KindUpdate, handover.Update{Descriptor: handover.Descriptor{Role: "state", Name: "x"}}, h.raw)
	}},
	"sends what is the predecessor's to say": {true, func(h hostile) error { return h.send(handover.KindPromote, nil) }},
	"sends a kind that nobody knows":         {true, func(h hostile) error { return h.send(handover.Kind(4711), nil) }},
	"is ill in many words": {true, func(h hostile) error {
		if err := h.send(handover.KindLeaving, handover.Reason{Reason: strings.Repeat("<\x1b[31m>\n", 4<<10)}); err != nil {
			return err
		}
		select {}
	}},
	"moves what is no connection": {true, func(h hostile) error {
		fds, err := notConnections()
		if err != nil {
			return err
		}
		var list handover.Connections
		for i := range fds {
			c := handover.Connection{Listener: "http"}
			if i%2 == 1 {
				c = handover.Connection{Session: "lines"}
			}
			list.List = append(list.List, c)
		}
		if err := h.send(handover.KindConnections, list, fds...); err != nil {
			return err
		}
		var answer handover.Taken
		for {
			f, files, err := h.conn.Receive()
			if err != nil {
				return err
			}
			for _, file := range files {
				_ = file.Close()
			}
			if f.Kind == handover.KindTaken {
				if err := f.Decode(&answer); err != nil {
					return err
				}
				break
			}
		}
		return h.send(handover.KindLeaving, handover.Reason{Reason: fmt.Sprintf("of %d it has taken %d", answer.Count, len(answer.Kept))})
	}},
	"never reads": {true, func(h hostile) error {
		if err := h.send(handover.KindReady, nil); err != nil {
			return err
		}
		for range 40 { // two seconds, in which it is undone
			if err := h.send(handover.KindBeat, handover.Beat{Ill: "it does not read"}); err != nil {
				return err
			}
			time.Sleep(50 * time.Millisecond)
		}
		return errors.New("it has read nothing")
	}},
}

// notConnections are two of each kind, for a listener and for a kind of sessions.
func notConnections() (fds []int, err error) {
	add := func(fd int, failed error) {
		if fds = append(fds, fd, fd); err == nil {
			err = failed
		}
	}
	add(unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0))
	add(unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0))
	add(unix.EpollCreate1(unix.EPOLL_CLOEXEC))
	add(unix.MemfdCreate("x", unix.MFD_CLOEXEC))
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	add(pipe[0], nil)
	add(pipe[1], nil)
	add(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))
	add(unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))
	add(unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE))
	listening, failed := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if failed == nil {
		failed = unix.Listen(listening, 1)
	}
	add(listening, failed)
	return fds, err
}

// beHostile plays one in the place of a version. In the pre-check it is a good one.
func beHostile(name string) error {
	attack, ok := hostileSuccessors[name]
	if !ok {
		return fmt.Errorf("no hostile successor %q", name)
	}
	raw, err := unix.FcntlInt(3, unix.F_DUPFD_CLOEXEC, 10)
	if err != nil {
		return err
	}
	conn, err := handover.New(os.NewFile(3, "handover"))
	if err != nil {
		return err
	}
	h := hostile{conn, raw}
	if attack.join {
		if err := h.join(); err != nil {
			return err
		}
	}
	if err := attack.attack(h); err != nil {
		return err
	}
	select {}
}

func (h hostile) send(k handover.Kind, payload any, fds ...int) error {
	for {
		err := h.conn.Send(k, payload, fds...)
		if err == nil || !strings.Contains(err.Error(), unix.ETOOMANYREFS.Error()) {
			return err
		}
	}
}

// join is what a good one does.
func (h hostile) join() error {
	if err := h.send(handover.KindHello, handover.Hello{Versions: handover.Ours, Name: "service", PID: os.Getpid()}); err != nil {
		return err
	}
	count := 0
	for {
		f, files, err := h.conn.Receive()
		if err != nil {
			return err
		}
		for _, file := range files {
			_ = file.Close()
		}
		count += len(files)
		switch f.Kind {
		case handover.KindDescriptors:
			if err := h.send(handover.KindReceived, handover.Received{Count: count}); err != nil {
				return err
			}
		case handover.KindComplete:
			return nil
		}
	}
}

// sendEmpty sends a message without a byte, with descriptors if there are any. Package
// unix would add a byte.
func sendEmpty(fd int, fds ...int) error {
	var header unix.Msghdr
	if len(fds) > 0 {
		rights := unix.UnixRights(fds...)
		header.Control = &rights[0]
		header.SetControllen(len(rights))
	}
	if _, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&header)), 0); errno != 0 {
		return errno
	}
	return nil
}
