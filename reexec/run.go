// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/holdfast-go/holdfast/notify"
	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/internal/machine"
)

// beat is a sign of life of the successor. It is no event of the table: the
// runner turns beats, or their absence, into such events.
const beat = machine.Events

// news is no event of the table, either: the status has changed.
const news = machine.Events + 1

// event is what the runner's loop reads.
type event struct {
	kind     machine.Event
	reason   string
	attempt  int             // of events about a successor; 0 for all others
	request  *request        // of Upgrade
	reload   *reloadRequest  // of reload; nil when its pause is over
	reloaded control.Reload  // of reloaded
	hung     <-chan struct{} // of reloaded: what it has left behind
	checked  *checked        // of Fit and Unfit
	err      error           // of Failed and Drained
	worker   bool            // of Failed: it is no failure once we drain
	// innocent says of Unfit and Died that the content of the file is not to
	// blame.
	innocent bool
}

// blamesFile says whether the file of the attempt must not start again.
func (e event) blamesFile() bool {
	switch e.kind {
	case machine.Unfit, machine.Died:
		return !e.innocent
	case machine.Ill, machine.Hung, machine.Deadline:
		return true
	}
	return false
}

type request struct {
	answer   chan<- control.Verdict // nil for a signal
	bySignal bool
	back     *rollback // nil for an upgrade
}

type checked struct {
	binary *binary // nil if the file could not be opened
	answer checkAnswer
	before string // how the same file has failed in the past
}

// runner is the state of Run's goroutine.
type runner struct {
	attempt     int
	requests    []request // wait for the verdict of the upgrade under way
	held        []request // came during it
	announced   bool      // RELOADING=1 was sent
	owed        bool      // RELOADING=1 is due at the end
	early       bool      // a signal is kept for whoever is main next
	verdict     control.Verdict
	ctx         context.Context
	gathered    *gathered // for the program that is executed in place
	phase       time.Time // when the current phase began
	cancelCheck context.CancelFunc
	successor   *successor
	checked     *checked
	tried       *os.File      // the file of the attempt, while it may be to blame
	before      string        // how it has failed in the past
	back        *rollback     // the attempt is one; nil if it is an upgrade
	toBlame     bool          // the event blames it
	proving     chan struct{} // closed when this main has proven itself or will not
	dismissed   []*successor
	on          machine.Event // that is being handled
	reason      string        // of it
	timer       *time.Timer
	timerC      <-chan time.Time
	beats       beats
	trial       context.CancelFunc // ends our own beats
	control     *controlServer
	watchdog    context.CancelFunc
	handedOver  bool
	orphaned    bool          // the predecessor died before the verdict
	yielding    <-chan error  // what was written to the fd store has ended
	thaw        func()        // lets others write to the fd store again
	addTo       updater       // gets what is counted in the drain
	adding      chan struct{} // full while it is sent
	farewell    func() bool   // ends the timer of the drain's last words
	err         error         // what Run returns
	interrupts  int
	reload      reloads
}

// post is how goroutines reach the loop about something that is not an
// attempt's.
func (s *Service) post(e machine.Event, reason string) { s.send(event{kind: e, reason: reason}) }

func (s *Service) send(e event) {
	select {
	case s.events <- e:
	case <-s.done:
	}
}

// attemptReport makes a report for one attempt.
func (s *Service) attemptReport(attempt int) report {
	return func(e machine.Event, reason string) { s.send(event{kind: e, reason: reason, attempt: attempt}) }
}

