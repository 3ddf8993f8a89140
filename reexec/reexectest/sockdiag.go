// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// acceptedSocket asks the kernel (sock_diag(7)) for the other end of a TCP
// connection on this machine. It returns its inode, as in "socket:[4711]", or 0
// as long as nobody has accepted it.
func acceptedSocket(conn net.Conn) (inode uint32, err error) {
	ours, ok := conn.LocalAddr().(*net.TCPAddr)
	theirs, ok2 := conn.RemoteAddr().(*net.TCPAddr)
	if !ok || !ok2 {
		return 0, fmt.Errorf("look for the other end of %v: it is not TCP", conn.RemoteAddr())
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return 0, os.NewSyscallError("socket NETLINK_INET_DIAG", err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, diagRequest(theirs, ours), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, os.NewSyscallError("sendto NETLINK_INET_DIAG", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return 0, os.NewSyscallError("recvfrom NETLINK_INET_DIAG", err)
	}
	return diagInode(answer[:n])
}

// diagRequest asks for the one socket with these addresses: struct nlmsghdr
// and struct inet_diag_req_v2 of linux/inet_diag.h.
func diagRequest(local, remote *net.TCPAddr) []byte {
	const size = unix.SizeofNlMsghdr + 56
	b := make([]byte, 0, size)
	b = binary.NativeEndian.AppendUint32(b, size)
	b = binary.NativeEndian.AppendUint16(b, unix.SOCK_DIAG_BY_FAMILY)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST)
	b = append(b, make([]byte, 8)...) // sequence number and port
	family := byte(unix.AF_INET6)
	if local.IP.To4() != nil {
		family = unix.AF_INET
	}
	b = append(b, family, unix.IPPROTO_TCP, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, ^uint32(0)) // any state
	b = binary.BigEndian.AppendUint16(b, uint16(local.Port))
	b = binary.BigEndian.AppendUint16(b, uint16(remote.Port))
	b = append(append(b, diagAddress(local.IP)...), diagAddress(remote.IP)...)
	b = append(b, 0, 0, 0, 0)                                        // any interface
	return append(b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff) // INET_DIAG_NOCOOKIE
}

func diagAddress(ip net.IP) []byte {
	b := make([]byte, 16)
	if four := ip.To4(); four != nil {
		copy(b, four)
	} else {
		copy(b, ip)
	}
	return b
}

func diagInode(answer []byte) (uint32, error) {
	// struct inet_diag_msg behind the header; the inode is its last field.
	const inode = unix.SizeofNlMsghdr + 68
	if len(answer) < unix.SizeofNlMsghdr+4 {
		return 0, fmt.Errorf("answer of %d bytes of NETLINK_INET_DIAG", len(answer))
	}
	if binary.NativeEndian.Uint16(answer[4:]) == unix.NLMSG_ERROR {
		errno := unix.Errno(-int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])))
		return 0, os.NewSyscallError("NETLINK_INET_DIAG", errno)
	}
	if len(answer) < inode+4 {
		return 0, fmt.Errorf("answer of %d bytes of NETLINK_INET_DIAG", len(answer))
	}
	return binary.NativeEndian.Uint32(answer[inode:]), nil
}
