// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestThreadState(t *testing.T) {
	for stat, want := range map[string]byte{
		"12 (myapp) S 1 12 12 0 -1 4194304\n": 'S',
		"12 (myapp) T 1 12 12 0 -1 4194304\n": 'T',
		"12 (a) R (b) T 1 12\n":               'T',
		"12 (a\nb)) t 1 12\n":                 't',
		"":                                    0,
		"12 (myapp)":                          0,
		"12 (myapp) ":                         0,
	} {
		if got := threadState([]byte(stat)); got != want {
			t.Errorf("threadState(%q): got %q, want %q", stat, got, want)
		}
	}
}

const tcpTable = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 100 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1F90 0100007F:9C41 01 00000000:00000000 00:00000000 00000000 61234        0 201 1 0000000000000000 20 4 30 10 -1
   2: 0100007F:1F90 0100007F:9C42 01 00000000:00000200 00:00000000 00000000 61234        0 202 1 0000000000000000 20 4 30 10 -1
   3: 0100007F:1F90 0100007F:9C43 01 00000000:00000200 00:00000000 00000000     0        0 0 1 0000000000000000 20 4 30 10 -1
   4: 0100007F:1F90 0100007F:9C44 08 00000000:00000001 00:00000000 00000000 61234        0 204 1 0000000000000000 20 4 30 10 -1
   5: 0100007F:9C41 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 301 1 0000000000000000 20 4 30 10 -1
   6: 0100007F:1F90 0100007F:9C45 06 00000000:00000000 03:000005DC 00000000     0        0 0 3 0000000000000000
`

func TestConnectedPorts(t *testing.T) {
	// 100 listens, 201 and 202 are connected, 204 was closed by its client; 301 is the client's end.
	held := map[string]bool{"100": true, "201": true, "202": true, "204": true}
	got, err := connectedPorts(tcpTable, held)
	if want := []int{40001, 40002}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
	if got, err := connectedPorts(tcpTable, nil); err != nil || len(got) != 0 {
		t.Errorf("of a process without sockets: got %v (%v), want none", got, err)
	}
	if _, err := connectedPorts("0: 0100007F:1F90 0100007F:XYZ 01 0:0 0:0 0 0 0 201\n", held); err == nil {
		t.Error("a port that is no number: got no error")
	}
}

func TestParseLedger(t *testing.T) {
	got, err := parseLedger([]byte{0x9c, 0x42, 0x9c, 0x41})
	if want := []int{40001, 40002}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
	if got, err := parseLedger(nil); err != nil || len(got) != 0 {
		t.Errorf("empty: got %v (%v), want none", got, err)
	}
	if _, err := parseLedger([]byte{1, 2, 3}); err == nil {
		t.Error("half a port: got no error")
	}
}

// clientPorts is asked about this very process, which serves two connections.
func TestClientPorts(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var clients []int
	for range 2 {
		client, err := net.Dial("tcp4", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		server, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		clients = append(clients, client.LocalAddr().(*net.TCPAddr).Port)
	}
	p := &process{pid: os.Getpid()}
	got, err := p.clientPorts()
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range clients {
		if !slices.Contains(got, port) {
			t.Errorf("got ports %v, want also %d", got, port)
		}
	}
	// Nobody has accepted this one, so no process holds it.
	waiting, err := net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	port := waiting.LocalAddr().(*net.TCPAddr).Port
	if got, err := p.clientPorts(); err != nil || slices.Contains(got, port) {
		t.Errorf("got ports %v (%v), with %d, which was not accepted", got, err, port)
	}
}

func TestFreezeAndKill(t *testing.T) {
	cmd := exec.Command("sleep", "infinity")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()         //nolint:errcheck // ended by SIGKILL
	defer cmd.Process.Kill() //nolint:errcheck // dead by now, unless the test failed
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{pid: cmd.Process.Pid, guest: cmd.Process.Pid, pidfd: fd}
	defer p.close()
	if err := p.freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	if stopped, err := p.stopped(); err != nil || !stopped {
		t.Errorf("stopped: got %t (%v), want true", stopped, err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.waitEnd(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("waitEnd of a living process: got error %v, want %v", err, context.Canceled)
	}
	before := monotonic()
	if err := p.signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	seen, err := p.waitEnd(t.Context())
	if err != nil || seen < before || seen > monotonic() {
		t.Errorf("waitEnd: got %d (%v), want a time after %d", seen, err, before)
	}
}
