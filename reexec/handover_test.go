// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// child is a service that the test itself has started, as its predecessor.
type child struct {
	t      *testing.T
	cmd    *exec.Cmd
	conn   *handover.Conn
	raw    *os.File // the same socket, for what is no frame
	output bytes.Buffer
	dir    string        // Options.RuntimeDirectory
	stderr func() []byte // all of it, once the process has ended
}

// startChild starts a successor of the test. It ends with the test.
func startChild(t *testing.T, p plan) *child {
	t.Helper()
	dir, err := os.MkdirTemp("", "reexec")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p.Directory = dir
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "plan"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "theirs")
	defer theirs.Close()
	raw, err := unix.FcntlInt(uintptr(pair[0]), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := handover.New(os.NewFile(uintptr(pair[0]), "ours"))
	if err != nil {
		t.Fatal(err)
	}
	early, earlyIn, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	defer earlyIn.Close()

	c := &child{t: t, conn: conn, raw: os.NewFile(uintptr(raw), "ours"), dir: dir, cmd: exec.Command("/proc/self/exe")}
	c.cmd.Env = append(os.Environ(), roleVariable+"=service", planVariable+"="+filepath.Join(dir, "plan"),
		fmt.Sprintf("HOLDFAST_HANDOVER=3,4,%d", os.Getpid()), "GORACE=atexit_sleep_ms=0")
	c.cmd.Stdout, c.cmd.Stderr = &c.output, &c.output
	// The pipe of a predecessor is not needed here: what it takes for its own
	// stderr is its stderr.
	stderr, stderrIn, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c.cmd.ExtraFiles = []*os.File{theirs, stderrIn}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = stderrIn.Close()
	read := make(chan struct{})
	var log bytes.Buffer
	go func() {
		defer close(read)
		defer stderr.Close()
		_, _ = io.Copy(&log, stderr)
	}()
	c.stderr = func() []byte {
		<-read
		return log.Bytes()
	}
	t.Cleanup(func() {
		if c.cmd.ProcessState == nil {
			_ = c.cmd.Process.Kill()
			_ = c.cmd.Wait()
		}
		<-read
		c.hangUp()
		if t.Failed() {
			t.Logf("%s%s", c.output.String(), log.String())
		}
		if strings.Contains(log.String()+c.output.String(), "DATA RACE") {
			t.Error("the successor has a data race")
		}
	})
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	return c
}

// hangUp is what the successor sees of our end.
func (c *child) hangUp() { _, _ = c.conn.Close(), c.raw.Close() }

// expect reads frames up to one of this kind.
func (c *child) expect(k handover.Kind, v any) {
	c.t.Helper()
	for {
		f, files, err := c.conn.Receive()
		for _, f := range files {
			_ = f.Close()
		}
		if err != nil {
			c.t.Fatalf("wait for %v: %v", k, err)
		}
		if f.Kind == handover.KindBeat && k != handover.KindBeat {
			continue
		}
		if f.Kind != k {
			c.t.Fatalf("got %v %s, want %v", f.Kind, f.Payload, k)
		}
		if v != nil {
			if err := f.Decode(v); err != nil {
				c.t.Fatal(err)
			}
		}
		return
	}
}

func (c *child) send(k handover.Kind, payload any, fds ...int) {
	c.t.Helper()
	if err := c.conn.Send(k, payload, fds...); err != nil {
		c.t.Fatal(err)
	}
}

// mustLeave waits for its reason, and for its end with an error.
func (c *child) mustLeave(want string) {
	c.t.Helper()
	var why handover.Reason
	c.expect(handover.KindLeaving, &why)
	if !strings.Contains(why.Reason, want) {
		c.t.Errorf("it leaves because %q, want %q", why.Reason, want)
	}
	c.mustFail()
}

func (c *child) mustFail() {
	c.t.Helper()
	var exit *exec.ExitError
	if err := c.cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		c.t.Errorf("it ended with %v, want exit status 1", err)
	}
}

// hello is what a good predecessor says first.
func hello() handover.Hello {
	return handover.Hello{
		Versions: handover.Ours, Name: "service", Version: "v1", PID: os.Getpid(),
		Instance: "0123456789abcdef", Generation: 2, Beat: 50 * time.Millisecond,
	}
}

