// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultSendTimeout is how long a call waits for room in the manager's
// socket unless [SendTimeout] says otherwise. It is longer than a daemon-reload
// of a large system and shorter than any watchdog interval in common use.
const DefaultSendTimeout = 5 * time.Second

// Notifier sends messages to the service manager. It is safe for concurrent
// use. The zero Notifier and a nil one are disabled: every method does nothing
// and returns nil.
//
// For a path or an abstract name it keeps one connected socket open, so a
// later chroot, change of user or exhausted descriptor table does not cut the
// service off. If the manager made its socket anew, the Notifier connects
// once more and sends the message again.
type Notifier struct {
	address address
	timeout time.Duration
	enabled bool

	closing atomic.Bool
	// mu keeps the descriptor from being closed or replaced while a sender
	// uses it: senders hold it for reading, reconnect and Close for writing.
	mu         sync.RWMutex
	fd         int // connected datagram socket; -1: none
	generation uint64
}

// Option changes how a [Notifier] works.
type Option func(*Notifier)

// SendTimeout bounds the time that a call waits while the queue of the
// manager's socket is full. A d that is not positive stands for
// [DefaultSendTimeout].
func SendTimeout(d time.Duration) Option {
	return func(n *Notifier) {
		n.timeout = d
		if d <= 0 {
			n.timeout = DefaultSendTimeout
		}
	}
}

// FromEnv returns a Notifier for the address in $NOTIFY_SOCKET; see [New]. If
// the variable is absent or empty, the Notifier is disabled and the error nil.
// FromEnv does not change the environment: child processes inherit the
// variable unless the caller takes it away.
func FromEnv(options ...Option) (*Notifier, error) {
	value := os.Getenv(socketVariable)
	if value == "" {
		return &Notifier{fd: -1}, nil
	}
	return New(value, options...)
}

// New returns a Notifier for a manager's socket, written as in $NOTIFY_SOCKET:
//
//	/run/systemd/notify    a socket in the file system
//	@name                  a socket in the abstract namespace
//	vsock:CID:PORT         a virtual machine's host (systemd 253); also
//	                       vsock-dgram:, vsock-seqpacket: and vsock-stream:
//
// The error is an [EnvError] for an address of another form, and wraps that of
// the system call if nothing listens there. The caller closes the Notifier.
//
// A vsock socket carries no descriptors: Store and Barrier return an error
// that wraps [errors.ErrUnsupported]. Over vsock streams each message has a
// connection of its own, as the protocol wants, and is made when it is sent.
func New(value string, options ...Option) (*Notifier, error) {
	parsed, err := parseAddress(value)
	if err != nil {
		return nil, err
	}
	return newNotifier(parsed, options...)
}

func newNotifier(to address, options ...Option) (*Notifier, error) {
	n := &Notifier{address: to, timeout: DefaultSendTimeout, enabled: true, fd: -1}
	for _, option := range options {
		option(n)
	}
	if err := n.address.choose(); err != nil {
		return nil, fmt.Errorf("open NOTIFY_SOCKET=%q: %w", to.text, err)
	}
	if n.address.kind != unix.SOCK_DGRAM {
		return n, nil
	}
	fd, err := n.address.dial()
	if err != nil {
		return nil, fmt.Errorf("open NOTIFY_SOCKET=%q: %w", to.text, err)
	}
	n.fd = fd
	return n, nil
}

// Enabled reports whether there is a manager to talk to. It stays true after
// Close.
func (n *Notifier) Enabled() bool { return n != nil && n.enabled }

