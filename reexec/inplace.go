// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/notify"
	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/internal/handover"
	"github.com/holdfast-go/holdfast/reexec/internal/machine"
)

// inPlaceVariable tells a process that its program was executed in place. Its
// value is the descriptor of a memfd with the manifest.
const inPlaceVariable = "HOLDFAST_INPLACE"

// manifest is what a program leaves to the one that is executed in its process:
// a handover without a socket pair. The descriptors are open in the process.
type manifest struct {
	handover.Hello
	// Executed is when, by [sinceBoot]. The next program has the rest of StartTimeout
	// from then.
	Executed time.Duration   `json:"executed_monotonic"`
	Verdict  control.Verdict `json:"verdict"` // to be said when it is main
	Drain    control.Drain   `json:"drain"`
	// Signalled: a SIGUSR2 came too late for the old program; it is yours.
	Signalled   bool                `json:"signalled,omitempty"`
	Descriptors []carriedDescriptor `json:"descriptors,omitempty"`
	Connections []carriedConnection `json:"connections,omitempty"`
}

type carriedDescriptor struct {
	FD int `json:"fd"`
	handover.Descriptor
}

type carriedConnection struct {
	FD int `json:"fd"`
	handover.Connection
}

// maxManifest bounds what is read of one. A session has 64 KiB of state at most.
const maxManifest = 1 << 30

// renewal is a manifest as the next program holds it.
type renewal struct {
	manifest
	connections []*os.File // those of Connections
}

// renew takes the manifest from the environment, and everything that it names.
// It returns nil without an error if the process was not executed in place.
func renew(name string) (*renewal, inherited, error) {
	value, ok := os.LookupEnv(inPlaceVariable)
	if !ok {
		return nil, inherited{}, nil
	}
	if err := os.Unsetenv(inPlaceVariable); err != nil {
		return nil, inherited{}, fmt.Errorf("reexec: unset %s: %w", inPlaceVariable, err)
	}
	m, err := readManifest(value)
	if err != nil {
		return nil, inherited{}, fmt.Errorf("reexec: %s=%q: %w: unset the variable in children of the service", inPlaceVariable, value, err)
	}
	// All are ours from here on; nobody inherits them.
	for _, d := range m.Descriptors {
		unix.CloseOnExec(d.FD)
	}
	for _, c := range m.Connections {
		unix.CloseOnExec(c.FD)
	}
	nameProcess(argv[0])
	if _, err := handover.Negotiate(handover.Ours, m.Versions); err != nil {
		return nil, inherited{}, fmt.Errorf("reexec: execute in place: %w", err)
	}
	if m.Name != name {
		return nil, inherited{}, fmt.Errorf("reexec: execute in place: the program before was the service %q, this is %q", m.Name, name)
	}
	var list []handover.Descriptor
	var files []*os.File
	for _, d := range m.Descriptors {
		list = append(list, d.Descriptor)
		files = append(files, os.NewFile(uintptr(d.FD), d.Role+" "+d.Name))
	}
	r := &renewal{manifest: *m}
	for _, c := range m.Connections {
		r.connections = append(r.connections, os.NewFile(uintptr(c.FD), "connection"))
	}
	got, err := sortOut(list, files)
	return r, got, err
}

