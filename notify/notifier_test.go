// SPDX-License-Identifier: Apache-2.0

package notify_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/notify"
	"github.com/holdfast-go/holdfast/notify/notifytest"
)

// open returns a Notifier for a notify socket and closes it with the test.
func open(t testing.TB, address string, options ...notify.Option) *notify.Notifier {
	t.Helper()
	n, err := notify.New(address, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil && !errors.Is(err, notify.ErrClosed) {
			t.Error(err)
		}
	})
	return n
}

// listen returns a notify socket that nobody reads from unless the test does.
func listen(t testing.TB) *notifytest.Socket {
	t.Helper()
	dir, err := os.MkdirTemp("", "notify")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket, err := notifytest.Listen(filepath.Join(dir, "notify"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	return socket
}

// fill sends until the queue of the socket is full and returns the error of
// the message that did not fit any more.
func fill(t testing.TB, address string) error {
	t.Helper()
	n := open(t, address, notify.SendTimeout(time.Millisecond))
	// The length of the queue is the sysctl net.unix.max_dgram_qlen.
	for range 100_000 {
		if err := n.Notify(notify.WatchdogPing()); err != nil {
			return err
		}
	}
	t.Fatal("queue never fills")
	return nil
}

// waitUntilBlocked returns when a sender waits for room in a queue.
func waitUntilBlocked(t testing.TB) {
	t.Helper()
	stacks := make([]byte, 1<<20)
	for t.Context().Err() == nil {
		if bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("unix.Ppoll(")) {
			return
		}
		runtime.Gosched()
	}
}

func monotonicNow(t testing.TB) string {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return strconv.FormatInt(now.Nano()/1000, 10)
}

func openDescriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestNotify(t *testing.T) {
	for name, options := range map[string][]notifytest.Option{"path": nil, "abstract": {notifytest.Abstract()}} {
		t.Run(name, func(t *testing.T) {
			m := notifytest.NewManager(t, options...)
			m.Setenv(t)
			n, err := notify.FromEnv()
			if err != nil {
				t.Fatal(err)
			}
			defer n.Close()
			if !n.Enabled() {
				t.Error("not enabled")
			}
			if err := n.Notify(notify.MainPID(4711), notify.Ready(), notify.Status("serving")); err != nil {
				t.Fatal(err)
			}
			got := m.Want(t, "READY=1")
			if want := "MAINPID=4711\nREADY=1\nSTATUS=serving"; string(got.Payload) != want {
				t.Errorf("payload is %q, want %q", got.Payload, want)
			}
			want := notifytest.Sender{PID: os.Getpid(), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
			if got.Sender != want {
				t.Errorf("sender is %+v, want %+v", got.Sender, want)
			}
			if all := m.Messages(); len(all) != 1 {
				t.Errorf("%d messages, want one datagram: %v", len(all), all)
			}
		})
	}
}

// sd_notify(3): MONOTONIC_USEC= is the timestamp "when the notification
// message was generated".
func TestReloadingTakesTheTimeWhenSent(t *testing.T) {
	m := notifytest.NewManager(t)
	n := open(t, m.Socket())
	kept := notify.Reloading()
	last := monotonicNow(t)
	for range 3 {
		if err := n.Notify(kept, notify.Status("again")); err != nil {
			t.Fatal(err)
		}
		stamp, ok := m.Want(t, "RELOADING=1", "STATUS=again").Value("MONOTONIC_USEC")
		now := monotonicNow(t)
		if !ok || number(t, stamp) < number(t, last) || number(t, stamp) > number(t, now) {
			t.Errorf("MONOTONIC_USEC=%s, want from %s to %s", stamp, last, now)
		}
		last = now
	}
}

func number(t testing.TB, text string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDisabled(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	fromEnv, err := notify.FromEnv()
	if err != nil {
		t.Fatal(err)
	}
	os.Unsetenv("NOTIFY_SOCKET")
	absent, err := notify.FromEnv()
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range map[string]*notify.Notifier{"empty": fromEnv, "absent": absent, "zero": {}, "nil": nil} {
		if n.Enabled() {
			t.Errorf("%s: enabled", name)
		}
		for call, err := range map[string]error{
			"Notify":  n.Notify(notify.Ready(), notify.Status("\n")),
			"Store":   n.Store("a", os.Stdin),
			"Remove":  n.Remove("a"),
			"Barrier": n.Barrier(t.Context()),
			"Close":   n.Close(),
			"again":   n.Close(),
		} {
			if err != nil {
				t.Errorf("%s: %s: %v", name, call, err)
			}
		}
	}
}

func TestNewRefuses(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "systemd")
	_, err := notify.FromEnv()
	var envErr *notify.EnvError
	if !errors.As(err, &envErr) || !strings.HasPrefix(err.Error(), `NOTIFY_SOCKET="systemd": `) {
		t.Errorf("got %v, want an EnvError", err)
	}
	missing := filepath.Join(t.TempDir(), "notify")
	_, err = notify.New(missing)
	if !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), fmt.Sprintf("open NOTIFY_SOCKET=%q: ", missing)) {
		t.Errorf("got %v, want an error that wraps fs.ErrNotExist", err)
	}
}

