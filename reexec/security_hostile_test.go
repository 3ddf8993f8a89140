// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/internal/handover"
	"github.com/holdfast-go/holdfast/reexec/internal/stateframe"
)

// descriptors counts those of a process.
func descriptors(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// Whatever a new version does with its end of the handover before its verdict, the
// old one serves on, has lost nothing, says why, and goes on to the next good one.
func TestHostileSuccessors(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		"leaves for ever":                              "not ready within 3s",
		"has another name":                             `it says that it is the service "another", this is "service"`,
		"has another PID":                              "PID 1 has joined in its place",
		"speaks of no version":                         "go through a release in between",
		"says an empty message with descriptors":       "an empty message",
		"closes its writing end":                       "closed the handover socket and lives on",
		"sends more descriptors than a frame may have": "descriptors were lost",
		"sends descriptors with every frame":           "they were all read",
		"takes what was not sent":                      "unexpected taken",
		"says what the store holds":                    `unexpected update of "stored"`,
		"takes back what is kept":                      `unexpected update of "kept"`,
		"replaces a state":                             `unexpected update of "state"`,
		"sends what is the predecessor's to say":       "unexpected promote",
		"sends a kind that nobody knows":               "unexpected kind 4711",
		"is ill in many words":                         "<\x1b[31m>\n",
		"moves what is no connection":                  "of 20 it has taken 0",
		"never reads":                                  "it does not read",
	}
	p := withSessions("tcp", "127.0.0.1:0")
	p.StartTimeout = 3 * time.Second
	s := start(t, setup{plan: p, managed: true})
	clients := startLoad(t, s.url("/echo"), 2)
	for _, name := range slices.Sorted(maps.Keys(hostileSuccessors)) {
		before := descriptors(t, s.first)
		s.release("hostile\nMAINPID=1", func(p *plan) { p.Early = "hostile: " + name })
		v, _ := s.upgrade()
		if v.Outcome == control.Upgraded || !strings.Contains(v.Reason, want[name]) || want[name] == "" {
			t.Errorf("%q: verdict %q because %.300q; want %q", name, v.Outcome, v.Reason, want[name])
		}
		if len(v.Reason) > 8<<10 {
			t.Errorf("%q: the reason has %d bytes", name, len(v.Reason))
		}
		if v.To != nil && v.To.PID != 0 {
			s.waitGone(v.To.PID)
		}
		s.mustServe(s.first)
		// Connections of the load come and go.
		for deadline := time.Now().Add(patience); descriptors(t, s.first) > before+10; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Errorf("%q: %d descriptors became %d", name, before, descriptors(t, s.first))
				break
			}
		}
	}
	clients.mustBeWhole()
	// What they say of themselves is text in a status, and nothing else.
	said := 0
	for _, m := range s.notify.Messages() {
		if m.Has("MAINPID") || m.Has("ERRNO") {
			t.Errorf("systemd was told %v", m)
		}
		if text, _ := m.Value("STATUS"); strings.Contains(text, "hostile MAINPID=1") {
			said++
		}
	}
	if said < len(hostileSuccessors) {
		t.Errorf("%d lines of status name the version, want %d or more", said, len(hostileSuccessors))
	}
	s.release("v2", nil)
	s.mustUpgrade()
}

// socket is the bare end of the test, for what is no frame. Fd would make the
// connection blocking.
func (c *child) socket() (fd int) {
	raw, err := c.raw.SyscallConn()
	if err == nil {
		err = raw.Control(func(n uintptr) { fd = int(n) })
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return fd
}

// A predecessor is trusted with what it hands over, but a descriptor that is not
// what it should be is an error that names it, and not a service without a listener.
func TestHostilePredecessorsDescriptors(t *testing.T) {
	t.Parallel()
	fds, err := notConnections()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for i := 0; i < len(fds); i += 2 {
			_ = unix.Close(fds[i])
		}
	})
	kinds := []string{"directory", "device", "epoll", "memfd", "pipe", "writing end of a pipe", "UDP", "Unix datagrams", "netlink"}
	for i, kind := range kinds {
		for _, role := range []string{"socket", "bound"} {
			t.Run(kind+" as "+role, func(t *testing.T) {
				t.Parallel()
				p := quick()
				c := startChild(t, p)
				c.send(handover.KindHello, hello())
				c.expect(handover.KindHello, nil)
				l := p.Listeners[0]
				d := handover.Descriptor{Role: role, Name: l.Name, Network: l.Network, Address: l.Address}
				c.send(handover.KindDescriptors, handover.Descriptors{List: []handover.Descriptor{d}}, fds[2*i])
				c.expect(handover.KindReceived, nil)
				c.send(handover.KindComplete, handover.Complete{Count: 1})
				// It cannot be ready, and says what is in the way.
				var b handover.Beat
				c.expect(handover.KindBeat, &b)
				if !strings.Contains(b.Ill, `listen "http"`) {
					t.Errorf("it says %q, want it to name the listener", b.Ill)
				}
				c.mustFail()
			})
		}
	}
}