// readManifest reads and closes the memfd. A descriptor that is none, or one of
// another process's, is not touched.
func readManifest(value string) (*manifest, error) {
	fd, err := strconv.ParseUint(value, 10, 31)
	if err != nil {
		return nil, err
	}
	if fd < 3 {
		return nil, errors.New("descriptors start at 3")
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if got, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); err != nil || got&seals != seals {
		return nil, fmt.Errorf("descriptor %d is no sealed memfd", fd)
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(dup), "manifest")
	defer f.Close()
	m := new(manifest)
	if err := json.NewDecoder(io.NewSectionReader(f, 0, maxManifest)).Decode(m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if m.PID != os.Getpid() {
		return nil, fmt.Errorf("the manifest is for PID %d", m.PID)
	}
	return m, unix.Close(int(fd))
}

// write puts the manifest into a sealed memfd, which survives execve(2). The
// caller closes it.
func (m *manifest) write() (*os.File, error) {
	text, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("manifest", unix.MFD_ALLOW_SEALING|unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "manifest")
	_, err = f.Write(text)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// elapsed is how long ago the program was executed.
func (r *renewal) elapsed() time.Duration { return max(0, sinceBoot()-r.Executed) }

// left is what the program has of its predecessor's StartTimeout.
func (r *renewal) left() time.Duration {
	return max(time.Millisecond, min(r.StartTimeout, r.StartTimeout-r.elapsed()))
}

// adopt gives the connections that were gathered to their servers.
func (r *renewal) adopt(s *Service) {
	adopted := 0
	for i, file := range r.connections {
		c, err := s.inv.adoptAny(r.Connections[i].Connection, file)
		if err != nil {
			s.log.Warn("a connection is closed", "error", err)
			continue
		}
		adopted++
		c.begin()
	}
	r.connections = nil
	s.countAdopted(adopted)
	s.observeMoved(adopted)
}

// gathered is what crosses execve(2), collected before and during the drain.
// What is in it is closed by the end of the process.
type gathered struct {
	list        []passing
	connections []carriedConnection // by the mover's goroutine, until it is over
}

// empty stops accepting and waits for what is in flight. Idle connections, and
// sessions that the service gives up, are gathered.
func (s *Service) empty() {
	r := &s.run
	r.gathered = new(gathered)
	// What is being stored has no name yet that could be passed on.
	thaw, err := s.settleStore()
	if err == nil {
		r.gathered.list, err = s.passing(false)
	}
	thaw()
	if err != nil {
		// The loop must not wait for itself.
		go s.post(machine.Unexecuted, fmt.Sprintf("execute %s: %v", s.opts.Executable, err))
		return
	}
	// A reload's time-out is the unit's TimeoutStartSec=, which knows nothing of drains.
	s.tell(notify.ExtendTimeout(s.opts.DrainTimeout + s.opts.StartTimeout + stepMargin))
	s.drain.mover = newMover(nil, newAnswers(), s.log)
	s.drain.mover.gather = r.gathered.take
	s.drain.begin(successors, s.drained)
}

// settleStore returns when nothing is being written to the fd store, and holds
// everybody off until thaw is called.
func (s *Service) settleStore() (thaw func(), err error) {
	ctx, cancel := context.WithTimeout(context.Background(), stepMargin)
	defer cancel()
	wait, thaw := s.store.freeze(ctx)
	if err := wait(); err != nil {
		return thaw, fmt.Errorf("something is still being stored: %w", err)
	}
	return thaw, nil
}

// stepMargin is what an execution may take beside its drain and its start.
const stepMargin = 5 * time.Second

// take keeps a copy of each connection. The owner then closes its own.
func (g *gathered) take(batch []*offer) []fate {
	fates := make([]fate, len(batch))
	for i, o := range batch {
		fates[i] = refused
		fd, err := unix.FcntlInt(uintptr(o.fd), unix.F_DUPFD_CLOEXEC, 3)
		if err == nil {
			g.connections = append(g.connections, carriedConnection{fd, o.Connection})
			fates[i] = taken
		}
	}
	return fates
}

// execute runs the checked binary in this process. It comes back only if that
// fails, which the table then hears of.
func (s *Service) execute() {
	r := &s.run
	b, answer := r.checked.binary, r.checked.answer
	next := answer.process(s.generation + 1)
	next.PID = s.self().PID
	s.announceState() // the last one that those who asked get from here
	s.log.Info("executing in place", "version", answer.Version, "generation", next.Generation)
	s.endRequests()
	if r.owed {
		r.owed = false
		s.announceReloading()
	}
	if err := s.carryStates(); err != nil {
		// The loop must not wait for itself.
		go s.post(machine.Unexecuted, err.Error())
		return
	}
	// There is no way back from the execution; what starts next counts on this.
	if r.back != nil {
		s.lastGood.rollBack(r.back)
	} else if err := s.lastGood.attempting(b.file); err != nil {
		s.log.Warn("record of the last good version", "error", err)
	}
	v := r.verdict
	v.Outcome, v.To = control.Upgraded, &next
	// Half a write would be lost, and the program after this one knows nothing of it.
	thaw, err := s.settleStore()
	if err != nil {
		s.log.Warn("execute in place", "error", err)
	}
	r.thaw = thaw
	s.become(b.execPath(), v, next.Generation, r.back.fallback())
}

// revert runs this program again: nothing of it can be used any more.
func (s *Service) revert() {
	r := &s.run
	v := r.verdict
	v.Outcome, v.Reason = control.Refused, r.reason
	to := r.checked.answer.process(s.generation + 1)
	v.To = &to
	s.log.Error("the new version cannot be executed; this one begins anew", "reason", r.reason)
	s.lastGood.undoRollback(r.back)
	if err := s.carryStates(); err != nil {
		s.log.Error("states are those of the last commit", "error", err)
	}
	s.become("/proc/self/exe", v, s.generation, s.lastGood != nil && s.lastGood.fallback)
}

// endRequests ends the streams of those who wait for a verdict. They ask again
// when the next program answers, which has it.
func (s *Service) endRequests() {
	r := &s.run
	for _, req := range append(r.requests, r.held...) {
		s.answer(req, control.Verdict{})
	}
	r.requests, r.held = nil, nil
	for _, req := range r.reload.next {
		// The next program reads it when it starts.
		req.reply(control.Reload{Outcome: control.Busy, Started: time.Now(), Reason: "the next version is executed: ask that"})
	}
	r.reload.next = nil
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	r.control.end(ctx)
}

// carryStates adds the states as they are now. All is answered, so nothing changes
// them any more.
func (s *Service) carryStates() error {
	g := s.run.gathered
	g.list = slices.DeleteFunc(g.list, func(p passing) bool {
		old := p.Role == roleState // of an execution that has failed
		if old {
			closePassing([]passing{p})
		}
		return old
	})
	ctx, cancel := context.WithTimeout(context.Background(), stateTimeout)
	defer cancel()
	frames, err := s.states.handOver(ctx, func(string) {})
	g.list = append(g.list, frames...)
	return err
}

// become executes the file at path, which runs in place of the service's file if
// it is the fallback. A stop that came before wins over it; one that comes later
// ends the process at once, which has nothing left to do.
func (s *Service) become(path string, v control.Verdict, generation int, fallback bool) {
	err := s.becomeNow(path, v, generation, fallback)
	kind, reason := machine.Unexecuted, fmt.Sprintf("execute %s: %v", s.opts.Executable, err)
	if errors.Is(err, errStopCame) {
		kind, reason = machine.Stop, err.Error()
	}
	// The loop must not wait for itself.
	go s.post(kind, reason)
}

func (s *Service) becomeNow(path string, v control.Verdict, generation int, fallback bool) error {
	r := &s.run
	release, err := holdSignals()
	if err != nil {
		return err
	}
	defer release()
	stopped, upgrade, resume := s.lastSignals()
	defer resume()
	if stopped != nil || r.ctx.Err() != nil {
		return errStopCame
	}
	// What signal.Stop has changed in the masks of the runtime's threads is undone.
	if err := maskSignals(unix.SIG_BLOCK); err != nil {
		return err
	}
	r.early = r.early || upgrade
	m := &manifest{
		Hello:    s.hello(),
		Executed: sinceBoot(), Verdict: v, Signalled: r.early,
		Drain: s.drain.report(s.self()), Connections: r.gathered.connections,
	}
	m.Instance, m.Generation, m.Last, m.StartTimeout = s.instance, generation, s.lastVerdict(), s.opts.StartTimeout
	for _, p := range r.gathered.list {
		m.Descriptors = append(m.Descriptors, carriedDescriptor{p.fd, p.Descriptor})
	}
	file, err := m.write()
	if err != nil {
		return err
	}
	defer file.Close()
	environ := append(launchedAs(fallback, childEnv(environ)), inPlaceVariable+"="+strconv.Itoa(minFD(file)), executableVariable+"="+s.opts.Executable)
	// These are about this very process, and stay right.
	for _, name := range []string{"WATCHDOG_PID", "SYSTEMD_EXEC_PID"} {
		if value, ok := os.LookupEnv(name); ok {
			environ = append(environ, name+"="+value)
		}
	}
	// Pings of the watchdog end here, and begin when the next program is main. The
	// first message takes back what empty has asked for: a time-out is only ever
	// extended, but a ping sets it anew.
	s.tell(notify.WatchdogPing())
	s.tell(notify.ExtendTimeout(s.opts.StartTimeout + stepMargin))

	fds := []int{minFD(file)}
	for _, d := range m.Descriptors {
		fds = append(fds, d.FD)
	}
	for _, c := range m.Connections {
		fds = append(fds, c.FD)
	}
	// A child that is forked now must not get them.
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	defer func() {
		for _, fd := range fds {
			unix.CloseOnExec(fd)
		}
	}()
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("keep descriptor %d: %w", fd, err)
		}
	}
	return os.NewSyscallError("execve", syscall.Exec(path, slices.Clone(argv), environ))
}

