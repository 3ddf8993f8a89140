// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
	"github.com/holdfast-go/holdfast/units/unitfile"
)

// A passed is a descriptor that a process starts with.
type passed struct {
	fd   int // the manager's
	name string
}

// A spawned is a process between its fork and its program.
type spawned struct {
	pid     int
	command unit.Command
	status  int // descriptor: reports a failure, or ends when the program runs
	source  *source
	text    []byte
}

func (m *manager) spawn(start spawnOrder) (int, error) {
	s := m.service
	opened := new(openFiles)
	defer opened.close()

	// All else that goes wrong is for the process to fail of.
	environmentFiles, err := m.environmentFiles()
	if err != nil {
		return 0, err
	}
	order := bounceOrder{
		Name:          start.command.Path,
		NonBlocking:   s.NonBlocking,
		Dir:           s.WorkingDirectory,
		DirOptional:   s.WorkingDirectoryOptional,
		UMask:         s.UMask,
		Limits:        s.Limits,
		IgnoreSIGPIPE: s.IgnoreSIGPIPE,
		Hold:          m.faults.hold != nil,
		Failure:       m.makeDirectories(),
	}
	if order.Dir == "~" {
		order.Dir = home()
	}
	if order.Dir == "" {
		order.Dir = "/"
	}
	fail := func(status int, err error) {
		if err != nil && order.Failure == nil {
			order.Failure = &bounceFailure{status, strerror(err)}
		}
	}

	var files []passed
	if start.descriptors {
		files = m.socketFiles()
		order.Sockets = len(files)
		files = append(files, m.storedFiles()...)
		more, err := opened.openFiles(s.OpenFiles)
		fail(exitFDs, err)
		files = append(files, more...)
	}
	order.Files = len(files)

	stdio, stream, status, err := m.standardFiles(start, files, opened)
	fail(status, err)
	for i := range stdio {
		// Whatever failed, the process must not have the manager's own.
		if stdio[i] < 0 {
			stdio[i] = opened.open(os.DevNull, unix.O_RDWR)
		}
	}

	order.Env = m.environment(start, files, stream, environmentFiles)
	order.Args = start.command.Args
	if !start.command.NoEnv {
		order.Args = unitfile.ExpandArguments(start.command.Args, order.Env)
	}
	order.Path = start.command.Path
	file, name, err := m.program(start.command.Path, m.searchPath())
	if err != nil {
		m.log(3, "Failed to locate executable %s: %s", start.command.Path, strerror(err))
	} else {
		order.Path = file
		if !start.command.ArgvZero && len(order.Args) > 0 {
			order.Args = slices.Concat([]string{name}, order.Args[1:])
		}
	}
	fail(exitExec, err)

	pid, err := m.fork(start, order, stdio, files, opened)
	if err != nil {
		stream.close()
		return 0, err
	}
	m.started(pid, stream, order)
	return pid, nil
}

// spawnForSocket starts a command of a socket unit.
func (m *manager) spawnForSocket(s *socketUnit, command unit.Command) (int, error) {
	opened := new(openFiles)
	defer opened.close()
	stream, end, err := m.journal.open(m.loop, s.unit.Name, filepath.Base(command.Path), m.service.SyslogLevel, true)
	if err != nil {
		return 0, err
	}
	opened.add(end)
	null, err := opened.openMode(os.DevNull, unix.O_RDONLY)
	if err != nil {
		stream.close()
		return 0, err
	}
	order := bounceOrder{
		Name: command.Path, Path: command.Path, Args: command.Args,
		Env: []string{"PATH=" + m.defaultPath(), "LANG=C.UTF-8", "JOURNAL_STREAM=" + stream.id},
		Dir: "/", UMask: 0o022, IgnoreSIGPIPE: true, Hold: m.faults.hold != nil,
	}
	var files []passed
	if s.unit.PassFileDescriptorsToExec && s.state != socketStartPre {
		for _, p := range s.ports {
			files = append(files, passed{fd: p.fd, name: s.unit.FileDescriptorName})
		}
		order.Files, order.Sockets = len(files), len(files)
		order.Env = append(order.Env, listenVariables(files, m.config.Systemd)...)
	}
	if !command.NoEnv {
		order.Args = unitfile.ExpandArguments(command.Args, order.Env)
	}
	if order.Path, _, err = m.program(command.Path, strings.Split(m.defaultPath(), ":")); err != nil {
		order.Failure = &bounceFailure{exitExec, strerror(err)}
	}
	pid, err := m.fork(spawnOrder{command: command}, order, [3]int{null, end, end}, files, opened)
	if err != nil {
		stream.close()
		return 0, err
	}
	m.started(pid, stream, order)
	return pid, nil
}

