// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/vmtests"
)

const (
	myappUnit   = "myapp.service"
	myappSocket = "myapp.socket"
	myappPath   = "/usr/bin/myapp"
	myappURL    = "http://127.0.0.1:8080"
)

// build is one build of myapp.
type build struct {
	version string
	damage  string // a kind of packaging/myapp/damage.go, or none
	after   string // when it strikes, counted from the first request
	goarch  string
}

var (
	v1 = build{version: "1.0.0"}
	v2 = build{version: "2.0.0"}
)

// programs are compiled once for all stories.
var programs struct {
	mu   sync.Mutex
	dir  string
	made map[string]func() (string, error)
}

func program(t *testing.T, pkg string, b build) string {
	t.Helper()
	programs.mu.Lock()
	if programs.dir == "" {
		dir, err := os.MkdirTemp("", "holdfast-stories-*")
		if err != nil {
			programs.mu.Unlock()
			t.Fatal(err)
		}
		programs.dir, programs.made = dir, map[string]func() (string, error){}
	}
	key := fmt.Sprintf("%s %+v", pkg, b)
	build, ok := programs.made[key]
	if !ok {
		dir := filepath.Join(programs.dir, fmt.Sprint(len(programs.made)))
		build = sync.OnceValues(func() (string, error) {
			if err := os.Mkdir(dir, 0o755); err != nil {
				return "", err
			}
			flags := []string{"-ldflags=-s -w -X main.version=" + b.version + " -X main.damageKind=" + b.damage}
			if b.after != "" {
				flags[0] += " -X main.damageAfter=" + b.after
			}
			if b.damage != "" {
				flags = append(flags, "-tags=damage")
			}
			if b.goarch != "" {
				return crossBuild(dir, pkg, b.goarch, flags)
			}
			return vmtests.Build(context.Background(), dir, pkg, flags...)
		})
		programs.made[key] = build
	}
	programs.mu.Unlock()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func removePrograms() {
	if programs.dir != "" {
		_ = os.RemoveAll(programs.dir)
	}
}

// loadTimeout is that of a request of the load, where nothing holds the machine up.
const loadTimeout = 15 * time.Second

// myapp is the example service in one machine, as a maintainer would install
// it: rendered units, hardened, as DynamicUser.
type myapp struct {
	*vmtests.Machine
	t       *testing.T
	ctx     context.Context
	timeout time.Duration // of each request of the load
}

// timing are myapp's options in a story.
type timing struct {
	probation, start, drain time.Duration
	beat                    time.Duration // 0 is myapp's default
}

var (
	brisk = timing{probation: time.Second, start: 4 * time.Second, drain: 20 * time.Second}
	// patient is for virtual machines: software emulation is slow, and a busy host holds it up for seconds.
	patient = timing{probation: 6 * time.Second, start: 60 * time.Second, drain: 60 * time.Second, beat: 3 * time.Second}
)

// installMyapp installs myapp 1.0.0 and its units in a machine.
func installMyapp(t *testing.T, on *vmtests.Machine, tm timing, change func(*units.Options)) *myapp {
	t.Helper()
	m := &myapp{Machine: on, t: t, ctx: t.Context(), timeout: loadTimeout}
	m.copy(program(t, "github.com/holdfast-go/holdfast/units/cmd/holdfast", build{}), "/usr/bin/holdfast", 0o755)
	m.put(v1)
	options := units.Options{
		Name: "myapp", Exec: myappPath, Systemd: int(on.Version),
		Args:         []string{"-probation=" + tm.probation.String(), "-start-timeout=" + tm.start.String(), "-drain=" + tm.drain.String()},
		Sockets:      []units.Socket{{Name: "http", Address: "127.0.0.1:8080"}},
		StartTimeout: tm.start, Probation: tm.probation, DrainTimeout: tm.drain,
	}
	if tm.beat != 0 {
		m.timeout, options.CheckTimeout = 2*time.Minute, tm.start
		options.Args = append(options.Args, "-beat="+tm.beat.String(), "-check-timeout="+tm.start.String())
	}
	if change != nil {
		change(&options)
	}
	files, err := units.Render(options)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := m.WriteFile(m.ctx, "/etc/systemd/system/"+f.Name, []byte(f.Content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m.systemctl("daemon-reload")
	return m
}

// uninstall removes myapp from a machine that goes on to another story.
func (m *myapp) uninstall() {
	m.t.Helper()
	for _, argv := range [][]string{
		{"systemctl", "disable", "--now", "--no-warn", myappUnit, myappSocket},
		{"sh", "-c", "rm -rf /etc/systemd/system/myapp.* /var/lib/myapp* /var/lib/private/myapp*"},
		{"systemctl", "daemon-reload"},
		{"sh", "-c", "systemctl reset-failed myapp.service myapp.socket || true"}, // unknown ones are fine
	} {
		if err := m.Run(m.ctx, argv...); err != nil {
			m.t.Error(err)
		}
	}
}

// startMyapp boots v and starts myapp there in the default units.
func startMyapp(t *testing.T, v vmtests.Version, tm timing) *myapp {
	t.Helper()
	m := installMyapp(t, vmtests.BootTest(t, v), tm, nil)
	m.systemctl("start", myappSocket, myappUnit)
	return m
}

func (m *myapp) copy(from, to string, mode os.FileMode) {
	m.t.Helper()
	// As package managers do: the new file takes the name by rename.
	if err := m.Copy(m.ctx, from, to+".new", mode); err != nil {
		m.t.Fatal(err)
	}
	m.run("mv", "-f", to+".new", to)
}

// put replaces the binary on disk; the running one is not touched.
func (m *myapp) put(b build) {
	m.t.Helper()
	m.copy(program(m.t, "github.com/holdfast-go/holdfast/packaging/myapp", b), myappPath, 0o755)
}

func (m *myapp) run(argv ...string) string {
	m.t.Helper()
	out, err := m.Output(m.ctx, argv...)
	if err != nil {
		m.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func (m *myapp) systemctl(args ...string) string {
	m.t.Helper()
	return m.run(append([]string{"systemctl"}, args...)...)
}

// reload is systemctl reload: its exit status is 0 or it is not.
func (m *myapp) reload() error { return m.Run(m.ctx, "systemctl", "reload", myappUnit) }

func (m *myapp) mustReload() {
	m.t.Helper()
	if err := m.reload(); err != nil {
		m.t.Fatalf("systemctl reload: %v", err)
	}
}

// mustRefuse says that a reload must fail, and with this in systemctl status.
func (m *myapp) mustRefuse(reason string) {
	m.t.Helper()
	before := m.mainPID()
	err := m.reload()
	var exit *vmtests.ExitError
	if !errors.As(err, &exit) {
		m.t.Fatalf("systemctl reload: %v; want a failure because of %q", err, reason)
	}
	if text := m.systemctl("status", "--no-pager", "--lines=0", myappUnit); !strings.Contains(text, reason) {
		m.t.Errorf("systemctl status does not say %q:\n%s", reason, text)
	}
	if now := m.mainPID(); now != before {
		m.t.Errorf("MainPID went from %d to %d by a refused upgrade", before, now)
	}
	if state := m.prop("ActiveState") + "/" + m.prop("SubState"); state != "active/running" {
		m.t.Errorf("state %s after a refused upgrade", state)
	}
}

func (m *myapp) prop(name string) string {
	m.t.Helper()
	value, err := m.Prop(m.ctx, myappUnit, name)
	if err != nil {
		m.t.Fatal(err)
	}
	return value
}

func (m *myapp) mainPID() int {
	m.t.Helper()
	pid, err := m.MainPID(m.ctx, myappUnit)
	if err != nil {
		m.t.Fatal(err)
	}
	return pid
}

// status asks the service who it is and what it does.
func (m *myapp) status() control.Status {
	m.t.Helper()
	var st control.Status
	text := m.run("/usr/bin/holdfast", "status", "--json=short", "--timeout=1m", myappUnit)
	if err := json.Unmarshal([]byte(text), &st); err != nil {
		m.t.Fatalf("holdfast status: %v\n%s", err, text)
	}
	return st
}

// reloadInBackground runs systemctl reload; the channel gets how it ended.
func (m *myapp) reloadInBackground() <-chan error {
	done := make(chan error, 1)
	go func() { done <- m.reload() }()
	return done
}

// between is the time from one line of the journal to the next that has the
// other text.
func (m *myapp) between(from, to string) time.Duration {
	m.t.Helper()
	entries := m.entries()
	var begin time.Duration
	for _, e := range entries {
		switch text := e.Message(); {
		case strings.Contains(text, from):
			begin = m.at(e)
		case begin != 0 && strings.Contains(text, to):
			return m.at(e) - begin
		}
	}
	m.t.Fatalf("journal: no %q after %q", to, from)
	return 0
}

// moment is when the journal has a line for the first time after another moment, both since the boot.
func (m *myapp) moment(text string, after time.Duration) time.Duration {
	m.t.Helper()
	for _, e := range m.entries() {
		if at := m.at(e); at >= after && strings.Contains(e.Message(), text) {
			return at
		}
	}
	m.t.Fatalf("journal: no %q after %v", text, after)
	return 0
}

func (m *myapp) entries() []vmtests.Entry {
	m.t.Helper()
	entries, err := m.Entries(m.ctx, "-u", myappUnit)
	if err != nil {
		m.t.Fatal(err)
	}
	return entries
}

func (m *myapp) at(e vmtests.Entry) time.Duration {
	m.t.Helper()
	usec, err := strconv.ParseInt(e.Get("__MONOTONIC_TIMESTAMP"), 10, 64)
	if err != nil {
		m.t.Fatal(err)
	}
	return time.Duration(usec) * time.Microsecond
}

// waitState waits until the journal says that a generation has come to a state.
func (m *myapp) waitLine(text string) {
	m.t.Helper()
	if err := m.Run(m.ctx, "timeout", "60", "bash", "-c",
		`journalctl --no-pager -f -n 500 -u "$1" -o cat | grep -q -m1 -F -- "$2"`, "-", myappUnit, text); err != nil {
		m.t.Fatalf("wait for %q in the journal: %v", text, err)
	}
}

// load starts requests of every kind.
func (m *myapp) load() *vmtests.Load {
	m.t.Helper()
	l, err := m.StartLoad(m.ctx, vmtests.LoadOptions{
		URL: myappURL + "/echo", New: 2, KeepAlive: 3, Transport: 2, Think: 4 * time.Millisecond, Timeout: m.timeout,
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return l
}

// nothingLost ends the load and fails for every request that failed.
func (m *myapp) nothingLost(l *vmtests.Load) vmtests.LoadSummary {
	m.t.Helper()
	s, err := l.Stop(m.ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	if text := s.FailureText(10); text != "" {
		m.t.Error(text)
	}
	m.t.Logf("%d requests, longest gap %v", s.OK+s.Failed, s.LongestGap.Duration)
	return s
}

// waitAnswers waits until the version has answered n requests.
func (m *myapp) waitAnswers(l *vmtests.Load, version string, n int) {
	m.t.Helper()
	if _, err := l.WaitVersion(m.ctx, version, n); err != nil {
		m.t.Fatal(err)
	}
}

var killed = regexp.MustCompile(`Killing process (\d+) \(.*\) with signal SIGKILL`)

// quietJournal says that systemd had nothing to complain about.
func (m *myapp) quietJournal() {
	m.t.Helper()
	entries, err := m.Entries(m.ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	spoke := map[int]bool{} // processes of the unit
	for _, e := range entries {
		spoke[e.PID()] = true
	}
	for _, e := range entries {
		text := e.Message()
		// At the end systemd sends SIGKILL to what is left, thread by thread (cgroup.threads): also to those of
		// a process that is just exiting. A generation that had to be killed has written something before.
		if m := killed.FindStringSubmatch(text); m != nil {
			if pid, err := strconv.Atoi(m[1]); err == nil && !spoke[pid] {
				continue
			}
		}
		for _, bad := range []string{
			"not our child", "reception only permitted", "Got notification message from PID", "left-over process",
			"Found left-over", "does not belong to service", "refusing", "Unknown key", "Unknown lvalue", "timed out",
			"Killing process", "panic", "event cannot come",
		} {
			if strings.Contains(text, bad) && (e.PID() == 1 || e.Unit() == myappUnit) {
				m.t.Errorf("journal: PID %d: %s", e.PID(), text)
			}
		}
	}
}

// ownLines says that every generation's lines carry its own PID.
func (m *myapp) ownLines() {
	m.t.Helper()
	entries, err := m.Entries(m.ctx, "-u", myappUnit)
	if err != nil {
		m.t.Fatal(err)
	}
	generations := map[string]map[int]bool{}
	for _, e := range entries {
		text := e.Message()
		_, after, ok := strings.Cut(text, "generation=")
		if !ok {
			continue
		}
		g, _, _ := strings.Cut(after, " ")
		if generations[g] == nil {
			generations[g] = map[int]bool{}
		}
		generations[g][e.PID()] = true
	}
	if len(generations) < 2 {
		m.t.Errorf("journal has lines of %d generations", len(generations))
	}
	pids := map[int]string{}
	for g, of := range generations {
		for pid := range of {
			if other, ok := pids[pid]; ok {
				m.t.Errorf("journal: PID %d has lines of generations %s and %s", pid, other, g)
			}
			pids[pid] = g
		}
		if len(of) != 1 {
			m.t.Errorf("journal: generation %s has lines of PIDs %v", g, of)
		}
	}
}

// eachVersion runs a story on every systemd, side by side.
func eachVersion(t *testing.T, story func(*testing.T, vmtests.Version)) {
	t.Helper()
	for _, v := range vmtests.Versions() {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			story(t, v)
		})
	}
}

// otherArchitecture is one that this machine cannot run.
func otherArchitecture() string {
	if runtime.GOARCH == "arm64" {
		return "amd64"
	}
	return "arm64"
}
