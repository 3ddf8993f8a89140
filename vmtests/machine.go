// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"

	"github.com/holdfast-go/holdfast/vmtests/internal/command"
)

// A Machine is a running system with systemd as PID 1, in a container ([Boot]) or in a virtual machine
// ([BootVM]). Its methods may be called from several goroutines at once. It runs until [Machine.Close];
// should this process die before, the kernel ends the machine.
type Machine struct {
	Version Version
	Name    string // also the host name inside

	lane      lane
	installed installed
	closeOnce sync.Once
	closeErr  error
}

// installed are the programs of ours that a machine has.
type installed struct {
	mu    sync.Mutex
	paths map[string]bool
}

// A lane is how commands reach a machine.
type lane interface {
	// start starts c and returns once it runs.
	start(ctx context.Context, c Command) (remote, error)
	// hostPID translates the PID of a process inside, guestPID that of one seen from this process.
	hostPID(pid int) (int, error)
	guestPID(pid int) (int, error)
	// reboot returns once commands can be started again after trigger made the machine reboot, kernel and
	// all or user space only; reset does the same by the reset button.
	reboot(ctx context.Context, kernel bool, trigger func(context.Context) error) error
	reset(ctx context.Context) error
	// console returns the end of what the machine printed.
	console() string
	close() error
}

// A remote is a command that a lane started.
type remote interface {
	pid() int
	// wait waits for the command and for its output to be copied.
	wait() (command.Status, error)
	// kill ends the command and all that it started.
	kill() error
}

// A Command is a program to run inside a machine, as root in "/" unless it says otherwise.
type Command struct {
	Args []string // program and arguments; looked up in PATH inside
	Env  []string // added to the few variables that commands get, "NAME=value"

	// Stdin may be nil for none. The command sees its end. When the command ends first, Stdin may be
	// read from once more.
	Stdin io.Reader
	// Stdout and Stderr may be nil to discard, and they may be the same. They are written to by one
	// goroutine each until [Process.Wait] returns. What the command left in the background is not heard
	// for longer than a second.
	Stdout, Stderr io.Writer
}

// commandEnv is the environment of commands. Nothing of the host's comes along.
var commandEnv = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root", "LANG=C.UTF-8", "TERM=dumb", "SYSTEMD_COLORS=0", "SYSTEMD_PAGER=cat", "SYSTEMD_LESS=",
}

// An ExitError says that a command inside a machine did not succeed.
type ExitError struct {
	Machine string
	Args    []string
	Code    int    // exit status; -1 when a signal ended it
	Signal  string // name of that signal, or ""
	Stderr  string // the end of what it wrote there, when the caller did not ask for it
}

func (e *ExitError) Error() string {
	text := fmt.Sprintf("%s: %s: exit status %d", e.Machine, strings.Join(e.Args, " "), e.Code)
	if e.Signal != "" {
		text = fmt.Sprintf("%s: %s: ended by %s", e.Machine, strings.Join(e.Args, " "), e.Signal)
	}
	if stderr := strings.TrimSpace(e.Stderr); stderr != "" {
		text += ": " + stderr
	}
	return text
}

// A Process is a command started by [Machine.Start].
type Process struct {
	PID int // inside the machine

	machine *Machine
	args    []string
	remote  remote
	stderr  *tail // nil when the caller asked for stderr
	cancel  func() bool

	once sync.Once
	err  error
}

// Start starts c and returns once it runs. When ctx ends, the command and all that it started are
// killed. The caller must call [Process.Wait].
func (m *Machine) Start(ctx context.Context, c Command) (*Process, error) {
	if len(c.Args) == 0 {
		return nil, fmt.Errorf("%s: start: no command given", m.Name)
	}
	p := &Process{machine: m, args: c.Args}
	if c.Stderr == nil {
		p.stderr = &tail{limit: 4096}
		c.Stderr = p.stderr
	}
	if c.Stdout == nil {
		c.Stdout = io.Discard
	}
	r, err := m.lane.start(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("%s: start %s: %w", m.Name, c.Args[0], err)
	}
	p.remote, p.PID = r, r.pid()
	p.cancel = context.AfterFunc(ctx, func() { r.kill() })
	return p, nil
}

