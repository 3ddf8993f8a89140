// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// States and results of a socket unit, as systemd has them.
const (
	socketDead      = "dead"
	socketStartPre  = "start-pre"
	socketStartPost = "start-post"
	socketListening = "listening"
	socketRunning   = "running"
	socketStopPre   = "stop-pre"
	socketStopPost  = "stop-post"
	socketFailed    = "failed"

	success              = "success"
	failureResources     = "resources"
	failureExitCode      = "exit-code"
	failureSignal        = "signal"
	failureTimeout       = "timeout"
	failureTriggerLimit  = "trigger-limit-hit"
	failureStartLimit    = "service-start-limit-hit"
	socketCommandSeconds = 90 // DefaultTimeoutStartSec=, where TimeoutSec= has none
)

// A socketUnit holds the sockets that a .socket unit describes, and starts the
// service when one of them has something to read.
type socketUnit struct {
	manager *manager
	unit    *unit.Socket
	state   string
	result  string
	ports   []*port

	triggers ratelimit
	accepted int
	refused  int

	jobs     []socketJob // that wait for the state to settle
	settling bool

	// phase is the state that has commands, also when it has none and is passed through.
	phase    string
	commands []unit.Command // that are left to run in this phase
	control  int            // PID of the one that runs
	timeout  *alarm
}

// A port is one Listen line.
type port struct {
	listen  unit.Listen
	fd      int // -1 when closed
	source  *source
	polls   ratelimit
	pause   *alarm // while the limit of polls is hit
	address wire.Address
}

// A socketJob is a job that has to wait.
type socketJob struct {
	id    int
	verb  wire.Verb
	begun bool // a start
}

func (m *manager) newSocketUnit(u *unit.Socket) *socketUnit {
	s := &socketUnit{manager: m, state: socketDead, result: success}
	s.configure(u)
	return s
}

// configure takes the unit as it was read. Sockets that are open stay so if their lines
// do, as with daemon-reload.
func (s *socketUnit) configure(u *unit.Socket) {
	before := s.ports
	s.unit, s.ports = u, nil
	s.triggers = ratelimit{interval: u.TriggerLimitInterval, burst: u.TriggerLimitBurst}
	for _, l := range u.Listen {
		p := &port{listen: l, fd: -1}
		i := slices.IndexFunc(before, func(o *port) bool { return o.listen.Kind == l.Kind && o.listen.Address == l.Address })
		if i >= 0 {
			p = before[i]
			before = slices.Delete(before, i, i+1)
		} else {
			p.address = wire.Address{Unit: u.Name, Listen: l.Kind + "=" + l.Address}
		}
		p.address.Name = u.FileDescriptorName
		p.polls = ratelimit{interval: u.PollLimitInterval, burst: u.PollLimitBurst}
		s.ports = append(s.ports, p)
	}
	for _, p := range before {
		p.close()
	}
	if s.state == socketListening {
		s.watch()
	}
	if s.state != socketDead && s.state != socketFailed && slices.ContainsFunc(s.ports, func(p *port) bool { return p.fd < 0 }) {
		s.log(4, "Socket unit configuration has changed while unit has been running, "+
			"and some socket file descriptors have not been opened yet. The socket unit is not fully functional until restarted.")
	}
}

func (p *port) close() {
	p.unwatch()
	if p.fd >= 0 {
		_ = unix.Close(p.fd)
		p.fd = -1
	}
}

func (p *port) unwatch() {
	p.source.remove()
	p.source = nil
	p.pause.stop()
	p.pause = nil
}

func (s *socketUnit) log(level int, format string, args ...any) {
	s.manager.logUnit(s.unit.Name, level, format, args...)
}

// active is ActiveState.
func (s *socketUnit) active() string {
	switch s.state {
	case socketDead:
		return "inactive"
	case socketFailed:
		return "failed"
	case socketListening, socketRunning:
		return "active"
	case socketStartPre, socketStartPost:
		return "activating"
	}
	return "deactivating"
}

func (s *socketUnit) properties() *wire.SocketProperties {
	return &wire.SocketProperties{
		ActiveState: s.active(), SubState: s.state, Result: s.result, NAccepted: s.accepted, NRefused: s.refused,
	}
}

func (s *socketUnit) setState(state string) {
	before := s.state
	s.state = state
	if state != socketListening {
		for _, p := range s.ports {
			p.unwatch()
		}
	}
	switch state {
	case socketStartPre, socketDead, socketFailed, socketStopPost:
		s.closePorts()
	}
	if state != before {
		s.manager.socketChanged(s)
	}
}

