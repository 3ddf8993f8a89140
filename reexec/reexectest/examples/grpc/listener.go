// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"sync"
)

// listener knows when the server has begun with all connections that it has accepted.
// What it has not begun with, GracefulStop would close, and a call that waits for the
// connection would fail.
type listener struct {
	net.Listener
	begun sync.WaitGroup
}

func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.begun.Add(1)
	return &accepted{conn, sync.OnceFunc(l.begun.Done)}, nil
}

// accepted is read first in the handshake.
type accepted struct {
	net.Conn
	begin func()
}

func (c *accepted) Read(p []byte) (int, error) {
	c.begin()
	return c.Conn.Read(p)
}

func (c *accepted) Close() error {
	c.begin()
	return c.Conn.Close()
}
