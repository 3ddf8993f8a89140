// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrHungUp is wrapped by the error of [Notifier.Store] for a descriptor that
// the manager would drop at once.
var ErrHungUp = errors.New("descriptor reports an error or a hang-up, so the manager would drop it at once")

// Store asks the manager to keep a copy of the descriptor of conn, a listener,
// a connection or an [os.File] such as a memfd, and to hand it back under name
// when the service starts again. options is empty or [NoPoll]. The caller
// keeps conn. Store never changes the blocking mode of the descriptor, which
// all its copies share.
//
// The unit needs FileDescriptorStoreMax=. The manager says nothing if the
// store is full or disabled; a [Notifier.Barrier] and the unit's property
// NFileDescriptorStore tell. What else it does in silence:
//
//   - A descriptor that is stored already keeps its old name. To rename it,
//     Remove comes first.
//   - A name may be stored many times, and Remove takes all of them. A
//     service that stores again after a restart what it got back accumulates
//     copies unless it gives each a name of its own.
//   - It drops a descriptor at the first error or hang-up. For one that
//     reports such already (a bound TCP socket that does not listen, a UDP
//     socket with a pending ICMP error) Store returns an error that wraps
//     [ErrHungUp]. With NoPoll, systemd 246 and newer keep it.
//
// Descriptors that came from a socket unit must not be stored: the service
// would get them twice. Store sends one descriptor a message, since systemd
// mixes up the order of several.
func (n *Notifier) Store(name string, conn syscall.Conn, options ...Field) error {
	if !n.Enabled() {
		return nil
	}
	if name == "" {
		return &FieldError{Name: "FDNAME", Reason: "must not be empty: nothing would tell the descriptor from others"}
	}
	fields := slices.Concat([]Field{FDStore(conn), FDName(name)}, options)
	if err := checkTogether(fields); err != nil {
		return fmt.Errorf("store descriptor %q: %w", name, err)
	}
	if !slices.ContainsFunc(options, func(f Field) bool { return f.is == isNoPoll }) {
		if err := checkHangUp(conn); err != nil {
			return fmt.Errorf("store descriptor %q: %w", name, err)
		}
	}
	if err := n.Notify(fields...); err != nil {
		return fmt.Errorf("store descriptor %q: %w", name, err)
	}
	return nil
}

// Remove asks the manager to close every descriptor that it keeps under name
// for this service.
func (n *Notifier) Remove(name string) error {
	if !n.Enabled() {
		return nil
	}
	if name == "" {
		return &FieldError{Name: "FDNAME", Reason: "must not be empty"}
	}
	if err := n.Notify(FDStoreRemove(), FDName(name)); err != nil {
		return fmt.Errorf("remove stored descriptor %q: %w", name, err)
	}
	return nil
}

// checkHangUp looks at a descriptor as the manager will: it watches for
// EPOLLERR and EPOLLHUP only.
func checkHangUp(conn syscall.Conn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("get descriptor: %w", err)
	}
	var revents int16
	var pollErr error
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		for {
			_, pollErr = unix.Poll(fds, 0)
			if pollErr != unix.EINTR {
				break
			}
		}
		revents = fds[0].Revents
	})
	switch {
	case err != nil:
		return fmt.Errorf("get descriptor: %w", err)
	case pollErr != nil:
		return fmt.Errorf("poll descriptor: %w", pollErr)
	case revents&(unix.POLLERR|unix.POLLHUP) != 0:
		var seen []string
		if revents&unix.POLLERR != 0 {
			seen = append(seen, "POLLERR")
		}
		if revents&unix.POLLHUP != 0 {
			seen = append(seen, "POLLHUP")
		}
		return fmt.Errorf("%w (%s): store a socket once it listens, or use NoPoll", ErrHungUp, strings.Join(seen, ","))
	}
	return nil
}
