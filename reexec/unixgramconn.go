// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"net"
)

// unixgramConn is a *net.UnixConn for datagrams, as far as an interface can
// tell.
type unixgramConn struct {
	*packetConn
	unixMethods
}

// unixMethods puts the methods of package net one level below those of
// packetConn.
type unixMethods struct{ *net.UnixConn }

func (c *unixgramConn) ReadFromUnix(p []byte) (n int, from *net.UnixAddr, err error) {
	err = c.read(func() error { n, from, err = c.UnixConn.ReadFromUnix(p); return err })
	return n, from, err
}

func (c *unixgramConn) ReadMsgUnix(p, oob []byte) (n, oobn, flags int, from *net.UnixAddr, err error) {
	err = c.read(func() error { n, oobn, flags, from, err = c.UnixConn.ReadMsgUnix(p, oob); return err })
	return n, oobn, flags, from, err
}

// errShutdown is what a service gets that would end the socket for everybody.
var errShutdown = errors.New("reexec: shutdown(2) ends a socket for systemd and the other generations, too: call Close")

func (c *unixgramConn) CloseRead() error { return errShutdown }

func (c *unixgramConn) CloseWrite() error { return errShutdown }
