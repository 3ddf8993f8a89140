// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

func TestParseHandover(t *testing.T) {
	for _, c := range []struct {
		value               string
		socket, stderr, pid int
		want                string // of the error
	}{
		{value: "3,4,1", socket: 3, stderr: 4, pid: 1},
		{value: "17,3,4194304", socket: 17, stderr: 3, pid: 4194304},
		{value: "", want: `HOLDFAST_HANDOVER="": must be three numbers`},
		{value: "3", want: "must be three numbers"},
		{value: "3,4", want: "must be three numbers"},
		{value: "3,4,5,6", want: "must be three numbers"},
		{value: "3,4,", want: "invalid syntax"},
		{value: "a,4,5", want: "invalid syntax"},
		{value: "3, 4,5", want: "invalid syntax"},
		{value: "-3,4,5", want: "invalid syntax"},
		{value: "+3,4,5", want: "invalid syntax"},
		{value: "3,4,99999999999", want: "value out of range"},
		{value: "2147483648,4,5", want: "value out of range"},
		{value: "2,4,5", want: "descriptors start at 3"},
		{value: "3,0,5", want: "descriptors start at 3"},
		{value: "3,3,5", want: "descriptors start at 3"},
		{value: "3,4,0", want: "PID 0"},
	} {
		socket, stderr, pid, err := parseHandover(c.value)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%q: %v, want the error %q", c.value, err, c.want)
			}
			continue
		}
		if err != nil || socket != c.socket || stderr != c.stderr || pid != c.pid {
			t.Errorf("%q: %d, %d, %d, %v", c.value, socket, stderr, pid, err)
		}
	}
}

func FuzzParseHandover(f *testing.F) {
	for _, seed := range []string{"3,4,1", "", ",,", "3,3,3", "03,4,5", "3,4,-1", "2147483647,3,1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		socket, stderr, pid, err := parseHandover(value)
		if err != nil {
			if !strings.Contains(err.Error(), handoverVariable) {
				t.Errorf("%q: the error does not name the variable: %v", value, err)
			}
			return
		}
		if socket < 3 || stderr < 3 || socket == stderr || pid < 1 {
			t.Errorf("%q is accepted as %d, %d, %d", value, socket, stderr, pid)
		}
		again := fmt.Sprintf("%d,%d,%d", socket, stderr, pid)
		s, e, p, err := parseHandover(again)
		if err != nil || s != socket || e != stderr || p != pid {
			t.Errorf("%q is %q, and that is %d, %d, %d, %v", value, again, s, e, p, err)
		}
	})
}

// A variable that a process found by accident must not make it a successor,
// nor close a descriptor that is somebody's.
func TestJoinRefusesForeignDescriptors(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for _, c := range []struct {
		name   string
		socket int
		want   string
	}{
		{"a pipe", minFD(r), "socket operation on non-socket"},
		{"not open", 1 << 20, "bad file descriptor"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(handoverVariable, fmt.Sprintf("%d,%d,%d", c.socket, minFD(w), os.Getppid()))
			_, _, err := join(handover.Hello{Name: "myapp", Version: "1"}, time.Minute)
			if err == nil || !strings.Contains(err.Error(), handoverVariable) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want it to name the variable and to say %q", err, c.want)
			}
			if _, ok := os.LookupEnv(handoverVariable); ok {
				t.Error("the variable is still set: children would find it")
			}
		})
	}
	if _, err := w.Write([]byte("x")); err != nil {
		t.Errorf("the pipe was closed under its owner: %v", err)
	}
	buf := make([]byte, 1)
	if _, err := r.Read(buf); err != nil {
		t.Errorf("the pipe was closed under its owner: %v", err)
	}
}

// A predecessor that says nothing, or stops in the middle, is not waited for.
func TestReceiveFromOneThatHangs(t *testing.T) {
	for name, say := range map[string]func(*handover.Conn) error{
		"nothing": func(*handover.Conn) error { return nil },
		"hello only": func(c *handover.Conn) error {
			return c.Send(handover.KindHello, handover.Hello{Versions: handover.Ours, Name: "myapp"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			theirs, file, err := handover.Pair()
			if err != nil {
				t.Fatal(err)
			}
			defer theirs.Close()
			conn, err := handover.New(file)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := say(theirs); err != nil {
				t.Fatal(err)
			}
			_, err = (&predecessor{conn: conn}).receive(handover.Hello{Name: "myapp", Version: "1"}, 20*time.Millisecond)
			if !errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(err.Error(), "the predecessor hangs: it did not hand over within 20ms") {
				t.Errorf("error is %v", err)
			}
		})
	}
}
