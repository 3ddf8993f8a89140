// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/internal/handover"
	"github.com/holdfast-go/holdfast/reexec/internal/machine"
)

// handoverVariable tells a process that it is a successor. Its value is
// "socket,stderr,predecessor": two descriptors and a PID.
const handoverVariable = "HOLDFAST_HANDOVER"

// successor is the process of one attempt, seen from its predecessor.
type successor struct {
	process control.Process
	conn    *handover.Conn
	pidfd   *process
	// ours says that it is our child to wait for; with CLONE_PARENT it is the
	// service manager's.
	ours bool

	mu      sync.Mutex
	early   tail // what it wrote to stderr before it joined, and when it crashed
	joined  bool // it has its own stderr now
	leaving string
	stopped bool   // it leaves because somebody has told it to stop
	wanting string // what it waits for before it is ready
	owed    string // what we have not done for it yet

	version int      // of the protocol, once joined
	answers *answers // to the mover

	updating sync.Mutex
	updates  []func() // to send once the handover is complete
	caughtUp bool     // it is, or has failed
	lost     bool     // it has failed

	ended  chan struct{} // closed when it says nothing more
	gone   chan struct{} // closed when the process has ended
	ending string        // how, once gone is closed
}

// report is how a successor's goroutines speak to the runner.
type report func(e machine.Event, reason string)

// startSuccessor runs b. Under a service manager the child is started with
// CLONE_PARENT: a plain fork makes it a grandchild of the manager, which then
// never sees its death once it is main. The manager must reap such children;
// systemd does.
func (s *Service) startSuccessor(b *binary, next control.Process) (_ *successor, err error) {
	underManager := s.notifier.Enabled()
	if os.Getpid() == 1 {
		return nil, errors.New("PID 1 of a container cannot be replaced while it runs: the container ends with it (and CLONE_PARENT is EINVAL); run systemd or a supervisor in the container, or replace the container")
	}
	conn, theirs, err := handover.Pair()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", b.path, err)
	}
	earlyOut, earlyIn, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", b.path, err), conn.Close(), theirs.Close())
	}
	defer func() {
		err = errors.Join(err, theirs.Close(), earlyIn.Close())
		if err != nil {
			_ = conn.Close()
			_ = earlyOut.Close()
		}
	}()

	// One of the last numbers makes the child's table as large as ours.
	high, err := b.above(theirs, tableSize()-lastNumbers)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", b.path, err)
	}
	defer high.Close()
	pidfd := -1
	attr := &syscall.ProcAttr{
		Env: append(launchedAs(s.run.back.fallback(), childEnv(environ)),
			handoverVariable+"=3,4,"+strconv.Itoa(os.Getpid()), executableVariable+"="+s.opts.Executable),
		// Until it joins, what it says (a dynamic linker's complaint, a panic
		// in an init function) comes to us; then it takes stderr itself.
		Files: []uintptr{0, 1, uintptr(minFD(earlyIn)), uintptr(minFD(high)), 2},
		Sys:   &syscall.SysProcAttr{PidFD: &pidfd},
	}
	if underManager {
		attr.Sys.Cloneflags = unix.CLONE_PARENT
	}
	pid, err := syscall.ForkExec(b.execPath(), argv, attr)
	runtime.KeepAlive(b.file)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", b.path, err)
	}
	raiseOOMScore(pid)
	changed := b.unchanged()
	next.PID = pid
	c := &successor{
		process: next,
		conn:    conn,
		pidfd:   newProcess(pid, pidfd),
		ours:    !underManager,
		early:   tail{limit: 4 << 10},
		answers: newAnswers(),
		gone:    make(chan struct{}),
		ended:   make(chan struct{}),
	}
	earlyDone := make(chan struct{})
	go func() {
		defer close(earlyDone)
		defer earlyOut.Close()
		c.relayEarly(earlyOut, s)
	}()
	go c.waitUntilGone(earlyDone)
	if changed != nil {
		// It has got nothing yet: what it needs is sent later.
		c.kill()
		return nil, changed
	}
	return c, nil
}

// relayEarly keeps what the child writes to the pipe, for the reason of its
// death: all of stderr before it has joined, which is passed on to our stderr;
// then a copy of what the Go runtime says of a crash.
func (c *successor) relayEarly(r io.Reader, s *Service) {
	buf := make([]byte, 4<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			c.mu.Lock()
			_, _ = c.early.Write(buf[:n])
			joined := c.joined
			c.mu.Unlock()
			if !joined {
				_, _ = os.Stderr.Write(buf[:n])
			}
		}
		if err != nil {
			return
		}
	}
}

