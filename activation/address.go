// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// formatSockaddr writes an address as package net does; "" for one it cannot write.
func formatSockaddr(sa unix.Sockaddr) string {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)).String()
	case *unix.SockaddrInet6:
		addr := netip.AddrFrom16(sa.Addr)
		if sa.ZoneId != 0 {
			addr = addr.WithZone(zoneName(int(sa.ZoneId)))
		}
		return netip.AddrPortFrom(addr, uint16(sa.Port)).String()
	case *unix.SockaddrUnix:
		if sa.Name == "@" {
			return "" // unnamed, see unix(7)
		}
		return sa.Name
	case *unix.SockaddrVM:
		return vsockAddr(sa).String()
	}
	return ""
}

func zoneName(index int) string {
	if ifc, err := net.InterfaceByIndex(index); err == nil {
		return ifc.Name
	}
	return strconv.Itoa(index)
}
