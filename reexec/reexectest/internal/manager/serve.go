// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// An outbox sends messages to the test in their order. Putting one in never
// waits, whether the test reads or not.
type outbox struct {
	conn *wire.Conn
	// caughtUp is called when the test was far behind, and is no longer.
	caughtUp func()

	mu      sync.Mutex
	queue   []wire.Message
	size    int  // of what is not sent, in bytes, about
	behind  bool // somebody waits for the test to catch up
	filled  sync.Cond
	closed  bool
	drained chan struct{} // closed when everything was sent, after close
}

// maxOutbox is how much may wait for the test before it is far behind.
const maxOutbox = 1 << 20

func newOutbox(conn *wire.Conn, caughtUp func()) *outbox {
	o := &outbox{conn: conn, caughtUp: caughtUp, drained: make(chan struct{})}
	o.filled.L = &o.mu
	go o.send()
	return o
}

// weigh estimates the size of a message.
func weigh(m wire.Message) int {
	const others = 500
	if m.Event != nil && m.Event.Journal != nil {
		return others + len(m.Event.Journal.Message)
	}
	return others
}

// farBehind reports whether the test does not keep up. If so, caughtUp is called when it does.
func (o *outbox) farBehind() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.behind = o.behind || o.size > maxOutbox
	return o.behind
}

func (o *outbox) sent(m wire.Message) {
	o.mu.Lock()
	o.size -= weigh(m)
	caughtUp := o.behind && o.size <= maxOutbox/2
	if caughtUp {
		o.behind = false
	}
	o.mu.Unlock()
	if caughtUp {
		o.caughtUp()
	}
}

func (o *outbox) put(m wire.Message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.queue = append(o.queue, m)
	o.size += weigh(m)
	o.filled.Signal()
}

func (o *outbox) send() {
	defer close(o.drained)
	for {
		o.mu.Lock()
		for len(o.queue) == 0 && !o.closed {
			o.filled.Wait()
		}
		queue := o.queue
		o.queue = nil
		closed := o.closed
		o.mu.Unlock()
		for _, m := range queue {
			if o.conn.Send(m) != nil {
				return // the end of the connection is seen where it is read
			}
			o.sent(m)
		}
		if closed && len(queue) == 0 {
			return
		}
	}
}

// close sends what is left and returns when that is done, or when the test
// does not read it.
func (o *outbox) close() {
	o.mu.Lock()
	o.closed = true
	o.filled.Signal()
	o.mu.Unlock()
	select {
	case <-o.drained:
	case <-time.After(endPatience):
	}
}

// event tells the test what happened.
func (m *manager) event(e wire.Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if e.Unit == "" {
		e.Unit = m.service.Name
	}
	m.tell(wire.Message{Event: &e})
}

func (m *manager) answer(a wire.Answer) {
	// What was written before the answer is told before it.
	m.journal.drain()
	m.tell(wire.Message{Answer: &a})
}

// answerJobs answers for the jobs that ended in this turn of the loop.
func (m *manager) answerJobs() {
	for _, a := range m.answers {
		m.answer(a)
	}
	m.answers = nil
}

func (m *manager) tell(message wire.Message) {
	if m.holding {
		m.held = append(m.held, message)
		return
	}
	m.out.put(message)
}

// holdEvents keeps back what is told until release, which returns it.
func (m *manager) holdEvents() (release func() []wire.Message) {
	m.holding = true
	return func() []wire.Message {
		held := m.held
		m.holding, m.held = false, nil
		return held
	}
}

// serve reads requests until the connection ends.
func (m *manager) serve(conn *wire.Conn) {
	for {
		var r wire.Request
		if err := conn.Receive(&r); err != nil {
			m.loop.post(func() { m.ended = true })
			// Should the loop hang, what runs is ended all the same.
			time.AfterFunc(endPatience, func() {
				m.cleanUp()
				os.Exit(1)
			})
			return
		}
		m.loop.post(func() { m.handle(&r) })
	}
}

