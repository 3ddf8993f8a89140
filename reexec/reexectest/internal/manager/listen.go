// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// A relocator chooses addresses on this machine for those of socket units. An address
// once chosen stays, so that a socket unit can be restarted and several lines can share one.
type relocator struct {
	keep   bool
	prefix string
	// ports has the chosen port for an address of the unit, whatever the
	// protocol: HTTP/3 is told to be on the port of HTTP/2.
	ports map[netip.AddrPort]uint16
}

func newRelocator(keep bool) *relocator {
	return &relocator{keep: keep, prefix: "holdfast-" + rand.Text()[:10] + "-", ports: make(map[netip.AddrPort]uint16)}
}

// A target is what a Listen line is bound to.
type target struct {
	family   int
	kind     int // SOCK_STREAM ...
	protocol int
	address  unix.Sockaddr
	network  string
	path     string         // of a socket in the file system
	wanted   netip.AddrPort // of an IP socket: as the unit has it
}

// resolve says what to bind to for a line of a socket unit.
func (r *relocator) resolve(s *unit.Socket, l unit.Listen) (target, error) {
	t := target{}
	var names map[string]string
	switch l.Kind {
	case "ListenStream":
		t.kind = unix.SOCK_STREAM
		names = map[string]string{"unix": "unix", "4": "tcp4", "6": "tcp6"}
	case "ListenDatagram":
		t.kind = unix.SOCK_DGRAM
		names = map[string]string{"unix": "unixgram", "4": "udp4", "6": "udp6"}
	case "ListenSequentialPacket":
		t.kind = unix.SOCK_SEQPACKET
		names = map[string]string{"unix": "unixpacket"}
	default:
		return t, fmt.Errorf("%s=%s: not an address", l.Kind, l.Address)
	}
	switch {
	case strings.HasPrefix(l.Address, "/"):
		t.family, t.network, t.path = unix.AF_UNIX, names["unix"], l.Address
		t.address = &unix.SockaddrUnix{Name: l.Address}
		return t, nil
	case strings.HasPrefix(l.Address, "@"):
		name := l.Address
		if !r.keep {
			name = "@" + r.prefix + name[1:]
		}
		t.family, t.network = unix.AF_UNIX, names["unix"]
		t.address = &unix.SockaddrUnix{Name: name}
		return t, nil
	case strings.HasPrefix(l.Address, "vsock:"):
		cid, port, err := parseVsock(l.Address)
		t.family, t.network = unix.AF_VSOCK, "vsock"
		t.address = &unix.SockaddrVM{CID: cid, Port: port}
		return t, err
	}
	switch s.SocketProtocol {
	case "sctp":
		t.protocol = unix.IPPROTO_SCTP
	case "mptcp":
		t.protocol = unix.IPPROTO_MPTCP
	case "udplite":
		t.protocol = unix.IPPROTO_UDPLITE
	}
	var err error
	if t.wanted, err = parseIP(l.Address); err != nil {
		return t, fmt.Errorf("%s=%s: %w", l.Kind, l.Address, err)
	}
	bind := t.wanted
	if !r.keep {
		bind = r.loopback(t.wanted)
	}
	if bind.Addr().Is4() {
		t.family, t.network = unix.AF_INET, names["4"]
		t.address = &unix.SockaddrInet4{Port: int(bind.Port()), Addr: bind.Addr().As4()}
		return t, nil
	}
	t.family, t.network = unix.AF_INET6, names["6"]
	if bind.Addr().IsUnspecified() && s.BindIPv6Only != "ipv6-only" {
		t.network = strings.TrimSuffix(t.network, "6") // both families
	}
	t.address = &unix.SockaddrInet6{Port: int(bind.Port()), Addr: bind.Addr().As16()}
	return t, nil
}

// loopback is where an address of the unit is put: the loopback address of its family and
// the port that was chosen for it before, or 0.
func (r *relocator) loopback(wanted netip.AddrPort) netip.AddrPort {
	address := wanted.Addr()
	if !address.IsLoopback() {
		address = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if wanted.Addr().Is6() && ipv6() {
			address = netip.IPv6Loopback()
		}
	}
	return netip.AddrPortFrom(address, r.ports[wanted])
}

// ipv6 reports whether this machine has an IPv6 loopback address.
func ipv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16()}) == nil
}

// parseIP reads a port, IPV4:PORT or [IPV6]:PORT. A port alone is that of all
// addresses.
func parseIP(text string) (netip.AddrPort, error) {
	if port, err := strconv.ParseUint(text, 10, 16); err == nil {
		all := netip.IPv6Unspecified()
		if !ipv6() {
			all = netip.IPv4Unspecified()
		}
		return netip.AddrPortFrom(all, uint16(port)), nil
	}
	return netip.ParseAddrPort(text)
}

