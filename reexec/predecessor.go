// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/activation"
	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/internal/handover"
	"github.com/holdfast-go/holdfast/reexec/internal/machine"
	"github.com/holdfast-go/holdfast/reexec/internal/stateframe"
)

// predecessor is the process that started us, seen from here.
type predecessor struct {
	process control.Process
	conn    *handover.Conn
	pidfd   *process
	hello   handover.Hello
	// signalled says that a SIGUSR2 was kept for us.
	signalled bool
	// reload says that a SIGHUP was.
	reload bool

	version int           // of the protocol
	answers *answers      // to the mover
	ended   chan struct{} // closed when it says nothing more
}

// inherited is what a successor got.
type inherited struct {
	set     *activation.Set
	bound   []boundSocket
	control *os.File
	elders  []*elder
	kept    map[string]*keptFile
	stored  []string // entries of the fd store
	states  []*heldFrame
}

// elder is an older generation that may still drain.
type elder struct {
	control.Process
	handle *process
	killAt time.Time // of one that was undone; zero for all others
}

// join takes the handover socket from the environment and receives all that
// the predecessor hands over within patience. It returns nil without an error
// when there is no predecessor.
func join(ours handover.Hello, patience time.Duration) (*predecessor, inherited, error) {
	// Children of the service, which may be services themselves, do not need it.
	_ = os.Unsetenv(executableVariable)
	value, ok := os.LookupEnv(handoverVariable)
	if !ok {
		return nil, inherited{}, nil
	}
	if err := os.Unsetenv(handoverVariable); err != nil {
		return nil, inherited{}, fmt.Errorf("reexec: unset %s: %w", handoverVariable, err)
	}
	socket, stderr, pid, err := parseHandover(value)
	if err != nil {
		return nil, inherited{}, err
	}
	// A value that a grandchild found in its environment names a descriptor
	// that it does not have, or that is another's and must not be touched.
	switch peer, err := handover.PeerPID(socket); {
	case err != nil:
		return nil, inherited{}, fmt.Errorf("reexec: %s=%q: %w: unset the variable in children of the service", handoverVariable, value, err)
	case peer != pid:
		return nil, inherited{}, fmt.Errorf("reexec: %s=%q: the socket is of PID %d: unset the variable in children of the service", handoverVariable, value, peer)
	}
	conn, err := handover.New(os.NewFile(uintptr(socket), "handover"))
	if err != nil {
		return nil, inherited{}, fmt.Errorf("reexec: %s=%q: %w", handoverVariable, value, err)
	}
	p := &predecessor{
		process: control.Process{PID: pid}, conn: conn, pidfd: newProcess(pid, -1),
		answers: newAnswers(), ended: make(chan struct{}),
	}
	if err := takeStderr(stderr); err != nil {
		return nil, inherited{}, errors.Join(err, p.close())
	}
	keepOOMScore(pid)
	nameProcess(argv[0])
	got, err := p.receive(ours, patience)
	if err != nil {
		p.leave(err)
		return nil, inherited{}, fmt.Errorf("reexec: join PID %d: %w", pid, err)
	}
	return p, got, nil
}

// leave says why we go: the predecessor's verdict carries it to the operator.
func (p *predecessor) leave(why error) {
	_ = p.conn.Send(handover.KindLeaving, handover.Reason{Reason: why.Error()})
	_ = p.close()
}

func (p *predecessor) close() error {
	p.pidfd.close()
	return p.conn.Close()
}

func parseHandover(value string) (socket, stderr, pid int, err error) {
	parts := strings.Split(value, ",")
	if len(parts) != 3 {
		return 0, 0, 0, fmt.Errorf("reexec: %s=%q: must be three numbers", handoverVariable, value)
	}
	for i, to := range []*int{&socket, &stderr, &pid} {
		n, err := strconv.ParseUint(parts[i], 10, 31)
		if err != nil {
			return 0, 0, 0, fmt.Errorf("reexec: %s=%q: %w", handoverVariable, value, err)
		}
		*to = int(n)
	}
	if pid == 0 {
		return 0, 0, 0, fmt.Errorf("reexec: %s=%q: PID 0 is no process", handoverVariable, value)
	}
	if socket < 3 || stderr < 3 || socket == stderr {
		return 0, 0, 0, fmt.Errorf("reexec: %s=%q: descriptors start at 3", handoverVariable, value)
	}
	return socket, stderr, pid, nil
}