// A successor believes nothing: whatever is wrong with what it is handed, it
// says so and goes.
func TestSuccessorRefusesTheHandover(t *testing.T) {
	t.Parallel()
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(null) })
	begin := func(c *child) {
		c.send(handover.KindHello, hello())
		c.expect(handover.KindHello, nil)
	}
	for _, c := range []struct {
		name string
		say  func(c *child)
		want string
	}{
		{"another kind first", func(c *child) { c.send(handover.KindServe, nil) }, "serve, want hello"},
		{"hello that is no hello", func(c *child) { c.send(handover.KindHello, []int{1}) }, "handover: bad frame: hello"},
		{"a version that is too new", func(c *child) {
			h := hello()
			h.Versions = handover.Range{Oldest: handover.Latest + 1, Latest: handover.Latest + 2}
			c.send(handover.KindHello, h)
			c.expect(handover.KindHello, nil)
		}, "go through a release in between, or restart the service"},
		{"another service", func(c *child) {
			h := hello()
			h.Name = "another"
			c.send(handover.KindHello, h)
			c.expect(handover.KindHello, nil)
		}, `the predecessor is the service "another", this is "service"`},
		{"a kind that does not belong here", func(c *child) {
			begin(c)
			c.send(handover.KindPromote, nil)
		}, "unexpected promote"},
		{"fewer descriptors than described", func(c *child) {
			begin(c)
			c.send(handover.KindDescriptors, handover.Descriptors{List: make([]handover.Descriptor, 2)}, null)
		}, "2 descriptors are described, 1 arrived"},
		{"more descriptors than described", func(c *child) {
			begin(c)
			c.send(handover.KindDescriptors, handover.Descriptors{}, null)
		}, "0 descriptors are described, 1 arrived"},
		{"a wrong count", func(c *child) {
			begin(c)
			c.send(handover.KindComplete, handover.Complete{Count: 3})
		}, "3 descriptors were sent, 0 arrived"},
		{"an elder without its process", func(c *child) {
			begin(c)
			c.send(handover.KindDescriptors, handover.Descriptors{List: []handover.Descriptor{{Role: "elder"}}}, null)
			c.expect(handover.KindReceived, nil)
			c.send(handover.KindComplete, handover.Complete{Count: 1})
		}, "an elder without its process"},
		{"a control socket that is none", func(c *child) {
			begin(c)
			c.send(handover.KindDescriptors, handover.Descriptors{List: []handover.Descriptor{{Role: "control"}}}, null)
			c.expect(handover.KindReceived, nil)
			c.send(handover.KindComplete, handover.Complete{Count: 1})
		}, "take over the control socket"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			child := startChild(t, quick())
			c.say(child)
			child.mustLeave(c.want)
		})
	}
	t.Run("the end", func(t *testing.T) {
		t.Parallel()
		child := startChild(t, quick())
		child.hangUp()
		child.mustFail()
	})
}

// What a later release passes on is closed and not missed.
func TestSuccessorIgnoresUnknownDescriptors(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c := startChild(t, quick())
	c.send(handover.KindHello, hello())
	c.expect(handover.KindHello, nil)
	c.send(handover.KindDescriptors, handover.Descriptors{List: []handover.Descriptor{{Role: "of the future"}}}, int(w.Fd()))
	_ = w.Close()
	c.expect(handover.KindReceived, nil)
	c.send(handover.KindComplete, handover.Complete{Count: 1})
	c.expect(handover.KindReady, nil)
	// Nobody holds the other end.
	_ = r.SetReadDeadline(time.Now().Add(patience))
	if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("the descriptor is still open: %d, %v", n, err)
	}
	c.send(handover.KindUndo, nil)
	if err := c.cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// A predecessor that talks nonsense still lives, and is still main: its
// successor must not make itself main beside it.
func TestGarbageFromAPredecessorThatLives(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"offered", "trial"} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			c := startChild(t, quick())
			c.send(handover.KindHello, hello())
			c.expect(handover.KindHello, nil)
			c.send(handover.KindComplete, handover.Complete{})
			c.expect(handover.KindReady, nil)
			if state == "trial" {
				c.send(handover.KindServe, nil)
				c.expect(handover.KindBeat, nil)
			}
			if _, err := c.raw.WriteString("HFHO but not really"); err != nil {
				t.Fatal(err)
			}
			c.mustLeave("handover: bad frame")
		})
	}
}

// A variable that nobody meant for this process makes it fail, not serve.
func TestUnknownHandoverValues(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data, err := json.Marshal(quick())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "plan"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{
		"":          "must be three numbers",
		"yes":       "must be three numbers",
		"3,4,0":     "PID 0 is no process",
		"1,2,3":     "descriptors start at 3",
		"100,101,1": "bad file descriptor",
		"3,4,1":     "unset the variable in children of the service",
	} {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
		cmd.Env = append(os.Environ(), roleVariable+"=service", planVariable+"="+filepath.Join(dir, "plan"),
			"HOLDFAST_HANDOVER="+value, "GORACE=atexit_sleep_ms=0")
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.ExtraFiles = []*os.File{r, w} // in the place of the socket
		out, err := cmd.CombinedOutput()
		_, _ = r.Close(), w.Close()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), want) {
			t.Errorf("HOLDFAST_HANDOVER=%q: %v, %s; want exit status 1 and %q", value, err, out, want)
		}
	}
}