func parseVsock(text string) (cid, port uint32, err error) {
	left, right, ok := strings.Cut(strings.TrimPrefix(text, "vsock:"), ":")
	if !ok {
		return 0, 0, fmt.Errorf("%q is not vsock:CID:PORT", text)
	}
	cid = unix.VMADDR_CID_ANY
	if left != "" {
		n, err := strconv.ParseUint(left, 10, 32)
		if err != nil {
			return 0, 0, fmt.Errorf("%q is not vsock:CID:PORT: %w", text, err)
		}
		cid = uint32(n)
	}
	n, err := strconv.ParseUint(right, 10, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("%q is not vsock:CID:PORT: %w", text, err)
	}
	return cid, uint32(n), nil
}

// listenOn opens the socket of a line as systemd does.
func (r *relocator) listenOn(s *unit.Socket, l unit.Listen) (fd int, address wire.Address, err error) {
	address = wire.Address{Unit: s.Name, Name: s.FileDescriptorName, Listen: l.Kind + "=" + l.Address}
	switch l.Kind {
	case "ListenFIFO":
		address.Network, address.Address = "fifo", l.Address
		fd, err = openFIFO(l.Address, s.DirectoryMode, s.SocketMode)
		if err == nil && s.PipeSize > 0 {
			_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, s.PipeSize)
		}
		return fd, address, err
	case "ListenSpecial":
		address.Network, address.Address = "special", l.Address
		fd, err = openSpecial(l.Address, s.Writable)
		return fd, address, err
	}
	t, err := r.resolve(s, l)
	if err != nil {
		return -1, address, err
	}
	fd, err = t.listen(s)
	if errors.Is(err, unix.EADDRINUSE) && t.wanted.IsValid() && !r.keep && r.ports[t.wanted] != 0 && !s.ReusePort {
		// The port was chosen for another protocol, in which it was free.
		delete(r.ports, t.wanted)
		if t, err = r.resolve(s, l); err == nil {
			fd, err = t.listen(s)
		}
	}
	if err != nil {
		return -1, address, fmt.Errorf("listen on %s: %w", address.Listen, err)
	}
	address.Network = t.network
	address.Address, err = r.bound(fd, t)
	if err != nil {
		return -1, address, errors.Join(err, unix.Close(fd))
	}
	return fd, address, nil
}

// bound returns the address of a socket for net.Dial, and remembers its port.
func (r *relocator) bound(fd int, t target) (string, error) {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return "", os.NewSyscallError("getsockname", err)
	}
	switch name := name.(type) {
	case *unix.SockaddrUnix:
		return name.Name, nil
	case *unix.SockaddrInet4:
		r.ports[t.wanted] = uint16(name.Port)
		return netip.AddrPortFrom(netip.AddrFrom4(name.Addr), uint16(name.Port)).String(), nil
	case *unix.SockaddrInet6:
		r.ports[t.wanted] = uint16(name.Port)
		return netip.AddrPortFrom(netip.AddrFrom16(name.Addr), uint16(name.Port)).String(), nil
	case *unix.SockaddrVM:
		return fmt.Sprintf("%d:%d", name.CID, name.Port), nil
	}
	return "", fmt.Errorf("getsockname: an address of a kind that nobody asked for: %T", name)
}