// Run serves until the service is told to stop or a successor has taken over
// and everything is answered; then it returns nil, and the process should
// end. It returns an error when the service could not go on: main should exit
// with a status other than 0, so that systemd starts it again.
//
// SIGTERM, SIGINT and the end of ctx stop the service gracefully. A second
// SIGTERM changes nothing, because systemd sends two; a second SIGINT cuts
// what is left. SIGUSR2 starts an upgrade, and SIGHUP reads the configuration again
// if OnReload was called. Run must be called once.
func (s *Service) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.running {
		s.mu.Unlock()
		return errors.New("reexec: Run was called before")
	}
	s.running = true
	s.mu.Unlock()
	defer s.cleanUp()

	s.run.ctx = ctx
	if d := s.deadline(s.state); d > 0 {
		s.run.timer = time.NewTimer(d)
		s.run.timerC = s.run.timer.C
	}
	signal.Notify(s.stops, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(s.stops)
	defer signal.Stop(s.upgrades)
	for _, h := range s.drain.servers {
		ln := h.prepare() // before anything is adopted
		go func() {
			if err := h.serve(ln); err != nil {
				s.send(event{kind: machine.Failed, err: fmt.Errorf("serve %v: %w", h.ln.Addr(), err), reason: err.Error()})
			}
		}()
	}
	if s.states.merges() {
		s.OnDrain("counts of other generations", s.states.heardAll)
	}
	for _, w := range s.workers {
		go s.runWorker(w)
	}
	healthy, cancel := context.WithCancel(ctx)
	defer cancel()
	go s.becomeHealthy(healthy)

	ticker := time.NewTicker(s.opts.Beat)
	defer ticker.Stop()
	done := ctx.Done()
	for s.state != machine.Gone {
		s.turned.Store(int64(time.Since(s.began)))
		select {
		case e := <-s.events:
			s.handle(e)
		case sig := <-s.stops:
			s.stop(sig)
		case <-s.upgrades:
			s.handle(event{kind: machine.Upgrade, reason: "SIGUSR2", request: &request{bySignal: true}})
		case <-s.hangups:
			s.askReload(reloadRequest{})
		case <-done:
			done = nil
			s.step(event{kind: machine.Stop, reason: contextEnded})
		case <-s.run.timerC:
			s.run.timerC = nil
			if s.drain.began() {
				s.drain.end(ErrDrainTimeout) // whose own timer may be late
			}
			s.step(event{kind: machine.Deadline, reason: s.late()})
		case <-ticker.C:
			if s.state == machine.Serving {
				s.tickets.rotate(time.Now())
			}
			s.countBeat()
			if s.state == machine.Probation && s.run.beats.missed() {
				s.step(event{kind: machine.Hung, attempt: s.run.attempt, reason: fmt.Sprintf(
					"successor (PID %d) hangs: no beat for %v", s.run.successor.process.PID, s.run.beats.silence().Round(time.Millisecond))})
			}
		}
	}
	return s.run.err
}

// contextEnded is the reason of a stop that is the service's own doing.
const contextEnded = "the context of Run ended"

// A service that is not healthy at once is soon, as a rule: the first looks
// follow each other quickly.
const (
	firstLook    = 5 * time.Millisecond
	lookInterval = 100 * time.Millisecond
)

// becomeHealthy posts Built once the service is healthy.
func (s *Service) becomeHealthy(ctx context.Context) {
	said := ""
	for wait := firstLook; ; wait = min(2*wait, lookInterval) {
		err := s.health(ctx, s.opts.StartTimeout)
		if err == nil {
			s.post(machine.Built, "")
			return
		}
		if text := err.Error(); text != said {
			said = text
			s.log.Warn("not ready yet", "error", err)
			s.notReady(err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		case <-s.done:
			return
		}
	}
}

// health asks the service. A check that does not return in time is an error,
// and is left behind.
func (s *Service) health(ctx context.Context, limit time.Duration) error {
	if s.opts.Health == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- s.opts.Health(ctx) }()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return fmt.Errorf("health check: %w", ctx.Err())
	}
}

func (s *Service) stop(sig os.Signal) {
	switch sig {
	case syscall.SIGINT:
		s.run.interrupts++
		if s.run.interrupts > 1 {
			s.step(event{kind: machine.Hurry, reason: "a second SIGINT"})
			return
		}
		s.step(event{kind: machine.Stop, reason: "SIGINT"})
	case syscall.SIGTERM:
		s.step(event{kind: machine.Stop, reason: "SIGTERM"})
	}
}

