// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/manager"
	unitfiles "github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// Unit is a service with its sockets under a stand-in of its own, which is a
// process. It is safe for concurrent use.
type Unit struct {
	opts     Options
	service  string // its name, with the instance
	set      *unitfiles.Set
	root     string
	ownsRoot bool
	programs map[string]Program // what was installed first

	client  *wire.Client  // nil until the manager was started
	manager int           // its PID
	exited  chan struct{} // closed when the manager was waited for
	failed  error         // of the manager; to be read after exited
	ending  time.Duration // what the manager may take to end
	born    time.Time
	close   func() error

	mu          sync.Mutex
	changed     chan struct{}           // closed and replaced at every event
	state       Properties              // as heard of last
	states      []Properties            // all that were heard of
	addresses   map[string]wire.Address // by name; nil when they are to be asked for
	journal     []JournalEntry
	journalText int  // bytes of its text
	hasRace     bool // the journal has or had the report of a data race
	messages    []Message
	births      []Process
	deaths      []Death
	forgotten   struct{ states, journal, messages, births, deaths int } // how many there were before
	ended       map[int64]Properties                                    // when jobs ended, by request
	story       map[string]*chapter                                     // by topic
	told        int                                                     // lines of the story
	jobs        int                                                     // that the test waits for
	closed      bool
	triggeredBy string // the socket unit by which a connection started the service after the last job
	sinceJob    int    // lines of the journal before the last job
	listeners   map[*func(*wire.Event)]bool
}

// Start loads a unit and starts it, as "systemctl start" does. When the test
// ends, so do all processes of the unit, and its files are removed. If the test failed,
// the story of the unit is printed: see [Unit.Story]. A data race in a process
// of the service fails the test.
func Start(t testing.TB, o Options) *Unit {
	t.Helper()
	u := Load(t, o)
	if err := u.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return u
}

// Load is Start for a test that starts the unit itself, or only its sockets.
func Load(t testing.TB, o Options) *Unit {
	t.Helper()
	u, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := u.Close()
		if err != nil {
			t.Error(err)
		}
		if u.raced() {
			t.Error("a process of the service has a data race")
		}
		if t.Failed() {
			t.Log(u.Story())
		}
	})
	return u
}

