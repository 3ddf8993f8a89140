// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/activation/internal/pidfd"
)

// Kind says what a descriptor refers to, and thereby which method claims it.
type Kind uint8

const (
	// KindUnknown is anything not listed here, such as an eventfd or a pidfd. [Set.Files] claims it.
	KindUnknown Kind = iota
	// KindListener is a listening TCP, Unix or vsock socket. [Set.Listeners] claims it.
	KindListener
	// KindConn is a connected TCP, Unix or vsock socket. [Set.Conns] claims it.
	KindConn
	// KindPacket is a UDP or Unix datagram socket. [Set.PacketConns] claims it.
	KindPacket
	// KindSocket is any other socket: one that neither listens nor is connected, a raw socket, or one of a
	// protocol that package net does not know. [Set.Files] claims it.
	KindSocket
	// KindNetlink is an AF_NETLINK socket. [Set.Files] claims it.
	KindNetlink
	// KindMessageQueue is a POSIX message queue, see mq_overview(7). [Set.Files] claims it.
	KindMessageQueue
	// KindFIFO is a FIFO or a pipe. [Set.Files] claims it.
	KindFIFO
	// KindSpecial is a character or block device. [Set.Files] claims it.
	KindSpecial
	// KindRegular is a regular file, also one of procfs or sysfs. [Set.Files] claims it.
	KindRegular
	// KindMemfd is a file of memfd_create(2). [Set.Files] claims it.
	KindMemfd
	// KindDirectory is a directory. [Set.Files] claims it.
	KindDirectory
)

var kindNames = [...]string{
	KindUnknown:      "unknown",
	KindListener:     "listener",
	KindConn:         "connection",
	KindPacket:       "packet socket",
	KindSocket:       "socket",
	KindNetlink:      "netlink socket",
	KindMessageQueue: "message queue",
	KindFIFO:         "FIFO",
	KindSpecial:      "special file",
	KindRegular:      "regular file",
	KindMemfd:        "memfd",
	KindDirectory:    "directory",
}

// String returns the kind in words, for messages.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Magic numbers of file systems whose inodes look like regular files; the kernel's include/uapi/linux/magic.h.
const (
	magicMessageQueue = 0x19800202
	magicAnonInode    = 0x09041934
	magicNamespace    = 0x6e736673
)

// identity is what the kernel says about a descriptor.
type identity struct {
	kind     Kind
	network  string
	addr     string
	dev, ino uint64
	socket   bool
	// stream is set for a stream-like socket of a family that can be a connection, whether it is one or not.
	stream bool
}

func identify(fd int) (identity, error) {
	var stat unix.Stat_t
	if err := ignoringEINTR(func() error { return unix.Fstat(fd, &stat) }); err != nil {
		return identity{}, os.NewSyscallError("fstat", err)
	}
	// Types of the fields differ by architecture.
	id := identity{dev: uint64(stat.Dev), ino: uint64(stat.Ino)} //nolint:unconvert
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		id.socket = true
		return id, id.identifySocket(fd)
	case unix.S_IFIFO:
		id.kind = KindFIFO
	case unix.S_IFCHR, unix.S_IFBLK:
		id.kind = KindSpecial
	case unix.S_IFDIR:
		id.kind = KindDirectory
	case unix.S_IFREG:
		kind, err := identifyRegular(fd, stat.Nlink == 0)
		if err != nil {
			return identity{}, err
		}
		id.kind = kind
	}
	id.addr = descriptorPath(fd)
	return id, nil
}

func identifyRegular(fd int, unlinked bool) (Kind, error) {
	var fs unix.Statfs_t
	if err := ignoringEINTR(func() error { return unix.Fstatfs(fd, &fs) }); err != nil {
		return KindUnknown, os.NewSyscallError("fstatfs", err)
	}
	switch uint32(fs.Type) {
	case magicMessageQueue:
		return KindMessageQueue, nil
	case magicAnonInode, pidfd.Magic, magicNamespace:
		return KindUnknown, nil
	}
	// Every file of a tmpfs has seals; only the path of the descriptor tells a memfd from an unlinked one.
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); err == nil && unlinked {
		if path := descriptorPath(fd); path == "" || strings.HasPrefix(path, "/memfd:") {
			return KindMemfd, nil
		}
	}
	return KindRegular, nil
}

// descriptorPath returns "" where /proc is not mounted.
func descriptorPath(fd int) string {
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return ""
	}
	return path
}

func (id *identity) identifySocket(fd int) error {
	option := func(name int) (int, error) {
		value, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, name)
		return value, os.NewSyscallError("getsockopt", err)
	}
	family, err := option(unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	sockType, err := option(unix.SO_TYPE)
	if err != nil {
		return err
	}
	protocol, err := option(unix.SO_PROTOCOL)
	if err != nil {
		return err
	}
	// A family without listeners may not know the option.
	listening, _ := option(unix.SO_ACCEPTCONN)

	id.network = networkOf(family, sockType, protocol)
	if local, err := unix.Getsockname(fd); err == nil {
		id.addr = formatSockaddr(local)
	}
	id.kind = KindSocket
	switch id.network {
	case "netlink":
		id.kind = KindNetlink
	case "udp", "unixgram":
		id.kind = KindPacket
	case "tcp", "unix", "unixpacket", "vsock", "vsockpacket":
		id.stream = true
		if listening != 0 {
			id.kind = KindListener
		} else if _, err := unix.Getpeername(fd); err == nil {
			id.kind = KindConn
		}
	}
	return nil
}

// networkOf returns the network in the words of package net, with its own words where package net has none.
func networkOf(family, sockType, protocol int) string {
	switch family {
	case unix.AF_INET, unix.AF_INET6:
		switch {
		case sockType == unix.SOCK_STREAM && (protocol == unix.IPPROTO_TCP || protocol == unix.IPPROTO_MPTCP):
			return "tcp"
		case sockType == unix.SOCK_DGRAM && (protocol == unix.IPPROTO_UDP || protocol == unix.IPPROTO_UDPLITE):
			return "udp"
		case protocol == unix.IPPROTO_SCTP:
			return "sctp"
		}
		return "ip"
	case unix.AF_UNIX:
		switch sockType {
		case unix.SOCK_STREAM:
			return "unix"
		case unix.SOCK_SEQPACKET:
			return "unixpacket"
		}
		return "unixgram"
	case unix.AF_VSOCK:
		switch sockType {
		case unix.SOCK_STREAM:
			return "vsock"
		case unix.SOCK_SEQPACKET:
			return "vsockpacket"
		}
		return "vsockgram"
	case unix.AF_NETLINK:
		return "netlink"
	}
	return fmt.Sprintf("family %d", family)
}

func ignoringEINTR(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
