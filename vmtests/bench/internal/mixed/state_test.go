// SPDX-License-Identifier: Apache-2.0

package mixed

import (
	"net"
	"os"
	"runtime"
	"testing"
)

var kept []byte

// What a generation has in use is counted, each in its place.
func TestLook(t *testing.T) {
	kept = nil
	before, err := look()
	if err != nil {
		t.Fatal(err)
	}
	if before.PID != os.Getpid() || before.Heap < 1<<10 || before.Memory.PSS < 1<<20 || before.Memory.RSS < before.Memory.PSS {
		t.Errorf("%+v makes no sense", before)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0") // and a descriptor or two of the poller, at the first time
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if before, err = look(); err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	end := make(chan struct{})
	defer close(end)
	go func() { <-end }()
	kept = make([]byte, 8<<20)
	after, err := look()
	if err != nil {
		t.Fatal(err)
	}
	runtime.KeepAlive(&kept)
	if d, c := after.Descriptors-before.Descriptors, after.Connections-before.Connections; d != 3 || c != 2 {
		t.Errorf("%d more descriptors, of these %d connections; want 3 and 2", d, c)
	}
	if n := after.Goroutines - before.Goroutines; n != 1 {
		t.Errorf("%d more goroutines, want 1", n)
	}
	if n := after.Heap - before.Heap; n < 7<<20 || n > 9<<20 {
		t.Errorf("%d bytes more of heap, want 8 MiB", n)
	}
}
