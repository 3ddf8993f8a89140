// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/reexectest"
	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/load"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/prepare"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/toy"
	"github.com/holdfast-go/holdfast/vmtests/internal/procs"
)

// toyAddress is the service's where it has a network of its own. The stand-in replaces the port by a free one.
const toyAddress = "127.0.0.1:8080"

// morePorts is before those of further sockets. They lie below those from which clients connect
// (ip_local_port_range).
const morePorts = 20000

// A manager is systemd or what stands in for it.
type manager interface {
	service
	// mainPID returns the PID of the main process as this process knows it.
	mainPID(ctx context.Context) (int, error)
	restart(ctx context.Context) error
	// controlSocket is where this process reaches the service's.
	controlSocket(ctx context.Context) (string, error)
}

// A bySignal is a service under systemd that is upgraded by a signal to its main process.
type bySignal struct {
	manager
	signal syscall.Signal
}

func (s bySignal) upgrade(ctx context.Context, begin func()) error {
	pid, err := s.mainPID(ctx)
	if err != nil {
		return err
	}
	begin()
	return unix.Kill(pid, s.signal)
}

// phases asks the new version how long the phases of its upgrade took.
func (s bySignal) phases(ctx context.Context) (map[string]time.Duration, error) {
	socket, err := s.controlSocket(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	status, err := control.NewClient(socket).Status(ctx)
	if err != nil {
		return nil, err
	}
	if status.Last == nil || status.Last.Outcome != control.Upgraded {
		return nil, fmt.Errorf("the last verdict is %+v, want that of an upgrade", status.Last)
	}
	took := make(map[string]time.Duration)
	for _, phase := range status.Last.Phases {
		took[phase.Name] = time.Duration(phase.Seconds * float64(time.Second))
	}
	return took, nil
}

// A byRestart is upgraded by "systemctl restart".
type byRestart struct{ manager }

func (s byRestart) upgrade(ctx context.Context, begin func()) error {
	begin()
	return s.restart(ctx)
}

func startHoldfast(ctx context.Context, b *bench, p peer, protocol string) (service, error) {
	p.args = append(p.args, "-probation="+b.probation.String())
	m, err := startUnits(ctx, b, p, protocol, func(path string, args []string, address string) ([]units.File, error) {
		sockets := []units.Socket{{Name: "toy", Address: address}}
		if protocol == toy.UDP {
			sockets[0].Type = units.Datagram
		}
		for i := 1; i < p.listeners; i++ {
			sockets = append(sockets, units.Socket{Name: "toy", Address: fmt.Sprintf("127.0.0.1:%d", morePorts+i)})
		}
		return units.Render(units.Options{
			Name: "toy", Exec: path, Args: args, Systemd: b.systemd, Sockets: sockets,
			Probation: b.probation, DrainTimeout: b.drain,
		})
	})
	return bySignal{m, syscall.SIGUSR2}, err
}

func startRestart(ctx context.Context, b *bench, p peer, protocol string) (service, error) {
	m, err := startUnits(ctx, b, p, protocol, func(path string, args []string, address string) ([]units.File, error) {
		listen := "ListenStream"
		if protocol == toy.UDP {
			listen = "ListenDatagram"
		}
		return []units.File{
			{Name: "toy.socket", Content: fmt.Sprintf("[Socket]\n%s=%s\nFileDescriptorName=toy\nBacklog=4096\n", listen, address)},
			{Name: "toy.service", Content: fmt.Sprintf(`[Unit]
Requires=toy.socket
After=toy.socket
# The benchmark restarts it more often than people do.
StartLimitIntervalSec=0
[Service]
Type=notify
ExecStart=%s %s
`, path, strings.Join(args, " "))},
		}, nil
	})
	return byRestart{m}, err
}

// startUnits starts toy.socket and toy.service, which render makes.
func startUnits(ctx context.Context, b *bench, p peer, protocol string,
	render func(path string, args []string, address string) ([]units.File, error),
) (manager, error) {
	const path = "/usr/bin/toy"
	if b.on == prepare.InContainer {
		files, err := render(path, b.toyArgs(p, protocol, toyAddress, "/etc/toy/cert.pem", "/etc/toy/key.pem"), toyAddress)
		if err != nil {
			return nil, err
		}
		return startContainer(ctx, b, p, path, files)
	}
	files, err := render(path, b.toyArgs(p, protocol, toyAddress, b.certFile(), b.keyFile()), toyAddress)
	if err != nil {
		return nil, err
	}
	return startStandIn(ctx, b, p, path, files)
}

// A container is systemd in a container of package vmtests.
type container struct {
	bench   *bench
	peer    peer
	path    string
	machine *vmtests.Machine
	unit    string
}

func startContainer(ctx context.Context, b *bench, p peer, path string, files []units.File) (_ *container, err error) {
	m, err := vmtests.Boot(ctx, vmtests.Version(b.systemd))
	if err != nil {
		return nil, err
	}
	c := &container{bench: b, peer: p, path: path, machine: m, unit: "toy.service"}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	for to, from := range map[string]string{
		path: b.file(p.program, 1), "/usr/bin/holdfast": b.holdfastCommand(), "/run/bench/load": b.file("load", 1),
		"/etc/toy/cert.pem": b.certFile(), "/etc/toy/key.pem": b.keyFile(),
	} {
		if err := m.Copy(ctx, from, to, 0o755); err != nil {
			return nil, err
		}
	}
	args := []string{"start"}
	for _, f := range files {
		if err := m.WriteFile(ctx, "/etc/systemd/system/"+f.Name, []byte(f.Content), 0o644); err != nil {
			return nil, err
		}
		args = append(args, f.Name)
	}
	if _, err := m.Systemctl(ctx, "daemon-reload"); err != nil {
		return nil, err
	}
	if _, err := m.Systemctl(ctx, args...); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, c.output(ctx))
	}
	return c, nil
}

