// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/notify/notifytest"
	"github.com/holdfast-go/holdfast/reexec/control"
)

// patience bounds what a test waits for; only a failure reaches it.
const patience = 30 * time.Second

// setup says how a service is started.
type setup struct {
	plan    plan
	managed bool                            // with NOTIFY_SOCKET
	user    int                             // runs as this uid and gid
	sockets []namedListener                 // as from systemd
	program func(t *testing.T, path string) // puts the first version in place; default: a link to this binary
	notify  []notifytest.Option             // of the notify socket
	environ []string
	args    []string
}

type namedListener struct {
	name string
	conn interface{ File() (*os.File, error) }
}

// service is a running service with all its generations.
type service struct {
	t       *testing.T
	dir     string
	path    string // of the executable
	base    plan   // of the first version
	plan    plan   // as it was written last
	client  *control.Client
	notify  *notifytest.Manager // nil without one
	first   int                 // PID of the first generation
	reports *feed[managed]
	log     *feed[line]
	stages  *feed[stage]
}

// line is one line of the log of any process of a service.
type line struct {
	PID      int `json:"self"`
	Msg      string
	Reason   string
	Error    string
	Level    string
	text     string
	received time.Time
}

// environments runs f without and with a service manager that listens: without
// one a successor is a child of its predecessor, with one a child of the
// manager.
func environments(t *testing.T, f func(t *testing.T, managed bool)) {
	t.Helper()
	t.Parallel()
	for _, managed := range []bool{false, true} {
		name := "plain"
		if managed {
			name = "managed"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, managed)
		})
	}
}

// quick are times that suit tests.
func quick() plan {
	return plan{
		Version:   "v1",
		Listeners: []planSocket{{"http", "tcp", "127.0.0.1:0"}},
		Probation: 200 * time.Millisecond, Beat: 250 * time.Millisecond,
		StartTimeout: patience, CheckTimeout: patience, DrainTimeout: patience,
	}
}

// start starts a service and waits until it serves.
func start(t *testing.T, su setup) *service {
	t.Helper()
	s := launch(t, su)
	s.waitLog(s.first, "booting -> serving")
	return s
}

// launch starts a service. When the test ends, so do all its processes.
func launch(t *testing.T, su setup) *service {
	t.Helper()
	// Paths of sockets are short.
	dir, err := os.MkdirTemp("", "reexec")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &service{
		t: t, dir: dir, path: filepath.Join(dir, "service"),
		client:  control.NewClient(filepath.Join(dir, control.SocketName)),
		reports: newFeed[managed](), log: newFeed[line](), stages: newFeed[stage](),
	}
	s.openStages()
	su.plan.Directory, su.plan.Stages = dir, filepath.Join(dir, "stages")
	s.base = su.plan
	s.write(su.plan)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(self, 0o755); err != nil { // whatever the umask was
		t.Fatal(err)
	}
	switch {
	case su.program != nil:
		su.program(t, s.path)
	case su.user != 0:
		// The directory of the tests is root's alone.
		copyFile(t, self, s.path)
	default:
		if err := os.Symlink(self, s.path); err != nil {
			t.Fatal(err)
		}
	}

	cmd := exec.Command(s.path, su.args...)
	if su.user == 0 {
		cmd.Path = self
	}
	cmd.Args[0] = s.path
	for _, kv := range os.Environ() {
		switch name, _, _ := strings.Cut(kv, "="); name {
		case "NOTIFY_SOCKET", "RUNTIME_DIRECTORY", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID":
		default:
			cmd.Env = append(cmd.Env, kv)
		}
	}
	// The race detector makes every process wait a second at its end.
	cmd.Env = append(cmd.Env, "GORACE=atexit_sleep_ms=0")
	cmd.Env = append(cmd.Env, su.environ...)
	cmd.Env = append(cmd.Env, roleVariable+"=manager", planVariable+"="+filepath.Join(dir, "plan"))
	if su.managed {
		s.notify = notifytest.NewManager(t, su.notify...)
		cmd.Env = append(cmd.Env, s.notify.Environ())
		if su.user != 0 {
			for _, path := range []string{s.notify.Socket(), filepath.Dir(s.notify.Socket())} {
				if err := os.Chown(path, su.user, su.user); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if su.user != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(su.user), Gid: uint32(su.user)}}
		if err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			return errors.Join(err, os.Lchown(path, su.user, su.user))
		}); err != nil {
			t.Fatal(err)
		}
	}

	reports, reportsIn, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	output, outputIn, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{reportsIn}
	cmd.Stdout, cmd.Stderr = outputIn, outputIn
	if len(su.sockets) > 0 {
		var names []string
		for _, socket := range su.sockets {
			f, err := socket.conn.File()
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			names = append(names, socket.name)
			cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		}
		cmd.Env = append(cmd.Env, managerSockets+"="+strconv.Itoa(len(names)),
			"LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	life, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = reportsIn.Close(), outputIn.Close()

	reported, logged := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(reported)
		defer reports.Close()
		for dec := json.NewDecoder(reports); ; {
			var m managed
			if dec.Decode(&m) != nil {
				return
			}
			s.reports.add(m)
		}
	}()
	go func() {
		defer close(logged)
		defer output.Close()
		for in := bufio.NewScanner(output); in.Scan(); {
			l := line{text: in.Text(), received: time.Now()}
			_ = json.Unmarshal(in.Bytes(), &l) // or a panic, which is none
			s.log.add(l)
		}
	}()
	t.Cleanup(func() {
		_ = life.Close()
		_ = cmd.Wait()
		<-reported
		// The pipe ends with the last process that holds it.
		select {
		case <-logged:
		case <-time.After(patience):
			t.Error("a process of the service outlives its manager")
			_ = output.Close()
			<-logged
		}
		for _, l := range s.log.all() {
			if strings.Contains(l.text, "DATA RACE") {
				t.Error("a process of the service has a data race")
			}
		}
		if t.Failed() {
			var text strings.Builder
			for _, l := range s.log.all() {
				fmt.Fprintln(&text, l.text)
			}
			t.Logf("log of the service:\n%s", text.String())
			if s.notify != nil {
				for _, m := range s.notify.Messages() {
					t.Log(m)
				}
			}
		}
	})
	born := s.reports.wait(t, "the birth of the service", func(m managed) bool { return m.Event == "born" })
	s.first = born.PID
	return s
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o755); err != nil {
		t.Fatal(err)
	}
}