// started takes note of a process that was just forked.
func (m *manager) started(pid int, stream *stream, order bounceOrder) {
	stream.start(pid)
	if p, err := readProcess(pid); err == nil {
		m.seen(p, true)
	}
	if order.Hold {
		m.holdFor(pid)
	}
}

// fork starts the process that becomes the program.
func (m *manager) fork(start spawnOrder, order bounceOrder, stdio [3]int, files []passed, opened *openFiles) (int, error) {
	text, err := json.Marshal(order)
	if err != nil {
		return 0, fmt.Errorf("spawn %s: %w", order.Name, err)
	}
	orders, err := unix.MemfdCreate("orders", unix.MFD_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("spawn %s: %w", order.Name, os.NewSyscallError("memfd_create", err))
	}
	opened.add(orders)
	if _, err := unix.Pwrite(orders, text, 0); err != nil {
		return 0, fmt.Errorf("spawn %s: %w", order.Name, os.NewSyscallError("pwrite", err))
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return 0, fmt.Errorf("spawn %s: %w", order.Name, os.NewSyscallError("pipe2", err))
	}
	opened.add(pipe[1])
	passedOn := []uintptr{uintptr(stdio[0]), uintptr(stdio[1]), uintptr(stdio[2])}
	for _, f := range files {
		passedOn = append(passedOn, uintptr(f.fd))
	}
	passedOn = append(passedOn, uintptr(orders), uintptr(pipe[1]))
	argv := []string{trampolineArgv0, trampolinePrefix + strconv.Itoa(firstPassed+len(files))}
	pid, err := syscall.ForkExec("/proc/self/exe", argv, &syscall.ProcAttr{
		// The program's own environment comes with the order: variables such as
		// GODEBUG are not for the trampoline.
		Env:   []string{"GORACE=" + noRaceSleep},
		Files: passedOn,
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, errors.Join(fmt.Errorf("spawn %s: %w", order.Name, os.NewSyscallError("fork", err)), unix.Close(pipe[0]))
	}
	s := &spawned{pid: pid, command: start.command, status: pipe[0]}
	s.source, err = m.loop.watch(pipe[0], unix.EPOLLIN, priorityExec, func(uint32) { m.spawnProgress(s) })
	if err != nil {
		// The process is there all the same; only its progress is not seen.
		m.log(3, "Failed to watch the start of PID %d: %v", pid, err)
		_ = unix.Close(pipe[0])
		return pid, nil
	}
	m.spawned[pid] = s
	return pid, nil
}

// spawnProgress reads what the trampoline says.
func (m *manager) spawnProgress(s *spawned) {
	buffer := make([]byte, 4096)
	n, err := unix.Read(s.status, buffer)
	if err == unix.EAGAIN || err == unix.EINTR {
		return
	}
	if n > 0 {
		s.text = append(s.text, buffer[:n]...)
		return
	}
	s.source.remove()
	_ = unix.Close(s.status)
	delete(m.spawned, s.pid)
	text, hot := strings.CutPrefix(string(s.text), bounceHot)
	if hot && text == "" {
		m.machine.execed(s.pid)
		return
	}
	var failure bounceFailure
	if json.Unmarshal([]byte(text), &failure) != nil {
		return // killed before it came so far
	}
	switch failure.Status {
	case exitChdir:
		m.log(3, "Changing to the requested working directory failed: %s", failure.Message)
	case exitExec:
		m.log(3, "Failed to execute %s: %s", s.command.Path, failure.Message)
	default:
		m.log(3, "Failed to prepare the start of %s: %s", s.command.Path, failure.Message)
	}
	m.log(3, "Failed at step %s spawning %s: %s", exitStepNames[failure.Status], s.command.Path, failure.Message)
}

// searchPath is where bare names of programs are looked for.
func (m *manager) searchPath() []string {
	if len(m.service.ExecSearchPath) > 0 {
		return m.service.ExecSearchPath
	}
	return strings.Split(m.defaultPath(), ":")
}

// defaultPath is what Debian's systemd of that version has.
func (m *manager) defaultPath() string {
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
	if m.config.Systemd < 256 {
		path += ":/sbin:/bin"
	}
	return path
}

// environment is what systemd gives a process, in systemd's order of
// precedence.
func (m *manager) environment(start spawnOrder, files []passed, stream *stream, fromFiles []string) []string {
	s := m.service
	version := m.config.Systemd
	env := []string{"PATH=" + m.defaultPath(), "LANG=C.UTF-8"}
	set := func(assignments ...string) { env = unitfile.SetEnvironment(env, assignments...) }

	access := m.machine.properties().NotifyAccess
	control := start.kind != execStart
	if access == "all" || access == "exec" || access == "main" && !control {
		set("NOTIFY_SOCKET=" + m.notify.address)
		if version >= 254 && s.FileDescriptorStoreMax > 0 {
			set("FDSTORE=" + strconv.Itoa(s.FileDescriptorStoreMax))
		}
	}
	set(start.environment...)
	for _, assignment := range start.environment {
		text, ok := strings.CutPrefix(assignment, "MAINPID=")
		if pid, err := strconv.Atoi(text); ok && err == nil && version >= 258 {
			if id, ok := pidfdID(pid); ok {
				set("MAINPIDFDID=" + strconv.FormatUint(id, 10))
			}
		}
	}
	if s.PIDFile != "" {
		set("PIDFILE=" + s.PIDFile)
	}
	set(listenVariables(files, version)...)
	if start.watchdog > 0 {
		set("WATCHDOG_PID="+ownPID, "WATCHDOG_USEC="+strconv.FormatInt(start.watchdog.Microseconds(), 10))
	}
	if u, err := user.Current(); err == nil && version >= 256 {
		set("USER=" + u.Username)
	}
	if stream != nil {
		set("JOURNAL_STREAM=" + stream.id)
	}
	for _, k := range directoryKinds {
		if paths := m.directories(k); len(paths) > 0 {
			set(k.variable + "=" + strings.Join(paths, ":"))
		}
	}
	if version >= 248 {
		set("SYSTEMD_EXEC_PID=" + ownPID)
	}
	if len(s.ExecSearchPath) > 0 {
		set("PATH=" + strings.Join(s.ExecSearchPath, ":"))
	}
	for _, name := range s.PassEnvironment {
		for _, assignment := range m.config.ManagerEnvironment {
			if strings.HasPrefix(assignment, name+"=") {
				set(assignment)
			}
		}
	}
	set(s.Environment...)
	set(fromFiles...)
	env = slices.DeleteFunc(env, func(assignment string) bool {
		name, _, _ := strings.Cut(assignment, "=")
		return slices.Contains(s.UnsetEnvironment, name) || slices.Contains(s.UnsetEnvironment, assignment)
	})
	return unitfile.SetEnvironment(env, m.config.Environment...)
}

// listenVariables tell a process of the descriptors that it is passed.
func listenVariables(files []passed, version int) []string {
	if len(files) == 0 {
		return nil
	}
	var names []string
	for _, f := range files {
		names = append(names, f.name)
	}
	env := []string{"LISTEN_PID=" + ownPID, "LISTEN_FDS=" + strconv.Itoa(len(files)), "LISTEN_FDNAMES=" + strings.Join(names, ":")}
	if _, ok := pidfdID(os.Getpid()); ok && version >= 259 {
		env = append(env, "LISTEN_PIDFDID="+ownPIDFDID)
	}
	return env
}

// environmentFiles reads EnvironmentFile=.
func (m *manager) environmentFiles() ([]string, error) {
	var env []string
	for _, file := range m.service.EnvironmentFiles {
		paths, err := filepath.Glob(file.Path)
		if err == nil && len(paths) == 0 {
			err = &fs.PathError{Op: "open", Path: file.Path, Err: syscall.ENOENT}
		}
		for _, path := range paths {
			var text []byte
			var assignments []string
			if text, err = os.ReadFile(path); err != nil {
				break
			}
			if assignments, err = unitfile.ParseEnvironmentFile(string(text), m.config.Systemd); err != nil {
				err = fmt.Errorf("%s: %w", path, err)
				break
			}
			env = append(env, assignments...)
		}
		if err != nil && !file.Optional {
			m.log(4, "Failed to load environment files: %s", strerror(err))
			return nil, fmt.Errorf("EnvironmentFile=%s: %w", file.Path, err)
		}
	}
	return env, nil
}

// standardFiles opens standard input, output and error; stream is where they
// lead if that is the journal. status is that of a failed process, with the error.
func (m *manager) standardFiles(start spawnOrder, files []passed, opened *openFiles) (stdio [3]int, journal *stream, status int, err error) {
	s := m.service
	stdio = [3]int{-1, -1, -1}
	var failures [3]error
	stdio[0], failures[0] = opened.standardInput(s, files)
	toJournal := func() int {
		if journal == nil {
			var end int
			identifier := s.SyslogIdentifier
			if identifier == "" {
				identifier = filepath.Base(start.command.Path)
			}
			journal, end, err = m.journal.open(m.loop, s.Name, identifier, s.SyslogLevel, s.SyslogLevelPrefix)
			if err != nil {
				return -1
			}
			opened.add(end)
			return end
		}
		return stdio[1]
	}
	output := s.StandardOutput
	if output == "inherit" && (s.StandardInput == "" || s.StandardInput == "null" || s.StandardInput == "data" ||
		strings.HasPrefix(s.StandardInput, "file:")) {
		output = "journal" // as DefaultStandardOutput= has it
	}
	stdio[1], failures[1] = opened.standardOutput(output, stdio[0], files, toJournal)
	if failures[1] == nil {
		failures[1] = err
	}
	stdio[2] = stdio[1]
	if s.StandardError != "inherit" && s.StandardError != "" && s.StandardError != output {
		stdio[2], failures[2] = opened.standardOutput(s.StandardError, stdio[1], files, toJournal)
	}
	for i, status := range []int{exitStdin, exitStdout, exitStderr} {
		if failures[i] != nil {
			return stdio, journal, status, failures[i]
		}
	}
	return stdio, journal, 0, nil
}

// openFiles are descriptors that the manager needs only until the fork.
type openFiles struct{ fds []int }

func (o *openFiles) add(fd int) { o.fds = append(o.fds, fd) }

func (o *openFiles) close() {
	for _, fd := range o.fds {
		_ = unix.Close(fd)
	}
}

// open returns -1 if that is not possible.
func (o *openFiles) open(path string, flags int) int {
	fd, err := o.openMode(path, flags)
	if err != nil {
		return -1
	}
	return fd
}

func (o *openFiles) openMode(path string, flags int) (int, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOCTTY, 0o666)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	o.add(fd)
	return fd, nil
}