func TestClosed(t *testing.T) {
	m := notifytest.NewManager(t)
	n := open(t, m.Socket())
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if !n.Enabled() {
		t.Error("Enabled changed with Close")
	}
	for call, err := range map[string]error{
		"Notify":  n.Notify(notify.Ready()),
		"Store":   n.Store("a", os.Stdin),
		"Barrier": n.Barrier(t.Context()),
		"Close":   n.Close(),
	} {
		if !errors.Is(err, notify.ErrClosed) {
			t.Errorf("%s: got %v, want ErrClosed", call, err)
		}
	}
}

func TestSocketIsCloseOnExec(t *testing.T) {
	m := notifytest.NewManager(t)
	open(t, m.Socket())
	entries, err := os.ReadDir("/proc/self/fdinfo")
	if err != nil {
		t.Fatal(err)
	}
	sockets := 0
	for _, entry := range entries {
		link, _ := os.Readlink("/proc/self/fd/" + entry.Name())
		info, err := os.ReadFile("/proc/self/fdinfo/" + entry.Name())
		if err != nil || !strings.HasPrefix(link, "socket:") || number(t, entry.Name()) <= 2 {
			continue // closed meanwhile, or none of ours
		}
		sockets++
		_, flags, _ := strings.Cut(string(info), "flags:\t")
		flags, _, _ = strings.Cut(flags, "\n")
		bits, err := strconv.ParseInt(flags, 8, 64)
		if err != nil {
			t.Fatal(err)
		}
		if bits&unix.O_CLOEXEC == 0 {
			t.Errorf("descriptor %s (%s) would be inherited", entry.Name(), link)
		}
	}
	if sockets < 2 {
		t.Errorf("found %d sockets, want both ends", sockets)
	}
}

