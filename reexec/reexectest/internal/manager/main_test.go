// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// The test binary is the manager, the trampoline, and the program of every
// service that is tested.
func TestMain(m *testing.M) {
	Intercept()
	switch filepath.Base(os.Args[0]) {
	case "tool":
		os.Exit(tool(os.Args[1:]))
	case "client":
		os.Exit(client(os.Args[1]))
	}
	os.Exit(m.Run())
}

// tool is the program of the services: its arguments are what it does, one after the
// other.
func tool(steps []string) int {
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	hungUp := make(chan os.Signal, 1)
	signal.Notify(hungUp, syscall.SIGHUP)
	child := 0
	for _, step := range steps {
		verb, rest, _ := strings.Cut(step, ":")
		var err error
		switch verb {
		case "print":
			fmt.Println(rest)
		case "env":
			err = os.WriteFile(rest, []byte(strings.Join(os.Environ(), "\n")), 0o644)
		case "copy": // copy:FROM:TO
			from, to, _ := strings.Cut(rest, ":")
			var text []byte
			if text, err = os.ReadFile(from); err == nil {
				err = os.WriteFile(to, text, 0o644)
			}
		case "links": // the files behind descriptors from 3 on
			var names []string
			for fd := 0; fd < 20; fd++ {
				if name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd)); err == nil {
					flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
					names = append(names, fmt.Sprintf("%d %s nonblock=%v", fd, name, flags&unix.O_NONBLOCK != 0))
				}
			}
			err = os.WriteFile(rest, []byte(strings.Join(names, "\n")), 0o644)
		case "notify":
			err = sendNotify(strings.ReplaceAll(rest, ";", "\n"))
		case "store": // store:NAME, a new memfd
			var fd int
			if fd, err = unix.MemfdCreate(rest, unix.MFD_CLOEXEC); err == nil {
				err = sendNotify("FDSTORE=1\nFDNAME="+rest, fd)
			}
		case "pipe": // pipe:NAME, stores the reading end and keeps the other one
			var pipe [2]int
			if err = unix.Pipe2(pipe[:], unix.O_CLOEXEC); err == nil {
				err = sendNotify("FDSTORE=1\nFDNAME="+rest, pipe[0])
			}
		case "barrier":
			err = barrier()
		case "hangup":
			select {
			case <-hungUp:
			case <-terminated:
				return 0
			}
		case "exit":
			code, _ := strconv.Atoi(rest)
			return code
		case "die":
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		case "stubborn":
			signal.Ignore(syscall.SIGTERM)
		case "fork", "daemon": // fork:STEP,STEP: in a child, or in an orphan
			argv := append([]string{"tool"}, strings.Split(rest, ",")...)
			if verb == "daemon" {
				argv = []string{"tool", "fork:" + rest, "exit:0"}
			}
			child, err = syscall.ForkExec("/proc/self/exe", argv, &syscall.ProcAttr{
				Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: verb == "daemon"},
			})
			if err == nil && verb == "daemon" {
				_, err = syscall.Wait4(child, nil, 0, nil)
			}
		case "mainpidfd": // makes the last child main
			var fd int
			if fd, err = unix.PidfdOpen(child, 0); err == nil {
				err = sendNotify("MAINPIDFD=1", fd)
			}
		case "wait":
			<-terminated
			return 0
		default:
			err = fmt.Errorf("unknown step")
		}
		if err != nil {
			fmt.Printf("step %q: %v\n", step, err)
			return 1
		}
	}
	return 0
}

