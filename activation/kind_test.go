// SPDX-License-Identifier: Apache-2.0

package activation_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/activation"
)

// opener makes one descriptor of a kind. The errors of refusals say that the kernel cannot make it, and no other.
type opener struct {
	name     string
	open     func(t *testing.T) (int, error)
	refusals []error
	kind     activation.Kind
	network  string
	addr     string // of Info.Addr, a prefix
}

func openers() []opener {
	return []opener{
		{"tcp4 listener", listening(unix.AF_INET, unix.SOCK_STREAM, 0, loopback4), nil, activation.KindListener, "tcp", "127.0.0.1:"},
		{
			"tcp6 listener", listening(unix.AF_INET6, unix.SOCK_STREAM, 0, &unix.SockaddrInet6{Addr: [16]byte{15: 1}}),
			[]error{unix.EAFNOSUPPORT, unix.EADDRNOTAVAIL},
			activation.KindListener, "tcp", "[::1]:",
		},
		{
			"mptcp listener", listening(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP, loopback4),
			[]error{unix.EPROTONOSUPPORT, unix.ENOPROTOOPT},
			activation.KindListener, "tcp", "127.0.0.1:",
		},
		{"tcp bound only", bound(unix.AF_INET, unix.SOCK_STREAM, 0, loopback4), nil, activation.KindSocket, "tcp", "127.0.0.1:"},
		{"tcp connection", tcpConnection, nil, activation.KindConn, "tcp", "127.0.0.1:"},
		{"udp", bound(unix.AF_INET, unix.SOCK_DGRAM, 0, loopback4), nil, activation.KindPacket, "udp", "127.0.0.1:"},
		{
			"udp-lite", bound(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE, loopback4),
			[]error{unix.EPROTONOSUPPORT},
			activation.KindPacket, "udp", "127.0.0.1:",
		},
		{
			"sctp listener", listening(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP, loopback4),
			[]error{unix.EPROTONOSUPPORT},
			activation.KindSocket, "sctp", "",
		},
		{"raw ip", bound(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP, loopback4), []error{unix.EPERM}, activation.KindSocket, "ip", ""},
		{"unix listener", listening(unix.AF_UNIX, unix.SOCK_STREAM, 0, nil), nil, activation.KindListener, "unix", "/"},
		{"unix abstract listener", listening(unix.AF_UNIX, unix.SOCK_STREAM, 0, abstract("listener")), nil, activation.KindListener, "unix", "@holdfast-"},
		{"unix seqpacket listener", listening(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0, nil), nil, activation.KindListener, "unixpacket", "/"},
		{"unix datagram", bound(unix.AF_UNIX, unix.SOCK_DGRAM, 0, nil), nil, activation.KindPacket, "unixgram", "/"},
		{"unix stream connection", pair(unix.SOCK_STREAM), nil, activation.KindConn, "unix", ""},
		{"unix seqpacket connection", pair(unix.SOCK_SEQPACKET), nil, activation.KindConn, "unixpacket", ""},
		{"unix bound only", bound(unix.AF_UNIX, unix.SOCK_STREAM, 0, nil), nil, activation.KindSocket, "unix", "/"},
		{"vsock listener", listening(unix.AF_VSOCK, unix.SOCK_STREAM, 0, anyVsock), noVsock, activation.KindListener, "vsock", ":"},
		{"vsock seqpacket listener", listening(unix.AF_VSOCK, unix.SOCK_SEQPACKET, 0, anyVsock), noVsock, activation.KindListener, "vsockpacket", ":"},
		{"vsock bound only", bound(unix.AF_VSOCK, unix.SOCK_STREAM, 0, anyVsock), noVsock, activation.KindSocket, "vsock", ":"},
		{"netlink", bound(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE, &unix.SockaddrNetlink{}), nil, activation.KindNetlink, "netlink", ""},
		{"packet family", bound(unix.AF_PACKET, unix.SOCK_DGRAM, 0, nil), []error{unix.EPERM}, activation.KindSocket, "family 17", ""},
		{"FIFO", fifo, nil, activation.KindFIFO, "", "/"},
		{"pipe", pipe, nil, activation.KindFIFO, "", "pipe:["},
		{"character device", path(os.DevNull), nil, activation.KindSpecial, "", os.DevNull},
		{"regular file", regular, nil, activation.KindRegular, "", "/"},
		{"file of procfs", path("/proc/self/status"), nil, activation.KindRegular, "", "/proc/"},
		{"unlinked file of a tmpfs", unlinked, []error{unix.ENOENT, unix.EROFS, unix.EACCES}, activation.KindRegular, "", "/dev/shm/"},
		{"directory", path("/"), nil, activation.KindDirectory, "", "/"},
		{"memfd", memfd, nil, activation.KindMemfd, "", "/memfd:"},
		{"message queue", messageQueue, []error{unix.ENOSYS, unix.EACCES}, activation.KindMessageQueue, "", ""},
		{"eventfd", func(*testing.T) (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC) }, nil, activation.KindUnknown, "", "anon_inode:"},
		{"timerfd", func(*testing.T) (int, error) { return unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC) }, nil, activation.KindUnknown, "", "anon_inode:"},
		{"pidfd", func(*testing.T) (int, error) { return unix.PidfdOpen(os.Getpid(), 0) }, []error{unix.ENOSYS}, activation.KindUnknown, "", ""},
		{"namespace", path("/proc/self/ns/net"), nil, activation.KindUnknown, "", "net:["},
	}
}