// Each sender's messages keep their order, and none is torn or lost.
func TestConcurrentSenders(t *testing.T) {
	const senders, each = 8, 100
	m := notifytest.NewManager(t)
	n := open(t, m.Socket(), notify.SendTimeout(time.Minute))
	var group sync.WaitGroup
	for sender := range senders {
		group.Go(func() {
			for i := range each {
				if err := n.Notify(notify.ExitStatus(sender), notify.Errno(0), notify.Custom("X_I", strconv.Itoa(i))); err != nil {
					t.Error(err)
				}
				if i%10 == 0 {
					if err := n.Barrier(t.Context()); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	group.Wait()
	if err := n.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := make([]int64, senders)
	for _, message := range m.Messages() {
		if message.IsBarrier() {
			continue
		}
		sender, _ := message.Value("EXIT_STATUS")
		i, _ := message.Value("X_I")
		if at := number(t, sender); number(t, i) != next[at] {
			t.Errorf("sender %d: message %s came, want %d", at, i, next[at])
		}
		next[number(t, sender)]++
	}
	if slices.Min(next) != each {
		t.Errorf("messages per sender: %v, want %d each", next, each)
	}
}

func TestSocketMadeAnew(t *testing.T) {
	m := notifytest.NewManager(t)
	n := open(t, m.Socket())
	before := openDescriptors(t)
	for i := range 20 {
		if err := m.Recreate(); err != nil {
			t.Fatal(err)
		}
		if err := n.Notify(notify.Custom("X_I", strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
		m.Want(t, fmt.Sprintf("X_I=%d", i))
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
}

// The connection does not need the path again, which a chroot hides.
func TestPathGoneAfterConnect(t *testing.T) {
	socket := listen(t)
	n := open(t, socket.Address())
	if err := os.Remove(socket.Address()); err != nil {
		t.Fatal(err)
	}
	if err := n.Notify(notify.Ready()); err != nil {
		t.Fatal(err)
	}
	if got, err := socket.Receive(t.Context()); err != nil || !got.Has("READY=1") {
		t.Errorf("got %v, %v, want READY=1", got, err)
	}
}

// While nobody listens each call fails, and the first one after works again.
func TestSocketMissingForAWhile(t *testing.T) {
	m := notifytest.NewManager(t)
	n := open(t, m.Socket())
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		err := n.Notify(notify.Ready(), notify.Status("up"))
		var sendErr *notify.SendError
		want := fmt.Sprintf("send READY,STATUS to NOTIFY_SOCKET=%q: reconnect: connect: no such file or directory", m.Socket())
		if !errors.As(err, &sendErr) || !errors.Is(err, fs.ErrNotExist) || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	again, err := notifytest.Start(m.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := n.Notify(notify.Ready()); err != nil {
		t.Fatal(err)
	}
	again.Want(t, "READY=1")
}

func TestSocketMadeAnewUnderConcurrentSenders(t *testing.T) {
	m := notifytest.NewManager(t)
	n := open(t, m.Socket())
	before := openDescriptors(t)
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for ctx.Err() == nil {
				// Between two sockets there is none, which the caller hears.
				err := n.Notify(notify.WatchdogPing())
				if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOTCONN) {
					t.Error(err)
				}
			}
		})
	}
	for range 30 {
		if err := m.Recreate(); err != nil {
			t.Fatal(err)
		}
		m.Want(t, "WATCHDOG=1")
	}
	stop()
	group.Wait()
	if err := n.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
}

func TestFullQueueIsBounded(t *testing.T) {
	socket := listen(t)
	err := fill(t, socket.Address())
	var sendErr *notify.SendError
	if !errors.As(err, &sendErr) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v, want a SendError that wraps os.ErrDeadlineExceeded", err)
	}
	const timeout = 30 * time.Millisecond
	n := open(t, socket.Address(), notify.SendTimeout(timeout))
	start := time.Now()
	err = n.Notify(notify.Ready())
	if took := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || took < timeout {
		t.Errorf("got %v after %v, want os.ErrDeadlineExceeded after %v", err, took, timeout)
	}
	// Room for one is enough for one.
	if _, err := socket.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.Notify(notify.Ready()); err != nil {
		t.Error(err)
	}
}

func TestSenderWaitsForRoom(t *testing.T) {
	socket := listen(t)
	_ = fill(t, socket.Address())
	n := open(t, socket.Address(), notify.SendTimeout(time.Minute))
	sent := make(chan error)
	go func() { sent <- n.Notify(notify.Ready()) }()
	waitUntilBlocked(t)
	if _, err := socket.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestCloseWakesSenders(t *testing.T) {
	socket := listen(t)
	_ = fill(t, socket.Address())
	n := open(t, socket.Address(), notify.SendTimeout(time.Minute))
	sent := make(chan error)
	go func() { sent <- n.Notify(notify.Ready()) }()
	waitUntilBlocked(t)
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if err := <-sent; !errors.Is(err, notify.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}

// The manager's end goes away while a sender waits for room: the sender finds
// the new socket within the same call.
func TestWaitingSenderFindsTheNewSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	old, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	_ = fill(t, path)
	n := open(t, path, notify.SendTimeout(time.Minute))
	sent := make(chan error)
	go func() { sent <- n.Notify(notify.Ready()) }()
	waitUntilBlocked(t)
	// The new one is in place before the old one closes, so there is no gap.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	m, err := notifytest.Start(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	old.Close()
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	m.Want(t, "READY=1")
}

func TestLargestPayloadArrivesWhole(t *testing.T) {
	m := notifytest.NewManager(t)
	n := open(t, m.Socket())
	text := strings.Repeat("é", (notify.MaxPayload-len("STATUS=."))/2) + "."
	if err := n.Notify(notify.Status(text)); err != nil {
		t.Fatal(err)
	}
	if got := m.Want(t, "STATUS"); got.Err != nil || len(got.Payload) != notify.MaxPayload {
		t.Errorf("got %d bytes, %v", len(got.Payload), got.Err)
	}
	if err := n.Notify(notify.Status(text + ".")); err == nil {
		t.Error("a longer message was sent")
	}
	if err := n.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all := m.Messages(); len(all) != 2 {
		t.Errorf("%d messages, want the first and the barrier: %v", len(all), all)
	}
}

// Without care for backslashes, systemd would take "READY=1" for a part of
// this status, or drop the message.
func TestStatusKeepsItsBackslashes(t *testing.T) {
	m := notifytest.NewManager(t)
	n := open(t, m.Socket())
	for _, text := range []string{`C:\`, `\`, `\\`, `a\b\nc`, `"\"`} {
		for _, fields := range [][]notify.Field{
			{notify.Status(text), notify.Ready()},
			{notify.Ready(), notify.Status(text)},
		} {
			if err := n.Notify(fields...); err != nil {
				t.Fatal(err)
			}
			if got := m.Want(t); got.Err != nil || !got.Has("READY=1", "STATUS="+text) {
				t.Errorf("status %q: got %v, read as %q", text, got, got.Fields)
			}
		}
	}
}

func TestMainPIDFD(t *testing.T) {
	var info string
	m := notifytest.NewManager(t, notifytest.Handle(func(message *notifytest.Message) {
		for _, file := range message.Files {
			data, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", file.Fd()))
			if err != nil {
				t.Error(err)
			}
			info += string(data)
		}
	}))
	n := open(t, m.Socket())
	pidfd := pidfdSelf(t)
	if err := n.Notify(notify.MainPIDFD(pidfd), notify.Ready()); err != nil {
		t.Fatal(err)
	}
	if got := m.Want(t, "MAINPIDFD=1", "READY=1"); got.Descriptors != 1 {
		t.Errorf("%d descriptors, want one", got.Descriptors)
	}
	if want := fmt.Sprintf("\nPid:\t%d\n", os.Getpid()); !strings.Contains(info, want) {
		t.Errorf("descriptor is not a pidfd of this process: %q", info)
	}
}

// pidfdSelf returns a pidfd of this process.
func pidfdSelf(t testing.TB) *os.File {
	t.Helper()
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	t.Cleanup(func() { _ = pidfd.Close() })
	return pidfd
}

func TestPidfdInode(t *testing.T) {
	for range 2 {
		pidfd := pidfdSelf(t)
		var stat unix.Statfs_t
		if err := unix.Fstatfs(int(pidfd.Fd()), &stat); err != nil {
			t.Fatal(err)
		}
		got, err := notify.PidfdInode(pidfd)
		if uint32(stat.Type) != unix.PID_FS_MAGIC { // before Linux 6.9
			if !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("got %d, %v, want errors.ErrUnsupported", got, err)
			}
			continue
		}
		if want := inode(t, pidfd); err != nil || got != want {
			t.Errorf("got %d, %v, want %d", got, err, want)
		}
	}
	if _, err := notify.PidfdInode(memfd(t, "")); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("memfd: got %v, want errors.ErrUnsupported", err)
	}
	closed := pidfdSelf(t)
	closed.Close()
	if _, err := notify.PidfdInode(closed); err == nil || !strings.Contains(err.Error(), "closed file") {
		t.Errorf("closed: got %v, want an error", err)
	}
}

func TestClosedDescriptorIsRefused(t *testing.T) {
	m := notifytest.NewManager(t)
	n := open(t, m.Socket())
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	err = n.Notify(notify.FDStore(file))
	var sendErr *notify.SendError
	if !errors.As(err, &sendErr) || errors.Is(err, notify.ErrClosed) || !strings.Contains(err.Error(), "closed file") {
		t.Errorf("got %v, want a SendError about the file, not the Notifier", err)
	}
}

func TestSendingDoesNotAllocate(t *testing.T) {
	address, drain := rawSocket(t)
	n := open(t, address)
	ping, status, reloading := notify.WatchdogPing(), notify.Status("serving 12 connections"), notify.Reloading()
	for name, send := range map[string]func() error{
		"ping":      func() error { return n.Notify(ping) },
		"made now":  func() error { return n.Notify(notify.WatchdogPing()) },
		"two":       func() error { return n.Notify(ping, status) },
		"timestamp": func() error { return n.Notify(reloading) },
		"disabled":  func() error { return (*notify.Notifier)(nil).Notify(ping) },
	} {
		allocs := testing.AllocsPerRun(100, func() {
			if err := send(); err != nil {
				t.Error(err)
			}
			drain()
		})
		if allocs > 0 {
			t.Errorf("%s: %v allocations per message", name, allocs)
		}
	}
}

func BenchmarkPing(b *testing.B) {
	address, drain := rawSocket(b)
	n := open(b, address)
	ping := notify.WatchdogPing()
	b.ReportAllocs()
	for b.Loop() {
		if err := n.Notify(ping); err != nil {
			b.Fatal(err)
		}
		drain()
	}
}

// rawSocket returns a notify socket and a function that empties its queue and
// counts what was there. Neither the runtime's poller nor the heap has a part
// in it.
func rawSocket(t testing.TB) (address string, drain func() int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	address = filepath.Join(t.TempDir(), "notify")
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: address}); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, notify.MaxPayload)
	return address, func() int {
		for count := 0; ; count++ {
			if _, err := unix.Read(fd, buffer); err != nil {
				return count
			}
		}
	}
}