// New loads a unit. Errors in unit files are of type [*UnitError], joined. The
// context bounds New alone; the unit lives until it is closed.
func New(ctx context.Context, o Options) (*Unit, error) {
	u, files, err := prepare(o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := u.patient(ctx, "load "+u.service)
	defer cancel()
	if err := u.launch(ctx, files); err != nil {
		if strings.Contains(err.Error(), unix.ENOSPC.Error()) { // the manager's errors come as text
			err = fmt.Errorf("%w: make room, or set TMPDIR to a directory on another file system", err)
		}
		return nil, errors.Join(fmt.Errorf("reexectest: %w", err), u.Close())
	}
	return u, nil
}

// prepare does what New can do without a process or a file.
func prepare(o Options) (*Unit, []unitfiles.File, error) {
	if self != nil {
		return nil, nil, errors.New("reexectest: this process is a service of a stand-in, not a test: call reexectest.Main in TestMain")
	}
	o, err := o.withDefaults()
	if err != nil {
		return nil, nil, err
	}
	files, service, err := collect(o)
	if err != nil {
		return nil, nil, err
	}
	set, err := unitfiles.Load(unitfiles.Options{Systemd: o.Systemd, Files: files, Instance: o.Instance})
	if err != nil {
		return nil, nil, fmt.Errorf("reexectest: %w", unitErrors(err))
	}
	u := &Unit{
		opts: o, service: service, set: set,
		exited: make(chan struct{}), ending: endPatience, born: time.Now(),
		changed: make(chan struct{}), ended: make(map[int64]Properties), listeners: make(map[*func(*wire.Event)]bool),
	}
	u.close = sync.OnceValue(u.end)
	if u.programs, err = u.choosePrograms(); err != nil {
		return nil, nil, err
	}
	return u, files, nil
}

func resolveRoot(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err == nil {
		err = manager.CheckRoot(abs)
	}
	if err != nil {
		return "", fmt.Errorf("Options.Root: %w", err)
	}
	return abs, nil
}

// launched is the path of the service's own program: what "holdfast launch" is to
// start, else the command's program.
func launched(command unitfiles.Command) string {
	args := command.Args
	if filepath.Base(command.Path) != "holdfast" || len(args) < 2 || args[1] != "launch" {
		return command.Path
	}
	for _, arg := range args[2:] {
		if filepath.IsAbs(arg) {
			return arg
		}
	}
	return command.Path
}

// choosePrograms decides what stands behind the paths in the unit.
func (u *Unit) choosePrograms() (map[string]Program, error) {
	programs := maps.Clone(u.opts.Programs)
	if programs == nil {
		programs = make(map[string]Program)
		start := u.set.Service.ExecStart
		if len(start) == 0 || !filepath.IsAbs(start[0].Path) {
			return nil, fmt.Errorf("reexectest: %s: ExecStart= has no absolute path: set Options.Programs", u.service)
		}
		programs[launched(start[0])] = Version(u.opts.Version)
	}
	for path, p := range programs {
		if err := p.check(); err != nil {
			return nil, fmt.Errorf("reexectest: %s: %w", path, err)
		}
	}
	return programs, nil
}

// commandName is that of commandPath below the root.
const commandName = ".holdfast"

// linkPath is a link to the test binary with a short path, commandPath the file
// that stands in for the command holdfast, and stopPath one that has new
// processes of the test binary stop themselves.
func (u *Unit) linkPath() string    { return filepath.Join(u.root, ".test") }
func (u *Unit) commandPath() string { return filepath.Join(u.root, commandName) }
func (u *Unit) stopPath() string    { return filepath.Join(u.root, ".stop") }

// launch starts the manager and installs the programs. The manager makes the
// directory: however this process ends, there is somebody to remove it.
func (u *Unit) launch(ctx context.Context, files []unitfiles.File) error {
	conn, wait, err := manager.Start()
	if err != nil {
		return err
	}
	go func() {
		u.failed = wait()
		close(u.exited)
	}()
	config, err := u.config(files)
	if err != nil {
		return errors.Join(err, conn.Close(), u.managerFailed())
	}
	client, answer, err := wire.NewClient(ctx, conn, config, u.event)
	if err != nil {
		return errors.Join(err, u.managerFailed())
	}
	u.client = client
	u.service, u.root, u.manager = answer.Loaded.Service, answer.Loaded.Root, answer.Loaded.ManagerPID
	if answer, err = u.call(ctx, wire.Request{Verb: wire.Show}); err != nil {
		return err
	}
	u.mu.Lock()
	u.state = properties(answer.Properties)
	u.mu.Unlock()
	return u.installAll(ctx)
}

// config is what the manager is told.
func (u *Unit) config(files []unitfiles.File) (_ *wire.Config, err error) {
	if u.opts.Root == "" {
		u.ownsRoot = true
	} else if u.root, err = resolveRoot(u.opts.Root); err != nil {
		return nil, err
	}
	config := &wire.Config{
		Systemd: u.opts.Systemd, Instance: u.opts.Instance,
		Root: u.root, RemoveRoot: u.ownsRoot, KeepAddresses: u.opts.KeepAddresses,
		Programs:    slices.Sorted(maps.Keys(u.programs)),
		Commands:    map[string]string{"holdfast": commandName},
		Environment: append(raceEnvironment(), u.opts.Environment...), ManagerEnvironment: os.Environ(),
	}
	for _, f := range files {
		config.Files = append(config.Files, wire.File{Name: f.Name, Text: f.Text})
	}
	return config, nil
}

// installAll installs the unit's programs and the command holdfast.
func (u *Unit) installAll(ctx context.Context) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.Symlink(exe, u.linkPath()); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := holdfastScript(u.linkPath()).install(ctx, u.commandPath()); err != nil {
		return err
	}
	for _, path := range slices.Sorted(maps.Keys(u.programs)) {
		if err := u.install(ctx, path, u.programs[path]); err != nil {
			return err
		}
	}
	return nil
}

func (u *Unit) install(ctx context.Context, path string, p Program) error {
	u.tell("install %s: %v", path, p)
	p.trailer.StopFile = u.stopPath()
	if err := p.install(ctx, u.Path(path)); err != nil {
		return fmt.Errorf("%s: install %s: %w", u.service, path, err)
	}
	return nil
}

// raceEnvironment keeps programs with the race detector from waiting a second
// when they exit.
func raceEnvironment() []string {
	if !raceEnabled {
		return nil
	}
	return []string{"GORACE=" + strings.TrimSpace(os.Getenv("GORACE")+" atexit_sleep_ms=0")}
}

