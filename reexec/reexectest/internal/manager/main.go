// SPDX-License-Identifier: Apache-2.0

// Package manager is the process that stands in for systemd: it runs one
// service and its sockets from their unit files, as a plain user, without
// control groups and namespaces.
//
// The processes of the service are the living descendants of the manager. It
// is the reaper of its orphans, so none can leave; and it is the parent of the service's
// main process, hence also of successors that are started with CLONE_PARENT.
package manager

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

const (
	managerPrefix    = "--reexectest-manager="
	trampolinePrefix = "--reexectest-trampoline="
	// trampolineArgv0 is what a process of the service is called until its
	// program runs. systemd's is "(myapp)".
	trampolineArgv0 = "(reexectest-trampoline)"
)

// endPatience bounds an orderly end. After it, the processes are killed by
// whoever notices.
const endPatience = 10 * time.Second

// Intercept turns this process into the manager or into a process of the service
// if its arguments say so, and does not return then. Each program that calls [Start]
// calls it before anything else, in an init function.
func Intercept() {
	if len(os.Args) < 2 {
		return
	}
	if argument, ok := strings.CutPrefix(os.Args[1], trampolinePrefix); ok {
		bounce(argument)
	}
	if argument, ok := strings.CutPrefix(os.Args[1], managerPrefix); ok {
		fd, err := strconv.Atoi(argument)
		if err == nil {
			err = run(fd)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "reexectest: manager: %v\n", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// A manager is one service with its sockets, and the world of both.
type manager struct {
	config    wire.Config
	loop      *loop
	out       *outbox
	journal   *journal
	service   *unit.Service
	sockets   []*socketUnit
	machine   machine
	fds       *storeWatch
	notify    *notifySocket
	faults    faults
	relocator *relocator
	programs  map[string]bool // paths that lead below the root
	self      int

	jobs    map[int]pendingJob
	lastJob int

	timers  map[timer]*alarm
	spawned map[int]*spawned
	known   map[int]process // that were seen alive
	looking *alarm
	// lookAfter is the time between two looks at the processes.
	lookAfter time.Duration
	// dying are the processes that were signalled in the turn dyingTurn.
	dying     map[int]bool
	dyingTurn uint64
	filled    bool // processes of the unit have been seen since it was last empty
	pidFile   *pidFileWatch
	told      wire.Properties // what the test knows
	answers   []wire.Answer   // for jobs that ended in this turn of the loop
	holding   bool            // what is to be told waits in held
	held      []wire.Message

	ended bool
	endID int64 // of the request that asked for the end
}

// run is the manager process. It returns when no process of the service is left.
func run(fd int) error {
	unix.CloseOnExec(fd)
	file := os.NewFile(uintptr(fd), "connection")
	netConn, err := net.FileConn(file)
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("take the connection to the test: %w", err)
	}
	conn := wire.NewConn(netConn)
	defer conn.Close()
	// Modes of files are what they say.
	syscall.Umask(0)
	// Nothing that a terminal or a test says ends the manager, only the end
	// of the connection; and a test that died must not end it by the way. Ignored signals
	// would be so in the service, too.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGPIPE)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_SET_CHILD_SUBREAPER", err)
	}
	m, err := newManager(conn)
	if err != nil {
		return err
	}
	if err := conn.Receive(&m.config); errors.Is(err, io.EOF) {
		return nil // the test has nothing to run after all
	} else if err != nil {
		return fmt.Errorf("receive the config: %w", err)
	}
	a := wire.Answer{}
	a.Loaded, a.Error = m.load()
	if a.Error == nil {
		a.Addresses = m.addresses()
	}
	if a.Error != nil {
		m.cleanUp()
	}
	m.out.put(wire.Message{Answer: &a})
	if a.Error != nil {
		m.out.close()
		return nil
	}
	defer func() {
		if failure := recover(); failure != nil {
			m.cleanUp()
			panic(failure)
		}
	}()
	go m.serve(conn)
	err = m.loop.run(func() bool { return m.ended })
	m.cleanUp()
	if m.endID != 0 {
		m.answer(wire.Answer{ID: m.endID})
	}
	m.out.close()
	return err
}

func newManager(conn *wire.Conn) (*manager, error) {
	l, err := newLoop()
	if err != nil {
		return nil, err
	}
	m := &manager{
		loop:     l,
		notify:   &notifySocket{},
		programs: make(map[string]bool),
		self:     os.Getpid(),
		jobs:     make(map[int]pendingJob),
		timers:   make(map[timer]*alarm),
		spawned:  make(map[int]*spawned),
		known:    make(map[int]process),
	}
	m.journal = newJournal(func(e wire.JournalEntry) {
		m.event(wire.Event{Kind: wire.JournalLine, Unit: e.Unit, Journal: &e})
	}, func() bool { return m.out.farBehind() })
	m.out = newOutbox(conn, func() { l.post(m.journal.caughtUp) })
	l.dead = func() bool { return waitable() != 0 }
	l.child = m.reapOne
	l.settled = m.answerJobs
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	go func() {
		for range children {
			l.wake()
		}
	}()
	return m, nil
}

// load reads the unit files of the config and makes what they need.
func (m *manager) load() (*wire.Loaded, *wire.Error) {
	if m.config.Root == "" {
		root, err := makeRoot()
		if err != nil {
			return nil, &wire.Error{Name: wire.ErrBadWorld, Message: err.Error()}
		}
		m.config.Root = root
	}
	if !filepath.IsAbs(m.config.Root) {
		return nil, &wire.Error{Name: wire.ErrInvalidArgs, Message: fmt.Sprintf("Root %q is not an absolute path", m.config.Root)}
	}
	m.config.Root = filepath.Clean(m.config.Root)
	for _, path := range m.config.Programs {
		m.programs[filepath.Clean(path)] = true
	}
	for name, file := range m.config.Commands {
		if !filepath.IsAbs(file) {
			m.config.Commands[name] = filepath.Join(m.config.Root, file)
		}
	}
	m.relocator = newRelocator(m.config.KeepAddresses)
	set, refused := m.readUnits(m.config.Files)
	if refused != nil {
		return nil, refused
	}
	m.service = set.Service
	for _, s := range set.Sockets {
		m.sockets = append(m.sockets, m.newSocketUnit(s))
	}
	for _, dir := range []string{"run", "var/lib", "var/cache", "var/log", "etc"} {
		if err := os.MkdirAll(filepath.Join(m.config.Root, dir), 0o755); err != nil {
			return nil, &wire.Error{Name: wire.ErrBadWorld, Message: err.Error()}
		}
	}
	m.fds = m.newStore(m.service.FileDescriptorStoreMax)
	if err := m.listenNotify(); err != nil {
		return nil, &wire.Error{Name: wire.ErrBadWorld, Message: err.Error()}
	}
	m.machine = newService(m, m.service, m.config.Systemd)
	m.told = m.properties()
	return m.loaded(), nil
}

// readUnits reads unit files and refuses what this package cannot do.
func (m *manager) readUnits(files []wire.File) (*unit.Set, *wire.Error) {
	options := unit.Options{
		Systemd:    m.config.Systemd,
		Instance:   m.config.Instance,
		Specifiers: m.specifiers(),
		Relocate:   m.relocate,
	}
	for _, f := range files {
		options.Files = append(options.Files, unit.File{Name: f.Name, Text: f.Text})
	}
	set, err := unit.Load(options)
	if err != nil {
		return nil, &wire.Error{Name: wire.ErrBadUnit, Message: err.Error()}
	}
	for _, s := range set.Sockets {
		if s.Accept {
			return nil, &wire.Error{
				Name:    wire.ErrBadUnit,
				Message: s.Name + ": [Socket] Accept=yes: the stand-in runs one service, and not one for each connection",
			}
		}
	}
	return set, nil
}

func (m *manager) specifiers() unit.Specifiers {
	root := m.config.Root
	s := unit.Specifiers{
		Runtime:       filepath.Join(root, "run"),
		State:         filepath.Join(root, "var/lib"),
		Cache:         filepath.Join(root, "var/cache"),
		Logs:          filepath.Join(root, "var/log"),
		Configuration: filepath.Join(root, "etc"),
	}
	s.UID, s.GID = strconv.Itoa(os.Getuid()), strconv.Itoa(os.Getgid())
	if u, err := user.Current(); err == nil {
		s.User, s.Home = u.Username, u.HomeDir
		if g, err := user.LookupGroupId(u.Gid); err == nil {
			s.Group = g.Name
		}
	}
	s.Host, _ = os.Hostname()
	trimmed := func(path string) string {
		text, _ := os.ReadFile(path)
		return strings.TrimSpace(string(text))
	}
	s.MachineID = trimmed("/etc/machine-id")
	s.BootID = strings.ReplaceAll(trimmed("/proc/sys/kernel/random/boot_id"), "-", "")
	s.Kernel = trimmed("/proc/sys/kernel/osrelease")
	return s
}

// loaded is what the test is told about the units.
func (m *manager) loaded() *wire.Loaded {
	l := &wire.Loaded{Service: m.service.Name, ManagerPID: m.self, NotifyAddr: m.notify.address, Root: m.config.Root}
	for _, socket := range m.sockets {
		l.Sockets = append(l.Sockets, socket.unit.Name)
	}
	return l
}

// daemonReload reads the unit files anew.
func (m *manager) daemonReload(files []wire.File) (*wire.Loaded, *wire.Error) {
	if len(files) == 0 {
		files = m.config.Files
	}
	set, refused := m.readUnits(files)
	if refused != nil {
		return nil, refused
	}
	if set.Service.Name != m.service.Name {
		return nil, &wire.Error{
			Name:    wire.ErrBadUnit,
			Message: fmt.Sprintf("%s: the service was %s and cannot get another name", set.Service.Name, m.service.Name),
		}
	}
	m.config.Files = files
	m.service = set.Service
	m.fds.SetMax(m.service.FileDescriptorStoreMax)
	m.fds.DaemonReload()
	before := m.sockets
	m.sockets = nil
	for _, u := range set.Sockets {
		i := slices.IndexFunc(before, func(s *socketUnit) bool { return s.unit.Name == u.Name })
		if i < 0 {
			m.sockets = append(m.sockets, m.newSocketUnit(u))
			continue
		}
		before[i].configure(u)
		m.sockets = append(m.sockets, before[i])
		before = slices.Delete(before, i, i+1)
	}
	for _, gone := range before {
		gone.setState(socketDead)
	}
	m.machine.reloaded(m.service)
	m.changed()
	return m.loaded(), nil
}

// cleanUp leaves nothing behind.
func (m *manager) cleanUp() {
	if err := killDescendants(); err != nil {
		fmt.Fprintf(os.Stderr, "reexectest: manager: %v\n", err)
	}
	for _, s := range m.sockets {
		for _, p := range s.ports {
			p.close()
		}
	}
	if m.fds != nil {
		_ = m.fds.Close()
	}
	m.closeNotify()
	if m.config.RemoveRoot && filepath.IsAbs(m.config.Root) && m.config.Root != "/" {
		if err := RemoveAll(m.config.Root); err != nil {
			fmt.Fprintf(os.Stderr, "reexectest: manager: remove what was made: %v\n", err)
		}
	}
}

// now is CLOCK_MONOTONIC.
func (m *manager) now() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err) // the kernel has that clock
	}
	return time.Duration(now.Nano())
}

