// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests/agreement"
)

// Names of org.freedesktop.systemd1(5).
const (
	destination   = "org.freedesktop.systemd1"
	managerPath   = dbus.ObjectPath("/org/freedesktop/systemd1")
	managerIface  = destination + ".Manager."
	serviceIface  = destination + ".Service"
	socketIface   = destination + ".Socket"
	unitIface     = destination + ".Unit"
	propertiesGet = "org.freedesktop.DBus.Properties.Get"
	unitDir       = "/run/systemd/system"
)

// systemd is agreement.Manager for the systemd that runs here.
type systemd struct {
	private *dbus.Conn // without a bus between, which is faster

	setup   *agreement.Setup
	hub     string
	paths   map[string]dbus.ObjectPath // of the setup's units
	group   string                     // control group of the service
	unknown map[string]bool            // properties that this version does not have

	mu      sync.Mutex
	waiting map[dbus.ObjectPath][]chan<- string // each has room for the result
	ended   map[dbus.ObjectPath]string
}

func connect(ctx context.Context) (*systemd, error) {
	m := &systemd{waiting: make(map[dbus.ObjectPath][]chan<- string), ended: make(map[dbus.ObjectPath]string), unknown: make(map[string]bool)}
	var err error
	m.private, err = dbus.Dial("unix:path=/run/systemd/private", dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	if err := m.private.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))}); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to systemd: %w", err), m.private.Close())
	}
	if err := m.greet(ctx); err != nil {
		return nil, errors.Join(err, m.close())
	}
	signals := make(chan *dbus.Signal, 256)
	m.private.Signal(signals)
	go m.listen(signals)
	if err := m.call(ctx, "Subscribe").Err; err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe: %w", err), m.close())
	}
	return m, nil
}

// greet has the first message answered. systemd overlooks a message that it reads together with the end of the
// authentication, until the next one comes.
func (m *systemd) greet(ctx context.Context) error {
	const attempts = 50
	answers := make(chan *dbus.Call, attempts)
	for range attempts {
		m.private.Object(destination, managerPath).GoWithContext(ctx, "org.freedesktop.DBus.Peer.Ping", 0, answers)
		select {
		case answer := <-answers:
			return answer.Err
		case <-time.After(100 * time.Millisecond):
		}
	}
	return errors.New("systemd does not answer on its private socket")
}

func (m *systemd) close() error { return m.private.Close() }

// listen notes how jobs end.
func (m *systemd) listen(signals <-chan *dbus.Signal) {
	for signal := range signals {
		if signal.Name != managerIface+"JobRemoved" {
			continue
		}
		var id uint32
		var path dbus.ObjectPath
		var unit, result string
		if dbus.Store(signal.Body, &id, &path, &unit, &result) != nil {
			continue
		}
		m.mu.Lock()
		m.ended[path] = result
		for _, waiting := range m.waiting[path] {
			waiting <- result
		}
		delete(m.waiting, path)
		m.mu.Unlock()
	}
}

// result returns a channel for the end of a job, which may have come already. Two requests may have become one job.
func (m *systemd) result(job dbus.ObjectPath) <-chan string {
	m.mu.Lock()
	defer m.mu.Unlock()
	waiting := make(chan string, 1)
	if result, ok := m.ended[job]; ok {
		waiting <- result
	} else {
		m.waiting[job] = append(m.waiting[job], waiting)
	}
	return waiting
}

func (m *systemd) call(ctx context.Context, method string, args ...any) *dbus.Call {
	return m.private.Object(destination, managerPath).CallWithContext(ctx, managerIface+method, 0, args...)
}

// refused makes errors of systemd's such that they can be told from others.
func refused(err error) error {
	var e dbus.Error
	if errors.As(err, &e) {
		return &agreement.Refusal{Name: e.Name, Message: e.Error()}
	}
	return err
}

func (m *systemd) PID() int       { return 1 }
func (m *systemd) Root() string   { return "/" }
func (m *systemd) Puppet() string { return agreement.PuppetPath }

func (m *systemd) Load(ctx context.Context, setup *agreement.Setup, hub string) error {
	m.setup, m.hub, m.paths, m.group = setup, hub, make(map[string]dbus.ObjectPath), ""
	units := append(setup.SocketUnits(), setup.Service())
	// An inactive unit that no other one speaks of is forgotten, its result included.
	holder := agreement.File{Name: m.holder(), Text: "[Unit]\nAfter=" + strings.Join(units, " ") + "\n"}
	if err := m.write(append(slices.Clone(setup.Files), holder)); err != nil {
		return err
	}
	if result, err := m.finish(ctx, m.holder(), agreement.Start); err != nil || result != "done" {
		return fmt.Errorf("start %s: %s (%v)", m.holder(), result, err)
	}
	for _, unit := range units {
		var path dbus.ObjectPath
		if err := m.call(ctx, "LoadUnit", unit).Store(&path); err != nil {
			return fmt.Errorf("load %s: %w", unit, err)
		}
		m.paths[unit] = path
		var state string
		if err := m.get(ctx, path, unitIface, "LoadState").Store(&state); err != nil || state != "loaded" {
			return fmt.Errorf("load %s: it is %q (%v)", unit, state, err)
		}
	}
	return nil
}