// What a predecessor that lives says or does in the trial never makes its successor
// main beside it.
func TestHostilePredecessors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		attack func(c *child) error
		want   string
	}{
		{"an empty message", func(c *child) error { return sendEmpty(c.socket()) }, "an empty message"},
		{"an end without an end", func(c *child) error { return unix.Shutdown(c.socket(), unix.SHUT_WR) }, "closed the handover socket and lives on"},
		{"an answer that nobody waits for", func(c *child) error { return c.conn.Send(handover.KindTaken, handover.Taken{Count: 1}) }, "unexpected taken"},
		{"a bomb of descriptors", func(c *child) error {
			f, err := handover.Frame{Kind: handover.KindBeat, Seq: 4, Payload: []byte("{}")}.Append(nil)
			if err != nil {
				return err
			}
			return unix.Sendmsg(c.socket(), f, unix.UnixRights(slices.Repeat([]int{c.socket()}, 253)...), nil, 0)
		}, "descriptors were lost"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			child := startChild(t, quick())
			child.send(handover.KindHello, hello())
			child.expect(handover.KindHello, nil)
			child.send(handover.KindComplete, handover.Complete{})
			child.expect(handover.KindReady, nil)
			child.send(handover.KindServe, nil)
			child.expect(handover.KindBeat, nil)
			if err := c.attack(child); err != nil {
				t.Fatal(err)
			}
			child.mustLeave(c.want)
		})
	}
}

// The keys of TLS tickets cross the handover, and are in no line of the log, in no
// answer of the control socket and in no file of the runtime directory.
func TestKeysStayInTheHandover(t *testing.T) {
	t.Parallel()
	key := bytes.Repeat([]byte("\xfaKEY"), 8)
	c := startChild(t, quick())
	frame, _, err := stateframe.Write(stateframe.Header{Name: "holdfast.tickets", Version: 1, Seq: 1}, func(w io.Writer) error {
		return json.NewEncoder(w).Encode([]map[string]any{{"key": key, "made": time.Now()}})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer frame.Close()
	c.send(handover.KindHello, hello())
	c.expect(handover.KindHello, nil)
	c.send(handover.KindDescriptors, handover.Descriptors{List: []handover.Descriptor{
		{Role: "state", Name: "holdfast.tickets", Current: true},
	}}, int(frame.Fd()))
	c.expect(handover.KindReceived, nil)
	c.send(handover.KindComplete, handover.Complete{Count: 1})
	c.expect(handover.KindReady, nil)
	c.send(handover.KindServe, nil)
	c.expect(handover.KindBeat, nil)
	c.send(handover.KindPromote, handover.Promote{})
	socket := filepath.Join(c.dir, control.SocketName)
	var status []byte
	for deadline := time.Now().Add(patience); status == nil; time.Sleep(time.Millisecond) {
		st, err := control.NewClient(socket).Status(t.Context())
		if err == nil {
			status, _ = json.Marshal(st)
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	seen := bytes.Clone(status)
	if err := filepath.WalkDir(c.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		seen = append(seen, data...)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Wait(); err != nil {
		t.Error(err)
	}
	seen = append(append(seen, c.output.Bytes()...), c.stderr()...)
	if !bytes.Contains(seen, []byte("service ends")) {
		t.Fatalf("the log is not what was looked at:\n%s", seen)
	}
	for _, form := range []string{string(key[:4]), base64.StdEncoding.EncodeToString(key)[:12], hex.EncodeToString(key[:6]), "250 75 69 89", "250,75,69,89"} {
		if bytes.Contains(seen, []byte(form)) {
			t.Errorf("the key is there as %q:\n%s", form, seen)
		}
	}
}

// asThread runs f in a thread of another user's. Credentials are per thread in
// Linux.
func asThread(uid int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		keep := ^uintptr(0)
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
			done <- fmt.Errorf("setresuid %d: %w", uid, errno)
			return
		}
		done <- f()
	}()
	return <-done
}

// Another user gets to the control socket neither through the bits of its path nor
// without them, and cannot signal the service.
func TestServiceOfAnotherUserIsClosed(t *testing.T) {
	t.Parallel()
	const uid, stranger = 47114, 47115
	if os.Geteuid() != 0 {
		t.Skip("only root may become two other users")
	}
	s := start(t, setup{plan: quick(), managed: true, user: uid})
	socket := filepath.Join(s.dir, control.SocketName)
	dial := func() (code int, err error) {
		err = asThread(stranger, func() error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			file := os.NewFile(uintptr(fd), "client")
			defer file.Close()
			if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
				return err
			}
			conn, err := net.FileConn(file)
			if err != nil {
				return err
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			if _, err := io.WriteString(conn, "POST /v1/upgrade HTTP/1.0\r\n\r\n"); err != nil {
				return err
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				return err
			}
			code = resp.StatusCode
			return resp.Body.Close()
		})
		return code, err
	}
	// The directory of these tests is nobody else's, and so is a socket without the bit.
	if _, err := dial(); err == nil {
		t.Error("a stranger can connect through a directory that only its owner enters")
	}
	if err := os.Chmod(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := dial(); err == nil {
		t.Error("a stranger can connect to a socket that only its owner writes")
	}
	if err := os.Chmod(socket, 0o777); err != nil {
		t.Fatal(err)
	}
	if code, err := dial(); code != http.StatusForbidden || err != nil {
		t.Errorf("with all bits set a stranger is answered %d, %v", code, err)
	}
	if err := asThread(stranger, func() error { return unix.Kill(s.first, unix.SIGUSR2) }); err != unix.EPERM {
		t.Errorf("a stranger's SIGUSR2: %v", err)
	}
	s.mustServe(s.first)
	if st := s.status(); st.Last != nil {
		t.Errorf("a stranger has started an upgrade: %+v", st.Last)
	}
}
