// SPDX-License-Identifier: Apache-2.0

package campaign

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec"
	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/internal/mark"
)

// The service, as it is installed.
const (
	name       = "victim"
	unitName   = name + ".service"
	socketName = name + ".socket"
	binaryPath = "/opt/victim/bin/victim"
	ownUnix    = "/var/lib/private/victim/own.sock" // what /var/lib/victim is for DynamicUser=
)

// Programs are what a campaign builds once.
type Programs struct {
	dir      string
	victim   []byte
	holdfast string
}

// Build compiles the programs. The caller closes them.
func Build(ctx context.Context) (_ *Programs, err error) {
	p := &Programs{}
	if p.dir, err = os.MkdirTemp("", "holdfast-campaign-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	const module = "github.com/holdfast-go/holdfast/"
	if p.holdfast, err = vmtests.Build(ctx, p.dir, module+"units/cmd/holdfast", "-ldflags=-s -w"); err != nil {
		return nil, err
	}
	file, err := vmtests.Build(ctx, p.dir, module+"vmtests/cmd/victim", "-ldflags=-s -w")
	if err != nil {
		return nil, err
	}
	p.victim, err = os.ReadFile(file)
	return p, err
}

// Close removes what was built.
func (p *Programs) Close() error { return os.RemoveAll(p.dir) }

// timing are the options of the service that have to do with time.
type timing struct{ check, start, probation, beat, drain time.Duration }

func (t timing) args() []string {
	return []string{
		"-check-timeout=" + t.check.String(), "-start-timeout=" + t.start.String(), "-probation=" + t.probation.String(),
		"-beat=" + t.beat.String(), "-drain=" + t.drain.String(), "-log=" + logSocket,
	}
}

// A System is one version of systemd in a container, with the service.
type System struct {
	*vmtests.Machine
	mode     reexec.Mode
	programs *Programs

	leader  int    // PID 1 of the container, as seen from here
	root    string // its root directory
	group   string // the control group of the unit
	network *network
	journal *journal
	control *control.Client
	version int // of the service; each install counts on
}

// start boots a machine and starts the service there. The caller closes the system.
func start(ctx context.Context, v vmtests.Version, mode reexec.Mode, programs *Programs, t timing, serviceLines ...string) (_ *System, err error) {
	m, err := vmtests.Boot(ctx, v)
	if err != nil {
		return nil, err
	}
	s := &System{Machine: m, mode: mode, programs: programs}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.leader, err = m.HostPID(1); err != nil {
		return nil, err
	}
	s.root = fmt.Sprintf("/proc/%d/root", s.leader)
	s.group = s.root + "/sys/fs/cgroup/system.slice/" + unitName
	if s.network, err = enterNetwork(s.leader); err != nil {
		return nil, err
	}
	s.control = control.NewClient(s.root + "/run/" + name + "/" + control.SocketName)
	if s.journal, err = openJournal(s.path(logSocket)); err != nil {
		return nil, err
	}
	if err := s.setUp(ctx, t, serviceLines); err != nil {
		return nil, err
	}
	if _, err := s.Systemctl(ctx, "start", socketName, unitName); err != nil {
		said, _ := s.Journal(ctx, "--unit="+unitName)
		return nil, fmt.Errorf("%w\n%s", err, said)
	}
	return s, nil
}

// setUp installs the programs and the units.
func (s *System) setUp(ctx context.Context, t timing, serviceLines []string) error {
	options := units.Options{
		Name: name, Exec: binaryPath, Args: append(t.args(), "-mode="+strings.ReplaceAll(s.mode.String(), " ", "")), Systemd: int(s.Version),
		Sockets:        []units.Socket{{Name: "http", Address: "127.0.0.1:8080"}},
		StateDirectory: name,
		CheckTimeout:   t.check, StartTimeout: t.start, Probation: t.probation, DrainTimeout: t.drain,
		ServiceLines: append([]string{
			// A crash every half second is the campaign's doing, and the delay that grows with each is systemd's.
			"RestartSec=20ms",
			"Environment=GOTRACEBACK=none",
		}, serviceLines...),
	}
	if s.mode == reexec.InPlace {
		options.Mode = units.InPlace
	} // the unit of the mode restart would have no reload that says what to type
	if s.Version >= 254 {
		options.ServiceLines = append(options.ServiceLines, "RestartSteps=0")
	}
	files, err := units.Render(options)
	if err != nil {
		return err
	}
	if err := s.Copy(ctx, s.programs.holdfast, "/usr/bin/holdfast", 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(s.root+path.Dir(binaryPath), 0o755); err != nil {
		return err
	}
	if err := s.install(""); err != nil {
		return err
	}
	for _, f := range files {
		if err := s.WriteFile(ctx, "/etc/systemd/system/"+f.Name, []byte(f.Content), 0o644); err != nil {
			return err
		}
	}
	_, err = s.Systemctl(ctx, "daemon-reload")
	return err
}

// Close ends the machine.
func (s *System) Close() error {
	if s.journal != nil {
		s.journal.close()
	}
	if s.network != nil {
		s.network.close()
	}
	return s.Machine.Close()
}

// install puts the next version in place, with a fault or "".
func (s *System) install(fault string) error {
	s.version++
	return s.put(append(s.programs.victim[:len(s.programs.victim):len(s.programs.victim)], mark.Of(s.version, fault)...), 0o755)
}

// put replaces the binary, as a package manager does.
func (s *System) put(content []byte, mode os.FileMode) error {
	file := s.root + binaryPath
	if st, err := os.Lstat(file); err == nil && st.IsDir() {
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	next := file + ".next"
	if err := os.WriteFile(next, content, mode); err != nil {
		return err
	}
	if err := os.Chmod(next, mode); err != nil { // past the umask
		return err
	}
	return os.Rename(next, file)
}

// path is where this process finds a file of the machine.
func (s *System) path(name string) string { return filepath.Join(s.root, name) }

// now is the time of CLOCK_MONOTONIC in nanoseconds, which the journal and the load have too.
func now() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // every Linux has this clock
	return ts.Nano()
}
