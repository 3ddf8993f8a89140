// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// suite is what TestUpgrade tries.
var suite = []suiteCase{
	{
		"start", "READY=1 means that the service answers, and MainPID= is a living process of it", nil,
		(*trial).afterStart,
	},
	{
		"load", "an upgrade loses no request, neither on a new connection nor on one that is kept alive",
		[]Capability{LosesNothing},
		(*trial).underLoad,
	},
	{
		"refused", "a restart refuses no connection: systemd holds the sockets meanwhile",
		[]Capability{HeldSockets},
		(*trial).restart,
	},
	{
		"overlap", "the old version accepts connections until the next one is ready",
		[]Capability{Overlaps},
		(*trial).overlap,
	},
	{
		"in_flight", "a request that is in flight when the upgrade begins is answered whole", nil,
		(*trial).inFlight,
	},
	{
		"main", "MAINPID= moves only to a child of systemd that serves, without help of any other process",
		[]Capability{Overlaps},
		(*trial).newMain,
	},
	{
		"same_process", "an upgrade in place keeps the main process, which runs the next version, and restarts nothing",
		[]Capability{InPlace},
		(*trial).sameProcess,
	},
	{
		"unfit", "a file that cannot run as the next version changes nothing, and the next good one is upgraded to",
		[]Capability{LosesNothing},
		(*trial).unfit,
	},
	{
		"killed_at_start", "a next version that dies before it is ready changes nothing",
		[]Capability{Overlaps},
		(*trial).killedAtStart,
	},
	{
		"killed_on_trial", "a next version that serves and dies before it is main is undone, and no connection is refused",
		[]Capability{Overlaps, RollsBack},
		func(t *trial) { t.onTrial(unix.SIGKILL) },
	},
	{
		"hung_on_trial", "a next version that serves and hangs before it is main is undone, and no connection is refused",
		[]Capability{Overlaps, RollsBack},
		func(t *trial) { t.onTrial(unix.SIGSTOP) },
	},
	{
		"crash", "when main is killed the service is started again, and no connection is refused meanwhile",
		[]Capability{Restarts, HeldSockets},
		(*trial).crash,
	},
	{
		"stop", "a stop answers what is in flight and ends every process by SIGTERM alone, with exit status 0, also after an upgrade", nil,
		(*trial).stop,
	},
	{
		"stop_during_upgrade", "a stop in the middle of an upgrade wins: both generations end, and the service can be started again", nil,
		(*trial).stopDuringUpgrade,
	},
	{
		"two_reloads", "two reloads at once both end, one main process is left, and no request is lost",
		[]Capability{LosesNothing},
		(*trial).twoReloads,
	},
	{
		"growth", "upgrades leave nothing behind: no descriptor, no thread, no process, nothing in the store", nil,
		(*trial).growth,
	},
	{
		"notify", "only processes that NotifyAccess= admits speak to systemd, and in a way that it understands", nil,
		(*trial).notify,
	},
}

func (t *trial) afterStart() {
	u := t.load()
	if err := u.Start(t.Context()); err != nil {
		t.broken("the service does not start: %v", err)
	}
	began := time.Now()
	if err := t.answered(u); err != nil {
		t.broken("the job of the start has ended, which with Type=%s says that the service is ready, and it does not answer: %v", u.set.Service.Type, err)
	}
	u.tell("every kind of client was answered in %v", time.Since(began))
	if state := u.Show(); !slices.ContainsFunc(u.Processes(), func(p Process) bool { return p.PID == state.MainPID }) {
		t.broken("the main process is not among the unit's: the service is %v, with the processes%s", state, listed(u.Processes()))
	}
}

// loadClients is how many clients of each kind ask at a time, where much is
// asked. Requests that are lost in a window of some microseconds are seen only
// if there are enough.
const (
	loadClients = 4
	fewClients  = 2
	thinking    = 5 * time.Millisecond
)