// waitUntilGone notices the end of the process and finds out how it ended.
func (c *successor) waitUntilGone(earlyDone <-chan struct{}) {
	defer close(c.gone)
	defer c.pidfd.close()
	if c.ours {
		var status syscall.WaitStatus
		for {
			_, err := syscall.Wait4(c.process.PID, &status, 0, nil)
			if err == nil {
				c.ending = describeStatus(status)
				break
			}
			if !errors.Is(err, syscall.EINTR) {
				c.ending = fmt.Sprintf("is gone (wait: %v)", err)
				break
			}
		}
	} else {
		c.pidfd.wait()
		c.ending = c.pidfd.ending()
	}
	// Nobody but the child's own children could still hold the pipe.
	select {
	case <-earlyDone:
	case <-time.After(100 * time.Millisecond):
	}
}

func describeStatus(status syscall.WaitStatus) string {
	switch {
	case status.Signaled():
		return "was killed by " + unix.SignalName(status.Signal())
	case status.Exited():
		return fmt.Sprintf("exited with status %d", status.ExitStatus())
	}
	return "ended"
}

// alive says whether the process runs.
func (c *successor) alive() bool {
	select {
	case <-c.gone:
		return false
	default:
		return c.pidfd.alive()
	}
}

// kill sends SIGKILL.
func (c *successor) kill() { c.pidfd.signal(unix.SIGKILL) }

// diedBecause says how it ended, for the verdict.
func (c *successor) diedBecause() string {
	<-c.gone
	c.mu.Lock()
	defer c.mu.Unlock()
	text := fmt.Sprintf("successor (PID %d) %s", c.process.PID, c.ending)
	switch {
	case c.leaving != "":
		return text + ": " + c.leaving
	case c.wanting != "" && causeIndex(c.early.buf) < 0:
		return text + ": " + c.wanting
	}
	return text + c.early.quote()
}

// hurdle is what keeps it from being ready, for the end of an error.
func (c *successor) hurdle() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.owed != "":
		return ": " + c.owed
	case c.wanting != "":
		return ": " + c.wanting
	}
	return ""
}

// owe notes what it does not get because of us; "" is nothing.
func (c *successor) owe(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owed = what
}

// follow hands the descriptors over and then reads what the successor says,
// until its end. It closes the descriptors in list.
func (c *successor) follow(hello handover.Hello, list []passing, tell report, adopt adopter, update updates) {
	defer close(c.ended)
	// While it lives our end stays open: its closing says that we are gone.
	defer func() {
		go func() {
			<-c.gone
			_ = c.conn.Close()
		}()
	}()
	err := c.handOver(hello, list)
	closePassing(list)
	c.catchUp(err == nil)
	for err == nil {
		err = c.readOne(tell, adopt, update)
	}
	c.answers.end(err)
	if !errors.Is(err, io.EOF) {
		// Garbage, or a lost descriptor: it lives, and cannot be trusted.
		tell(machine.Ill, fmt.Sprintf("successor (PID %d): %v", c.process.PID, err))
		return
	}
	select {
	case <-c.gone:
		tell(machine.Died, c.diedBecause())
	case <-time.After(time.Second):
		if !c.alive() {
			tell(machine.Died, c.diedBecause()) // and how is not known yet
			return
		}
		tell(machine.Ill, fmt.Sprintf("successor (PID %d) closed the handover socket and lives on", c.process.PID))
	}
}

func (c *successor) handOver(hello handover.Hello, list []passing) error {
	if err := c.conn.Send(handover.KindHello, hello); err != nil {
		return c.orEOF(err)
	}
	// What fits into one frame is there when the successor looks: on a busy
	// machine each time that the two wait for each other costs milliseconds.
	atOnce := len(list) <= handover.MaxDescriptors
	if atOnce {
		if err := c.pass(list); err != nil {
			return err
		}
		if err := c.complete(len(list)); err != nil {
			return err
		}
	}
	var theirs handover.Hello
	if err := c.expect(handover.KindHello, &theirs); err != nil {
		return err
	}
	c.mu.Lock()
	c.joined = true
	c.mu.Unlock()
	version, err := handover.Negotiate(handover.Ours, theirs.Versions)
	if err != nil {
		return err
	}
	// What was checked has said its name, and systemd is told of the process that
	// was started.
	if theirs.Name != hello.Name {
		return fmt.Errorf("it says that it is the service %q, this is %q", theirs.Name, hello.Name)
	}
	if theirs.PID != c.process.PID {
		return fmt.Errorf("PID %d has joined in its place: the program must be the service itself, not start it", theirs.PID)
	}
	c.mu.Lock()
	c.version = version
	c.mu.Unlock()
	for sent := 0; sent < len(list); {
		// One batch at a time: what is in flight counts against the limit of
		// open files of an unprivileged user (unix(7), ETOOMANYREFS).
		batch := list[sent:min(len(list), sent+handover.MaxDescriptors)]
		if !atOnce {
			if err := c.pass(batch); err != nil {
				return err
			}
		}
		sent += len(batch)
		var got handover.Received
		if err := c.expect(handover.KindReceived, &got); err != nil {
			return err
		}
		if got.Count != sent {
			return fmt.Errorf("%d of %d descriptors arrived", got.Count, sent)
		}
	}
	if atOnce {
		return nil
	}
	return c.complete(len(list))
}