func (m *manager) random() uint64 { return rand.Uint64() }
func (m *manager) pid() int       { return m.self }
func (m *manager) schedule()      { m.loop.idle = m.machine.dispatch }
func (m *manager) store() fdStore { return m.fds }

func (m *manager) setTimer(t timer, after time.Duration) {
	m.stopTimer(t)
	if after == unit.Infinity {
		return
	}
	p := priorityNormal
	if t == watchdogTimer {
		p = priorityWatchdog
	}
	m.timers[t] = m.loop.after(after, p, func() { m.machine.elapsed(t) })
}

func (m *manager) stopTimer(t timer) {
	m.timers[t].stop()
	delete(m.timers, t)
}

// properties are what the machine and the world know of the service.
func (m *manager) properties() wire.Properties {
	p := m.machine.properties()
	p.NFileDescriptorStore = m.fds.len()
	p.FileDescriptorStoreMax = m.service.FileDescriptorStoreMax
	return p
}

func (m *manager) serviceState() (active, sub string) {
	p := m.machine.properties()
	return p.ActiveState, p.SubState
}

// changed tells the test what is new about the service.
func (m *manager) changed() {
	if m.machine == nil {
		return
	}
	p := m.properties()
	if p == m.told {
		return
	}
	m.told = p
	m.event(wire.Event{Kind: wire.PropertiesChanged, Properties: &p})
}

