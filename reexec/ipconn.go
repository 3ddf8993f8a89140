// SPDX-License-Identifier: Apache-2.0

package reexec

import "net"

// ipConn is a *net.IPConn, as far as an interface can tell.
type ipConn struct {
	*packetConn
	ipMethods
}

// ipMethods puts the methods of package net one level below those of
// packetConn.
type ipMethods struct{ *net.IPConn }

func (c *ipConn) ReadFromIP(p []byte) (n int, from *net.IPAddr, err error) {
	err = c.read(func() error { n, from, err = c.IPConn.ReadFromIP(p); return err })
	return n, from, err
}

func (c *ipConn) ReadMsgIP(p, oob []byte) (n, oobn, flags int, from *net.IPAddr, err error) {
	err = c.read(func() error { n, oobn, flags, from, err = c.IPConn.ReadMsgIP(p, oob); return err })
	return n, oobn, flags, from, err
}