// conclude takes the verdict over that the program before wrote down.
func (s *Service) conclude() {
	v := s.renewed.Verdict
	v.Phases = append(v.Phases, control.Phase{Name: machine.Executing.String(), Seconds: s.renewed.elapsed().Seconds()})
	s.logVerdict(v)
	s.mu.Lock()
	s.last = &v
	s.mu.Unlock()
	s.noteVerdict(v)
	if v.Outcome == control.Upgraded {
		s.noteDrain(s.renewed.Drain)
	}
	s.run.early = s.run.early || s.renewed.Signalled
	s.renewed.adopt(s)
}

// restartReason says why nothing happens in the mode Restart, and what to do.
func (s *Service) restartReason(version string, back bool) string {
	unit, user := ownUnit()
	if unit == "" {
		unit = s.opts.Name
	}
	command := "systemctl restart " + unit
	if user {
		command = "systemctl --user restart " + unit
	}
	if back {
		return fmt.Sprintf("%s starts next, and this service changes its version by a restart only: %s", version, command)
	}
	return fmt.Sprintf("%s is fit, and this service changes its version by a restart only: %s", version, command)
}

// ownUnit is the service unit that this process runs in, "" if unknown, and
// whether a user's manager runs it.
func ownUnit() (unit string, user bool) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", false
	}
	return unitOf(string(text))
}

// unitOf finds the unit in the text of cgroups(7): the last part of the path in
// the hierarchy of systemd that names a service. A service of a user's manager is
// below user@UID.service.
func unitOf(text string) (unit string, user bool) {
	for line := range strings.Lines(text) {
		_, path, found := strings.Cut(strings.TrimSpace(line), ":")
		controllers, path, _ := strings.Cut(path, ":")
		if !found || controllers != "" && controllers != "name=systemd" {
			continue
		}
		for part := range strings.SplitSeq(path, "/") {
			if strings.HasSuffix(part, ".service") {
				user = user || strings.HasPrefix(unit, "user@")
				unit = part
			}
		}
		if unit != "" {
			return unit, user
		}
	}
	return "", false
}
