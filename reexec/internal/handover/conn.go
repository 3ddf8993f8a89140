// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// MaxDescriptors is how many descriptors may travel with one frame. The
// kernel's limit is 253 (SCM_MAX_FD).
const MaxDescriptors = 200

// Conn is one end of the socket pair. Send may be called from several
// goroutines, Receive from one.
type Conn struct {
	conn *net.UnixConn

	sending sync.Mutex
	seq     uint32
	scratch []byte

	buf, oob []byte
	heard    uint32
}

// Pair returns our end, and the other one for a child. The caller closes both.
func Pair() (*Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "handover")
	theirs := os.NewFile(uintptr(fds[1]), "handover")
	c, err := New(ours)
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return c, theirs, nil
}

// New makes a Conn of one end, which it takes over: f is closed in any case.
func New(f *os.File) (*Conn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("handover socket: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok || c.LocalAddr().Network() != "unixpacket" {
		return nil, errors.Join(fmt.Errorf("handover socket: a %s socket, want a seqpacket one", c.LocalAddr().Network()), c.Close())
	}
	return &Conn{
		conn: u,
		buf:  make([]byte, headerSize+MaxPayload+1),
		oob:  make([]byte, unix.CmsgSpace(4*(MaxDescriptors+1))),
	}, nil
}

// PeerPID is the process that made the socket pair of which fd is one end. It
// does not take fd over, and fails on anything else than a local seqpacket
// socket.
func PeerPID(fd int) (int, error) {
	for _, want := range []struct {
		option, value int
	}{{unix.SO_DOMAIN, unix.AF_UNIX}, {unix.SO_TYPE, unix.SOCK_SEQPACKET}} {
		got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, want.option)
		if err != nil {
			return 0, fmt.Errorf("descriptor %d: %w", fd, err)
		}
		if got != want.value {
			return 0, fmt.Errorf("descriptor %d is no local seqpacket socket", fd)
		}
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, fmt.Errorf("descriptor %d: %w", fd, err)
	}
	return int(cred.Pid), nil
}

// SendTimeout bounds one Send: a peer that does not read for so long is as
// good as gone.
const SendTimeout = time.Second

// Send sends one frame; payload may be nil. The descriptors stay the caller's;
// they may be closed once their receipt has been acknowledged.
func (c *Conn) Send(k Kind, payload any, fds ...int) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	if len(fds) > MaxDescriptors {
		return fmt.Errorf("send %v: %d descriptors, at most %d a frame", k, len(fds), MaxDescriptors)
	}
	f := Frame{Kind: k, Seq: c.seq + 1}
	if payload != nil {
		var err error
		if f.Payload, err = json.Marshal(payload); err != nil {
			return fmt.Errorf("send %v: %w", k, err)
		}
	}
	b, err := f.Append(c.scratch[:0])
	if err != nil {
		return err
	}
	c.scratch = b
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(SendTimeout)); err != nil {
		return fmt.Errorf("send %v: %w", k, err)
	}
	if _, _, err := c.conn.WriteMsgUnix(b, oob, nil); err != nil {
		return fmt.Errorf("send %v: %w", k, err)
	}
	c.seq++
	return nil
}

// ErrTruncated is wrapped by the error of a Receive that lost descriptors.
var ErrTruncated = errors.New("descriptors were lost: the limit of open files is reached, raise LimitNOFILE=")

// Receive waits for the next frame and returns it with its descriptors, which
// belong to the caller, are close-on-exec and keep their blocking mode. The
// payload is valid until the next Receive. When the other side is gone the
// error is io.EOF, after everything that it had sent. On any other error all
// descriptors of the frame have been closed.
//
// Descriptors that were lost are an error, except where the answer to a frame
// says which have arrived: they are the first ones.
func (c *Conn) Receive() (Frame, []*os.File, error) {
	var n, oobn, flags int
	for {
		var err error
		n, oobn, flags, _, err = c.conn.ReadMsgUnix(c.buf, c.oob)
		// A peer that died with unread data from us leaves ECONNRESET, once,
		// before what it had sent (unix_release_sock in net/unix/af_unix.c).
		if errors.Is(err, syscall.ECONNRESET) {
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return Frame{}, nil, fmt.Errorf("receive: %w", err)
		}
		break
	}
	fds, err := parseRights(c.oob[:oobn])
	if err == nil && n == 0 {
		err = fmt.Errorf("%w: an empty message", ErrFrame)
		if c.ended() {
			err = io.EOF
		}
	}
	if err == nil && (flags&unix.MSG_TRUNC != 0 || n == len(c.buf)) {
		err = fmt.Errorf("%w: longer than %d bytes", ErrFrame, headerSize+MaxPayload)
	}
	var f Frame
	if err == nil {
		f, err = Parse(c.buf[:n])
	}
	if err == nil && flags&unix.MSG_CTRUNC != 0 && f.Kind != KindConnections {
		err = fmt.Errorf("receive %v: %w", f.Kind, ErrTruncated)
	}
	if err == nil && f.Seq != c.heard+1 {
		err = fmt.Errorf("%w: %v has sequence number %d, want %d", ErrFrame, f.Kind, f.Seq, c.heard+1)
	}
	if err != nil {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		return Frame{}, nil, err
	}
	c.heard++
	files := make([]*os.File, len(fds))
	for i, fd := range fds {
		files[i] = os.NewFile(uintptr(fd), fmt.Sprintf("%v-%d", f.Kind, i))
	}
	return f, files, nil
}

// ended says whether the other side is gone. A message without a byte looks like
// the end to recvmsg(2), and one who believes it takes a living peer for dead.
func (c *Conn) ended() (gone bool) {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return true
	}
	err = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(poll, 0)
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Poll(poll, 0)
		}
		gone = err == nil && n > 0 && poll[0].Revents&(unix.POLLRDHUP|unix.POLLHUP) != 0
	})
	return gone || err != nil
}

func parseRights(oob []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, os.NewSyscallError("parse control message", err)
	}
	var fds []int
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_RIGHTS {
			got, err := unix.ParseUnixRights(&m)
			if err != nil {
				return fds, os.NewSyscallError("parse descriptors", err)
			}
			fds = append(fds, got...)
		}
	}
	return fds, nil
}

// SetReadDeadline ends a Receive that waits, or a later one.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.conn.SetReadDeadline(t) }

// Close closes our end and unblocks Receive.
func (c *Conn) Close() error { return c.conn.Close() }
