// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/notify/notifytest"
	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// A fakeWorld is a world of processes that only exist in a table and do what
// the test says. It notes what the machine orders.
type fakeWorld struct {
	t       testing.TB
	service *service
	clock   time.Duration
	nextPID int
	table   map[int]*fakeProcess
	timers  map[timer]time.Duration
	ended   map[int]jobResult
	nextID  int
	// orders are the processes that were started and the signals that were
	// sent, such as "ExecStart" and "SIGTERM main".
	orders    []string
	names     map[int]string // for orders
	spawned   []spawnOrder
	signaled  []int
	lines     []string
	scheduled bool
	pidFile   string
	watches   bool // PIDFile=
	stored    int
	removed   int    // times that RuntimeDirectory= was removed
	sockets   string // what the sockets were told last
	spawnErr  error
	needed    error // of socketsWanted
	draws     uint64
}

const fakeManager = 10 // the PID of the manager

// A fakeProcess is a process of a fakeWorld.
type fakeProcess struct {
	pid, parent int
	foreign     bool // not one of the unit's
	deaf        bool // without a handler of the reload signal
}

// newFake returns a world with a service of a version of systemd. The lines are
// those of its unit, without sections.
func newFake(t testing.TB, version int, lines ...string) *fakeWorld {
	t.Helper()
	w := &fakeWorld{
		t: t, clock: time.Hour, nextPID: 100, nextID: 1,
		table:  map[int]*fakeProcess{fakeManager: {pid: fakeManager, parent: 1, foreign: true}, 1: {pid: 1, foreign: true}},
		timers: map[timer]time.Duration{}, ended: map[int]jobResult{}, names: map[int]string{},
	}
	w.service = newService(w, w.load(version, lines...), version)
	return w
}

func (w *fakeWorld) load(version int, lines ...string) *unit.Service {
	w.t.Helper()
	sections := map[bool]string{true: "[Unit]\n", false: "[Service]\n"}
	for _, line := range lines {
		sections[strings.HasPrefix(line, "StartLimit") || strings.HasPrefix(line, "RefuseManual")] += line + "\n"
	}
	text := sections[true] + sections[false]
	if !strings.Contains(text, "ExecStart=") {
		text += "ExecStart=/usr/bin/app\n"
	}
	set, err := unit.Load(unit.Options{Systemd: version, Files: []unit.File{{Name: "app.service", Text: text}}})
	if err != nil {
		w.t.Fatalf("load:\n%s\n%v", text, err)
	}
	return set.Service
}

func (w *fakeWorld) now() time.Duration { return w.clock }
func (w *fakeWorld) random() uint64     { w.draws++; return w.draws }
func (w *fakeWorld) pid() int           { return fakeManager }
func (w *fakeWorld) schedule()          { w.scheduled = true }

func (w *fakeWorld) spawn(order spawnOrder) (int, error) {
	w.orders = append(w.orders, string(order.kind))
	w.spawned = append(w.spawned, order)
	if w.spawnErr != nil {
		return 0, w.spawnErr
	}
	return w.born(fakeManager, strings.ToLower(strings.TrimPrefix(string(order.kind), "Exec"))), nil
}

// born adds a process; its name is for the orders.
func (w *fakeWorld) born(parent int, name string) int {
	pid := w.nextPID
	w.nextPID++
	w.table[pid] = &fakeProcess{pid: pid, parent: parent}
	w.names[pid] = name
	return pid
}

func (w *fakeWorld) signal(pid int, sig syscall.Signal) error {
	if w.table[pid] == nil {
		return syscall.ESRCH
	}
	if sig != syscall.SIGCONT {
		w.orders = append(w.orders, unix.SignalName(sig)+" "+w.names[pid])
		w.signaled = append(w.signaled, pid)
	}
	return nil
}

func (w *fakeWorld) signalAll(sig syscall.Signal, except ...int) int {
	n := 0
	for _, pid := range w.processes() {
		if !slices.Contains(except, pid) {
			n++
			w.orders = append(w.orders, unix.SignalName(sig)+" "+w.names[pid])
		}
	}
	return n
}