// openStages lets processes of the service report and wait.
func (s *service) openStages() {
	ln, err := net.Listen("unix", filepath.Join(s.dir, "stages"))
	if err != nil {
		s.t.Fatal(err)
	}
	var readers sync.WaitGroup
	readers.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			st := stage{conn: conn}
			if json.NewDecoder(conn).Decode(&st) != nil {
				_ = conn.Close()
				continue
			}
			s.stages.add(st)
		}
	})
	s.t.Cleanup(func() {
		_ = ln.Close()
		readers.Wait()
		for _, st := range s.stages.all() {
			_ = st.conn.Close()
		}
	})
}

// release lets a process that waits at a stage go on: as if nothing were, or with
// something to do.
func (st stage) release(do string) {
	_, _ = io.WriteString(st.conn, do)
	_ = st.conn.Close()
}

// waitStage waits for the next process that comes to a stage.
func (s *service) waitStage(at string) stage {
	s.t.Helper()
	return s.stages.wait(s.t, "stage "+at, func(st stage) bool { return st.At == at })
}

// write puts another version in place.
func (s *service) write(p plan) {
	s.t.Helper()
	s.plan = p
	data, err := json.Marshal(p)
	if err != nil {
		s.t.Fatal(err)
	}
	next := filepath.Join(s.dir, "plan.new")
	if err := errors.Join(os.WriteFile(next, data, 0o644), os.Rename(next, filepath.Join(s.dir, "plan"))); err != nil {
		s.t.Fatal(err)
	}
}

// release puts a version in place that differs from the first one by this.
func (s *service) release(version string, change func(*plan)) {
	s.t.Helper()
	p := s.base
	p.Version = version
	if change != nil {
		change(&p)
	}
	s.write(p)
}

// upgrade asks for an upgrade and waits for the verdict.
func (s *service) upgrade() (control.Verdict, []string) {
	s.t.Helper()
	return s.asked()()
}

// asked asks for an upgrade and returns once the service has begun with it.
func (s *service) asked() (verdict func() (control.Verdict, []string)) {
	s.t.Helper()
	begun := make(chan struct{})
	var once sync.Once
	verdict, done := s.ask(func(control.Status) { once.Do(func() { close(begun) }) })
	select {
	case <-begun:
	case <-done:
	}
	return verdict
}

// ask asks for an upgrade; news is called at every state.
func (s *service) ask(news func(control.Status)) (verdict func() (control.Verdict, []string), done <-chan struct{}) {
	// Each step of the upgrade has its own bound.
	ctx, cancel := context.WithTimeout(s.t.Context(), 4*patience)
	var states []string
	var v control.Verdict
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer cancel()
		v, err = s.client.Upgrade(ctx, func(st control.Status) {
			news(st)
			if len(states) == 0 || states[len(states)-1] != st.State {
				states = append(states, st.State)
			}
		})
	}()
	return func() (control.Verdict, []string) {
		s.t.Helper()
		<-ended
		if err != nil {
			s.t.Fatalf("upgrade: %v", err)
		}
		return v, states
	}, ended
}

// mustUpgrade upgrades to the plan's version and returns the new main.
func (s *service) mustUpgrade() control.Status {
	s.t.Helper()
	v, _ := s.upgrade()
	return s.mustBeUpgraded(v)
}

// mustBeUpgraded returns the new main of a verdict.
func (s *service) mustBeUpgraded(v control.Verdict) control.Status {
	s.t.Helper()
	if v.Outcome != control.Upgraded || v.Reason != "" {
		s.t.Fatalf("verdict %q: %s", v.Outcome, v.Reason)
	}
	st := s.status()
	if v.To == nil || st.PID != v.To.PID || st.State != "running" || st.Version != s.plan.Version {
		s.t.Fatalf("after %+v the service says %+v", v, st)
	}
	return st
}

