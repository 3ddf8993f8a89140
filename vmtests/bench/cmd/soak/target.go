// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/holdfast-go/holdfast/reexec/reexectest"
	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/load"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/mixed"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/prepare"
	"github.com/holdfast-go/holdfast/vmtests/internal/procs"
)

// A target is the service under a service manager.
type target interface {
	// address is where clients find a socket.
	address(s mixed.Socket) string
	// path is where this process finds a file of the service.
	path(name string) string
	// install puts a file in the place of the service's binary.
	install(ctx context.Context, file string) error
	// reload is "systemctl reload".
	reload(ctx context.Context) error
	startLoad(ctx context.Context) (*load.Process, error)
	// processes are those of all generations.
	processes() ([]int, error)
	restarts(ctx context.Context) (int, error)
	// journal is what all generations said.
	journal(ctx context.Context) (string, error)
	close() error
}

const (
	binaryPath   = "/usr/bin/mixed"
	holdfastPath = "/usr/bin/holdfast"
	serviceName  = mixed.Name + ".service"
)

var sockets = []mixed.Socket{mixed.HTTP, mixed.HTTPS, mixed.Lines, mixed.UDP, mixed.UnixHTTP, mixed.Datagrams, mixed.Packets}

// renderUnits returns the units as "holdfast render" writes them.
func (s *soak) renderUnits(cert, key string) ([]units.File, error) {
	options := units.Options{
		Name: mixed.Name, Exec: binaryPath, Systemd: s.systemd, Probation: s.probation, DrainTimeout: s.drain,
		Args: []string{"-cert=" + cert, "-key=" + key, "-probation=" + s.probation.String(), "-drain=" + s.drain.String()},
	}
	for _, one := range sockets {
		socket := units.Socket{Name: one.Name, Address: one.Address}
		switch one.Network {
		case "udp", "unixgram":
			socket.Type = units.Datagram
		case "unixpacket":
			socket.Type = units.SequentialPacket
		}
		options.Sockets = append(options.Sockets, socket)
	}
	if s.on != prepare.InContainer {
		// The stand-in's paths are not those that a launcher of its own would find.
		options.Launcher = units.LauncherOff
	}
	return units.Render(options)
}

func (s *soak) startTarget(ctx context.Context) (target, error) {
	if s.on == prepare.InContainer {
		return s.startContainer(ctx)
	}
	return s.startStandIn(ctx)
}

// A container is real systemd, with a network of its own.
type container struct {
	machine *vmtests.Machine
	root    string // as this process sees it
	loader  string
}

func (s *soak) startContainer(ctx context.Context) (_ *container, err error) {
	files, err := s.renderUnits("/etc/mixed/cert.pem", "/etc/mixed/key.pem")
	if err != nil {
		return nil, err
	}
	m, err := vmtests.Boot(ctx, vmtests.Version(s.systemd))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	leader, err := m.HostPID(1)
	if err != nil {
		return nil, err
	}
	c := &container{machine: m, root: fmt.Sprintf("/proc/%d/root", leader), loader: "/run/soak/load"}
	for to, from := range map[string]string{
		binaryPath: s.file("mixed"), holdfastPath: s.file("holdfast"), c.loader: s.file("load"),
		"/etc/mixed/cert.pem": s.file("cert.pem"), "/etc/mixed/key.pem": s.file("key.pem"),
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
		said, _ := c.journal(ctx)
		return nil, fmt.Errorf("%w\n%s", err, prepare.LastLines(said, 15))
	}
	return c, nil
}

func (c *container) address(s mixed.Socket) string { return s.Address }

// path needs no network namespace: pathnames of Unix sockets are looked up as those of files.
func (c *container) path(name string) string { return c.root + name }

func (c *container) install(ctx context.Context, file string) error {
	return c.machine.Copy(ctx, file, binaryPath, 0o755)
}

func (c *container) reload(ctx context.Context) error {
	_, err := c.machine.Systemctl(ctx, "reload", serviceName)
	return err
}

func (c *container) startLoad(ctx context.Context) (*load.Process, error) {
	stdin, requests := io.Pipe()
	answers, stdout := io.Pipe()
	// It ends with its input, not with ctx: what it has counted is wanted then.
	p, err := c.machine.Start(context.WithoutCancel(ctx), vmtests.Command{Args: []string{c.loader}, Stdin: stdin, Stdout: stdout})
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
	return load.Piped(requests, answers, func() error { return <-ended }), nil
}

func (c *container) processes() ([]int, error) {
	return procs.InGroup("/holdfast-vmtests-"+c.machine.Name+"/", "/"+serviceName)
}

func (c *container) restarts(ctx context.Context) (int, error) {
	text, err := c.machine.Prop(ctx, serviceName, "NRestarts")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

func (c *container) journal(ctx context.Context) (string, error) {
	return c.machine.Journal(ctx, "--unit="+serviceName)
}

func (c *container) close() error { return c.machine.Close() }

// A standIn is package reexectest, which does what systemd does, without root.
type standIn struct {
	unit   *reexectest.Unit
	loader string
}

func (s *soak) startStandIn(ctx context.Context) (target, error) {
	files, err := s.renderUnits(s.file("cert.pem"), s.file("key.pem"))
	if err != nil {
		return nil, err
	}
	options := reexectest.Options{
		Systemd: s.systemd, Files: make(map[string]string),
		Programs: map[string]reexectest.Program{
			binaryPath: reexectest.File(s.file("mixed")), holdfastPath: reexectest.File(s.file("holdfast")),
		},
	}
	for _, f := range files {
		options.Files[f.Name] = f.Content
	}
	unit, err := reexectest.New(ctx, options)
	if err != nil {
		return nil, err
	}
	t := &standIn{unit: unit, loader: s.file("load")}
	if err := unit.Start(ctx); err != nil {
		said, _ := t.journal(ctx)
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, prepare.LastLines(said, 15)), unit.Close())
	}
	return t, nil
}

func (t *standIn) address(s mixed.Socket) string { return t.unit.Addr(s.Name) }

func (t *standIn) path(name string) string { return t.unit.Path(name) }

func (t *standIn) install(_ context.Context, file string) error {
	return t.unit.Install(binaryPath, reexectest.File(file))
}

func (t *standIn) reload(ctx context.Context) error { return t.unit.Reload(ctx) }

func (t *standIn) startLoad(context.Context) (*load.Process, error) {
	return load.StartProcess(exec.Command(t.loader))
}

func (t *standIn) processes() ([]int, error) {
	var pids []int
	for _, p := range t.unit.Processes() {
		pids = append(pids, p.PID)
	}
	return pids, nil
}

func (t *standIn) restarts(context.Context) (int, error) { return t.unit.Show().NRestarts, nil }

func (t *standIn) journal(context.Context) (string, error) {
	var text strings.Builder
	for _, entry := range t.unit.Journal() {
		fmt.Fprintln(&text, entry)
	}
	return text.String(), nil
}

func (t *standIn) close() error { return t.unit.Close() }

// file is one that was built or made for this run.
func (s *soak) file(name string) string { return filepath.Join(s.dir, name) }

// writeBinary makes a version of the service.
func (s *soak) writeBinary(name string, content []byte) (string, error) {
	file := s.file(name)
	return file, os.WriteFile(file, content, 0o755)
}