// takeStderr puts the real stderr in place of the pipe to the predecessor, so
// that our lines carry our PID in the journal. The pipe gets a copy of what the
// Go runtime says of a crash, until we are main: the verdict then has the
// reason.
func takeStderr(fd int) error {
	if pipe, err := unix.FcntlInt(2, unix.F_DUPFD_CLOEXEC, 3); err == nil {
		f := os.NewFile(uintptr(pipe), "crash output")
		_ = debug.SetCrashOutput(f, debug.CrashOptions{}) // it keeps a copy of its own
		_ = f.Close()
	}
	if err := unix.Dup3(fd, 2, 0); err != nil {
		return fmt.Errorf("reexec: take over stderr from descriptor %d: %w", fd, err)
	}
	if err := unix.Close(fd); err != nil {
		return fmt.Errorf("reexec: take over stderr from descriptor %d: %w", fd, err)
	}
	return nil
}

// receive takes what is handed over. A predecessor that has not done so within
// patience hangs.
func (p *predecessor) receive(ours handover.Hello, patience time.Duration) (got inherited, err error) {
	if err := p.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return got, err
	}
	defer func() {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("the predecessor hangs: it did not hand over within %v: %w", patience, err)
		}
		err = errors.Join(err, p.conn.SetReadDeadline(time.Time{}))
	}()
	f, files, err := p.conn.Receive()
	if err != nil {
		return got, err
	}
	closeFiles(files)
	if f.Kind != handover.KindHello {
		return got, fmt.Errorf("%w: %v, want hello", handover.ErrFrame, f.Kind)
	}
	if err := f.Decode(&p.hello); err != nil {
		return got, err
	}
	p.process.Generation, p.process.Version = p.hello.Generation-1, p.hello.Version
	if p.hello.Fingerprint != nil {
		p.process.Build = p.hello.Fingerprint.Build()
	}
	if err := p.conn.Send(handover.KindHello, ours); err != nil {
		return got, err
	}
	if p.version, err = handover.Negotiate(handover.Ours, p.hello.Versions); err != nil {
		return got, err
	}
	if p.hello.Name != ours.Name {
		return got, fmt.Errorf("the predecessor is the service %q, this is %q", p.hello.Name, ours.Name)
	}
	list, files, err := p.receiveDescriptors()
	if err != nil {
		return got, err
	}
	return sortOut(list, files)
}

func (p *predecessor) receiveDescriptors() (list []handover.Descriptor, files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeFiles(files)
		}
	}()
	for {
		f, more, err := p.conn.Receive()
		if err != nil {
			return list, files, err
		}
		files = append(files, more...)
		switch f.Kind {
		case handover.KindDescriptors:
			var d handover.Descriptors
			if err := f.Decode(&d); err != nil {
				return list, files, err
			}
			if len(d.List) != len(more) {
				return list, files, fmt.Errorf("%d descriptors are described, %d arrived", len(d.List), len(more))
			}
			list = append(list, d.List...)
			if err := p.conn.Send(handover.KindReceived, handover.Received{Count: len(list)}); err != nil {
				return list, files, err
			}
		case handover.KindComplete:
			var c handover.Complete
			if err := f.Decode(&c); err != nil {
				return list, files, err
			}
			if c.Count != len(list) {
				return list, files, fmt.Errorf("%d descriptors were sent, %d arrived", c.Count, len(list))
			}
			return list, files, nil
		default:
			return list, files, fmt.Errorf("%w: unexpected %v", handover.ErrFrame, f.Kind)
		}
	}
}