// handle prepares an event for the table: it drops what belongs to an attempt
// that is over, and turns beats into events.
func (s *Service) handle(e event) {
	r := &s.run
	if e.attempt != 0 && (e.attempt != r.attempt || r.successor == nil && e.checked == nil && e.kind != machine.Died) {
		if e.checked != nil && e.checked.binary != nil {
			_ = e.checked.binary.close()
		}
		return
	}
	switch e.kind {
	case beat:
		if s.state != machine.Probation {
			return
		}
		r.beats.heard()
		switch {
		case e.reason != "":
			s.step(event{kind: machine.Ill, attempt: e.attempt, reason: fmt.Sprintf("successor (PID %d) is not healthy: %s", r.successor.process.PID, e.reason)})
		case r.beats.over():
			// The first good beat after its time: everything that the
			// successor said before has been read by now.
			switch over, err := s.yielded(); {
			case err != nil:
				s.step(event{kind: machine.Ill, attempt: e.attempt, reason: err.Error()})
			case over:
				s.step(event{kind: machine.Deadline, attempt: e.attempt})
			}
		}
		return
	case news:
		s.announceState()
		return
	case reload:
		if e.reload == nil {
			r.reload.paused = false
			s.beginReload()
		} else {
			s.askReload(*e.reload)
		}
		return
	case reloaded:
		s.endReload(e.reloaded, e.hung)
		return
	case machine.Upgrade:
		if r.reload.cancel != nil && s.state == machine.Serving {
			r.reload.upgrades = append(r.reload.upgrades, e)
			return
		}
		switch {
		case s.undoes(e.request):
			r.requests = append(r.requests, *e.request)
			e = event{kind: machine.Ill, attempt: r.attempt, reason: e.request.back.text()}
		case !s.admit(e.request):
			return
		}
	case machine.Orphaned:
		r.orphaned = true
	case machine.Fit, machine.FitInPlace, machine.FitToRestart, machine.Unfit:
		r.checked, r.before = e.checked, e.checked.before
	case machine.Failed, machine.Drained:
		// Whoever runs it may have learned of the drain before its context has.
		if e.worker && s.drain.began() {
			return
		}
		if e.kind == machine.Failed && e.err == nil {
			e.err = errors.New(e.reason)
		}
		if e.err != nil && r.err == nil {
			r.err = e.err
		}
	}
	s.step(e)
}

// undoes says whether a request is to roll back what is on trial: main is the version
// before, and goes on.
func (s *Service) undoes(req *request) bool {
	return req.back != nil && s.state == machine.Probation && s.run.back == nil
}

// admit decides whether a request for an upgrade reaches the table, and keeps
// who waits for its answer.
func (s *Service) admit(req *request) bool {
	r := &s.run
	if req.bySignal && !s.admitSignal() {
		return s.state.Inherits()
	}
	if s.state != machine.Serving {
		if s.state.Upgrading() {
			r.held = append(r.held, *req)
		} else {
			s.answer(*req, control.Verdict{Outcome: control.Busy, Reason: "not main: " + s.state.String(), From: s.self()})
			return false
		}
		return true
	}
	if why := s.busy(); why != "" {
		s.announceEnd()
		s.answer(*req, control.Verdict{Outcome: control.Busy, Reason: why, From: s.self(), Started: time.Now()})
		return false
	}
	r.requests = append(r.requests, *req)
	r.back = req.back
	return true
}

// admitSignal answers systemd, which waits for RELOADING=1 and READY=1 where
// the unit is of Type=notify-reload. It returns false for a signal that waits
// for the next main.
func (s *Service) admitSignal() bool {
	r := &s.run
	if s.state.Inherits() {
		r.early = true
		return false
	}
	switch {
	case !s.state.Main():
	case slices.ContainsFunc(r.requests, func(req request) bool { return !req.bySignal }):
		// With a reload command running, RELOADING=1 would leave the unit in
		// reload if we died.
		r.owed = true
	default:
		s.announceReloading()
	}
	return true
}

func (s *Service) announceReloading() {
	s.run.announced = s.tell(notify.Reloading(), notify.Status(s.statusText())) || s.run.announced
}

// busy says why no upgrade may start now, although none is under way.
func (s *Service) busy() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.adopting {
		return "the predecessor died and systemd has not adopted this process yet: try again"
	}
	st := s.statusLocked()
	if n := len(st.Draining); n > s.opts.MaxDraining {
		text := fmt.Sprintf("%d older generations still drain, at most %d may:", n, s.opts.MaxDraining)
		for _, p := range st.Draining {
			text += fmt.Sprintf(" PID %d (generation %d)", p.PID, p.Generation)
		}
		return text
	}
	return ""
}

// answer replies to one request.
func (s *Service) answer(req request, v control.Verdict) {
	if req.answer != nil {
		req.answer <- v // has room for one
	} else if v.Outcome == control.Busy {
		s.log.Warn("upgrade not started", "reason", v.Reason)
	}
}