// Wait waits until the command has ended and its output is copied. It returns nil for exit status 0,
// else an [*ExitError]; calling it again returns the same.
func (p *Process) Wait() error {
	p.once.Do(func() {
		status, err := p.remote.wait()
		p.cancel()
		switch {
		case err != nil:
			p.err = fmt.Errorf("%s: wait for %s: %w", p.machine.Name, p.args[0], err)
		case status.Code != 0 || status.Signal != "":
			exit := &ExitError{Machine: p.machine.Name, Args: p.args, Code: status.Code, Signal: status.Signal}
			if p.stderr != nil {
				exit.Stderr = p.stderr.String()
			}
			p.err = exit
		}
	})
	return p.err
}

// Signal sends the signal called name, such as "TERM", to the process.
func (p *Process) Signal(ctx context.Context, name string) error {
	return p.machine.Kill(ctx, p.PID, name)
}

// Kill ends the process and all that it started with SIGKILL.
func (p *Process) Kill() error { return p.remote.kill() }

// Kill sends the signal called name, such as "KILL" or "USR2", to one process inside.
func (m *Machine) Kill(ctx context.Context, pid int, name string) error {
	return m.Run(ctx, "sh", "-c", `kill -s "$1" "$2"`, "sh", name, strconv.Itoa(pid))
}

// Run runs a command and waits for it. Its standard error is part of the error.
func (m *Machine) Run(ctx context.Context, argv ...string) error {
	return m.run(ctx, Command{Args: argv})
}

// Output runs a command and returns its standard output without the newlines at its end, also when it failed.
func (m *Machine) Output(ctx context.Context, argv ...string) (string, error) {
	var out bytes.Buffer
	err := m.run(ctx, Command{Args: argv, Stdout: &out})
	return strings.TrimRight(out.String(), "\n"), err
}

func (m *Machine) run(ctx context.Context, c Command) error {
	p, err := m.Start(ctx, c)
	if err != nil {
		return err
	}
	err = p.Wait()
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w (%v)", context.Cause(ctx), err)
	}
	return err
}

// WriteFile writes a file inside in one step, as a package manager does: a new file replaces the old one
// under its name, and processes that run or read the old one keep it. Missing directories are made.
func (m *Machine) WriteFile(ctx context.Context, name string, content []byte, mode fs.FileMode) error {
	return m.writeFile(ctx, name, bytes.NewReader(content), mode)
}

// Copy copies the host's file from to the name to inside, in the way of [Machine.WriteFile].
func (m *Machine) Copy(ctx context.Context, from, to string, mode fs.FileMode) error {
	file, err := os.Open(from)
	if err != nil {
		return err
	}
	defer file.Close()
	return m.writeFile(ctx, to, file, mode)
}

func (m *Machine) writeFile(ctx context.Context, name string, content io.Reader, mode fs.FileMode) error {
	if !path.IsAbs(name) {
		return fmt.Errorf("%s: write %q: must be an absolute path", m.Name, name)
	}
	const script = `set -e
mkdir -p "$(dirname "$1")"
new="$1.new.$$"
trap 'rm -f "$new"' EXIT
cat >"$new"
chmod "$2" "$new"
mv -fT "$new" "$1"`
	return m.run(ctx, Command{
		Args:  []string{"sh", "-c", script, "sh", name, fmt.Sprintf("%#o", mode.Perm())},
		Stdin: content,
	})
}

// ReadFile returns the content of a file inside.
func (m *Machine) ReadFile(ctx context.Context, name string) ([]byte, error) {
	var out bytes.Buffer
	err := m.run(ctx, Command{Args: []string{"cat", "--", name}, Stdout: &out})
	return out.Bytes(), err
}

// HostPID returns the PID by which this process sees the process pid inside. Virtual machines have a
// kernel of their own: there the error is [errors.ErrUnsupported].
func (m *Machine) HostPID(pid int) (int, error) { return m.lane.hostPID(pid) }

// GuestPID is the reverse of [Machine.HostPID].
func (m *Machine) GuestPID(pid int) (int, error) { return m.lane.guestPID(pid) }

// Console returns the end of what the machine printed on its console.
func (m *Machine) Console() string { return m.lane.console() }

// Close ends the machine at once, without shutting it down, and removes all traces of it on the host.
// Calling it again returns the same.
func (m *Machine) Close() error {
	m.closeOnce.Do(func() {
		if err := m.lane.close(); err != nil {
			m.closeErr = fmt.Errorf("%s: close: %w", m.Name, err)
		}
	})
	return m.closeErr
}