func (s *socketUnit) closePorts() {
	for _, p := range s.ports {
		open := p.fd >= 0
		p.close()
		if !open || !s.unit.RemoveOnStop {
			continue
		}
		if path := p.path(); path != "" && p.listen.Kind != "ListenSpecial" {
			_ = os.Remove(path)
		}
	}
	if s.unit.RemoveOnStop {
		for _, link := range s.unit.Symlinks {
			_ = os.Remove(link)
		}
	}
}

// path is where a port is in the file system.
func (p *port) path() string {
	if p.listen.Address != "" && p.listen.Address[0] == '/' {
		return p.listen.Address
	}
	return ""
}

// start begins to listen. The error is why the job fails at once.
func (s *socketUnit) start() error {
	switch active, sub := s.manager.serviceState(); {
	case active == "inactive" || active == "failed":
	case sub == "auto-restart" || sub == "auto-restart-queued":
	default:
		s.log(3, "Socket service %s already active, refusing.", s.manager.service.Name)
		return unix.EBUSY
	}
	s.result = success
	s.run(socketStartPre, s.unit.ExecStartPre)
	return nil
}

// stop begins to end it.
func (s *socketUnit) stop(result string) {
	s.fail(result)
	s.run(socketStopPre, s.unit.ExecStopPre)
}

// fail keeps the first bad result.
func (s *socketUnit) fail(result string) {
	if s.result == success {
		s.result = result
	}
}

// run enters a phase, and leaves it when no command is left.
func (s *socketUnit) run(phase string, commands []unit.Command) {
	s.phase, s.commands = phase, commands
	if len(commands) > 0 {
		s.setState(phase)
	}
	s.next()
}

// next runs the next command of the phase or goes on to the next phase.
func (s *socketUnit) next() {
	s.timeout.stop()
	s.control = 0
	if len(s.commands) > 0 {
		command := s.commands[0]
		s.commands = s.commands[1:]
		pid, err := s.manager.spawnForSocket(s, command)
		if err != nil {
			s.log(4, "Failed to spawn '%s' task: %v", s.phase, err)
			s.commandFailed(failureResources)
			return
		}
		s.control = pid
		limit := s.unit.TimeoutSec
		if limit <= 0 {
			limit = socketCommandSeconds * time.Second
		}
		if limit != unit.Infinity {
			s.timeout = s.manager.loop.after(limit, priorityNormal, s.commandTimeout)
		}
		return
	}
	switch s.phase {
	case socketStartPre:
		if err := s.open(); err != nil {
			s.log(4, "Failed to listen on sockets: %v", err)
			s.stop(failureResources)
			return
		}
		s.run(socketStartPost, s.unit.ExecStartPost)
	case socketStartPost:
		s.listen()
	case socketStopPre:
		s.run(socketStopPost, s.unit.ExecStopPost)
	case socketStopPost:
		s.dead()
	}
}

func (s *socketUnit) commandTimeout() {
	s.log(4, "%s operation timed out. Terminating.", s.phase)
	s.fail(failureTimeout)
	pid := s.control
	s.commands = nil
	_ = signalDescendant(s.manager.pid(), pid, syscall.SIGTERM)
	s.timeout = s.manager.loop.after(s.unit.TimeoutSec, priorityNormal, func() {
		_ = signalDescendant(s.manager.pid(), pid, syscall.SIGKILL)
	})
}

// commandFailed goes on after a command that could not be run or failed.
func (s *socketUnit) commandFailed(result string) {
	s.fail(result)
	s.commands = nil
	switch s.phase {
	case socketStartPre:
		s.dead()
	case socketStartPost:
		s.stop(result)
	default:
		s.next()
	}
}

// exited takes note of the end of the unit's command, and reports whether it
// was one.
func (s *socketUnit) exited(pid int, status syscall.WaitStatus) bool {
	if pid == 0 || pid != s.control {
		return false
	}
	s.timeout.stop()
	s.control = 0
	switch {
	case status.Exited() && status.ExitStatus() == 0 && s.result != failureTimeout:
		s.next()
	case status.Exited():
		s.commandFailed(failureExitCode)
	default:
		s.commandFailed(failureSignal)
	}
	return true
}