// step is the one place where the table is run.
func (s *Service) step(e event) {
	cell := machine.Default.Cell(s.state, e.kind)
	switch {
	case cell.Never:
		s.log.Error("event cannot come in this state: please report it", "event", e.kind, "state", s.state)
		return
	case cell.Why != "":
		s.log.Debug("event ignored", "event", e.kind, "state", s.state, "why", cell.Why)
	}
	s.run.on, s.run.reason, s.run.toBlame = e.kind, e.reason, e.blamesFile() && !s.run.successor.toldToStop()
	from := s.state
	next, do := machine.Default.Step(s.state, e.kind)
	if next != from {
		s.enter(next, e)
	}
	if next == from && len(do) > 0 {
		s.log.Debug("state kept", "event", e.kind, "state", s.state)
	}
	for _, a := range do {
		s.perform(a)
	}
	if next != from {
		s.announceState()
		s.stateReloads(from)
	}
	if next != from && next != machine.Promoting {
		s.run.yielding = nil
		s.run.thaw()
	}
}

// enter makes every change of state: it logs it, arms the deadline of the new
// one, and lets nobody see anything else.
func (s *Service) enter(next machine.State, e event) {
	r := &s.run
	from := s.state
	args := []any{"generation", s.generation, "on", e.kind.String()}
	if e.reason != "" {
		args = append(args, "reason", e.reason)
	}
	now := time.Now()
	s.mu.Lock()
	s.state, s.since = next, now
	s.mu.Unlock()
	s.log.Info(fmt.Sprintf("%v -> %v", from, next), args...)

	if from == machine.Probation && next != machine.Promoting || from == machine.Promoting && next != machine.Draining {
		s.states.lease.move(leasePaused, leaseHeld) // it did not move after all
	}
	switch from {
	case machine.Checking, machine.Starting, machine.Probation, machine.Promoting, machine.Emptying:
		r.verdict.Phases = append(r.verdict.Phases, control.Phase{Name: from.String(), Seconds: now.Sub(r.phase).Seconds()})
	}
	r.phase = now
	if next == machine.Checking {
		r.attempt++
		r.before = ""
		r.verdict = control.Verdict{Rollback: r.back != nil, From: s.self(), Started: now, Before: memoryNow()}
	}
	if r.timer != nil {
		r.timer.Stop()
		r.timerC = nil
	}
	if d := s.deadline(next); d > 0 {
		r.timer = time.NewTimer(d)
		r.timerC = r.timer.C
		if next.Drains() {
			r.farewell()
			r.farewell = s.drain.deadline(d)
		}
	}
	if next == machine.Probation {
		r.beats = newBeats(s.opts.Probation)
	}
}

// late says what was not done by the deadline of the state.
func (s *Service) late() string {
	switch s.state {
	case machine.Renewed:
		return fmt.Sprintf("not ready within %v", s.renewed.StartTimeout)
	case machine.Joining:
		return "not ready in time, and the predecessor does not say so: it hangs"
	case machine.Offered:
		return fmt.Sprintf("the predecessor (PID %d) does not answer: it hangs", s.predecessor.process.PID)
	case machine.Starting:
	default:
		return ""
	}
	text := fmt.Sprintf("not ready within %v", s.opts.StartTimeout)
	if c := s.run.successor; c != nil {
		text += c.hurdle()
	}
	return text
}

// predecessorMargin is how late a predecessor may be that lives.
const predecessorMargin = time.Second

// deadline is how long a state may last. Probation ends on a beat instead.
func (s *Service) deadline(state machine.State) time.Duration {
	switch state {
	case machine.Starting:
		return s.opts.StartTimeout
	case machine.Emptying, machine.Draining, machine.Resigning, machine.Stopping:
		return s.opts.DrainTimeout
	case machine.Joining, machine.Offered:
		// A predecessor that lives decides before that: its time began earlier, and
		// on a busy machine it may be late.
		return max(s.opts.StartTimeout, s.predecessor.hello.StartTimeout) + predecessorMargin
	case machine.Renewed:
		return s.renewed.left()
	}
	return 0
}