// Close closes the socket. Calls that wait for room in the manager's queue
// return an error that wraps [ErrClosed], and so does every later call,
// another Close included. Over vsock streams, Close waits for the calls under
// way, at most for the send timeout.
func (n *Notifier) Close() error {
	if !n.Enabled() {
		return nil
	}
	if n.closing.Swap(true) {
		return fmt.Errorf("close NOTIFY_SOCKET=%q: %w", n.address.text, ErrClosed)
	}
	// Waiting senders hold the lock; shutting the socket down wakes them.
	n.mu.RLock()
	if n.fd >= 0 {
		_ = unix.Shutdown(n.fd, unix.SHUT_RDWR)
	}
	n.mu.RUnlock()

	n.mu.Lock()
	defer n.mu.Unlock()
	fd := n.fd
	n.fd = -1
	if fd < 0 {
		return nil
	}
	return os.NewSyscallError("close", unix.Close(fd))
}

// Notify sends fields as one datagram, in their order. systemd takes all the
// fields of a datagram together.
//
// The error is a [FieldError] if the fields cannot be sent, a [SendError] if
// the manager's socket did not take them. In both cases the manager saw none
// of them. Sending fields that were made beforehand does not allocate.
func (n *Notifier) Notify(fields ...Field) error {
	return n.notify(context.Background(), fields)
}

// notify is Notify that also returns when ctx is done.
func (n *Notifier) notify(ctx context.Context, fields []Field) error {
	if !n.Enabled() {
		return nil
	}
	var buffer [MaxPayload]byte
	payload, conn, err := appendPayload(buffer[:0], fields)
	if err != nil {
		return err
	}
	if conn == nil {
		err = n.send(ctx, payload, nil)
	} else {
		err = n.sendDescriptor(ctx, payload, conn)
	}
	if err != nil {
		return &SendError{Address: n.address.text, Fields: names(fields), Err: err}
	}
	return nil
}

// sendDescriptor sends payload with the descriptor of conn, which cannot be
// closed meanwhile.
func (n *Notifier) sendDescriptor(ctx context.Context, payload []byte, conn syscall.Conn) error {
	if n.address.family != unix.AF_UNIX {
		return fmt.Errorf("pass a descriptor over vsock: %w", errors.ErrUnsupported)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("get descriptor: %w", err)
	}
	// The slice that raw.Control's closure holds is on the heap; payload may
	// stay on the stack for messages without a descriptor.
	copied := append([]byte(nil), payload...)
	var sendErr error
	err = raw.Control(func(fd uintptr) {
		sendErr = n.send(ctx, copied, unix.UnixRights(int(fd)))
	})
	if err != nil {
		return fmt.Errorf("get descriptor: %w", err)
	}
	return sendErr
}

// send sends one message. If the socket lost its peer, it connects once more;
// a socket that another sender connected meanwhile is tried first.
func (n *Notifier) send(ctx context.Context, payload, rights []byte) error {
	deadline := time.Now().Add(n.timeout)
	for connected := false; ; {
		generation, err := n.sendOnce(ctx, deadline, payload, rights)
		if !lostPeer(err) || connected || n.address.kind != unix.SOCK_DGRAM {
			return err
		}
		if connected, err = n.reconnect(generation); err != nil {
			return err
		}
	}
}

// sendOnce returns the generation of the socket that it used.
func (n *Notifier) sendOnce(ctx context.Context, deadline time.Time, payload, rights []byte) (uint64, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.closing.Load() {
		return n.generation, ErrClosed
	}
	var err error
	if n.address.kind == unix.SOCK_DGRAM {
		err = sendDatagram(ctx, deadline, n.fd, payload, rights)
	} else {
		err = n.address.sendConnected(ctx, deadline, payload, rights)
	}
	if err != nil && n.closing.Load() {
		return n.generation, ErrClosed
	}
	return n.generation, err
}

// reconnect replaces the socket of the given generation and reports true,
// unless another sender did so already.
func (n *Notifier) reconnect(generation uint64) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closing.Load() {
		return false, ErrClosed
	}
	if n.generation != generation {
		return false, nil
	}
	fd, err := n.address.dial()
	if err != nil {
		return false, fmt.Errorf("reconnect: %w", err)
	}
	_ = unix.Close(n.fd)
	n.fd = fd
	n.generation++
	return true, nil
}

// lostPeer reports whether err says that the socket at the other end is gone.
func lostPeer(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNRESET)
}