// noVsock is what kernels without AF_VSOCK, without any transport, or without one for seqpacket say.
var noVsock = []error{unix.EAFNOSUPPORT, unix.EADDRNOTAVAIL, unix.ESOCKTNOSUPPORT, unix.ENODEV}

var (
	loopback4 = &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	anyVsock  = &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: unix.VMADDR_PORT_ANY}
)

func abstract(name string) unix.Sockaddr {
	return &unix.SockaddrUnix{Name: fmt.Sprintf("@holdfast-%d-%s", os.Getpid(), name)}
}

// bound makes a socket bound to the address, or to a path of its own where there is none.
func bound(family, sockType, protocol int, addr unix.Sockaddr) func(*testing.T) (int, error) {
	return func(t *testing.T) (int, error) {
		fd, err := unix.Socket(family, sockType|unix.SOCK_CLOEXEC, protocol)
		if err != nil {
			return -1, err
		}
		if family == unix.AF_UNIX && addr == nil {
			addr = &unix.SockaddrUnix{Name: filepath.Join(t.TempDir(), "s")}
		}
		if addr != nil {
			err = unix.Bind(fd, addr)
		}
		if err != nil {
			_ = unix.Close(fd)
			return -1, err
		}
		return fd, nil
	}
}

func listening(family, sockType, protocol int, addr unix.Sockaddr) func(*testing.T) (int, error) {
	return func(t *testing.T) (int, error) {
		fd, err := bound(family, sockType, protocol, addr)(t)
		if err != nil {
			return -1, err
		}
		if err := unix.Listen(fd, 16); err != nil {
			_ = unix.Close(fd)
			return -1, err
		}
		return fd, nil
	}
}

func tcpConnection(t *testing.T) (int, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return -1, err
	}
	defer ln.Close()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	addr := ln.Addr().(*net.TCPAddr)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte(addr.IP.To4()), Port: addr.Port}); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	peer, err := ln.Accept()
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	t.Cleanup(func() { _ = peer.Close() })
	return fd, nil
}

func pair(sockType int) func(*testing.T) (int, error) {
	return func(t *testing.T) (int, error) {
		fds, err := unix.Socketpair(unix.AF_UNIX, sockType|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return -1, err
		}
		t.Cleanup(func() { _ = unix.Close(fds[1]) })
		return fds[0], nil
	}
}

func path(name string) func(*testing.T) (int, error) {
	return func(*testing.T) (int, error) { return unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0) }
}

func fifo(t *testing.T) (int, error) {
	name := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(name, 0o600); err != nil {
		return -1, err
	}
	// As ListenFIFO= does: for both directions, so that there is never an end of file.
	return unix.Open(name, unix.O_RDWR|unix.O_CLOEXEC, 0)
}

func pipe(t *testing.T) (int, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return -1, err
	}
	t.Cleanup(func() { _ = unix.Close(fds[1]) })
	return fds[0], nil
}