// holder is the name of the unit because of which the others stay loaded.
func (m *systemd) holder() string { return m.setup.Name + "-holder.target" }

// finish waits for the end of a job.
func (m *systemd) finish(ctx context.Context, unit string, verb agreement.Verb) (string, error) {
	ended, err := m.Job(ctx, unit, verb)
	if err != nil {
		return "", err
	}
	select {
	case result := <-ended:
		return result, nil
	case <-time.After(unloadTimeout):
		return "", fmt.Errorf("%s %s does not end", verb, unit)
	}
}

func (m *systemd) write(files []agreement.File) error {
	for _, f := range files {
		name := filepath.Join(unitDir, f.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, []byte(strings.ReplaceAll(f.Text, "{hub}", m.hub)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// unloadTimeout bounds the end of a service whose processes get SIGKILL again and again, unloadPatience the
// wait for it before TimeoutStopSec= is lowered: systemd up to 252 may wait that long for a main process that
// is gone and was nobody's child here.
const (
	unloadTimeout  = 30 * time.Second
	unloadPatience = 5 * time.Second
)

func (m *systemd) Unload(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, unloadTimeout)
	defer cancel()
	var errs []error
	for _, unit := range append(m.setup.SocketUnits(), m.setup.Service()) {
		ended, err := m.Job(ctx, unit, agreement.Stop)
		if err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", unit, err))
			continue
		}
		for begin, hurried := time.Now(), false; len(ended) == 0 && ctx.Err() == nil; {
			if err := m.killAll(ctx); err != nil {
				errs = append(errs, err)
			}
			if !hurried && time.Since(begin) > unloadPatience {
				hurried = true
				errs = append(errs, m.DaemonReload(ctx, []agreement.File{{Name: m.setup.Service() + ".d/99-unload.conf", Text: "[Service]\nTimeoutStopSec=1ms\n"}}))
			}
			time.Sleep(5 * time.Millisecond)
		}
		if len(ended) == 0 {
			errs = append(errs, fmt.Errorf("%s did not stop within %v", unit, unloadTimeout))
		}
	}
	errs = append(errs, m.killAll(ctx))
	for _, unit := range append(m.setup.SocketUnits(), m.setup.Service()) {
		// What is kept of it goes too. These fail where there is nothing of the kind.
		_ = m.call(ctx, "CleanUnit", unit, []string{"fdstore"}).Err
		_ = m.call(ctx, "ResetFailedUnit", unit).Err
	}
	for _, f := range append(slices.Clone(m.setup.Files), agreement.File{Name: m.holder()}) {
		errs = append(errs, os.Remove(filepath.Join(unitDir, f.Name)))
	}
	_, err := m.finish(ctx, m.holder(), agreement.Stop)
	errs = append(errs, err)
	for unit := range m.paths {
		errs = append(errs, os.RemoveAll(filepath.Join(unitDir, unit+".d")))
	}
	m.mu.Lock()
	clear(m.waiting)
	clear(m.ended)
	m.mu.Unlock()
	return errors.Join(errs...)
}

// killAll kills the processes of the service, also one that is main and does not belong to it.
func (m *systemd) killAll(ctx context.Context) error {
	pids, err := m.Processes(ctx)
	if err != nil {
		return err
	}
	props, err := m.Properties(ctx, m.setup.Service())
	if err != nil {
		return err
	}
	if main, err := strconv.Atoi(props["MainPID"]); err == nil && main != 0 {
		pids = append(pids, main)
	}
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL) // gone by itself
	}
	return nil
}

var jobMethods = map[agreement.Verb]string{
	agreement.Start: "StartUnit", agreement.Stop: "StopUnit", agreement.Restart: "RestartUnit", agreement.TryRestart: "TryRestartUnit",
	agreement.Reload: "ReloadUnit", agreement.ReloadOrRestart: "ReloadOrRestartUnit",
}