// open opens what is not open.
func (s *socketUnit) open() error {
	for _, p := range s.ports {
		if p.fd >= 0 {
			continue
		}
		fd, address, err := s.manager.relocator.listenOn(s.unit, p.listen)
		if err != nil {
			s.log(3, "Failed to create listening socket (%s): %v", p.listen.Address, err)
			return err
		}
		p.fd, p.address = fd, address
		s.symlink()
	}
	return nil
}

// symlink makes Symlinks=, which lead to the only node in the file system.
func (s *socketUnit) symlink() {
	target := ""
	for _, p := range s.ports {
		if path := p.path(); path != "" && p.listen.Kind != "ListenSpecial" {
			if target != "" {
				return
			}
			target = path
		}
	}
	if target == "" {
		return
	}
	for _, link := range s.unit.Symlinks {
		err := makeParents(link, s.unit.DirectoryMode)
		if err == nil {
			err = linkIdempotent(target, link)
		}
		if errors.Is(err, os.ErrExist) && s.unit.RemoveOnStop && os.Remove(link) == nil {
			err = linkIdempotent(target, link)
		}
		if err != nil {
			s.log(4, "Failed to create symlink %s → %s, ignoring: %v", target, link, err)
		}
	}
}

// listen waits for something to read.
func (s *socketUnit) listen() {
	if s.unit.FlushPending {
		s.flush()
	}
	s.setState(socketListening)
	s.watch()
	s.settle()
}

func (s *socketUnit) watch() {
	for _, p := range s.ports {
		if p.fd < 0 || p.source != nil || p.pause != nil {
			continue
		}
		source, err := s.manager.loop.watch(p.fd, unix.EPOLLIN, priorityNormal, func(events uint32) { s.incoming(p, events) })
		if err != nil {
			s.log(4, "Failed to watch sockets: %v", err)
			s.stop(failureResources)
			return
		}
		p.source = source
	}
}

// incoming starts the service.
func (s *socketUnit) incoming(p *port, events uint32) {
	if s.state != socketListening {
		return
	}
	now := time.Now()
	if !p.polls.below(now) {
		// Not listened to for the rest of the interval.
		p.unwatch()
		p.pause = s.manager.loop.after(p.polls.over(now), priorityNormal, func() {
			p.pause = nil
			if s.state == socketListening {
				s.watch()
			}
		})
		return
	}
	if events != unix.EPOLLIN {
		if events&unix.EPOLLHUP != 0 {
			s.log(3, "Got POLLHUP on a listening socket. The service probably invoked shutdown() on it, and should better not do that.")
		} else {
			s.log(3, "Got unexpected poll event (0x%x) on socket.", events)
		}
		s.stop(failureResources)
		return
	}
	if s.stopPending() {
		s.flush()
		return
	}
	if !s.triggers.below(now) {
		s.log(4, "Trigger limit hit, refusing further activation.")
		s.refused++
		s.stop(failureTriggerLimit)
		return
	}
	s.setState(socketRunning)
	s.manager.machine.triggered()
}

func (s *socketUnit) stopPending() bool {
	return slices.ContainsFunc(s.jobs, func(j socketJob) bool { return j.verb == wire.Stop })
}

// flush takes what waits in the sockets away. They may block: a service that
// was started with them has them so.
func (s *socketUnit) flush() {
	buffer := make([]byte, 4096)
	for _, p := range s.ports {
		const most = 1 << 16 // something may come as fast as it is taken away
		for n := 0; n < most && p.fd >= 0 && p.readable(); n++ {
			fd, _, err := unix.Accept4(p.fd, unix.SOCK_CLOEXEC)
			if err == nil {
				_ = unix.Close(fd)
				continue
			}
			_, _, err = unix.Recvfrom(p.fd, buffer, unix.MSG_DONTWAIT)
			if err == unix.ENOTSOCK {
				_, err = unix.Read(p.fd, buffer)
			}
			if err != nil {
				break
			}
		}
	}
}

func (p *port) readable() bool {
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return n == 1 && err == nil && fds[0].Revents&unix.POLLIN != 0
}

// dead is the end of stopping.
func (s *socketUnit) dead() {
	if s.result == success {
		s.setState(socketDead)
	} else {
		s.log(4, "Failed with result '%s'.", s.result)
		s.setState(socketFailed)
	}
	s.settle()
}

// serviceFreed is called when the service runs no longer.
func (s *socketUnit) serviceFreed() {
	if s.state == socketRunning || s.state == socketListening {
		s.listen()
	}
}