func regular(t *testing.T) (int, error) {
	return unix.Open(filepath.Join(t.TempDir(), "regular"), unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
}

func unlinked(*testing.T) (int, error) {
	return unix.Open("/dev/shm", unix.O_RDWR|unix.O_TMPFILE|unix.O_CLOEXEC, 0o600)
}

func memfd(*testing.T) (int, error) { return unix.MemfdCreate("state", unix.MFD_CLOEXEC) }

// messageQueue is mq_open(3), which is not in x/sys.
func messageQueue(t *testing.T) (int, error) {
	name, err := unix.BytePtrFromString(fmt.Sprintf("holdfast-%d", os.Getpid()))
	if err != nil {
		return -1, err
	}
	fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)), unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600, 0, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	t.Cleanup(func() { _, _, _ = unix.Syscall(unix.SYS_MQ_UNLINK, uintptr(unsafe.Pointer(name)), 0, 0) })
	return int(fd), nil
}

// open returns the descriptor, or skips where the kernel has just refused it in the way that says it cannot.
func (o opener) file(t *testing.T) *os.File {
	t.Helper()
	fd, err := o.open(t)
	for _, refusal := range o.refusals {
		if errors.Is(err, refusal) {
			t.Skipf("this kernel, or this user, makes no %s: %v", o.name, err)
		}
	}
	if err != nil {
		t.Fatalf("make a %s: %v", o.name, err)
	}
	return os.NewFile(uintptr(fd), o.name)
}

func TestKinds(t *testing.T) {
	for _, o := range openers() {
		t.Run(o.name, func(t *testing.T) {
			file := o.file(t)
			var stat unix.Stat_t
			if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
				t.Fatal(err)
			}
			set, err := activation.NewSet([]activation.Passed{{File: file, Name: "it"}})
			if err != nil {
				t.Fatal(err)
			}
			defer set.Close()
			all := set.All()
			if len(all) != 1 {
				t.Fatalf("%v, want one descriptor", all)
			}
			got := all[0]
			if got.Kind != o.kind || got.Network != o.network || !strings.HasPrefix(got.Addr, o.addr) {
				t.Errorf("%v %q %q, want %v %q %q", got.Kind, got.Network, got.Addr, o.kind, o.network, o.addr)
			}
			if got.Dev != uint64(stat.Dev) || got.Ino != stat.Ino {
				t.Errorf("device and inode %d:%d, want %d:%d", got.Dev, got.Ino, stat.Dev, stat.Ino)
			}
			wantOneClaim(t, set, o.kind)
		})
	}
}

// wantOneClaim claims "it" in all four ways: the one that fits the kind works, the others are a KindError.
func wantOneClaim(t *testing.T, set *activation.Set, kind activation.Kind) {
	t.Helper()
	fits := map[activation.Kind]string{
		activation.KindListener: "listener", activation.KindConn: "connection", activation.KindPacket: "packet socket",
	}[kind]
	if fits == "" {
		fits = "file"
	}
	for want, claim := range claims(set) {
		if want == fits {
			continue
		}
		_, err := claim("it")
		var kindErr *activation.KindError
		if !errors.As(err, &kindErr) || kindErr.Want != want || kindErr.Got[0].Kind != kind {
			t.Errorf("claim a %v as %s: %v, want a KindError", kind, want, err)
		}
	}
	claimed, err := claims(set)[fits]("it")
	if err != nil {
		t.Errorf("claim a %v as %s: %v", kind, fits, err)
		return
	}
	if err := claimed[0].Close(); err != nil {
		t.Error(err)
	}
}

type closer interface{ Close() error }

// claims has the four ways to claim, by what errors call them.
func claims(set *activation.Set) map[string]func(name string) ([]closer, error) {
	return map[string]func(string) ([]closer, error){
		"listener":      func(name string) ([]closer, error) { return closers(set.Listeners(name)) },
		"connection":    func(name string) ([]closer, error) { return closers(set.Conns(name)) },
		"packet socket": func(name string) ([]closer, error) { return closers(set.PacketConns(name)) },
		"file":          func(name string) ([]closer, error) { return closers(set.Files(name)) },
	}
}

func closers[T closer](values []T, err error) ([]closer, error) {
	var all []closer
	for _, value := range values {
		all = append(all, value)
	}
	return all, err
}

func TestKindString(t *testing.T) {
	seen := map[string]bool{}
	for kind := activation.KindUnknown; kind <= activation.KindDirectory; kind++ {
		if s := kind.String(); s == "" || seen[s] || strings.HasPrefix(s, "Kind(") {
			t.Errorf("Kind %d is called %q", uint8(kind), s)
		} else {
			seen[s] = true
		}
	}
	if got := activation.Kind(200).String(); got != "Kind(200)" {
		t.Errorf("an unknown number is called %q", got)
	}
}
