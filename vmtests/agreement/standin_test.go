// SPDX-License-Identifier: Apache-2.0

package agreement_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/reexectest"
	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/agreement"
)

// A standin plays under package reexectest.
type standin struct {
	version vmtests.Version
	stage   *agreement.Stage
	manager *imitated
}

func (s *standin) open(ctx context.Context, setup *agreement.Setup) (err error) {
	s.manager = &imitated{version: s.version}
	s.stage, err = agreement.Open(ctx, s.manager, setup)
	return err
}

func (s *standin) perform(ctx context.Context, op agreement.Op) (*agreement.Observation, error) {
	return s.stage.Perform(ctx, op)
}

func (s *standin) close(ctx context.Context) error { return s.stage.Close(ctx) }

func (s *standin) journal(context.Context, string) string {
	var lines []string
	for _, e := range s.manager.unit.Journal() {
		lines = append(lines, e.String())
	}
	return strings.Join(lines, "\n")
}

// imitated is agreement.Manager for a stand-in, which is a process of its own for each service.
type imitated struct {
	version vmtests.Version
	setup   *agreement.Setup
	hub     string
	puppet  string
	unit    *reexectest.Unit
	pid     int
	jobs    context.Context
	end     context.CancelFunc
}

// launching is held while a manager process is started, so that it can be told which one it is.
var launching sync.Mutex

func (m *imitated) Load(ctx context.Context, setup *agreement.Setup, hub string) error {
	m.setup, m.hub = setup, hub
	var err error
	if m.puppet, err = program("vmtests/cmd/puppet", ""); err != nil {
		return err
	}
	launching.Lock()
	defer launching.Unlock()
	before, err := managers()
	if err != nil {
		return err
	}
	m.unit, err = reexectest.New(ctx, reexectest.Options{
		Files: m.texts(setup.Files), Service: setup.Service(), Systemd: int(m.version),
		Programs: map[string]reexectest.Program{agreement.PuppetPath: reexectest.File(m.puppet)},
	})
	if err != nil {
		return err
	}
	after, err := managers()
	if err != nil {
		return err
	}
	for _, pid := range after {
		if !slices.Contains(before, pid) {
			m.pid = pid
		}
	}
	if m.pid == 0 {
		return errors.New("the manager process is not a child of this one")
	}
	// A job may wait as long as the sequence goes on.
	m.jobs, m.end = context.WithTimeout(context.WithoutCancel(ctx), 10*time.Minute)
	return nil
}

// managers are the children of this process that are stand-ins.
func managers() ([]int, error) {
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return nil, err
	}
	var found []int
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		for word := range strings.FieldsSeq(string(text)) {
			command, err := os.ReadFile("/proc/" + word + "/cmdline")
			if err != nil || !strings.Contains(string(command), "reexectest-manager") {
				continue
			}
			pid, err := strconv.Atoi(word)
			if err != nil {
				return nil, err
			}
			found = append(found, pid)
		}
	}
	return found, nil
}

func (m *imitated) texts(files []agreement.File) map[string]string {
	texts := make(map[string]string)
	for _, f := range files {
		texts[f.Name] = strings.ReplaceAll(f.Text, "{hub}", m.hub)
	}
	return texts
}

func (m *imitated) Unload(context.Context) error {
	m.end()
	return m.unit.Close()
}

func (m *imitated) PID() int       { return m.pid }
func (m *imitated) Root() string   { return m.unit.Root() }
func (m *imitated) Puppet() string { return m.puppet }

// refused makes errors of the stand-in's manager such that they can be told from others.
func refused(err error) error {
	var e *reexectest.JobError
	if errors.As(err, &e) && e.Name != "" {
		return &agreement.Refusal{Name: e.Name, Message: e.Message}
	}
	return err
}

func (m *imitated) Job(_ context.Context, unit string, verb agreement.Verb) (<-chan string, error) {
	result := make(chan string, 1)
	go func() {
		err := m.unit.Systemctl(m.jobs, string(verb), unit)
		var e *reexectest.JobError
		switch {
		case err == nil:
			result <- "done"
		case !errors.As(err, &e):
			result <- err.Error()
		case e.Result != "":
			result <- e.Result
		default:
			result <- e.Name
		}
	}()
	return result, nil
}

func (m *imitated) Kill(_ context.Context, whom string, signal int) error {
	return refused(m.unit.Kill(reexectest.Whom(whom), syscall.Signal(signal)))
}

func (m *imitated) ResetFailed(ctx context.Context, unit string) error {
	return refused(m.unit.Systemctl(ctx, "reset-failed", unit))
}

func (m *imitated) DaemonReload(ctx context.Context, files []agreement.File) error {
	return refused(m.unit.DaemonReload(ctx, m.texts(files)))
}

func (m *imitated) Clean(ctx context.Context, what string) error {
	return refused(m.unit.Clean(ctx, what))
}

func (m *imitated) Properties(_ context.Context, unit string) (map[string]string, error) {
	names := agreement.ServiceProperties
	var all reflect.Value
	if strings.HasSuffix(unit, ".socket") {
		names = agreement.SocketProperties
		props, err := m.unit.ShowSocket(unit)
		if err != nil {
			return nil, err
		}
		all = reflect.ValueOf(props)
	} else {
		all = reflect.ValueOf(m.unit.Show())
	}
	values := make(map[string]string)
	for _, name := range names {
		value := all.FieldByName(name)
		if !value.IsValid() {
			return nil, fmt.Errorf("the stand-in has no property %s", name)
		}
		values[name] = fmt.Sprint(value.Interface())
	}
	return values, nil
}

func (m *imitated) Processes(context.Context) ([]int, error) {
	var pids []int
	for _, p := range m.unit.Processes() {
		pids = append(pids, p.PID)
	}
	return pids, nil
}

// dumps is the first version that tells what is in the fd store.
const dumps = 254

func (m *imitated) Store(context.Context) ([]agreement.Stored, bool, error) {
	if m.version < dumps {
		return nil, false, nil
	}
	var stored []agreement.Stored
	for _, f := range m.unit.FDStore() {
		stored = append(stored, agreement.Stored{Name: f.Name, Dev: unix.Mkdev(f.DevMajor, f.DevMinor), Ino: f.Inode})
	}
	return stored, true, nil
}

func (m *imitated) Dial(ctx context.Context, name string) (net.Conn, error) {
	if address := m.setup.Sockets[name]; address.Network == "unix" {
		// Also when nothing listens there.
		var d net.Dialer
		return d.DialContext(ctx, address.Network, m.unit.Path(address.Address))
	}
	return m.unit.Dial(ctx, name)
}