func (s *socketUnit) serviceRunning() {
	if s.state == socketListening {
		s.setState(socketRunning)
	}
}

func (s *socketUnit) serviceStartLimitHit() {
	if s.state == socketRunning || s.state == socketListening {
		s.stop(failureStartLimit)
	}
}

// request does a job now or when the state allows.
func (s *socketUnit) request(id int, verb wire.Verb) *wire.Error {
	switch verb {
	case wire.Start, wire.Stop, wire.Restart:
	case wire.TryRestart, wire.ReloadOrRestart:
		if verb == wire.TryRestart && (s.active() == "inactive" || s.active() == "failed") {
			s.manager.jobEnded(id, wire.Done)
			return nil
		}
		verb = wire.Restart
	default:
		return &wire.Error{
			Name:    wire.ErrJobTypeNotApplicable,
			Message: fmt.Sprintf("Job type %s is not applicable for unit %s.", verb, s.unit.Name),
		}
	}
	// A job that contradicts one that waits takes its place.
	s.jobs = slices.DeleteFunc(s.jobs, func(j socketJob) bool {
		if j.verb != verb {
			s.manager.jobEnded(j.id, wire.Canceled)
		}
		return j.verb != verb
	})
	s.jobs = append(s.jobs, socketJob{id: id, verb: verb})
	s.settle()
	return nil
}

// settle does the jobs that the state allows. It is called at each change of
// the state, also by what it does itself.
func (s *socketUnit) settle() {
	if s.settling {
		return
	}
	s.settling = true
	defer func() { s.settling = false }()
	for len(s.jobs) > 0 {
		job := &s.jobs[0]
		switch s.active() {
		case "activating":
			if job.verb == wire.Start {
				return
			}
			// A stop does not wait for the commands of the start.
			s.commands = nil
			_ = signalDescendant(s.manager.pid(), s.control, syscall.SIGTERM)
			return
		case "deactivating":
			return
		case "active":
			switch job.verb {
			case wire.Start:
				s.finish(wire.Done)
			case wire.Restart:
				job.verb = wire.Start
				s.stop(success)
			default:
				s.stop(success)
			}
		default: // inactive, failed
			switch {
			case job.verb == wire.Stop:
				s.finish(wire.Done)
			case job.begun:
				s.finish(wire.Failed)
			default:
				job.verb, job.begun = wire.Start, true
				if s.start() != nil {
					s.finish(wire.Failed)
				}
			}
		}
	}
}

// finish answers the first job.
func (s *socketUnit) finish(result wire.JobResult) {
	job := s.jobs[0]
	s.jobs = s.jobs[1:]
	s.manager.jobEnded(job.id, result)
}

func (s *socketUnit) resetFailed() {
	if s.state == socketFailed {
		s.setState(socketDead)
	}
	s.result = success
	s.triggers = ratelimit{interval: s.unit.TriggerLimitInterval, burst: s.unit.TriggerLimitBurst}
	s.manager.socketChanged(s)
}

// socketFiles are the descriptors of all socket units, in the order in which
// they are passed.
func (m *manager) socketFiles() []passed {
	var all []passed
	for _, s := range m.sockets {
		for _, p := range s.ports {
			if p.fd >= 0 {
				all = append(all, passed{fd: p.fd, name: s.unit.FileDescriptorName})
			}
		}
	}
	return all
}

func (m *manager) socketsWanted() error {
	var err error
	for _, s := range m.sockets {
		name := s.unit.Name
		required := slices.Contains(m.service.Requires, name) || slices.Contains(m.service.BindsTo, name)
		if !required && !slices.Contains(m.service.Wants, name) {
			continue
		}
		if active := s.active(); active == "active" || active == "activating" {
			continue
		}
		if startErr := s.start(); startErr == nil && s.state == socketFailed {
			startErr = fmt.Errorf("result %q", s.result)
			if required {
				err = errors.Join(err, fmt.Errorf("start %s: %w", name, startErr))
			}
		}
	}
	return err
}

func (m *manager) socketsTaken() {
	for _, s := range m.sockets {
		s.serviceRunning()
	}
}

func (m *manager) socketsFreed() {
	for _, s := range m.sockets {
		s.serviceFreed()
	}
}

func (m *manager) socketsFailed() {
	for _, s := range m.sockets {
		s.serviceStartLimitHit()
	}
}