// openFiles opens OpenFile=.
func (o *openFiles) openFiles(files []unit.OpenFile) ([]passed, error) {
	var all []passed
	for _, f := range files {
		flags := unix.O_RDWR
		if f.ReadOnly {
			flags = unix.O_RDONLY
		}
		if f.Append {
			flags |= unix.O_APPEND
		}
		if f.Truncate {
			flags |= unix.O_TRUNC
		}
		fd, err := o.openFile(f.Path, flags)
		switch {
		case err == nil:
			all = append(all, passed{fd: fd, name: f.Name})
		case !f.Graceful:
			return all, fmt.Errorf("OpenFile=%s: %w", f.Path, err)
		}
	}
	return all, nil
}

// openFile opens a file, or connects to a socket.
func (o *openFiles) openFile(path string, flags int) (int, error) {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Type() != fs.ModeSocket {
		// A FIFO must not hold up the manager, and what is passed on blocks.
		fd, err := o.openMode(path, flags|unix.O_NONBLOCK)
		if err == nil {
			err = os.NewSyscallError("fcntl", unix.SetNonblock(fd, false))
		}
		return fd, err
	}
	for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET} {
		fd, socketErr := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if socketErr != nil {
			return -1, os.NewSyscallError("socket", socketErr)
		}
		o.add(fd)
		if err = unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != unix.EPROTOTYPE {
			return fd, os.NewSyscallError("connect", err)
		}
	}
	return -1, os.NewSyscallError("connect", err)
}

