// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests/internal/command"
	"github.com/holdfast-go/holdfast/vmtests/internal/guest"
)

// dial returns a client whose server runs in this process.
func dial(t *testing.T) *guest.Client {
	t.Helper()
	here, there := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- new(guest.Server).Serve(there) }()
	client, err := guest.Dial(here)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		if err := <-served; err != io.EOF {
			t.Errorf("Serve: got error %v, want EOF", err)
		}
	})
	return client
}

func start(t *testing.T, client *guest.Client, streams command.Streams, argv ...string) *guest.Process {
	t.Helper()
	p, err := client.Start(guest.Command{Args: argv, Env: []string{"PATH=/usr/bin:/bin", "WORD=hello"}, Streams: streams})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestStatus(t *testing.T) {
	client := dial(t)
	for _, test := range []struct {
		argv   []string
		want   command.Status
		stderr string
	}{
		{[]string{"true"}, command.Status{}, ""},
		{[]string{"sh", "-c", "echo reason >&2; exit 5"}, command.Status{Code: 5}, "reason"},
		{[]string{"sh", "-c", "kill -TERM $$"}, command.Status{Code: -1, Signal: "TERM"}, ""},
		{[]string{"no-such-program"}, command.Status{Code: 127}, "not found"},
	} {
		var stderr bytes.Buffer
		got, err := start(t, client, command.Streams{Stderr: &stderr}, test.argv...).Wait()
		if err != nil || got != test.want || !strings.Contains(stderr.String(), test.stderr) {
			t.Errorf("%q: got %+v (%v) and %q, want %+v and %q", test.argv, got, err, stderr.String(), test.want, test.stderr)
		}
	}
}

// Many commands at once, each with more input and output than there is room for under way.
func TestStreamsSideBySide(t *testing.T) {
	client := dial(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			sent := bytes.Repeat(fmt.Appendf(nil, "%08d", i), 200_000)
			var out, errs bytes.Buffer
			p, err := client.Start(guest.Command{
				Args:    []string{"sh", "-c", `cat; echo "$WORD $PWD" >&2`},
				Env:     []string{"PATH=/usr/bin:/bin", "WORD=hello"},
				Streams: command.Streams{Stdin: bytes.NewReader(sent), Stdout: &out, Stderr: &errs},
			})
			if err != nil {
				t.Error(err)
				return
			}
			if p.PID <= 0 {
				t.Errorf("PID: got %d", p.PID)
			}
			if status, err := p.Wait(); err != nil || status.Code != 0 {
				t.Errorf("Wait: got %+v (%v)", status, err)
			}
			if !bytes.Equal(out.Bytes(), sent) || errs.String() != "hello /\n" {
				t.Errorf("command %d: got %d bytes and %q, want the %d sent", i, out.Len(), errs.String(), len(sent))
			}
		})
	}
	all.Wait()
}

// Output that nobody reads holds up its own command and no other.
func TestUnreadOutput(t *testing.T) {
	client := dial(t)
	out, output := io.Pipe()
	flood := start(t, client, command.Streams{Stdout: output}, "cat", "/dev/zero")
	if _, err := io.ReadFull(out, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	var word bytes.Buffer
	if _, err := start(t, client, command.Streams{Stdout: &word}, "echo", "through").Wait(); err != nil || word.String() != "through\n" {
		t.Errorf("beside the flood: got %q (%v)", word.String(), err)
	}
	if err := flood.Kill(); err != nil {
		t.Fatal(err)
	}
	out.Close()
	if status, err := flood.Wait(); err != nil || status.Signal != "KILL" {
		t.Errorf("Wait: got %+v (%v), want an end by KILL", status, err)
	}
	if err := flood.Kill(); err != nil {
		t.Errorf("Kill after the end: %v", err)
	}
}

// Input that nobody reads does not keep a command from ending, nor one after it from starting.
func TestUnreadInput(t *testing.T) {
	client := dial(t)
	for range 3 {
		endless, more := io.Pipe()
		go func() {
			for {
				if _, err := more.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}()
		status, err := start(t, client, command.Streams{Stdin: endless}, "sh", "-c", "exit 4").Wait()
		if err != nil || status.Code != 4 {
			t.Errorf("got %+v (%v), want code 4", status, err)
		}
		endless.Close()
	}
}

func TestKillReachesChildren(t *testing.T) {
	client := dial(t)
	out, output := io.Pipe()
	p := start(t, client, command.Streams{Stdout: output}, "sh", "-c", "sleep 1000 & echo started; wait")
	var word string
	if _, err := fmt.Fscanln(out, &word); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	// The child has standard output too: its end comes at once only if both are gone.
	if status, err := p.Wait(); err != nil || status.Signal != "KILL" {
		t.Errorf("got %+v (%v), want an end by KILL", status, err)
	}
}

func TestConnectionEnds(t *testing.T) {
	here, there := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- new(guest.Server).Serve(there) }()
	client, err := guest.Dial(here)
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, client, command.Streams{Stdin: strings.NewReader("")}, "sh", "-c", "cat; sleep infinity")
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if status, err := p.Wait(); err == nil {
		t.Errorf("Wait: got %+v, want an error", status)
	}
	if err := <-served; err == nil {
		t.Error("Serve: got no error")
	}
	if _, err := client.Start(guest.Command{Args: []string{"true"}}); err == nil {
		t.Error("Start: got no error")
	}
}

func TestDialRefuses(t *testing.T) {
	for name, greeting := range map[string]string{
		"another program": "\x00\x00\x00\x00\x01\x00\x00\x00\x05hello",
		"another kind":    "\x00\x00\x00\x00\x09\x00\x00\x00\x00",
		"too much":        "\x00\x00\x00\x00\x01\xff\xff\xff\xff",
		"too little":      "\x00\x00\x00\x00\x01\x00\x00\x00\x05he",
		"nothing":         "",
	} {
		here, there := net.Pipe()
		go func() {
			io.WriteString(there, greeting)
			there.Close()
		}()
		if _, err := guest.Dial(here); err == nil {
			t.Errorf("%s: got no error", name)
		}
		if _, err := here.Write(nil); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%s: connection was not closed: %v", name, err)
		}
	}
}

// FuzzServe: whatever the client sends, the server goes on or ends with an error. Starting commands is
// left out: the input would decide which.
func FuzzServe(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01\x03\x00\x00\x00\x01x"))
	f.Add([]byte("\x00\x00\x00\x01\x09\x00\x00\x00\x05\x03\x00\x00\x00\x01"))
	f.Add([]byte("\x00\x00\x00\x01\x02\x00\x00\x00\x02{}"))
	f.Fuzz(func(t *testing.T, input []byte) {
		input = bytes.Clone(input) // the fuzzer's own must not change
		for i := 0; i+9 <= len(input); i++ {
			if input[i+4] == 2 { // could be read as the start of a command
				input[i+4] = 3
			}
		}
		conn := struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(input), io.Discard}
		if err := new(guest.Server).Serve(conn); err == nil {
			t.Error("Serve: got no error at the end")
		}
	})
}