// handle does what one request asks for.
func (m *manager) handle(r *wire.Request) {
	m.lookSoon()
	a := wire.Answer{ID: r.ID}
	var socket *socketUnit
	if r.Unit != "" && r.Unit != m.service.Name {
		i := slices.IndexFunc(m.sockets, func(s *socketUnit) bool { return s.unit.Name == r.Unit })
		if i < 0 {
			a.Error = &wire.Error{Name: wire.ErrNoSuchUnit, Message: fmt.Sprintf("Unit %s not found.", r.Unit)}
			m.answer(a)
			return
		}
		socket = m.sockets[i]
	}
	if r.Verb.IsJob() {
		m.begin(r, socket)
		return
	}
	switch r.Verb {
	case wire.ResetFailed:
		if socket != nil {
			socket.resetFailed()
		} else {
			m.machine.resetFailed()
		}
	case wire.Kill:
		a.Error = m.kill(socket, r.Whom, r.Signal)
	case wire.DaemonReload:
		a.Loaded, a.Error = m.daemonReload(r.Files)
	case wire.Show:
		if socket != nil {
			a.Socket = socket.properties()
		} else {
			m.changed()
			p := m.properties()
			a.Properties = &p
		}
	case wire.Processes:
		a.Processes = []wire.Process{}
		for _, p := range m.lookAround() {
			if !p.dead() {
				a.Processes = append(a.Processes, describe(p))
			}
		}
	case wire.FDStore:
		a.Store = m.describeStore()
		if len(a.Store) == 0 && m.service.FileDescriptorStoreMax == 0 {
			a.Error = &wire.Error{
				Name:    wire.ErrFDStoreDisabled,
				Message: fmt.Sprintf("File descriptor store not enabled for %s.", m.service.Name),
			}
		}
	case wire.Clean:
		a.Error = m.clean(r.What)
	case wire.Addresses:
		a.Addresses = m.addresses()
	case wire.Install:
		a.Error = m.install(r.Path, r.Source)
	case wire.SetFault:
		if r.Fault == nil {
			a.Error = &wire.Error{Name: wire.ErrInvalidArgs, Message: "a fault is missing"}
		} else {
			a.Error = m.setFault(r.ID, *r.Fault)
		}
	case wire.ClearFault:
		a.Error = m.clearFault(r.FaultID)
	case wire.End:
		m.ended, m.endID = true, r.ID
		return
	default:
		a.Error = &wire.Error{Name: wire.ErrInvalidArgs, Message: fmt.Sprintf("the manager does not know the verb %q", r.Verb)}
	}
	m.answer(a)
}

// A pendingJob is a job of the test's or of the world's own that has not ended.
type pendingJob struct {
	verb wire.Verb
	unit string
	// request is the ID of the test's request, 0 if it has none.
	request int64
	// then is called when it has ended; for jobs that another one waits for.
	then func(wire.JobResult)
}

// begin begins a job.
func (m *manager) begin(r *wire.Request, socket *socketUnit) {
	job := pendingJob{verb: r.Verb, unit: m.service.Name, request: r.ID}
	if socket != nil {
		job.unit = socket.unit.Name
		m.beginSocket(job, socket)
		return
	}
	if err := m.beginService(job); err != nil {
		m.answer(wire.Answer{ID: r.ID, Error: err})
	}
}

func (m *manager) newJob(job pendingJob) int {
	m.lastJob++
	id := m.lastJob
	if job.request == 0 {
		id = -id
	}
	m.jobs[id] = job
	return id
}

func (m *manager) beginService(job pendingJob) *wire.Error {
	id := m.newJob(job)
	if err := m.machine.request(id, job.verb); err != nil {
		delete(m.jobs, id)
		return err
	}
	return nil
}

// beginSocket begins a job of a socket unit. What the service has with
// Requires=, BindsTo= or PartOf= is stopped before it and, at a restart, started after it.
func (m *manager) beginSocket(job pendingJob, socket *socketUnit) {
	name := socket.unit.Name
	bound := slices.Contains(m.service.Requires, name) || slices.Contains(m.service.BindsTo, name) ||
		slices.Contains(m.service.PartOf, name)
	active, _ := m.serviceState()
	stops := job.verb == wire.Stop || job.verb == wire.Restart || job.verb == wire.TryRestart
	if !bound || !stops || active == "inactive" || active == "failed" {
		m.beginSocketAlone(job, socket)
		return
	}
	err := m.beginService(pendingJob{verb: wire.Stop, unit: m.service.Name, then: func(wire.JobResult) {
		answered := job.then
		if job.verb != wire.Stop {
			job.then = func(result wire.JobResult) {
				if answered != nil {
					answered(result)
				}
				_ = m.beginService(pendingJob{verb: wire.Start, unit: m.service.Name})
			}
		}
		m.beginSocketAlone(job, socket)
	}})
	if err != nil {
		m.beginSocketAlone(job, socket)
	}
}

func (m *manager) beginSocketAlone(job pendingJob, socket *socketUnit) {
	id := m.newJob(job)
	if err := socket.request(id, job.verb); err != nil {
		delete(m.jobs, id)
		m.answer(wire.Answer{ID: job.request, Error: err})
	}
}

// jobEnded answers a request, or goes on with what waited for the job.
func (m *manager) jobEnded(id int, result wire.JobResult) {
	job, ok := m.jobs[id]
	if !ok {
		return
	}
	delete(m.jobs, id)
	m.changed()
	m.journal.drain()
	m.event(wire.Event{Kind: wire.JobEnded, Unit: job.unit, Job: &wire.Job{ID: job.request, Verb: job.verb, Result: result}})
	if job.request != 0 {
		// The machine may have more to do before the test goes on.
		m.answers = append(m.answers, wire.Answer{ID: job.request, Result: result})
	}
	if job.then != nil {
		// Not from within a call of the machine.
		m.loop.post(func() { job.then(result) })
	}
}

