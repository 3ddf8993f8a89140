// SPDX-License-Identifier: Apache-2.0

// Command answer serves one connection. systemd accepts, and starts a process
// for each connection: Accept=yes, see the directory systemd.
//
// Its upgrade is a new file at /usr/bin/answer, put there by rename. The next
// connection gets the new version; those that are open keep theirs.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/holdfast-go/holdfast/activation"
)

// idleTime is how long a client may be silent.
const idleTime = time.Minute

var version = "dev" // set by the linker

func main() {
	passed, err := activation.FromEnv()
	if err != nil {
		log.Fatal(err)
	}
	// The name of every connection that systemd has accepted; since systemd 257
	// FileDescriptorName= can change it.
	conn, err := passed.Conn("connection")
	if err != nil {
		log.Fatal(err)
	}
	if err := answer(conn); err != nil {
		log.Fatalf("%v: %v", conn.RemoteAddr(), err)
	}
}

// answer sends back what is asked, until the client leaves. It closes conn.
func answer(conn net.Conn) error {
	defer conn.Close()
	requests := bufio.NewReader(conn)
	for {
		if err := conn.SetDeadline(time.Now().Add(idleTime)); err != nil {
			return err
		}
		r, err := http.ReadRequest(requests)
		if errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read a request: %w", err)
		}
		response := http.Response{
			StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Request: r, Close: r.Close,
			Header: http.Header{"X-Myapp-Version": {version}, "X-Myapp-Pid": {strconv.Itoa(os.Getpid())}},
			Body:   r.Body, ContentLength: r.ContentLength,
		}
		if err := response.Write(conn); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		if r.Close {
			return nil
		}
	}
}