func (t *trial) underLoad() {
	u := t.start()
	n := len(u.Processes())
	l := t.clients(u, loadClients, 0)
	for range t.Upgrades {
		if err := t.upgrade(u); err != nil {
			t.broken("under load the upgrade to version %d failed: %v", t.version, err)
		}
		if err := l.round(t.Context()); err != nil {
			t.broken("after the upgrade to version %d: %v", t.version, err)
		}
	}
	t.nothingLost(l)
	t.alone(u, n, 0)
}

func (t *trial) restart() {
	u := t.start()
	l := t.clients(u, fewClients, thinking)
	before := u.Show()
	if err := u.Restart(t.Context()); err != nil {
		t.broken("%v", err)
	}
	// NRestarts= counts those that systemd decides on, after a failure.
	if now := u.Show(); now.MainPID == before.MainPID || now.NRestarts != before.NRestarts {
		t.broken("after the restart the service is %v, and was %v", now, before)
	}
	if err := l.round(t.Context()); err != nil {
		t.broken("after the restart: %v", err)
	}
	t.noneRefused(l, "during the restart")
}

// noneRefused ends the load. Requests may have been cut.
func (t *trial) noneRefused(l *load, when string) {
	t.Helper()
	n, losses := l.end()
	if refused := slices.DeleteFunc(losses, func(l loss) bool { return !l.refused() }); len(refused) > 0 {
		t.broken("%s %d of %d connections were refused:%s", when, len(refused), n, describe(refused))
	}
}

// newcomers tells of the new processes that run the program, each of which is
// stopped before it has begun, until release is called with it.
func (t *trial) newcomers(u *Unit) (news <-chan int, release func(pid int), done func()) {
	t.Helper()
	found := make(chan int)
	if t.Next(0).kind == selfProgram {
		release, done = t.holdVersions(u, found)
	} else {
		release, done = continueProcess, t.holdBirths(u, found)
	}
	done = sync.OnceFunc(done)
	t.Cleanup(done)
	return found, release, done
}

func continueProcess(pid int) { _ = syscall.Kill(pid, syscall.SIGCONT) }

// holdVersions has versions of the test binary wait before main is called: they
// connect, see trailer.StopFile, and go on when the connection is closed.
func (t *trial) holdVersions(u *Unit, found chan<- int) (release func(pid int), done func()) {
	t.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: u.stopPath()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var (
		mu   sync.Mutex
		held = make(map[int]net.Conn)
		all  sync.WaitGroup
	)
	all.Go(func() {
		for {
			conn, err := ln.AcceptUnix()
			if err != nil {
				return // closed
			}
			pid, err := peer(conn)
			if err != nil {
				u.tell("hold a new process: %v", err)
				_ = conn.Close()
				continue
			}
			mu.Lock()
			held[pid] = conn
			mu.Unlock()
			select {
			case found <- pid:
			case <-ctx.Done():
			}
		}
	})
	release = func(pid int) {
		mu.Lock()
		defer mu.Unlock()
		if conn := held[pid]; conn != nil {
			_ = conn.Close()
			delete(held, pid)
		}
	}
	return release, func() {
		cancel()
		_ = ln.Close()
		all.Wait()
		for pid := range held {
			release(pid)
		}
	}
}