// sortOut gives every descriptor its place. It takes the files over.
func sortOut(list []handover.Descriptor, files []*os.File) (got inherited, err error) {
	var passed []activation.Passed
	for i, d := range list {
		if d.Stored != "" {
			got.stored = append(got.stored, d.Stored)
		}
		switch d.Role {
		case roleSocket:
			passed = append(passed, activation.Passed{File: files[i], Name: d.Name, Source: activation.Source(d.Source)})
		case roleBound:
			b := boundSocket{
				name: d.Name, network: d.Network, address: d.Address, file: files[i],
				key: boundKey(d.Name, d.Network, d.Address), source: activation.Source(d.Source),
			}
			if _, key, _, ok := parseEntry(d.Stored); ok {
				b.key = key // it may have had another name
			}
			got.bound = append(got.bound, b)
		case roleKept:
			if got.kept == nil {
				got.kept = map[string]*keptFile{}
			}
			got.kept[d.Name] = &keptFile{file: files[i]}
		case roleState:
			got.states = append(got.states, &heldFrame{
				Header: stateframe.Header{Name: d.Name}, file: files[i], stored: d.Stored, current: d.Current, origin: fromPredecessor,
			})
		case roleControl:
			got.control = files[i]
		case roleElder:
			if d.Elder == nil {
				closeFiles(files)
				return inherited{}, fmt.Errorf("%w: an elder without its process", handover.ErrFrame)
			}
			fd, dupErr := unix.FcntlInt(uintptr(minFD(files[i])), unix.F_DUPFD_CLOEXEC, 0)
			if dupErr == nil {
				e := &elder{Process: *d.Elder, handle: newProcess(d.Elder.PID, fd)}
				if d.KillIn > 0 {
					e.killAt = time.Now().Add(d.KillIn)
				}
				got.elders = append(got.elders, e)
			}
			_ = files[i].Close()
		default:
			// From a newer predecessor: what we do not know, we do not need.
			_ = files[i].Close()
		}
	}
	got.set, err = activation.NewSet(passed)
	return got, err
}

// mover moves connections back to it; nil if it does not know how.
func (p *predecessor) mover(log *slog.Logger) *mover {
	if !handover.MovesConnections(p.version) {
		return nil
	}
	return newMover(p.conn, p.answers, log)
}

// listen reads what the predecessor says, until its end.
func (p *predecessor) listen(tell report, adopt adopter, update updates, drained func(control.Drain)) {
	defer close(p.ended)
	promoted, dismissed := false, false
	for {
		f, files, err := p.conn.Receive()
		if err == nil && f.Kind == handover.KindTaken {
			closeFiles(files)
			if err = p.answers.add(f); err == nil {
				continue
			}
		}
		if err != nil {
			p.answers.end(err)
			switch {
			case errors.Is(err, io.EOF) && !promoted && !dismissed && !p.died(lingerTimeout):
				tell(machine.Failed, fmt.Sprintf("predecessor (PID %d) closed the handover socket and lives on", p.process.PID))
			case errors.Is(err, io.EOF):
				tell(machine.Orphaned, fmt.Sprintf("predecessor (PID %d) is gone", p.process.PID))
			case promoted || errors.Is(err, net.ErrClosed):
			default:
				// Garbage: it lives, and is main still. We must not be beside it.
				tell(machine.Failed, fmt.Sprintf("predecessor (PID %d): %v", p.process.PID, err))
			}
			return
		}
		switch f.Kind {
		case handover.KindConnections:
			adopt(p.conn, f, files)
			continue
		case handover.KindUpdate:
			update.receive(f, files)
			continue
		}
		closeFiles(files)
		var why handover.Reason
		_ = f.Decode(&why)
		switch f.Kind {
		case handover.KindServe:
			tell(machine.Serve, "")
		case handover.KindPromote:
			var promote handover.Promote
			_ = f.Decode(&promote)
			p.hello.Last, p.signalled, p.reload = promote.Verdict, promote.Signalled, promote.Reload
			promoted = true
			tell(machine.Promote, "")
		case handover.KindUndo:
			dismissed = true
			tell(machine.Undo, clip(why.Reason, maxReason))
		case handover.KindStop:
			dismissed = true
			tell(machine.Stop, clip(why.Reason, maxReason))
		case handover.KindDrained:
			var d handover.Drained
			if f.Decode(&d) == nil {
				drained(d.Drain)
			}
		}
	}
}

// died says whether it has ended, and waits for that: a process closes its
// sockets a moment before its end can be seen.
func (p *predecessor) died(bound time.Duration) bool {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.pidfd.wait()
	}()
	select {
	case <-ended:
		return true
	case <-time.After(bound):
		return false
	}
}

// nameProcess gives the process its name back: it was executed by descriptor,
// and the kernel calls it by its number.
func nameProcess(argv0 string) {
	// ps shows the main thread's name, and this may be another thread: prctl(2)
	// would name the wrong one.
	_ = os.WriteFile(fmt.Sprintf("/proc/self/task/%d/comm", os.Getpid()), []byte(processName(argv0)), 0)
}

// waitReaped returns once the predecessor's parent has seen its death; systemd
// has then adopted us by the PID file. It is bounded, because a parent that is
// no service manager may never look.
func (p *predecessor) waitReaped(bound time.Duration) {
	deadline := time.Now().Add(bound)
	for !p.pidfd.reaped() && time.Now().Before(deadline) {
		time.Sleep(2 * time.Millisecond)
	}
}
