// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log"
	"net"
	"os"
	"time"

	"github.com/holdfast-go/holdfast/reexec"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/toy"
)

// lines are sessions of lines that go on in the next version.
type lines struct{ service *reexec.Service }

// lineSession is the kind under which they move.
const lineSession = "line"

func serveLines(service *reexec.Service, ln net.Listener) {
	l := lines{service}
	service.HandleSession(lineSession, l.serve)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return // Run has closed the listener
			}
			go l.serve(conn, nil)
		}
	}()
}

// serve answers lines until the client ends the session or it has moved. It begins with what the version
// before has read of one.
func (l lines) serve(conn net.Conn, begun []byte) {
	defer conn.Close()
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-l.service.Draining():
			_ = conn.SetReadDeadline(time.Unix(1, 0)) // ends the Read that waits; fails on what has ended
		case <-over:
		}
	}()
	for {
		reader := bufio.NewReader(io.MultiReader(bytes.NewReader(begun), conn))
		var err error
		if begun, err = toy.AnswerLines(conn, reader); !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err := l.service.MoveSession(lineSession, conn, begun); err == nil {
			return
		} else if !errors.Is(err, reexec.ErrNoSuccessor) {
			log.Print(err)
		}
		// It goes on here.
		if err := conn.SetReadDeadline(time.Time{}); err != nil {
			return
		}
	}
}
