// SPDX-License-Identifier: Apache-2.0

package mixed

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"time"

	"github.com/holdfast-go/holdfast/reexec"
	"github.com/holdfast-go/holdfast/vmtests/internal/mark"
)

// sessions are connections without HTTP: each line is answered with the version, the PID and the line,
// until the client ends them. They move to the next version, with a line that has begun.
type sessions struct {
	svc  *reexec.Service
	kind string
}

func newSessions(svc *reexec.Service, kind string) *sessions {
	s := &sessions{svc, kind}
	svc.HandleSession(kind, s.talk)
	return s
}

// serve accepts until ln is closed.
func (s *sessions) serve(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			log.Printf("accept %s: %v", s.kind, err)
			time.Sleep(10 * time.Millisecond) // until there are descriptors again
			continue
		}
		go s.talk(conn, nil)
	}
}

// talk answers lines. begun is the part of one that was read already.
func (s *sessions) talk(conn net.Conn, begun []byte) {
	defer conn.Close()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-s.svc.Draining():
			_ = conn.SetReadDeadline(time.Unix(1, 0)) // fails on connections that have ended
		case <-ended:
		}
	}()
	version, _ := mark.Mine()
	for {
		lines := bufio.NewReader(io.MultiReader(bytes.NewReader(begun), conn))
		for {
			line, err := lines.ReadString('\n')
			if errors.Is(err, os.ErrDeadlineExceeded) {
				// The reader's buffer is empty: it looks for the end of the line in all that it has.
				begun = []byte(line)
				break
			}
			if err != nil {
				if line != "" {
					log.Printf("%s: a session ended with %d bytes of a line: %v", s.kind, len(line), err)
				}
				return
			}
			if _, err := fmt.Fprintf(conn, "%d %d %s", version, os.Getpid(), line); err != nil {
				return
			}
		}
		if err := conn.SetReadDeadline(time.Time{}); err != nil {
			return
		}
		err := s.svc.MoveSession(s.kind, conn, begun)
		if err == nil {
			return
		}
		log.Printf("%s: a session stays: %v", s.kind, err)
	}
}