func sendNotify(payload string, fds ...int) error {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	return unix.Sendmsg(socket, []byte(payload), unix.UnixRights(fds...), &unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")}, 0)
}

func barrier() error {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	if err := sendNotify("BARRIER=1", pipe[1]); err != nil {
		return err
	}
	unix.Close(pipe[1])
	_, err := unix.Read(pipe[0], make([]byte, 1))
	return err
}

// patience bounds every wait for an event: a test that waits longer has
// failed.
const patience = 20 * time.Second

// A running is a manager process with a unit, in a test.
type running struct {
	t      testing.TB
	client *wire.Client
	loaded *wire.Answer
	root   string
	wait   func() error

	mu     sync.Mutex
	events []*wire.Event
	more   chan struct{}
	seen   int // events before this one have been waited for
}

// runUnits starts a manager for unit files, given as name and text in turn. What
// "tool" is in them is this test binary.
func runUnits(t testing.TB, config wire.Config, files ...string) *running {
	t.Helper()
	r, err := tryUnits(t, config, files...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tryUnits(t testing.TB, config wire.Config, files ...string) (*running, error) {
	t.Helper()
	// t.TempDir is too long for the paths of sockets.
	root, err := os.MkdirTemp("", "m")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if config.Systemd == 0 {
		config.Systemd = 257
	}
	config.Root = root
	config.Environment = append(config.Environment, "GORACE="+noRaceSleep)
	config.Commands = map[string]string{"tool": self}
	for i := 0; i+1 < len(files); i += 2 {
		config.Files = append(config.Files, wire.File{Name: files[i], Text: files[i+1]})
	}
	// The state of the test is not that of the service.
	signal.Ignore(syscall.SIGUSR2, syscall.SIGTSTP)
	defer signal.Reset(syscall.SIGUSR2, syscall.SIGTSTP)
	conn, wait, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, root: root, wait: wait, more: make(chan struct{})}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r.client, r.loaded, err = wire.NewClient(ctx, conn, &config, r.event)
	if err != nil {
		if waitErr := wait(); waitErr != nil {
			t.Error(waitErr)
		}
		return nil, err
	}
	t.Cleanup(func() {
		r.client.Close()
		if err := r.wait(); err != nil {
			t.Error(err)
		}
		<-r.client.Done()
		if t.Failed() {
			t.Log(r.story())
		}
	})
	return r, nil
}

func (r *running) event(e *wire.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	close(r.more)
	r.more = make(chan struct{})
}

// all are the events so far.
func (r *running) all() []*wire.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// story is what happened, one event a line.
func (r *running) story() string {
	var b strings.Builder
	for _, e := range r.all() {
		fmt.Fprintf(&b, "%s %s %s ", e.Time.Format("05.000000"), e.Unit, e.Kind)
		switch e.Kind {
		case wire.PropertiesChanged:
			p := e.Properties
			fmt.Fprintf(&b, "%s (%s) result=%s job=%s main=%d control=%d status=%q stored=%d", p.ActiveState, p.SubState,
				p.Result, p.Job, p.MainPID, p.ControlPID, p.StatusText, p.NFileDescriptorStore)
		case wire.SocketChanged:
			fmt.Fprintf(&b, "%+v", *e.Socket)
		case wire.JournalLine:
			fmt.Fprintf(&b, "%s[%d]: %s", e.Journal.Identifier, e.Journal.PID, e.Journal.Message)
		case wire.NotifyReceived:
			fmt.Fprintf(&b, "%q from %d accepted=%v %s", e.Notify.Payload, e.Notify.PID, e.Notify.Accepted, e.Notify.Reason)
		case wire.ProcessBorn:
			fmt.Fprintf(&b, "%d of %d %v", e.Process.PID, e.Process.Parent, e.Process.Command)
		case wire.ProcessDied:
			fmt.Fprintf(&b, "%+v", *e.Death)
		case wire.FaultStruck:
			fmt.Fprintf(&b, "%+v", *e.Fault)
		case wire.JobEnded:
			fmt.Fprintf(&b, "%+v", *e.Job)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// call sends a request, whose answer may not be an error.
func (r *running) call(request wire.Request) *wire.Answer {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	a, err := r.client.Call(ctx, request)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

// job does a job and wants its result.
func (r *running) job(verb wire.Verb, want wire.JobResult) {
	r.t.Helper()
	if a := r.call(wire.Request{Verb: verb}); a.Result != want {
		r.t.Fatalf("%s: result %q, want %q", verb, a.Result, want)
	}
}

func (r *running) socketJob(verb wire.Verb, unit string, want wire.JobResult) {
	r.t.Helper()
	if a := r.call(wire.Request{Verb: verb, Unit: unit}); a.Result != want {
		r.t.Fatalf("%s %s: result %q, want %q", verb, unit, a.Result, want)
	}
}

func (r *running) show() wire.Properties {
	r.t.Helper()
	return *r.call(wire.Request{Verb: wire.Show}).Properties
}

// until waits for the next event that is meant, and returns it. Next means
// after the one that the last until returned.
func (r *running) until(what string, is func(*wire.Event) bool) *wire.Event {
	r.t.Helper()
	deadline := time.After(patience)
	for {
		r.mu.Lock()
		for ; r.seen < len(r.events); r.seen++ {
			if e := r.events[r.seen]; is(e) {
				r.seen++
				r.mu.Unlock()
				return e
			}
		}
		more := r.more
		r.mu.Unlock()
		select {
		case <-more:
		case <-r.client.Done():
			r.t.Fatalf("wait for %s: the manager is gone", what)
		case <-deadline:
			r.t.Fatalf("wait for %s: not within %v", what, patience)
		}
	}
}

// rewind has the next until look at all events again.
func (r *running) rewind() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = 0
}

// untilState waits until the service gets to a SubState.
func (r *running) untilState(sub string) wire.Properties {
	r.t.Helper()
	e := r.until(sub, func(e *wire.Event) bool { return e.Kind == wire.PropertiesChanged && e.Properties.SubState == sub })
	return *e.Properties
}

// untilLine waits for a line of the journal.
func (r *running) untilLine(text string) *wire.JournalEntry {
	r.t.Helper()
	return r.until(text, func(e *wire.Event) bool {
		return e.Kind == wire.JournalLine && strings.Contains(e.Journal.Message, text)
	}).Journal
}

// file reads a file below the root.
func (r *running) file(path string) string {
	r.t.Helper()
	text, err := os.ReadFile(filepath.Join(r.root, path))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}