// pass sends one batch, if there is anything in it.
func (c *successor) pass(batch []passing) error {
	if len(batch) == 0 {
		return nil
	}
	var d handover.Descriptors
	fds := make([]int, len(batch))
	for i, p := range batch {
		d.List = append(d.List, p.Descriptor)
		fds[i] = p.fd
	}
	return c.orEOF(c.conn.Send(handover.KindDescriptors, d, fds...))
}

func (c *successor) complete(count int) error {
	return c.orEOF(c.conn.Send(handover.KindComplete, handover.Complete{Count: count}))
}

// orEOF reads on after a failed send: the successor may have said why it left.
func (c *successor) orEOF(err error) error {
	if err == nil || !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		return err
	}
	for {
		f, files, err := c.conn.Receive()
		if err != nil {
			return err
		}
		closeFiles(files)
		c.note(f)
	}
}

func (c *successor) expect(k handover.Kind, v any) error {
	f, files, err := c.conn.Receive()
	for err == nil && f.Kind == handover.KindLeaving {
		closeFiles(files)
		c.note(f)
		f, files, err = c.conn.Receive()
	}
	if err != nil {
		return err
	}
	closeFiles(files)
	if f.Kind != k {
		return fmt.Errorf("%w: %v, want %v", handover.ErrFrame, f.Kind, k)
	}
	return f.Decode(v)
}

// note keeps the reason of a Leaving frame.
func (c *successor) note(f handover.Frame) (reason string) {
	var r handover.Reason
	if f.Kind != handover.KindLeaving || f.Decode(&r) != nil {
		return ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaving, c.stopped = clip(r.Reason, maxReason), r.Stop
	return c.leaving
}

// toldToStop says whether it leaves because of a stop, as of the whole unit.
func (c *successor) toldToStop() bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopped
}

// mover moves connections to it; nil if it does not know how.
func (c *successor) mover(log *slog.Logger) *mover {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !handover.MovesConnections(c.version) {
		return nil
	}
	return newMover(c.conn, c.answers, log)
}

func (c *successor) readOne(tell report, adopt adopter, update updates) error {
	f, files, err := c.conn.Receive()
	if err != nil {
		return err
	}
	switch f.Kind {
	case handover.KindConnections:
		adopt(c.conn, f, files)
		return nil
	case handover.KindTaken:
		closeFiles(files)
		return c.answers.add(f)
	case handover.KindUpdate:
		// It tells what it has counted, and nothing else: it is not main, and what is
		// in the store, and under which numbers, is not its to say.
		var u handover.Update
		if err := f.Decode(&u); err != nil || u.Role != roleState || !u.Added {
			closeFiles(files)
			return fmt.Errorf("%w: unexpected %v of %q", handover.ErrFrame, f.Kind, u.Role)
		}
		update(u, files)
		return nil
	}
	closeFiles(files)
	switch f.Kind {
	case handover.KindReady:
		c.mu.Lock()
		c.wanting = ""
		c.mu.Unlock()
		tell(machine.Ready, "")
	case handover.KindBeat:
		var b handover.Beat
		if err := f.Decode(&b); err != nil {
			return err
		}
		b.Ill = clip(b.Ill, maxReason)
		c.mu.Lock()
		c.wanting = b.Ill
		c.mu.Unlock()
		tell(beat, b.Ill)
	case handover.KindLeaving:
		tell(machine.Ill, fmt.Sprintf("successor (PID %d): %s", c.process.PID, c.note(f)))
	default:
		return fmt.Errorf("%w: unexpected %v", handover.ErrFrame, f.Kind)
	}
	return nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
