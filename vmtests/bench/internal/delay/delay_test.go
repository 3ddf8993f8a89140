// SPDX-License-Identifier: Apache-2.0

package delay_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/delay"
)

const way = 30 * time.Millisecond

// pair returns both ends of a connection through a forwarder.
func pair(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := delay.Listen(ln.Addr().String(), way)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	conn, err := net.Dial("tcp", f.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { accepted.Close() })
	return conn.(*net.TCPConn), accepted.(*net.TCPConn)
}

func TestEveryByteTakesTheDelayEachWay(t *testing.T) {
	client, server := pair(t)
	for name, ends := range map[string][2]net.Conn{"to the server": {client, server}, "to the client": {server, client}} {
		start := time.Now()
		if _, err := ends[0].Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(ends[1], make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < way {
			t.Errorf("%s: %v, want at least %v", name, took, way)
		}
	}
}

func TestBytesAreExactAndHalfCloseCrosses(t *testing.T) {
	client, server := pair(t)
	sent := make([]byte, 4<<20)
	_, _ = rand.Read(sent) // never fails
	written := make(chan error, 1)
	go func() {
		_, err := client.Write(sent)
		written <- errors.Join(err, client.CloseWrite())
	}()
	got, err := io.ReadAll(server) // ends with the half-close
	if err := errors.Join(err, <-written); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes arrived, not the %d that were sent", len(got), len(sent))
	}
	// The other direction is open.
	if _, err := server.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(client)
	if err != nil || string(answer) != "answer" {
		t.Errorf("after the half-close: %q (%v), want %q", answer, err, "answer")
	}
}

func TestResetCrosses(t *testing.T) {
	client, server := pair(t)
	start := time.Now()
	if err := server.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v, want a reset", err)
	}
	if took := time.Since(start); took < way {
		t.Errorf("the reset took %v, want at least %v", took, way)
	}
}

func TestNobodyListens(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := delay.Listen(target, way)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	conn, err := net.Dial("tcp", f.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v, want a reset", err)
	}
}