func (c *container) address() string { return toyAddress }

func (c *container) install(ctx context.Context, version int) error {
	return c.machine.Copy(ctx, c.bench.file(c.peer.program, version), c.path, 0o755)
}

func (c *container) upgrade(context.Context, func()) error { return errors.ErrUnsupported }

func (c *container) mainPID(ctx context.Context) (int, error) {
	pid, err := c.machine.MainPID(ctx, c.unit)
	if err != nil {
		return 0, err
	}
	return c.machine.HostPID(pid)
}

func (c *container) controlSocket(ctx context.Context) (string, error) {
	pid, err := c.mainPID(ctx)
	return fmt.Sprintf("/proc/%d/root/run/toy/%s", pid, control.SocketName), err
}

func (c *container) restart(ctx context.Context) error {
	_, err := c.machine.Systemctl(ctx, "restart", c.unit)
	return err
}

func (c *container) processes() ([]int, error) {
	return procs.InGroup("/holdfast-vmtests-"+c.machine.Name+"/", "/"+c.unit)
}

func (c *container) startLoad(ctx context.Context) (*loader, error) {
	stdin, requests := io.Pipe()
	answers, stdout := io.Pipe()
	p, err := c.machine.Start(ctx, vmtests.Command{Args: []string{"/run/bench/load"}, Stdin: stdin, Stdout: stdout})
	if err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() {
		err := p.Wait()
		stdin.CloseWithError(errors.New("the load generator has ended"))
		stdout.Close()
		ended <- err
	}()
	return &loader{load.Piped(requests, answers, func() error { return <-ended })}, nil
}

func (c *container) output(ctx context.Context) string {
	text, err := c.machine.Output(ctx, "journalctl", "--unit="+c.unit, "--lines=15", "--no-pager", "--output=short-monotonic", "--no-hostname")
	if err != nil {
		return err.Error()
	}
	return text
}

func (c *container) close() error { return c.machine.Close() }

// A standIn is package reexectest, which does what systemd does, without root.
type standIn struct {
	bench *bench
	peer  peer
	path  string
	unit  *reexectest.Unit
}

func startStandIn(ctx context.Context, b *bench, p peer, path string, files []units.File) (*standIn, error) {
	options := reexectest.Options{
		Systemd: b.systemd, Files: make(map[string]string),
		Programs: map[string]reexectest.Program{path: reexectest.File(b.file(p.program, 1))},
	}
	for _, f := range files {
		options.Files[f.Name] = f.Content
	}
	unit, err := reexectest.New(ctx, options)
	if err != nil {
		return nil, err
	}
	s := &standIn{bench: b, peer: p, path: path, unit: unit}
	if err := unit.Start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, s.output(ctx)), unit.Close())
	}
	return s, nil
}

func (s *standIn) address() string { return s.unit.Addr("toy") }

func (s *standIn) install(_ context.Context, version int) error {
	return s.unit.Install(s.path, reexectest.File(s.bench.file(s.peer.program, version)))
}

func (s *standIn) upgrade(context.Context, func()) error { return errors.ErrUnsupported }

func (s *standIn) mainPID(context.Context) (int, error) {
	if pid := s.unit.MainPID(); pid != 0 {
		return pid, nil
	}
	return 0, errors.New("the service has no main process")
}

func (s *standIn) controlSocket(context.Context) (string, error) {
	return s.unit.Path("run/toy/" + control.SocketName), nil
}

func (s *standIn) restart(ctx context.Context) error { return s.unit.Restart(ctx) }

func (s *standIn) processes() ([]int, error) {
	var pids []int
	for _, p := range s.unit.Processes() {
		pids = append(pids, p.PID)
	}
	return pids, nil
}

func (s *standIn) startLoad(context.Context) (*loader, error) {
	return startLoader(exec.Command(s.bench.file("load", 1)))
}

func (s *standIn) output(context.Context) string {
	var text strings.Builder
	for _, entry := range s.unit.Journal() {
		fmt.Fprintln(&text, entry)
	}
	return prepare.LastLines(text.String(), 15)
}

func (s *standIn) close() error { return s.unit.Close() }