func (s *service) status() control.Status {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	st, err := s.client.Status(ctx)
	if err != nil {
		s.t.Fatalf("status: %v", err)
	}
	return st
}

// mustServe checks that this process is main in every respect and that new
// connections reach it.
func (s *service) mustServe(pid int) {
	s.t.Helper()
	st := s.status()
	if st.PID != pid || st.State != "running" || st.Successor != nil {
		s.t.Errorf("control socket: PID %d, %s, successor %v; want PID %d, running", st.PID, st.State, st.Successor, pid)
	}
	if got := s.pidFile(); got != pid {
		s.t.Errorf("the PID file names %d, want %d", got, pid)
	}
	if got := s.who(); got.PID != pid {
		s.t.Errorf("a request is answered by PID %d, want %d", got.PID, pid)
	}
}

// freeze stops a process and returns once none of its threads runs any more,
// which is a moment after kill(2) has returned.
func (s *service) freeze(pid int) {
	s.t.Helper()
	s.signal(pid, syscall.SIGSTOP)
	for deadline := time.Now().Add(patience); !stopped(s.t, pid); {
		if time.Now().After(deadline) {
			s.t.Fatalf("PID %d does not stop", pid)
		}
		time.Sleep(time.Millisecond)
	}
}

// stopped reports whether every thread is in the state of proc_pid_stat(5) that
// SIGSTOP leads to.
func stopped(t *testing.T, pid int) bool {
	t.Helper()
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(stats) == 0 {
		t.Fatalf("PID %d has no threads: %v", pid, err)
	}
	for _, stat := range stats {
		text, err := os.ReadFile(stat)
		if err != nil {
			return false // a thread has just ended: look again
		}
		// The name before the state is in parentheses, and may contain some.
		if _, rest, ok := strings.Cut(string(text[max(0, bytes.LastIndexByte(text, ')')):]), ") "); !ok || rest[0] != 'T' {
			return false
		}
	}
	return true
}

func (s *service) pidFile() int {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.dir, "main.pid"))
	if err != nil {
		s.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		s.t.Fatal(err)
	}
	return pid
}

// url is where the first listener is.
func (s *service) url(path string) string {
	s.t.Helper()
	return "http://" + s.address(0) + path
}

func (s *service) address(i int) string {
	s.t.Helper()
	st := s.status()
	if len(st.Listeners) <= i {
		s.t.Fatalf("the service has %d listeners, want %d", len(st.Listeners), i+1)
	}
	return st.Listeners[i].Address
}

// who asks over a new connection.
func (s *service) who() who {
	s.t.Helper()
	w, err := askWho(s.url("/who"))
	if err != nil {
		s.t.Fatal(err)
	}
	return w
}

func askWho(url string) (who, error) {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return who{}, err
	}
	defer resp.Body.Close()
	var w who
	return w, json.NewDecoder(resp.Body).Decode(&w)
}

// signal sends a signal to a process of the service.
func (s *service) signal(pid int, sig syscall.Signal) {
	s.t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		s.t.Fatalf("PID %d: %v", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		s.t.Fatalf("%v to PID %d: %v", sig, pid, err)
	}
}

// waitLog waits for a line of this process (0: of any) with this message.
func (s *service) waitLog(pid int, msg string) line {
	s.t.Helper()
	return s.log.wait(s.t, fmt.Sprintf("PID %d to log %q", pid, msg), func(l line) bool {
		return (pid == 0 || l.PID == pid) && l.Msg == msg
	})
}

// waitDeath waits until the manager has reaped this process.
func (s *service) waitDeath(pid int) (status string) {
	s.t.Helper()
	return s.reports.wait(s.t, fmt.Sprintf("the end of PID %d", pid), func(m managed) bool {
		return m.Event == "died" && m.PID == pid
	}).Status
}

// waitGone waits until a process is gone, whoever reaps it.
func (s *service) waitGone(pid int) {
	s.t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		s.t.Fatal(err)
	}
	defer unix.Close(fd)
	deadline := time.Now().Add(patience)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(deadline).Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			s.t.Fatal(err)
		case n == 0:
			s.t.Fatalf("PID %d does not end", pid)
		default:
			return
		}
	}
}

// feed is a list that a test may wait on. Each element is returned by one wait
// only.
type feed[T any] struct {
	mu      sync.Mutex
	list    []T
	taken   []bool
	arrived chan struct{}
}

func newFeed[T any]() *feed[T] { return &feed[T]{arrived: make(chan struct{})} }

func (f *feed[T]) add(v T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list, f.taken = append(f.list, v), append(f.taken, false)
	close(f.arrived)
	f.arrived = make(chan struct{})
}

func (f *feed[T]) all() []T {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.list)
}

func (f *feed[T]) wait(t *testing.T, what string, match func(T) bool) T {
	t.Helper()
	timeout := time.After(patience)
	for {
		f.mu.Lock()
		for i, v := range f.list {
			if !f.taken[i] && match(v) {
				f.taken[i] = true
				f.mu.Unlock()
				return v
			}
		}
		arrived := f.arrived
		f.mu.Unlock()
		select {
		case <-arrived:
		case <-timeout:
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}