// announceState tells systemd and the control socket's clients. Only main
// speaks to systemd: of all others a message would be refused, with a warning
// in the journal before systemd 256.
func (s *Service) announceState() {
	if s.state.Main() && s.state != machine.Promoting {
		s.tell(notify.Status(s.statusText()))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.watchers) == 0 {
		return
	}
	st := s.statusLocked()
	for w := range s.watchers {
		w.changed(st)
	}
}

// statusText is the line in systemctl status.
func (s *Service) statusText() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := fmt.Sprintf("%s: %s (generation %d)", stateWord(s.state), s.opts.Version, s.generation)
	if why := s.lastGood.why(); why != "" {
		text += ", the last good version, because " + why
	}
	if s.child != nil && s.state.Upgrading() {
		return oneLine(fmt.Sprintf("%s; %s (PID %d) is next", text, s.child.Version, s.child.PID))
	}
	if v := s.last; v != nil && v.Outcome != control.Upgraded && s.state == machine.Serving {
		what := "the new version"
		if v.To != nil && v.To.Version != "" {
			what = v.To.Version
		}
		to := "upgrade to "
		if v.Rollback {
			to = "rollback to "
		}
		text = fmt.Sprintf("%s; %s%s %s at %s: %s", text, to, what, v.Outcome, v.Started.Format(time.TimeOnly), v.Reason)
	}
	if s.state == machine.Serving && s.store.warning() != "" {
		text += "; the fd store does not keep all: see holdfast status"
	}
	if s.state == machine.Serving {
		text += reloadText(s.reloaded.Last)
	}
	return oneLine(text)
}

// maxStatus keeps a status far below the limit of a notification (4096 bytes).
const maxStatus = 1000

// oneLine makes text fit STATUS=, which has no newlines and is UTF-8.
func oneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > maxStatus {
		text = strings.ToValidUTF8(text[:maxStatus], "") + "…"
	}
	return text
}

// tell sends one notification. One that is not heard changes nothing that the
// service could do better, so it is only logged; MAINPID= is another matter.
// Until systemd has adopted us it would refuse all, so nothing is sent.
func (s *Service) tell(fields ...notify.Field) (sent bool) {
	s.mu.Lock()
	adopting := s.adopting
	s.mu.Unlock()
	if adopting {
		return false
	}
	if err := s.notifier.Notify(fields...); err != nil {
		s.log.Warn("notify systemd", "error", err)
		return false
	}
	return true
}

// announceEnd ends a reload that RELOADING=1 began, or that systemd ordered by
// a signal. What cannot be sent now is tried again at the next end.
func (s *Service) announceEnd() {
	r := &s.run
	if r.owed || r.early {
		r.owed, r.early = false, false
		s.announceReloading()
	}
	if r.announced && s.tell(notify.Ready(), notify.Status(s.statusText())) {
		r.announced = false
	}
}

// cleanUp ends what Run started.
func (s *Service) cleanUp() {
	r := &s.run
	close(s.done)
	if r.timer != nil {
		r.timer.Stop()
	}
	r.farewell()
	for _, cancel := range []context.CancelFunc{r.cancelCheck, r.trial, r.watchdog} {
		if cancel != nil {
			cancel()
		}
	}
	s.answerAll(s.stoppedVerdict())
	s.abandonReloads()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	r.control.end(ctx)
	if s.controlListener != nil {
		_ = s.controlListener.Close()
	}
	s.drain.abandon()
	s.endSuccessors()
	s.states.close()
	s.endProving()
	if s.predecessor != nil {
		_ = s.predecessor.close()
	}
	s.mu.Lock()
	for _, e := range s.elders {
		e.handle.close()
	}
	s.elders = nil
	s.mu.Unlock()
	_ = s.notifier.Close()
}

// endSuccessors leaves no process behind that nobody would end: without a
// service manager a successor that was not promoted gets the time of a drain.
// A manager ends what is left in the unit itself.
func (s *Service) endSuccessors() {
	r := &s.run
	left := r.dismissed
	if r.successor != nil && !r.handedOver {
		left = append(left, r.successor)
	}
	deadline := time.After(s.opts.DrainTimeout)
	for _, c := range left {
		if c.ours && r.err == nil && !r.handedOver {
			select {
			case <-c.gone:
			case <-deadline:
				c.kill()
				<-c.gone
			}
		}
	}
	for _, c := range append(left, r.successor) {
		if c != nil {
			_ = c.conn.Close()
		}
	}
}
