// SPDX-License-Identifier: Apache-2.0

package notifytest_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/notify/notifytest"
)

func listen(t testing.TB) *notifytest.Socket {
	t.Helper()
	s, err := notifytest.Listen(filepath.Join(t.TempDir(), "notify"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// dial returns a plain socket that sends to address.
func dial(t testing.TB, address string) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: address})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func write(t testing.TB, conn *net.UnixConn, payload string, fds ...int) {
	t.Helper()
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	// WriteMsgUnix does not take a datagram socket that is connected.
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var sendErr error
	err = raw.Write(func(fd uintptr) bool {
		sendErr = unix.Sendmsg(int(fd), []byte(payload), rights, nil, 0)
		return sendErr != unix.EAGAIN
	})
	if err := errors.Join(err, sendErr); err != nil {
		t.Fatal(err)
	}
}

func TestReceive(t *testing.T) {
	s := listen(t)
	conn := dial(t, s.Address())
	file := memfd(t)
	defer file.Close()
	write(t, conn, "READY=1\nSTATUS=a=b\nSTATUS=c", int(file.Fd()), int(file.Fd()))
	m, err := s.Receive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := (notifytest.Sender{PID: os.Getpid(), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}); m.Sender != want {
		t.Errorf("sender is %+v, want %+v", m.Sender, want)
	}
	if len(m.Files) != 2 || m.Descriptors != 2 {
		t.Errorf("got %d files, %d descriptors, want 2", len(m.Files), m.Descriptors)
	}
	for _, file := range m.Files {
		if flags, err := unix.FcntlInt(file.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("flags are %#x, %v, want FD_CLOEXEC", flags, err)
		}
	}
	if !m.Has("READY=1", "STATUS=c", "STATUS") || m.Has("READY") != true || m.Has("READY=0") || m.Has("READY=1", "ERRNO") || m.IsBarrier() {
		t.Errorf("Has is wrong for %v", m)
	}
	if value, ok := m.Value("STATUS"); value != "a=b" || !ok {
		t.Errorf("STATUS is %q, %v, want the first", value, ok)
	}
	if value, ok := m.Value("STAT"); ok {
		t.Errorf("STAT is %q", value)
	}
	if got := m.String(); !strings.HasPrefix(got, `"READY=1\nSTATUS=a=b\nSTATUS=c" from PID `) || !strings.HasSuffix(got, " with 2 descriptors") {
		t.Errorf("String is %s", got)
	}
	if err := errors.Join(m.Close(), m.Close()); err != nil {
		t.Error(err)
	}
}

func TestTryReceive(t *testing.T) {
	s := listen(t)
	if m, err := s.TryReceive(); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("got %v, %v, want EAGAIN", m, err)
	}
	conn := dial(t, s.Address())
	file := memfd(t)
	defer file.Close()
	write(t, conn, "READY=1", int(file.Fd()))
	write(t, conn, "STOPPING=1")
	raw, err := s.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	ready := 0
	err = raw.Control(func(fd uintptr) {
		ready, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	})
	if err != nil || ready != 1 {
		t.Errorf("%d sockets are readable, %v", ready, err)
	}
	for _, want := range []string{"READY=1", "STOPPING=1"} {
		m, err := s.TryReceive()
		if err != nil {
			t.Fatal(err)
		}
		if !m.Has(want) || m.Sender.PID != os.Getpid() {
			t.Errorf("got %v, want %s", m, want)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

// The messages that systemd drops whole are there to be seen.
func TestReceiveDropped(t *testing.T) {
	s := listen(t)
	conn := dial(t, s.Address())
	long := strings.Repeat("x", notifytest.MaxPayload+1)
	for payload, want := range map[string]error{
		"READY=1\x00\nSTATUS=up": notifytest.ErrNUL,
		long:                     notifytest.ErrTooLong,
		"STATUS=\\":              notifytest.ErrBackslash,
	} {
		write(t, conn, payload)
		m, err := s.Receive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !errors.Is(m.Err, want) || m.Fields != nil || m.Has("READY=1") {
			t.Errorf("got %v with fields %q, want %v and none", m.Err, m.Fields, want)
		}
		if !strings.HasSuffix(m.String(), want.Error()) {
			t.Errorf("String is %s", m)
		}
	}
	write(t, conn, strings.Repeat("x", notifytest.MaxPayload))
	if m, err := s.Receive(t.Context()); err != nil || m.Err != nil {
		t.Errorf("longest message: got %v, %v", m, err)
	}
	write(t, conn, "")
	if m, err := s.Receive(t.Context()); err != nil || m.Err != nil || len(m.Fields) != 0 {
		t.Errorf("empty message: got %v, %v", m, err)
	}
}

// A receiver at its limit gets the message without the descriptors.
func TestReceiveLosesDescriptors(t *testing.T) {
	s := listen(t)
	conn := dial(t, s.Address())
	file := memfd(t)
	defer file.Close()
	write(t, conn, "FDSTORE=1", int(file.Fd()), int(file.Fd()))

	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	lowered := limit
	lowered.Cur = uint64(file.Fd()) + 1
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lowered); err != nil {
		t.Fatal(err)
	}
	// Take the numbers that are free below the limit.
	var taken []int
	for {
		fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			break
		}
		taken = append(taken, fd)
	}
	m, err := s.Receive(t.Context())
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	for _, fd := range taken {
		unix.Close(fd)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if !errors.Is(m.Err, notifytest.ErrDescriptorsLost) || len(m.Files) != 0 {
		t.Errorf("got %v with %d files, want ErrDescriptorsLost", m, len(m.Files))
	}
}

func TestReceiveEnds(t *testing.T) {
	s := listen(t)
	cause := errors.New("test is over")
	ctx, cancel := context.WithCancelCause(t.Context())
	received := make(chan error)
	go func() {
		_, err := s.Receive(ctx)
		received <- err
	}()
	cancel(cause)
	if err := <-received; !errors.Is(err, cause) {
		t.Errorf("got %v, want the cause of the context", err)
	}
	// The socket is as good as before.
	write(t, dial(t, s.Address()), "READY=1")
	if m, err := s.Receive(t.Context()); err != nil || !m.Has("READY=1") {
		t.Errorf("got %v, %v, want READY=1", m, err)
	}
	go func() {
		_, err := s.Receive(t.Context())
		received <- err
	}()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-received; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want net.ErrClosed", err)
	}
	if _, err := os.Lstat(s.Address()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("path is still there: %v", err)
	}
}

func TestListenRefuses(t *testing.T) {
	if _, err := notifytest.Listen("relative"); err == nil || !strings.Contains(err.Error(), `"relative": must be an absolute path`) {
		t.Errorf("got %v, want an error", err)
	}
	s := listen(t)
	if _, err := notifytest.Listen(s.Address()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v, want EADDRINUSE", err)
	}
	if _, err := os.Lstat(s.Address()); err != nil {
		t.Errorf("the socket that was there is gone: %v", err)
	}
}