func (m *systemd) Job(ctx context.Context, unit string, verb agreement.Verb) (<-chan string, error) {
	var job dbus.ObjectPath
	err := m.call(ctx, jobMethods[verb], unit, "replace").Store(&job)
	var e dbus.Error
	if errors.As(err, &e) {
		refusal := make(chan string, 1)
		refusal <- e.Name
		return refusal, nil
	}
	if err != nil {
		return nil, err
	}
	return m.result(job), nil
}

func (m *systemd) Kill(ctx context.Context, whom string, signal int) error {
	return refused(m.call(ctx, "KillUnit", m.setup.Service(), whom, int32(signal)).Err)
}

func (m *systemd) ResetFailed(ctx context.Context, unit string) error {
	return refused(m.call(ctx, "ResetFailedUnit", unit).Err)
}

func (m *systemd) DaemonReload(ctx context.Context, files []agreement.File) error {
	if err := m.write(files); err != nil {
		return err
	}
	return refused(m.call(ctx, "Reload").Err)
}

func (m *systemd) Clean(ctx context.Context, what string) error {
	return refused(m.call(ctx, "CleanUnit", m.setup.Service(), []string{what}).Err)
}

func (m *systemd) get(ctx context.Context, path dbus.ObjectPath, iface, name string) *dbus.Call {
	return m.private.Object(destination, path).CallWithContext(ctx, propertiesGet, 0, iface, name)
}

// Properties asks for all properties at once and then waits for the answers.
func (m *systemd) Properties(ctx context.Context, unit string) (map[string]string, error) {
	names, iface := agreement.ServiceProperties, serviceIface
	if strings.HasSuffix(unit, ".socket") {
		names, iface = agreement.SocketProperties, socketIface
	}
	object := m.private.Object(destination, m.paths[unit])
	calls := make(map[string]*dbus.Call)
	for _, name := range names {
		if m.unknown[name] {
			continue
		}
		of := iface
		switch name {
		case "ActiveState", "SubState", "InvocationID":
			of = unitIface
		}
		calls[name] = object.GoWithContext(ctx, propertiesGet, 0, make(chan *dbus.Call, 1), of, name)
	}
	values := make(map[string]string)
	for name, call := range calls {
		var value dbus.Variant
		err := (<-call.Done).Store(&value)
		var e dbus.Error
		if errors.As(err, &e) && (e.Name == "org.freedesktop.DBus.Error.UnknownProperty" || e.Name == "org.freedesktop.DBus.Error.InvalidArgs") {
			m.unknown[name] = true
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("property %s of %s: %w", name, unit, err)
		}
		switch v := value.Value().(type) {
		case []byte:
			values[name] = fmt.Sprintf("%x", v)
		default:
			values[name] = fmt.Sprint(v)
		}
	}
	return values, nil
}

func (m *systemd) Processes(ctx context.Context) ([]int, error) {
	if m.group == "" {
		if err := m.get(ctx, m.paths[m.setup.Service()], serviceIface, "ControlGroup").Store(&m.group); err != nil {
			return nil, fmt.Errorf("control group of %s: %w", m.setup.Service(), err)
		}
	}
	if m.group == "" {
		return nil, nil // has none before its first start
	}
	text, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", m.group, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
		m.group = "" // removed when it is empty, and made again
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var pids []int
	for word := range strings.FieldsSeq(string(text)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			return nil, fmt.Errorf("control group %s: %w", m.group, err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

func (m *systemd) Store(ctx context.Context) ([]agreement.Stored, bool, error) {
	var entries []struct {
		Name                 string
		Mode, Major, Minor   uint32
		Inode                uint64
		RdevMajor, RdevMinor uint32
		Path                 string
		Flags                uint32
	}
	err := m.call(ctx, "DumpUnitFileDescriptorStore", m.setup.Service()).Store(&entries)
	var e dbus.Error
	if errors.As(err, &e) {
		switch e.Name {
		case "org.freedesktop.DBus.Error.UnknownMethod":
			return nil, false, nil
		case destination + ".FileDescriptorStoreDisabled":
			return nil, true, nil
		}
	}
	if err != nil {
		return nil, false, fmt.Errorf("file descriptor store of %s: %w", m.setup.Service(), err)
	}
	var stored []agreement.Stored
	for _, f := range entries {
		stored = append(stored, agreement.Stored{Name: f.Name, Dev: unix.Mkdev(f.Major, f.Minor), Ino: f.Inode})
	}
	return stored, true, nil
}

func (m *systemd) Dial(ctx context.Context, name string) (net.Conn, error) {
	address, ok := m.setup.Sockets[name]
	if !ok {
		return nil, fmt.Errorf("no socket is called %s", name)
	}
	var d net.Dialer
	return d.DialContext(ctx, address.Network, address.Address)
}