// peer is the process at the other end.
func peer(conn *net.UnixConn) (pid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var errOption error
	err = raw.Control(func(fd uintptr) { cred, errOption = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, os.NewSyscallError("getsockopt SO_PEERCRED", errOption)); err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// holdBirths stops processes that are born, until they run the program.
// Commands of ExecReload= and such are no news.
func (t *trial) holdBirths(u *Unit, found chan<- int) (done func()) {
	t.Helper()
	seen := make(chan int, 1024)
	stop := u.listen(func(e *wire.Event) {
		if e.Fault != nil && e.Fault.Kind == wire.HoldProcess {
			select {
			case seen <- e.Fault.PID:
			default: // nobody makes so many
			}
		}
	})
	clear, err := u.Fault(HoldProcesses(u.opts.Patience))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var looking sync.WaitGroup
	looking.Go(func() {
		for {
			select {
			case pid := <-seen:
				s := u.Show()
				news := s.ControlPID != pid && s.MainPID != pid && t.untilExec(u, pid)
				if news && cpuTime(pid) > loadTime {
					u.tell("process %d is let go: it was stopped too late", pid)
					news = false
				}
				if !news {
					// A process of the stand-in's own stops itself, a moment after it was told of.
					waitStopped(pid)
					continueProcess(pid)
					continue
				}
				select {
				case found <- pid:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		looking.Wait()
		stop()
		clear()
		for _, p := range u.Processes() {
			if p.State == "T" {
				continueProcess(p.PID)
			}
		}
	}
}

func (t *trial) overlap() {
	// So long the old version has for what it does right after it has started the next.
	const pause = 50 * time.Millisecond
	u := t.start()
	news, release, done := t.newcomers(u)
	defer done()
	for range tries {
		result := t.later(func() error { return t.upgrade(u) })
		held, ended := 0, false
		for !ended {
			select {
			case pid := <-news:
				held++
				for since := time.Now(); time.Since(since) < pause; {
					if err := t.answered(u); err != nil {
						t.broken("the new process %d has not begun, it was stopped at its birth, and the old version does not answer any more: %v", pid, err)
					}
				}
				release(pid)
			case err := <-result:
				if ended = true; err != nil {
					t.broken("the upgrade failed: %v", err)
				}
			}
		}
		if held > 0 {
			return
		}
	}
	t.nobodyNew()
}

// execSteps is how often untilExec lets a process go on: far more often than it
// takes to get from fork to exec.
const execSteps = 200

// untilExec lets a stopped process go on in small steps until it runs the
// program, and returns false if it does not: it ends, as one that was forked to
// try what the kernel can (Go does so once), or is something else. Until then whoever forked it may wait
// for it, with vfork(2), and it has what that one has.
func (t *trial) untilExec(u *Unit, pid int) bool {
	program := u.Path(t.program)
	for range execSteps {
		if runs(pid, program) {
			return true
		}
		ran := timesRun(pid)
		if syscall.Kill(pid, syscall.SIGCONT) != nil {
			return false
		}
		// On a loaded machine it gets its turn late; stopped before that, it would never get on.
		for processState(pid) == "R" && timesRun(pid) == ran {
			time.Sleep(50 * time.Microsecond)
		}
		time.Sleep(200 * time.Microsecond)
		_ = syscall.Kill(pid, syscall.SIGSTOP)
		if state := waitStopped(pid); state != "T" {
			return false
		}
	}
	return false
}

// loadTime is how long a new process may have had a processor and still be said
// not to have begun. Loading the program takes some tenths of it.
const loadTime = 2 * time.Millisecond

// tries is how often a case looks for the processes of an upgrade. On a loaded
// machine they may be seen too late.
const tries = 10

// nobodyNew ends a case that looked for the processes of upgrades.
func (t *trial) nobodyNew() {
	t.Helper()
	t.broken("%d upgrades were seen to start no new process, or too late: if they have none, tell so in Service.Lacks", tries)
}

// later runs f aside; the result can be read once.
func (t *trial) later(f func() error) <-chan error {
	result := make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() { result <- f() })
	t.Cleanup(running.Wait)
	return result
}

// slowClients are clients that can have a request in flight, one of each kind.
func (t *trial) slowClients(u *Unit) map[string]SlowClient {
	clients := make(map[string]SlowClient)
	for _, kind := range t.kinds {
		client, err := kind.Dial(t.Context(), u)
		if err != nil {
			t.broken("%s: %v", kind.Name, err)
		}
		t.Cleanup(func() { _ = client.Close() })
		if slow, ok := client.(SlowClient); ok {
			clients[kind.Name] = slow
		}
	}
	return clients
}

// begin has a request in flight with every client that can. Finish has them
// answered.
func (t *trial) begin(u *Unit) (n int, finish func() error) {
	t.Helper()
	ctx, cancel := u.patient(t.Context(), "requests in flight")
	t.Cleanup(cancel)
	var rest []func() error
	for kind, client := range t.slowClients(u) {
		end, err := client.Begin(ctx)
		if errors.Is(err, errNotSlow) {
			u.tell("%s: %v", kind, err)
			continue
		}
		if err != nil {
			t.broken("%s: %v", kind, err)
		}
		rest = append(rest, func() error {
			if err := end(ctx); err != nil {
				return fmt.Errorf("%s: %w", kind, err)
			}
			return nil
		})
	}
	return len(rest), func() error {
		var errs []error
		for _, end := range rest {
			errs = append(errs, end())
		}
		return errors.Join(errs...)
	}
}

func (t *trial) inFlight() {
	u := t.start()
	n, finish := t.begin(u)
	if n == 0 {
		t.Skip("no client can have a request in flight: see SlowClient, and HTTP.SlowPath")
	}
	before := len(u.Processes())
	if _, waits := t.lacks[Overlaps]; waits {
		t.inFlightFirst(u, finish)
	} else {
		if err := t.upgrade(u); err != nil {
			t.broken("with a request in flight the upgrade failed: %v", err)
		}
		if err := finish(); err != nil {
			t.broken("a request that was in flight when the upgrade began was cut: %v", err)
		}
	}
	t.alone(u, before, 0)
}

// inFlightFirst upgrades a service whose upgrade ends after the requests that
// are in flight.
func (t *trial) inFlightFirst(u *Unit, finish func() error) {
	t.Helper()
	result := t.later(func() error { return t.upgrade(u) })
	begun := Condition{"the upgrade has begun", func(p Properties) bool { return p.SubState != "running" || p.ControlPID != 0 }}
	if err := u.WaitFor(t.Context(), begun); err != nil {
		t.broken("%v", err)
	}
	if err := finish(); err != nil {
		t.broken("a request that was in flight when the upgrade began was cut: %v", err)
	}
	if err := <-result; err != nil {
		t.broken("with a request in flight the upgrade failed: %v", err)
	}
	t.mustAnswer(u, "after the upgrade")
}

func (t *trial) sameProcess() {
	u := t.start()
	before := u.Show()
	for range 2 {
		t.mustUpgrade(u)
		t.unchanged(u, before, "an upgrade in place")
		if !sameFile(before.MainPID, u.Path(t.program)) {
			t.broken("the upgrade ended, and process %d does not run the file that was installed", before.MainPID)
		}
	}
}

func (t *trial) newMain() {
	u := t.start()
	before := u.Show()
	moved := make(chan int, 16)
	stop := u.listen(func(e *wire.Event) {
		if p := e.Properties; p != nil && p.MainPID != 0 && p.MainPID != before.MainPID {
			select {
			case moved <- p.MainPID:
			default:
			}
		}
	})
	defer stop()
	news, release, done := t.newcomers(u)
	defer done()
	begun := make(map[int]bool)
	result := t.later(func() error { return t.upgrade(u) })
	for ended := false; !ended; {
		select {
		case pid := <-news:
			// What the old version does without waiting for the next one, it does now.
			settle(before.MainPID)
			if u.MainPID() == pid {
				t.broken("MAINPID= moved to process %d, which has not begun: it was stopped at its birth", pid)
			}
			begun[pid] = true
			release(pid)
		case pid := <-moved:
			if begun[pid] {
				done() // it may need processes of its own
			}
			t.servesAlone(u, pid)
			done()
			if err := <-result; err != nil {
				t.broken("the upgrade failed: %v", err)
			}
			ended = true
		case err := <-result:
			if err != nil {
				t.broken("the upgrade failed: %v", err)
			}
			ended = true
		}
	}
	if now := u.Show(); now.NRestarts != before.NRestarts {
		t.broken("the upgrade restarted the service: it is %v", now)
	}
	if why := u.alien(); why != "" {
		t.broken("the upgrade succeeded, but systemd does not supervise the new main process")
	}
}

// servesAlone checks that a process answers while all others are stopped.
func (t *trial) servesAlone(u *Unit, pid int) {
	t.Helper()
	control := u.known().ControlPID
	var stopped []int
	for _, p := range u.Processes() {
		if p.PID != pid && p.PID != control && u.Signal(p.PID, unix.SIGSTOP) == nil {
			stopped = append(stopped, p.PID)
		}
	}
	err := t.answered(u)
	for _, pid := range stopped {
		_ = u.Signal(pid, unix.SIGCONT)
	}
	if err != nil {
		t.broken("the process %d became main and does not answer while the others are stopped: %v", pid, err)
	}
}

func (t *trial) unfit() {
	u := t.start()
	processes := len(u.Processes())
	l := t.clients(u, fewClients, thinking)
	files := []struct {
		what    string
		program Program
	}{
		{"a file that is missing", Missing()},
		{"a file that is not executable", t.Next(2).WithMode(0o644)},
		{"a text", Text("This is no program.\n")},
		{"an empty file", Text("")},
		{"a directory", Directory()},
		{"another program", File("/bin/true")},
	}
	// Those that keep a connection have it from now on.
	if err := l.round(t.Context()); err != nil {
		t.broken("%v", err)
	}
	held := t.holdings(u)
	for _, file := range files {
		before := u.Show()
		if err := u.Install(t.program, file.program); err != nil {
			t.Fatal(err)
		}
		t.failedReload(t.reload(u), file.what+" is in the place of the program")
		t.quiet(u, processes)
		t.unchanged(u, before, "an upgrade to "+file.what)
	}
	now := t.holdings(u)
	held.threads = now.threads // a service that was just started may still get some
	t.notGrown(held, now, len(files), "failed upgrades")
	if err := t.upgrade(u); err != nil {
		t.broken("after failed upgrades one to a good version failed: %v", err)
	}
	if err := l.round(t.Context()); err != nil {
		t.broken("after the upgrade: %v", err)
	}
	t.nothingLost(l)
}

// maxNewcomers bounds how many processes an upgrade starts; two are usual, one
// that checks and one that is next.
const maxNewcomers = 4

func (t *trial) killedAtStart() {
	u := t.start()
	processes := len(u.Processes())
	t.killEarlyMain(u)
	l := t.clients(u, fewClients, thinking)
	for n, missed := 1, 0; n <= maxNewcomers; n++ {
		before := u.Show()
		killed, err := t.killNth(u, n)
		switch {
		case killed == 0 && err != nil:
			t.broken("the upgrade failed: %v", err)
		case killed == 0 && n > 1:
			n = maxNewcomers // there are no more
			continue
		case killed == 0:
			// It may have been over before it was seen.
			if missed++; missed == tries {
				t.nobodyNew()
			}
			n--
			continue
		}
		what := fmt.Sprintf("the death of new process number %d (PID %d) at its birth", n, killed)
		t.failedReload(err, fmt.Sprintf("new process number %d (PID %d) of the upgrade was killed at its birth", n, killed))
		t.quiet(u, processes)
		t.unchanged(u, before, what)
	}
	if err := l.round(t.Context()); err != nil {
		t.broken("after the upgrades: %v", err)
	}
	t.nothingLost(l)
}

// killEarlyMain upgrades once, and kills the next version if MAINPID= names it
// before READY=1 was said of it.
func (t *trial) killEarlyMain(u *Unit) {
	before := u.Show()
	early := make(chan Message, 1)
	stop := u.listen(func(e *wire.Event) {
		if e.Notify == nil || !e.Notify.Accepted {
			return
		}
		m := Message{PID: e.Notify.PID, Fields: e.Notify.Fields}
		pid, err := strconv.Atoi(m.Value("MAINPID"))
		if err != nil || pid == before.MainPID || m.Has("READY=1") {
			return
		}
		_ = syscall.Kill(pid, syscall.SIGKILL)
		select {
		case early <- m:
		default:
		}
	})
	defer stop()
	err := t.upgrade(u)
	select {
	case m := <-early:
		// systemd hears of the death a moment later.
		dead := func() bool {
			return slices.ContainsFunc(u.deaths, func(d Death) bool { return strconv.Itoa(d.PID) == m.Value("MAINPID") })
		}
		if err := u.wait(t.Context(), "the death of process "+m.Value("MAINPID"), dead); err != nil {
			t.Fatal(err)
		}
		if now := u.Show(); now.ActiveState != "active" || now.NRestarts != before.NRestarts {
			t.broken("MAINPID= moved to process %s before READY=1 was said of it, and systemd took its death for that of the service: %v",
				m.Value("MAINPID"), now)
		}
	default:
		if err != nil {
			t.broken("the upgrade failed: %v", err)
		}
	}
}

// killNth upgrades, and kills the n-th new process at its birth. It returns 0
// if there were fewer.
func (t *trial) killNth(u *Unit, n int) (killed int, err error) {
	news, release, done := t.newcomers(u)
	defer done()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	result := t.later(func() error {
		t.version++
		if err := u.Install(t.program, t.Next(t.version)); err != nil {
			return err
		}
		was := u.MainPID()
		if err := t.reload(u); err != nil {
			return err
		}
		return t.upgraded(ctx, u, was)
	})
	for count := 1; ; count++ {
		select {
		case pid := <-news:
			if count == n {
				killed = pid
				_ = syscall.Kill(pid, syscall.SIGKILL)
				if _, lacks := t.lacks[ReportsFailure]; lacks {
					cancel() // the reload may have succeeded, and there will be no new main process
				}
			}
			release(pid)
		case err := <-result:
			return killed, err
		}
	}
}

// onTrial sends the signal to a next version that serves and is not main yet.
func (t *trial) onTrial(sig syscall.Signal) {
	u := t.start()
	processes := len(u.Processes())
	if len(u.tcpSockets()) == 0 {
		t.Skip("no TCP socket: nobody can see from outside when the next version serves")
	}
	t.hint = `If the service has no trial, say why in Service.Lacks: {reexectest.RollsBack: "the old version is gone once the next one is ready"}.`
	l := t.clients(u, fewClients, thinking)
	// A trial may be short, and the machine busy.
	var missed error
	for range tries {
		before := u.Show()
		hit, err := t.hitOnTrial(u, sig)
		if hit == 0 || u.wasMain(hit) {
			// It was not seen, or became main in that very moment and is no longer
			// on trial.
			if hit != 0 && sig == unix.SIGSTOP {
				_ = u.Signal(hit, unix.SIGCONT)
			}
			if missed = err; u.WaitFor(t.Context(), Running) != nil {
				t.broken("the service does not run any more: it is %v", u.Show())
			}
			t.quiet(u, processes)
			continue
		}
		what := fmt.Sprintf("the next version (PID %d), which served and was not main, got %s", hit, unix.SignalName(sig))
		t.failedReload(err, what)
		if sig == unix.SIGSTOP {
			_ = u.Signal(hit, unix.SIGCONT) // if it still is there
		}
		t.quiet(u, processes)
		t.unchanged(u, before, "an upgrade in which "+what)
		if err := l.round(t.Context()); err != nil {
			t.broken("after the upgrade: %v", err)
		}
		t.noneRefused(l, "meanwhile")
		t.mustUpgrade(u)
		return
	}
	last := ""
	if missed != nil {
		last = fmt.Sprintf(" (the last upgrade failed: %v)", missed)
	}
	t.broken("in %d upgrades no next version was seen to serve and not to be main yet%s: it is never on trial, or not for long enough; "+
		"have the trial last some hundred milliseconds, in Service.OnTrial", tries, last)
}

// hitOnTrial upgrades and sends the signal to the first new process that is
// seen to serve: it accepts a connection.
func (t *trial) hitOnTrial(u *Unit, sig syscall.Signal) (hit int, err error) {
	main := u.MainPID()
	name := u.tcpSockets()[0]
	news, release, done := t.newcomers(u)
	defer done()
	result := t.later(func() error { return t.upgrade(u) })
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	current := 0
	for {
		select {
		case pid := <-news:
			current = pid
			release(pid)
		case <-tick.C:
			if current == 0 || hit != 0 || !t.accepts(u, current, name) || u.known().MainPID != main {
				continue
			}
			hit = current
			_ = syscall.Kill(current, sig)
			u.tell("signal %s to %d, which serves and is not main", signalName(int(sig)), current)
		case err := <-result:
			return hit, err
		}
	}
}

// accepts connects, and says whether the process accepts the connection at once.
func (t *trial) accepts(u *Unit, pid int, name string) bool {
	conn, err := u.Dial(t.Context(), name)
	if err != nil {
		return false
	}
	defer conn.Close()
	for range 20 {
		inode, err := acceptedSocket(conn)
		if err != nil {
			t.Fatal(err)
		}
		if inode != 0 {
			return has(pid, inode)
		}
		time.Sleep(100 * time.Microsecond)
	}
	return false
}

// wasMain says whether a process is or was main.
func (u *Unit) wasMain(pid int) bool {
	u.Show()
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.ContainsFunc(u.states, func(p Properties) bool { return p.MainPID == pid })
}

func (t *trial) crash() {
	u := t.start()
	before := u.Show()
	l := t.clients(u, fewClients, thinking)
	if err := l.round(t.Context()); err != nil {
		t.broken("%v", err)
	}
	if err := u.Kill(MainProcess, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	restarted := Condition{"the service was restarted and is running", func(p Properties) bool {
		return p.NRestarts > before.NRestarts && p.SubState == "running"
	}}
	if err := u.WaitFor(t.Context(), restarted); err != nil {
		t.broken("main was killed: %v", err)
	}
	if err := l.round(t.Context()); err != nil {
		t.broken("after the restart: %v", err)
	}
	t.noneRefused(l, "while main was dead")
	t.mustAnswer(u, "after the restart")
}

func (t *trial) stop() {
	u := t.start()
	t.stopGracefully(u, "the service was started and stopped")
	t.mustStart(u)
	processes := len(u.Processes())
	t.mustUpgrade(u)
	// With the old version gone it shows whose child the new one is.
	t.alone(u, processes, 0)
	t.stopGracefully(u, "the service was upgraded and stopped")
}

func (t *trial) stopGracefully(u *Unit, when string) {
	t.Helper()
	dead := len(u.Deaths())
	_, finish := t.begin(u)
	result := t.later(func() error { return u.Stop(t.Context()) })
	deactivating := Condition{"the stop has begun", func(p Properties) bool { return p.ActiveState != "active" }}
	if err := u.WaitFor(t.Context(), deactivating); err != nil {
		t.broken("%s: %v", when, err)
	}
	if err := finish(); err != nil {
		t.broken("%s: a request that was in flight was cut: %v", when, err)
	}
	if err := <-result; err != nil {
		t.broken("%s: %v", when, err)
	}
	t.stopped(u, when)
	for _, d := range u.Deaths()[dead:] {
		if d.Reaped && d.Code != 1 && d.Status == int(unix.SIGKILL) {
			t.broken("%s: process %d did not end by SIGTERM, systemd had to kill it (TimeoutStopSec=, or because it did not know it for a child)", when, d.PID)
		}
	}
}

func (t *trial) stopped(u *Unit, when string) {
	t.Helper()
	state := u.Show()
	if state.ActiveState != "inactive" || state.Result != "success" {
		t.broken("%s: it is %v (main process: code %d, status %d); a stop ends with exit status 0", when, state, state.ExecMainCode, state.ExecMainStatus)
	}
	if left := u.Processes(); len(left) > 0 {
		t.broken("%s, and left processes behind:%s", when, listed(left))
	}
}

func (t *trial) stopDuringUpgrade() {
	u := t.start()
	for n := 1; n <= maxNewcomers; n++ {
		born := t.stopAtNth(u, n)
		if !born && n > 1 {
			return
		}
		t.mustStart(u)
	}
}

// stopAtNth begins an upgrade and stops the service at the birth of the n-th
// new process, or when it was upgraded if there are fewer.
func (t *trial) stopAtNth(u *Unit, n int) (born bool) {
	t.Helper()
	news, release, done := t.newcomers(u)
	defer done()
	result := t.later(func() error { return t.upgrade(u) })
	ended := false
	for count := 1; !born && !ended; count++ {
		select {
		case pid := <-news:
			if born = count == n; !born {
				release(pid)
			}
		case <-result: // whatever it was, the next start tells
			ended = true
		}
	}
	done()
	when := fmt.Sprintf("the service was stopped at the birth of new process number %d of an upgrade", n)
	if err := u.Stop(t.Context()); err != nil {
		t.broken("%s: %v", when, err)
	}
	if state := u.Show(); state.ActiveState != "inactive" && state.ActiveState != "failed" {
		t.broken("%s: it is %v", when, state)
	}
	if left := u.Processes(); len(left) > 0 {
		t.broken("%s, and left processes behind:%s", when, listed(left))
	}
	return born
}

func (t *trial) twoReloads() {
	u := t.start()
	processes := len(u.Processes())
	l := t.clients(u, fewClients, thinking)
	t.version++
	if err := u.Install(t.program, t.Next(t.version)); err != nil {
		t.Fatal(err)
	}
	was := u.MainPID()
	one, two := t.later(func() error { return t.reload(u) }), t.later(func() error { return t.reload(u) })
	errOne, errTwo := <-one, <-two
	// systemd makes one job of both, which ends as its second run does. Where that
	// only sends a signal, it may find that main is gone.
	if _, lacks := t.lacks[ReportsFailure]; !lacks && errOne != nil && errTwo != nil {
		t.broken("both failed: %v", errors.Join(errOne, errTwo))
	}
	if err := t.upgraded(t.Context(), u, was); err != nil {
		t.broken("%v", err)
	}
	t.quiet(u, processes)
	if err := l.round(t.Context()); err != nil {
		t.broken("after that: %v", err)
	}
	t.nothingLost(l)
}

// holdings is what a service has while nothing is asked of it.
type holdings struct {
	descriptors, threads, stored int
	open                         []string
}

func (t *trial) holdings(u *Unit) holdings {
	state := u.Show()
	h := holdings{stored: state.NFileDescriptorStore}
	// What is on its way out is not looked for: connections, threads, the frame of a
	// state that is being replaced in the store.
	for i := range 50 {
		open := descriptors(state.MainPID)
		if i == 0 || len(open) < h.descriptors {
			h.descriptors, h.open = len(open), open
		}
		if n := threads(state.MainPID); i == 0 || n < h.threads {
			h.threads = n
		}
		time.Sleep(10 * time.Millisecond)
	}
	return h
}

func (t *trial) growth() {
	u := t.start()
	processes := len(u.Processes())
	upgrade := func() {
		t.Helper()
		if _, inPlace := t.lacks[Overlaps]; inPlace {
			t.mustUpgrade(u)
		} else if err := t.again(u); err != nil { // another file makes no difference
			t.broken("the upgrade failed: %v", err)
		}
		t.mustAnswer(u, "after an upgrade")
		t.alone(u, processes, 0)
	}
	// The first upgrade is not like the others: systemd started what it ends.
	for range 2 {
		upgrade()
	}
	before, rounds := t.holdings(u), 2*t.Upgrades-2
	for range rounds {
		upgrade()
	}
	t.notGrown(before, t.holdings(u), rounds, "upgrades")
}

// notGrown looks for what a service has more of after so many rounds of something.
func (t *trial) notGrown(before, after holdings, rounds int, of string) {
	t.Helper()
	for _, what := range []struct {
		name          string
		before, after int
	}{
		{"descriptors", before.descriptors, after.descriptors},
		{"threads", before.threads, after.threads},
		{"stored descriptors", before.stored, after.stored},
	} {
		// One for each is a leak; some more or fewer are not.
		if grown := what.after - what.before; grown > rounds/2 {
			slices.Sort(after.open)
			t.broken("in %d %s the main process went from %d to %d %s; open are:\n  %q", rounds, of, what.before, what.after, what.name, after.open)
		}
	}
}

func (t *trial) notify() {
	u := t.start()
	processes := len(u.Processes())
	t.mustUpgrade(u)
	t.alone(u, processes, 0)
	if _, lacks := t.lacks[Overlaps]; !lacks {
		if err := u.Install(t.program, Missing()); err != nil {
			t.Fatal(err)
		}
		_ = t.reload(u) // the case "unfit" has an opinion of that
		t.quiet(u, processes)
	}
	if err := u.Stop(t.Context()); err != nil {
		t.broken("%v", err)
	}
	for _, m := range u.Messages() {
		if !m.Accepted || m.Reason != "" {
			t.broken("NotifyAccess=%s, and a message came %v", u.set.Service.NotifyAccess, m)
		}
	}
}