// kill is systemctl kill.
func (m *manager) kill(socket *socketUnit, whom wire.Whom, sig syscall.Signal) *wire.Error {
	if sig <= 0 || sig > 64 {
		return &wire.Error{Name: wire.ErrInvalidArgs, Message: "Signal number out of range."}
	}
	name, known := m.service.Name, m.properties()
	if socket != nil {
		name, known = socket.unit.Name, wire.Properties{ControlPID: socket.control}
	}
	var refused *wire.Error
	one := func(pid int, what string) {
		if pid == 0 {
			return
		}
		p, _ := readProcess(pid)
		process := fmt.Sprintf("signal %s to %s process %d (%s)", fullSignalName(sig), what, pid, p.comm)
		err := signalDescendant(m.self, pid, sig)
		if err == nil {
			m.logUnit(name, 6, "Sent %s on client request.", process)
			return
		}
		m.logUnit(name, 4, "Failed to send %s on client request: %s", process, strerror(err))
		if refused == nil {
			refused = &wire.Error{Name: wire.ErrSystem + "ESRCH", Message: fmt.Sprintf("Failed to send %s: %s", process, strerror(err))}
		}
	}
	none := func(what string) *wire.Error {
		return &wire.Error{Name: wire.ErrNoSuchProcess, Message: fmt.Sprintf("No %s process to kill", what)}
	}
	switch whom {
	case wire.MainProcess:
		if socket != nil {
			return &wire.Error{Name: wire.ErrNoSuchProcess, Message: "socket units have no main processes"}
		}
		if known.MainPID == 0 {
			return none("main")
		}
		one(known.MainPID, "main")
	case wire.ControlProcess:
		if known.ControlPID == 0 {
			return none("control")
		}
		one(known.ControlPID, "control")
	case wire.AllProcesses, "":
		one(known.ControlPID, "control")
		one(known.MainPID, "main")
		if socket == nil {
			signalDescendants(m.self, sig, false, known.ControlPID, known.MainPID)
		}
	default:
		return &wire.Error{Name: wire.ErrInvalidArgs, Message: fmt.Sprintf("Invalid whom argument: %s", whom)}
	}
	return refused
}

// clean is systemctl clean.
func (m *manager) clean(what []string) *wire.Error {
	var kinds []directoryKind
	store := false
	for _, name := range what {
		known := false
		for _, k := range directoryKinds {
			if name == k.clean || name == "all" {
				known = true
				if len(m.directories(k)) > 0 {
					kinds = append(kinds, k)
				}
			}
		}
		if m.config.Systemd >= 254 && (name == "fdstore" || name == "all") {
			known = true
			store = m.fds.len() > 0 || m.service.FileDescriptorStoreMax > 0
		}
		if !known {
			return &wire.Error{Name: wire.ErrInvalidArgs, Message: "Invalid resource type: " + name}
		}
	}
	if p := m.machine.properties(); p.SubState != "dead" && p.SubState != "dead-resources-pinned" || p.Job != "" {
		return &wire.Error{Name: wire.ErrUnitBusy, Message: "Unit is not inactive or has pending job."}
	}
	if len(kinds) == 0 && !store {
		return &wire.Error{Name: wire.ErrNothingToClean, Message: "No matching resources found."}
	}
	if store {
		m.fds.release()
	}
	for _, k := range kinds {
		m.removeDirectories(k)
	}
	m.machine.cleaned()
	m.changed()
	return nil
}

// install replaces a program by rename, as package managers do.
func (m *manager) install(path, source string) *wire.Error {
	if !filepath.IsAbs(path) || strings.HasSuffix(path, "/") {
		return &wire.Error{Name: wire.ErrInvalidArgs, Message: fmt.Sprintf("install %q: not the path of a program", path)}
	}
	target := filepath.Join(m.config.Root, path)
	if err := copyProgram(source, target); err != nil {
		return &wire.Error{Name: wire.ErrBadWorld, Message: fmt.Sprintf("install %s: %v", path, err)}
	}
	m.programs[filepath.Clean(path)] = true
	return nil
}

// copyProgram puts a copy of a file in place of another one in one step.
func copyProgram(source, target string) (err error) {
	from, err := os.Open(source)
	if err != nil {
		return err
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	if err := makeParents(target, 0o755); err != nil {
		return err
	}
	to, err := os.CreateTemp(filepath.Dir(target), filepath.Base(target)+".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(to.Name()))
		}
	}()
	_, err = io.Copy(to, from)
	// A file that is open for writing cannot be executed, so it is closed first.
	if err = errors.Join(err, to.Chmod(info.Mode()&fs.ModePerm), to.Close()); err != nil {
		return err
	}
	return os.Rename(to.Name(), target)
}

// addresses are those of all Listen lines.
func (m *manager) addresses() []wire.Address {
	all := []wire.Address{}
	for _, s := range m.sockets {
		for _, p := range s.ports {
			address := p.address
			if p.fd < 0 {
				address.Network, address.Address = "", ""
			}
			all = append(all, address)
		}
	}
	return all
}