func (o *openFiles) standardInput(s *unit.Service, files []passed) (int, error) {
	kind, value, _ := strings.Cut(s.StandardInput, ":")
	switch kind {
	case "", "null":
		return o.openMode(os.DevNull, unix.O_RDONLY)
	case "file":
		return o.openMode(value, unix.O_RDONLY)
	case "data":
		fd, err := unix.MemfdCreate("stdin", unix.MFD_CLOEXEC)
		if err != nil {
			return -1, os.NewSyscallError("memfd_create", err)
		}
		o.add(fd)
		// The offset stays at the beginning.
		_, err = unix.Pwrite(fd, s.StandardInputData, 0)
		return fd, os.NewSyscallError("pwrite", err)
	case "fd":
		return passedFile(files, value, "stdin")
	}
	return -1, fmt.Errorf("StandardInput=%s: the stand-in knows null, file, data and fd", s.StandardInput)
}

// standardOutput opens what an option names; inherited is what "inherit" means.
func (o *openFiles) standardOutput(value string, inherited int, files []passed, journal func() int) (int, error) {
	kind, path, _ := strings.Cut(value, ":")
	switch kind {
	case "", "journal", "journal+console", "kmsg", "kmsg+console", "syslog", "syslog+console":
		return journal(), nil
	case "inherit":
		return inherited, nil
	case "null":
		return o.openMode(os.DevNull, unix.O_WRONLY)
	case "file":
		return o.openMode(path, unix.O_WRONLY|unix.O_CREAT)
	case "append":
		return o.openMode(path, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND)
	case "truncate":
		return o.openMode(path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC)
	case "fd":
		return passedFile(files, path, "stdout")
	}
	return -1, fmt.Errorf("StandardOutput=%s: the stand-in knows inherit, null, journal, file, append, truncate and fd", value)
}

func passedFile(files []passed, name, otherwise string) (int, error) {
	if name == "" {
		name = otherwise
	}
	for _, f := range files {
		if f.name == name {
			return f.fd, nil
		}
	}
	return -1, fmt.Errorf("no descriptor %q is passed", name)
}

func home() string {
	if u, err := user.Current(); err == nil {
		return u.HomeDir
	}
	return "/"
}