func (w *fakeWorld) processes() []int {
	var pids []int
	for _, pid := range slices.Sorted(maps.Keys(w.table)) {
		if !w.table[pid].foreign {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (w *fakeWorld) isChild(pid int) bool {
	return w.table[pid] != nil && w.table[pid].parent == fakeManager
}
func (w *fakeWorld) belongs(pid int) bool { return w.table[pid] != nil && !w.table[pid].foreign }
func (w *fakeWorld) alive(pid int) bool   { return w.table[pid] != nil }
func (w *fakeWorld) handles(pid int, _ syscall.Signal) bool {
	return w.table[pid] != nil && !w.table[pid].deaf
}
func (w *fakeWorld) pidfdID(pid int) (uint64, bool) { return uint64(pid) + 1000, true }

func (w *fakeWorld) readPIDFile() (int, error) {
	if w.pidFile == "" {
		return 0, os.ErrNotExist
	}
	var pid int
	_, err := fmt.Sscan(w.pidFile, &pid)
	return pid, err
}
func (w *fakeWorld) removePIDFile()                        { w.pidFile = "" }
func (w *fakeWorld) watchPIDFile(on bool)                  { w.watches = on }
func (w *fakeWorld) setTimer(t timer, after time.Duration) { w.timers[t] = w.clock + after }
func (w *fakeWorld) stopTimer(t timer)                     { delete(w.timers, t) }
func (w *fakeWorld) removeRuntimeDirectories()             { w.removed++ }
func (w *fakeWorld) store() fdStore                        { return (*fakeStore)(w) }
func (w *fakeWorld) socketsWanted() error                  { return w.needed }
func (w *fakeWorld) socketsTaken()                         { w.sockets = "taken" }
func (w *fakeWorld) socketsFreed()                         { w.sockets = "freed" }
func (w *fakeWorld) socketsFailed()                        { w.sockets = "failed" }
func (w *fakeWorld) changed()                              {}

func (w *fakeWorld) jobEnded(id int, result jobResult) {
	if old, ok := w.ended[id]; ok {
		w.t.Errorf("job %d ended twice: %s, %s", id, old, result)
	}
	w.ended[id] = result
}

func (w *fakeWorld) log(_ int, format string, args ...any) {
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

type fakeStore fakeWorld

func (s *fakeStore) len() int { return s.stored }
func (s *fakeStore) release() { s.stored = 0 }

// flush runs jobs, as the world does when nothing else is to do.
func (w *fakeWorld) flush() {
	for n := 0; w.scheduled; n++ {
		if n > 1000 {
			w.t.Fatalf("jobs are run again and again in state %s", w.service.state)
		}
		w.scheduled = false
		w.service.dispatch()
	}
}

// request asks for a job and lets it run.
func (w *fakeWorld) request(verb wire.Verb) int {
	w.t.Helper()
	id := w.nextID
	w.nextID++
	if err := w.service.request(id, verb); err != nil {
		w.t.Fatalf("%s: %v", verb, err)
	}
	w.flush()
	return id
}

// exits ends a process with an exit status.
func (w *fakeWorld) exits(pid, status int) { w.dies(pid, syscall.WaitStatus(status<<8)) }

// killed ends a process with a signal.
func (w *fakeWorld) killed(pid int, sig syscall.Signal) { w.dies(pid, syscall.WaitStatus(sig)) }

func (w *fakeWorld) dies(pid int, status syscall.WaitStatus) {
	w.t.Helper()
	p := w.table[pid]
	if p == nil {
		w.t.Fatalf("process %d is dead already", pid)
	}
	delete(w.table, pid)
	for _, child := range w.table {
		if child.parent == pid {
			child.parent = fakeManager
		}
	}
	if p.parent == fakeManager {
		w.service.exited(pid, status)
	}
	if !p.foreign && len(w.processes()) == 0 {
		w.service.empty()
	}
	w.flush()
}

// obey ends all processes that got a signal to end, the way that it is meant.
func (w *fakeWorld) obey() {
	for _, order := range w.take() {
		name, which, _ := strings.Cut(order, " ")
		sig := unix.SignalNum(name)
		if sig == 0 || sig == syscall.SIGHUP {
			continue
		}
		for _, pid := range w.processes() {
			if w.names[pid] != which {
				continue
			}
			if sig == syscall.SIGTERM {
				w.exits(pid, 0)
			} else {
				w.killed(pid, sig)
			}
			break
		}
	}
}

// take returns the orders since the last time.
func (w *fakeWorld) take() []string {
	orders := w.orders
	w.orders = nil
	return orders
}

// sends is a message of a process of the unit.
func (w *fakeWorld) sends(pid int, fields ...notifytest.Field) notifyVerdict {
	verdict := w.service.message(notification{pid: pid, uid: 1000, fields: fields})
	w.flush()
	return verdict
}

// pass lets time pass, and timers elapse.
func (w *fakeWorld) pass(d time.Duration) {
	end := w.clock + d
	for {
		var first timer
		for t, at := range w.timers {
			if at <= end && (first == "" || at < w.timers[first]) {
				first = t
			}
		}
		if first == "" {
			break
		}
		w.clock = max(w.clock, w.timers[first])
		delete(w.timers, first)
		w.service.elapsed(first)
		w.flush()
	}
	w.clock = end
}

// start starts the service and makes it running.
func (w *fakeWorld) start() (main int) {
	w.t.Helper()
	id := w.request(wire.Start)
	main = w.service.mainPID
	if strings.HasPrefix(w.service.unit.Type, "notify") {
		w.sends(main, "READY=1")
	}
	w.wantState(serviceRunning)
	w.wantEnd(id, wire.Done)
	w.take()
	return w.service.mainPID
}

func (w *fakeWorld) wantState(want state) {
	w.t.Helper()
	if w.service.state != want {
		w.t.Fatalf("state = %s (result %s), want %s", w.service.state, w.service.result, want)
	}
}

func (w *fakeWorld) wantResult(want result) {
	w.t.Helper()
	if w.service.result != want {
		w.t.Fatalf("result = %s, want %s", w.service.result, want)
	}
}

// wantEnd checks the result of a job; "" is one that goes on.
func (w *fakeWorld) wantEnd(id int, want jobResult) {
	w.t.Helper()
	if got := w.ended[id]; got != want {
		w.t.Fatalf("job %d: result %q, want %q (state %s)", id, got, want, w.service.state)
	}
}

// wantOrders checks what was ordered since the last look.
func (w *fakeWorld) wantOrders(want ...string) {
	w.t.Helper()
	if got := w.take(); !slices.Equal(got, want) {
		w.t.Fatalf("orders = %q, want %q", got, want)
	}
}

var errFake = errors.New("the fake world refuses")

// versions are those that differ in something, and those that are compared
// with the real ones.
var versions = []int{239, 245, 247, 248, 249, 250, 252, 253, 254, 255, 256, 257, 258, 259, 262}

// eachVersion runs a test for all versions from one to another.
func eachVersion(t *testing.T, from, to int, run func(t *testing.T, version int)) {
	t.Helper()
	for _, v := range versions {
		if v >= from && v <= to {
			t.Run(fmt.Sprint(v), func(t *testing.T) { run(t, v) })
		}
	}
}

const newest = 262
