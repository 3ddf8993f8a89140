// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"net"
	"net/netip"
)

// udpConn is a *net.UDPConn, as far as an interface can tell.
type udpConn struct {
	*packetConn
	udpMethods
}

// udpMethods puts the methods of package net one level below those of
// packetConn.
type udpMethods struct{ *net.UDPConn }

func (c *udpConn) ReadFromUDP(p []byte) (n int, from *net.UDPAddr, err error) {
	err = c.read(func() error { n, from, err = c.UDPConn.ReadFromUDP(p); return err })
	return n, from, err
}

func (c *udpConn) ReadFromUDPAddrPort(p []byte) (n int, from netip.AddrPort, err error) {
	err = c.read(func() error { n, from, err = c.UDPConn.ReadFromUDPAddrPort(p); return err })
	return n, from, err
}

func (c *udpConn) ReadMsgUDP(p, oob []byte) (n, oobn, flags int, from *net.UDPAddr, err error) {
	err = c.read(func() error { n, oobn, flags, from, err = c.UDPConn.ReadMsgUDP(p, oob); return err })
	return n, oobn, flags, from, err
}

func (c *udpConn) ReadMsgUDPAddrPort(p, oob []byte) (n, oobn, flags int, from netip.AddrPort, err error) {
	err = c.read(func() error { n, oobn, flags, from, err = c.UDPConn.ReadMsgUDPAddrPort(p, oob); return err })
	return n, oobn, flags, from, err
}