// endPatience bounds what the manager may take to end; it kills.
const endPatience = 10 * time.Second

// managerFailed waits for the end of the manager, and returns why it failed.
func (u *Unit) managerFailed() error {
	select {
	case <-u.exited:
		return u.failed
	case <-time.After(u.ending):
		return fmt.Errorf("the manager process of %s does not end", u.service)
	}
}

// Close ends every process of the unit and removes its files. It returns when
// that is done. To close a unit again does nothing.
func (u *Unit) Close() error { return u.close() }

func (u *Unit) end() error {
	u.mu.Lock()
	u.closed = true
	u.mu.Unlock()
	var err error
	if u.client != nil {
		ctx, cancel := context.WithTimeout(context.Background(), u.ending)
		_, err = u.client.Call(ctx, wire.Request{Verb: wire.End})
		cancel()
		_ = u.client.Close()
		<-u.client.Done()
		if err = errors.Join(err, u.managerFailed()); err != nil {
			err = fmt.Errorf("reexectest: end %s: %w", u.service, errors.Join(err, u.killManager(), u.killLeft()))
		}
	}
	if u.ownsRoot && u.root != "" {
		err = errors.Join(err, manager.RemoveAll(u.root))
	}
	return err
}

// killManager ends a manager that does not end, as when it was stopped.
func (u *Unit) killManager() error {
	select {
	case <-u.exited:
		return nil
	default:
	}
	// Until it is waited for, no other process has that number.
	err := unix.Kill(u.manager, unix.SIGKILL)
	<-u.exited
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// killLeft ends what a manager that died itself left behind: the processes that it
// told of, and those that it had no time to tell of, which know its notify socket. It
// looks again until there is none.
func (u *Unit) killLeft() error {
	known := make(map[int]uint64)
	u.mu.Lock()
	for _, p := range u.births {
		known[p.PID] = p.Start
	}
	u.mu.Unlock()
	for deadline := time.Now().Add(endPatience); ; {
		var left []int
		entries, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well formed
		for _, path := range entries {
			pid, err := strconv.Atoi(filepath.Base(path))
			if err == nil && pid != os.Getpid() && u.killOne(pid, known) {
				left = append(left, pid)
			}
		}
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v of %s are left: kill them", left, u.service)
		}
		time.Sleep(time.Millisecond) // they take a moment to die, and are nobody's children here
	}
}

// killOne kills a process if it is the unit's and lives.
func (u *Unit) killOne(pid int, known map[int]uint64) bool {
	// With a descriptor the number cannot become another's meanwhile.
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	start, err := startTime(pid)
	if state := processState(pid); err != nil || state == "" || state == "Z" || state == "X" {
		return false
	}
	if began, ok := known[pid]; !ok || began != start {
		environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)) // another user's is not for us
		if !bytes.Contains(environ, []byte("NOTIFY_SOCKET="+u.Path("/run/systemd/notify")+"\x00")) {
			return false
		}
	}
	_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	return true
}

// patient bounds a context that has no deadline.
func (u *Unit) patient(ctx context.Context, what string) (context.Context, context.CancelFunc) {
	if _, bounded := ctx.Deadline(); bounded {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, u.opts.Patience, fmt.Errorf("%s: no end within %v (Options.Patience)", what, u.opts.Patience))
}

// Name is the name of the service: "myapp.service".
func (u *Unit) Name() string { return u.service }

// Root is the directory below which the unit's paths are.
func (u *Unit) Root() string { return u.root }

// Options are those that the unit was made with, defaults filled in.
func (u *Unit) Options() Options { return u.opts }

// Path is where a path of the unit is on this machine: below Root.
func (u *Unit) Path(path string) string { return filepath.Join(u.root, path) }

// Install puts another program at a path of the unit, as a package manager
// does: by rename. What runs from the old file runs on.
func (u *Unit) Install(path string, p Program) error {
	if err := u.open(); err != nil {
		return err
	}
	ctx, cancel := u.patient(context.Background(), "install "+path)
	defer cancel()
	if _, known := u.programs[path]; !known {
		return fmt.Errorf("%s: install %s: the unit's programs are %s: name it in Options.Programs",
			u.service, path, strings.Join(slices.Sorted(maps.Keys(u.programs)), " "))
	}
	return u.install(ctx, path, p)
}