// listen makes the socket with the options of the unit.
func (t *target) listen(s *unit.Socket) (int, error) {
	fd, err := unix.Socket(t.family, t.kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, t.protocol)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := t.bind(fd, s); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

func (t *target) bind(fd int, s *unit.Socket) error {
	if t.family == unix.AF_INET6 && s.BindIPv6Only != "" && s.BindIPv6Only != "default" {
		only := 0
		if s.BindIPv6Only == "ipv6-only" {
			only = 1
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); err != nil {
			return os.NewSyscallError("setsockopt IPV6_V6ONLY", err)
		}
	}
	ip := t.family == unix.AF_INET || t.family == unix.AF_INET6
	if ip && s.ReusePort {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}
	if ip && s.FreeBind {
		if t.family == unix.AF_INET {
			_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
		} else {
			_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
		}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return os.NewSyscallError("setsockopt SO_REUSEADDR", err)
	}
	if t.path != "" {
		if err := makeParents(t.path, s.DirectoryMode); err != nil {
			return err
		}
	}
	err := t.bindMode(fd, s.SocketMode)
	if err == unix.EADDRINUSE && t.path != "" && os.Remove(t.path) == nil {
		err = t.bindMode(fd, s.SocketMode) // what was left of a socket before
	}
	if err != nil {
		return os.NewSyscallError("bind", err)
	}
	if t.kind == unix.SOCK_STREAM || t.kind == unix.SOCK_SEQPACKET {
		if err := unix.Listen(fd, s.Backlog); err != nil {
			return os.NewSyscallError("listen", err)
		}
	}
	applyOptions(fd, t.family, s)
	return nil
}

// bindMode binds with the mode of the node in the file system.
func (t *target) bindMode(fd int, mode fs.FileMode) error {
	if t.path == "" {
		return unix.Bind(fd, t.address)
	}
	before := syscall.Umask(int(^mode & 0o777))
	defer syscall.Umask(before)
	return unix.Bind(fd, t.address)
}

// applyOptions sets what is optional: where the kernel refuses, systemd warns and goes on.
func applyOptions(fd, family int, s *unit.Socket) {
	set := func(when bool, level, option, value int) {
		if when {
			_ = unix.SetsockoptInt(fd, level, option, value)
		}
	}
	seconds := func(d time.Duration) int { return int(d / time.Second) }
	set(s.KeepAlive, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	set(s.KeepAliveTime > 0, unix.SOL_TCP, unix.TCP_KEEPIDLE, seconds(s.KeepAliveTime))
	set(s.KeepAliveInterval > 0, unix.SOL_TCP, unix.TCP_KEEPINTVL, seconds(s.KeepAliveInterval))
	set(s.KeepAliveProbes > 0, unix.SOL_TCP, unix.TCP_KEEPCNT, s.KeepAliveProbes)
	set(s.DeferAccept > 0, unix.SOL_TCP, unix.TCP_DEFER_ACCEPT, seconds(s.DeferAccept))
	set(s.NoDelay, unix.SOL_TCP, unix.TCP_NODELAY, 1)
	set(s.Broadcast, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
	set(s.PassCredentials, unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
	set(s.PassPIDFD, unix.SOL_SOCKET, unix.SO_PASSPIDFD, 1)
	set(s.PassSecurity, unix.SOL_SOCKET, unix.SO_PASSSEC, 1)
	set(s.PassPacketInfo && family == unix.AF_INET, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	set(s.PassPacketInfo && family == unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	set(s.Timestamping == "us", unix.SOL_SOCKET, unix.SO_TIMESTAMP, 1)
	set(s.Timestamping == "ns", unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	set(s.ReceiveBuffer > 0, unix.SOL_SOCKET, unix.SO_RCVBUF, s.ReceiveBuffer)
	set(s.SendBuffer > 0, unix.SOL_SOCKET, unix.SO_SNDBUF, s.SendBuffer)
	if s.Priority != nil {
		set(true, unix.SOL_SOCKET, unix.SO_PRIORITY, *s.Priority)
	}
	if s.IPTOS != nil {
		set(true, unix.IPPROTO_IP, unix.IP_TOS, *s.IPTOS)
	}
	if s.IPTTL != nil {
		set(family == unix.AF_INET, unix.IPPROTO_IP, unix.IP_TTL, *s.IPTTL)
		set(family == unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, *s.IPTTL)
	}
	if s.TCPCongestion != "" {
		_ = unix.SetsockoptString(fd, unix.SOL_TCP, unix.TCP_CONGESTION, s.TCPCongestion)
	}
}

// openFIFO makes a FIFO, or takes one that is there and as it should be.
func openFIFO(path string, directoryMode, mode fs.FileMode) (int, error) {
	if err := makeParents(path, directoryMode); err != nil {
		return -1, err
	}
	if err := unix.Mkfifo(path, uint32(mode)); err != nil && err != unix.EEXIST {
		return -1, &fs.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	var stat unix.Stat_t
	err = unix.Fstat(fd, &stat)
	if err == nil && (stat.Mode&unix.S_IFMT != unix.S_IFIFO || stat.Mode&0o777 != uint32(mode)) {
		err = unix.EEXIST
	}
	if err != nil {
		return -1, errors.Join(&fs.PathError{Op: "open FIFO", Path: path, Err: err}, unix.Close(fd))
	}
	return fd, nil
}

func openSpecial(path string, writable bool) (int, error) {
	flags := unix.O_RDONLY
	if writable {
		flags = unix.O_RDWR
	}
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	var stat unix.Stat_t
	err = unix.Fstat(fd, &stat)
	if kind := stat.Mode & unix.S_IFMT; err == nil && kind != unix.S_IFREG && kind != unix.S_IFCHR {
		err = unix.EEXIST
	}
	if err != nil {
		return -1, errors.Join(&fs.PathError{Op: "open special file", Path: path, Err: err}, unix.Close(fd))
	}
	return fd, nil
}