func (m *manager) socketChanged(s *socketUnit) {
	m.event(wire.Event{Kind: wire.SocketChanged, Unit: s.unit.Name, Socket: s.properties()})
}

// reapOne reaps one dead child.
func (m *manager) reapOne() {
	pid := waitable()
	if pid == 0 {
		return
	}
	// Its last words, while its name can still be read.
	m.journal.drain()
	if s := m.spawned[pid]; s != nil {
		// Its status has come to an end with it.
		const reads = 100
		for n := 0; n < reads && m.spawned[pid] == s; n++ {
			m.spawnProgress(s)
		}
	}
	m.born(pid)
	status, err := reap(pid)
	if err != nil {
		m.log(3, "Failed to reap PID %d: %v", pid, err)
		return
	}
	delete(m.known, pid)
	m.event(wire.Event{Kind: wire.ProcessDied, Death: death(pid, status)})
	if !hasChildren() {
		// So nobody else is left either.
		m.lookAround()
	}
	if !slices.ContainsFunc(m.sockets, func(s *socketUnit) bool { return s.exited(pid, status) }) {
		m.machine.exited(pid, status)
	}
	m.loop.after(0, priorityEmpty, m.checkEmpty)
}

// checkEmpty says once when no process is left.
func (m *manager) checkEmpty() {
	if m.filled && !hasChildren() {
		m.filled = false
		m.machine.empty()
	}
}

func death(pid int, status syscall.WaitStatus) *wire.Death {
	d := &wire.Death{PID: pid, Reaped: true}
	const exited, killed, dumped = 1, 2, 3 // CLD_
	switch {
	case status.Exited():
		d.Code, d.Status = exited, status.ExitStatus()
	case status.CoreDump():
		d.Code, d.Status = dumped, int(status.Signal())
	default:
		d.Code, d.Status = killed, int(status.Signal())
	}
	return d
}
