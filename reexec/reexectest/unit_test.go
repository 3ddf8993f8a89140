// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/manager"
	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// keeper is the service in keeper_role_test.go.
const keeper = `[Unit]
StartLimitIntervalSec=0
[Service]
Type=notify
ExecStart=/usr/bin/keeper
ExecReload=/bin/kill -HUP $MAINPID
FileDescriptorStoreMax=4
StateDirectory=keeper
TimeoutStartSec=20s
TimeoutStopSec=10s
Restart=on-failure
RestartSec=10ms
`

func keeperOptions(more string) Options {
	return Options{Files: map[string]string{"keeper.service": keeper + more}}
}

func TestUnit(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	u := Start(t, keeperOptions(""))
	state := u.Show()
	if state.ActiveState != "active" || state.SubState != "running" || state.StatusText != "keeping" || state.MainPID == 0 || state.MainPID != u.MainPID() {
		t.Errorf("after the start: %+v", state)
	}
	if u.Name() != "keeper.service" || u.Options().Systemd != DefaultSystemd || !strings.HasPrefix(u.Path("/usr/bin/keeper"), u.Root()+"/") {
		t.Errorf("%s, %+v, %s", u.Name(), u.Options(), u.Path("/usr/bin/keeper"))
	}
	all := u.Processes()
	if len(all) != 1 || all[0].PID != state.MainPID || !slices.Equal(all[0].Command, []string{u.Path("/usr/bin/keeper")}) || !strings.Contains(all[0].String(), "keeper") {
		t.Errorf("processes %v", all)
	}
	store := u.FDStore()
	if len(store) != 1 || store[0].Name != "kept" || state.NFileDescriptorStore != 1 || state.FileDescriptorStoreMax != 4 {
		t.Errorf("store %+v, %+v", store, state)
	}
	want := fmt.Sprintf("version 1, stored \"\", home %s", u.Path("/var/lib/keeper"))
	if line, err := u.WaitForJournal(ctx, "version"); err != nil || line.Message != want || line.Identifier != "keeper" || line.PID != state.MainPID || line.Unit != u.Name() {
		t.Errorf("journal %+v, %v; want %s", line, err, want)
	}
	if m, err := u.WaitForMessage(ctx, "READY"); err != nil || !m.Has("READY=1") || m.Value("STATUS") != "keeping" || m.PID != state.MainPID || !m.Accepted {
		t.Errorf("message %v, %v", m, err)
	}

	if err := u.Kill(MainProcess, syscall.SIGUSR1); err != nil {
		t.Error(err)
	}
	if err := u.WaitFor(ctx, StatusText("asked")); err != nil {
		t.Error(err)
	}
	if err := u.Reload(ctx); err != nil {
		t.Error(err)
	}
	if err := u.WaitFor(ctx, StatusText("reloaded")); err != nil {
		t.Error(err)
	}

	if err := u.Install("/usr/bin/keeper", Version("2")); err != nil {
		t.Fatal(err)
	}
	if err := u.Signal(state.MainPID, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if err := u.WaitFor(ctx, MainPIDIsNot(state.MainPID)); err != nil {
		t.Error(err)
	}
	if err := u.WaitFor(ctx, Running); err != nil {
		t.Error(err)
	}
	want = fmt.Sprintf("version 2, stored \"kept\", home %s", u.Path("/var/lib/keeper"))
	if _, err := u.WaitForJournal(ctx, want); err != nil {
		t.Error(err)
	}
	if now := u.Show(); now.NRestarts != 1 || now.InvocationID == state.InvocationID {
		t.Errorf("after the restart: %+v", now)
	}
	deaths := u.Deaths()
	if !slices.ContainsFunc(deaths, func(d Death) bool { return d.PID == state.MainPID && d.Reaped && d.Code == 2 && d.Status == 9 }) {
		t.Errorf("deaths %v", deaths)
	}

	if err := u.Stop(ctx); err != nil {
		t.Error(err)
	}
	if now := u.Show(); now.ActiveState != "inactive" || now.NFileDescriptorStore != 0 || now.MainPID != 0 || now.Result != "success" {
		t.Errorf("after the stop: %+v", now)
	}
	if all := u.Processes(); len(all) != 0 {
		t.Errorf("processes after the stop: %v", all)
	}
	if err := u.Clean(ctx, "state"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(u.Path("/var/lib/keeper")); !os.IsNotExist(err) {
		t.Errorf("the cleaned state directory: %v", err)
	}
	for _, part := range []string{"start keeper.service: done", "active (running)", "READY=1 STATUS=keeping", "was killed by SIGKILL", "keeper["} {
		if !strings.Contains(u.Story(), part) {
			t.Errorf("the story lacks %q:\n%s", part, u.Story())
		}
	}
}

func TestJobErrors(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	job := func(err error) JobError {
		t.Helper()
		var e *JobError
		if !errors.As(err, &e) {
			t.Fatalf("%v is no JobError", err)
		}
		return *e
	}
	u := Load(t, keeperOptions("ExecReload=/bin/false\n"))
	if e := job(u.Reload(ctx)); e.Unit != "keeper.service" || e.Verb != "reload" || e.Result != "invalid" {
		t.Errorf("reload of an inactive service: %+v", e)
	}
	if err := u.Start(ctx); err != nil {
		t.Fatal(err)
	}
	e := job(u.Reload(ctx))
	if e.Result != "failed" || e.Properties.ReloadResult != "exit-code" || !strings.Contains(e.Error(), "reload keeper.service: job failed") {
		t.Errorf("reload that fails: %+v: %v", e, e.Error())
	}
	if err := u.Systemctl(ctx, "frobnicate", "keeper.service"); err == nil || !strings.Contains(err.Error(), "frobnicate") {
		t.Errorf("a verb that does not exist: %v", err)
	}
	if e := job(u.Systemctl(ctx, "start", "other.service")); e.Name == "" || e.Result != "" || !strings.Contains(e.Error(), e.Name) {
		t.Errorf("a unit that does not exist: %+v", e)
	}

	none := Start(t, Options{Files: map[string]string{"keeper.service": strings.ReplaceAll(keeper, "ExecReload=", "#")}})
	if e := job(none.Reload(ctx)); e.Name != "org.freedesktop.systemd1.JobTypeNotApplicable" {
		t.Errorf("reload without ExecReload=: %+v", e)
	}
	if err := none.Install("/usr/bin/keeper", Version("2").Crashing()); err != nil {
		t.Fatal(err)
	}
	if e := job(none.Restart(ctx)); e.Result != "failed" || e.Properties.Result != "exit-code" {
		t.Errorf("restart to a version that crashes: %+v", e)
	}
	if _, err := none.WaitForJournal(ctx, `panic: version "2" crashes on purpose`); err != nil {
		t.Error(err)
	}
}

func TestPatience(t *testing.T) {
	t.Parallel()
	u := Start(t, keeperOptions(""))
	u.opts.Patience = 300 * time.Millisecond // the start may take longer
	err := u.WaitFor(t.Context(), Failed)
	if err == nil || !strings.Contains(err.Error(), "wait for ActiveState=failed: no end within 300ms") || !strings.Contains(err.Error(), "active (running)") {
		t.Errorf("waiting in vain: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if err := u.WaitFor(ctx, Failed); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("waiting with a context that ended: %v", err)
	}
	if err := u.Install("/usr/bin/keeper", Version("2").Slow(time.Minute)); err != nil {
		t.Fatal(err)
	}
	var e *JobError
	if err := u.Restart(t.Context()); err == nil || errors.As(err, &e) || !strings.Contains(err.Error(), "no end within 300ms") {
		t.Errorf("a restart that takes long: %v", err)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	u := Start(t, keeperOptions(""))
	clear, err := u.Fault(DropNotify("STATUS=asked"))
	if err != nil {
		t.Fatal(err)
	}
	struck := make(chan bool)
	once := sync.OnceFunc(func() { close(struck) })
	defer u.listen(func(e *wire.Event) {
		if e.Fault != nil {
			once()
		}
	})()
	if err := u.Kill(MainProcess, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	// Of two signals that are pending at once, the later one may come first.
	select {
	case <-struck:
	case <-time.After(DefaultPatience):
		t.Fatal("the fault does not strike")
	}
	if err := u.Kill(MainProcess, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if err := u.WaitFor(ctx, StatusText("reloaded")); err != nil {
		t.Error(err)
	}
	clear()
	clear()
	if err := u.Kill(MainProcess, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if err := u.WaitFor(ctx, StatusText("asked")); err != nil {
		t.Error(err)
	}
	if story := u.Story(); !strings.Contains(story, "drop-notify strikes") || strings.Count(story, `status "asked"`) != 1 {
		t.Errorf("story:\n%s", story)
	}
	if err := u.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	full, err := u.Fault(FullStore().Times(1))
	if err != nil {
		t.Fatal(err)
	}
	defer full()
	if err := u.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if store := u.FDStore(); len(store) != 0 {
		t.Errorf("a full store took %+v", store)
	}
}

func TestDaemonReload(t *testing.T) {
	t.Parallel()
	u := Start(t, keeperOptions(""))
	if err := u.DaemonReload(t.Context(), map[string]string{"keeper.service.d/1.conf": "[Service]\nFileDescriptorStoreMax=7\n"}); err != nil {
		t.Fatal(err)
	}
	if max := u.Show().FileDescriptorStoreMax; max != 7 {
		t.Errorf("FileDescriptorStoreMax=%d, want 7", max)
	}
	if err := u.DaemonReload(t.Context(), map[string]string{"keeper.service.d/1.conf": "[Service]\nNonsense=7\n"}); err == nil || !strings.Contains(err.Error(), "Nonsense") {
		t.Errorf("units with an error: %v", err)
	}
}

// The sockets of a unit, and what starts it.
func TestSockets(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	o := Options{Files: plainUnits("", true)}
	o.Files["admin.socket"] = "[Socket]\nListenStream=%t/plain/admin.sock\nFileDescriptorName=admin\nService=plain.service\n"
	u := Load(t, o)
	for _, name := range []string{"plain.socket", "admin.socket"} {
		if err := u.Systemctl(ctx, "start", name); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := u.ShowSocket("plain.socket"); err != nil || s.SubState != "listening" {
		t.Errorf("plain.socket: %+v, %v", s, err)
	}
	if got := u.Addr("admin"); got != u.Path("/run/plain/admin.sock") {
		t.Errorf("admin is at %s", got)
	}
	if u.Show().ActiveState != "inactive" {
		t.Errorf("before a connection: %v", u.Show())
	}
	client, err := HTTP{}.Kinds()[1].Dial(ctx, u)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for range 2 {
		if err := client.Exchange(ctx); err != nil {
			t.Error(err)
		}
	}
	if err := u.WaitFor(ctx, Running); err != nil {
		t.Error(err)
	}
	if conn, err := u.Dial(ctx, "admin"); err != nil {
		t.Error(err)
	} else {
		_ = conn.Close()
	}
	if _, err := u.Dial(ctx, "none"); err == nil || !strings.Contains(err.Error(), `no socket "none" listens, but ["admin" "http"]`) {
		t.Errorf("a socket that does not exist: %v", err)
	}
	func() {
		defer func() {
			if got := fmt.Sprint(recover()); !strings.Contains(got, `no socket "none"`) {
				t.Errorf("the address of a socket that does not exist: %v", got)
			}
		}()
		u.Addr("none")
	}()
	if _, err := u.ShowSocket("plain.service"); err == nil {
		t.Error("a service was shown as a socket unit")
	}
}

func TestSignalStranger(t *testing.T) {
	t.Parallel()
	u := Start(t, keeperOptions(""))
	if err := u.Signal(os.Getpid(), syscall.SIGCONT); err == nil || !strings.Contains(err.Error(), "none of the unit's processes") {
		t.Errorf("a signal to another process: %v", err)
	}
}

// A process that was stopped answers nobody any more, not even in the moment
// that a busy one takes to stop.
func TestSignalStops(t *testing.T) {
	t.Parallel()
	u := Start(t, keeperOptions(""))
	pid := u.MainPID()
	for range 100 {
		for _, sig := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGSTOP} {
			if err := u.Signal(pid, sig); err != nil {
				t.Fatal(err)
			}
		}
		if processState(pid) != "T" || !allStopped(pid) {
			t.Fatal("the process still runs")
		}
		if err := u.Signal(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
}

// A unit without a test, in a directory of one's own.
func TestNew(t *testing.T) {
	t.Parallel()
	root, err := os.MkdirTemp("", "new")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(root)
	o := keeperOptions("")
	o.Root = root
	o.Environment = []string{"EXTRA=1"}
	u, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Start(t.Context()); err != nil {
		t.Error(err)
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", u.MainPID()))
	if err != nil || !strings.Contains(string(environ), "\x00EXTRA=1\x00") {
		t.Errorf("environment %q, %v", environ, err)
	}
	pid := u.MainPID()
	for range 2 {
		if err := u.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the service after Close: %v", err)
	}
	if u.MainPID() == 0 && u.Show().ActiveState == "" {
		t.Error("after Close nothing is known of the service")
	}
	if err := u.Start(t.Context()); err == nil {
		t.Error("a closed unit was started")
	}
	if _, err := os.Stat(filepath.Join(root, "usr/bin/keeper")); err != nil {
		t.Errorf("a directory that was given was emptied: %v", err)
	}
}

func TestOptionsErrors(t *testing.T) {
	t.Parallel()
	long := filepath.Join(t.TempDir(), strings.Repeat("x", manager.MaxRoot))
	if err := os.Mkdir(long, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		change func(*Options)
		want   string
	}{
		{func(o *Options) { o.Files = nil }, "neither Units nor Files"},
		{func(o *Options) { o.Systemd = 200 }, "Options.Systemd=200: must be from 239 to 262"},
		{func(o *Options) { o.Patience = -1 }, "Options.Patience=-1ns"},
		{func(o *Options) { o.Environment = []string{"X"} }, `Options.Environment has "X"`},
		{func(o *Options) { o.Programs = map[string]Program{"usr/bin/keeper": {}} }, `Options.Programs has "usr/bin/keeper"`},
		{func(o *Options) { o.Programs = map[string]Program{"/usr/bin/keeper": File("/bin/true").Crashing()} }, "only the test binary"},
		{func(o *Options) { o.Programs = map[string]Program{"/usr/bin/keeper": File("/does/not/exist")} }, "install /usr/bin/keeper: open /does/not/exist"},
		{func(o *Options) { o.Root = "/does/not/exist" }, "Options.Root: lstat /does"},
		{func(o *Options) { o.Root = long }, "at most 48 leave room for paths of sockets"},
		{func(o *Options) { o.Root = "/proc/version" }, "reexectest: Options.Root: /proc/version: must be a directory"},
		{func(o *Options) { o.Root = "/proc/1" }, "reexectest: "},
	} {
		o := keeperOptions("")
		c.change(&o)
		u, err := New(t.Context(), o)
		if err == nil {
			_ = u.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want one with %q", err, c.want)
		}
		if err != nil && (strings.Count(err.Error(), "reexectest: ") != 1 || strings.Contains(err.Error(), "io.github")) {
			t.Errorf("the error is not for a reader: %v", err)
		}
	}
}

// Programs of the host are run as they are, others are what Programs say.
func TestPrograms(t *testing.T) {
	t.Parallel()
	u := Start(t, Options{
		Files:    map[string]string{"a.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/opt/a one\nExecStart=/bin/echo two\n"},
		Programs: map[string]Program{"/opt/a": Text("#!/bin/sh\necho $0 $1\n")},
	})
	for _, line := range []string{u.Path("/opt/a") + " one", "two"} {
		if _, err := u.WaitForJournal(t.Context(), line); err != nil {
			t.Error(err)
		}
	}
	if err := u.Install("/bin/echo", Missing()); err == nil || !strings.Contains(err.Error(), "the unit's programs are /opt/a") {
		t.Errorf("installing in place of a program of the host: %v", err)
	}
}

// A failed test tells the story of its unit, behind what it said itself.
func TestFailureTellsStory(t *testing.T) {
	t.Parallel()
	r := record(t, func(tb testing.TB) {
		Start(tb, keeperOptions(""))
		tb.Fatal("what the test says")
	})
	text := r.text.String()
	if !strings.HasPrefix(text, "what the test says\nstory of keeper.service (systemd 257)") || strings.Count(text, "story of") != 1 {
		t.Errorf("%s", text)
	}
	quiet := record(t, func(tb testing.TB) { Start(tb, keeperOptions("")) })
	if quiet.Failed() || quiet.text.Len() > 0 {
		t.Errorf("a test that passes says %s", quiet.text.String())
	}
	// A race in the service is a failure of the test.
	raced := record(t, func(tb testing.TB) {
		u := Start(tb, keeperOptions("ExecStartPre=/bin/echo WARNING: DATA RACE\n"))
		if _, err := u.WaitForJournal(tb.Context(), "DATA RACE"); err != nil {
			tb.Error(err)
		}
	})
	if !raced.Failed() || !strings.Contains(raced.text.String(), "a process of the service has a data race") {
		t.Errorf("a race: failed %t: %s", raced.Failed(), raced.text.String())
	}
}

// Many units at a time, and stories that are long.
func TestParallel(t *testing.T) {
	t.Parallel()
	for i := range 6 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			o := Options{Files: plainUnits("", true)}
			u := Start(t, o)
			for range 3 {
				was := u.MainPID()
				if err := u.Reload(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := u.WaitFor(t.Context(), MainPIDIsNot(was)); err != nil {
					t.Fatal(err)
				}
			}
			conn, err := u.Dial(t.Context(), "http")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
			if text, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(text), "HTTP/1.0 200") {
				t.Errorf("%q, %v", text, err)
			}
		})
	}
}
