// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/notify"
	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/internal/handover"
	"github.com/holdfast-go/holdfast/reexec/internal/machine"
)

const (
	// barrierTimeout bounds the wait for systemd to work off what it was
	// sent; a daemon-reexec with thousands of units may take some seconds.
	barrierTimeout = 30 * time.Second
	// adoptTimeout bounds the wait for systemd to see the predecessor's death.
	adoptTimeout = 10 * time.Second
	// lingerTimeout is how long a predecessor may need to end once its sockets are
	// closed.
	lingerTimeout = 3 * time.Second
	// reloadEnds is how long after a verdict a signal that was kept waits. The
	// reload command ends with the verdict, and systemd reads the PID file when it
	// sees that: it must not find the name of the next version, which is on trial,
	// and take that for main (service_sigchld_event in service.c).
	reloadEnds = time.Second
	// undoGrace is what a dismissed successor has beyond its drain.
	undoGrace = 2 * time.Second
)

// perform does one action of the table.
func (s *Service) perform(a machine.Action) {
	r := &s.run
	switch a {
	case machine.Check:
		ctx, cancel := context.WithCancel(context.Background())
		r.cancelCheck = cancel
		attempt, back := r.attempt, r.back
		go func() {
			defer cancel()
			c, err := s.precheck(ctx, back)
			if err == nil && back != nil && s.opts.Mode == Restart {
				err = s.lastGood.startsNext(back)
			}
			if err != nil {
				s.send(event{
					kind: machine.Unfit, attempt: attempt, reason: err.Error(), checked: &c,
					innocent: !errors.As(err, new(faultError)),
				})
				return
			}
			e := event{kind: machine.Fit, attempt: attempt, checked: &c}
			switch s.opts.Mode {
			case InPlace:
				e.kind = machine.FitInPlace
			case Restart:
				if back == nil {
					s.lastGood.tryAgain(c.binary.file)
				}
				e.kind, e.reason = machine.FitToRestart, s.restartReason(c.answer.Version, back != nil)
			}
			s.send(e)
		}()
	case machine.CancelCheck:
		r.cancelCheck()
	case machine.Start:
		s.start()
	case machine.Kill:
		if r.successor != nil { // it may have died in its start
			r.successor.kill()
			s.dismiss(0)
		}
	case machine.OfferSelf:
		s.sayUp(handover.KindReady, nil)
	case machine.SayLeaving:
		s.sayUp(handover.KindLeaving, handover.Reason{Reason: s.leavingReason(), Stop: r.on == machine.Stop && r.reason != contextEnded})
	case machine.TellServe:
		// From here on the version before may become main without us.
		s.lastGood.rollBack(r.back)
		s.sayDown(handover.KindServe, nil)
	case machine.TellPromote:
		r.handedOver = true
		s.lastGood.handOver()
		s.states.follow(nil)
		s.states.forget(r.successor)
		v := r.verdict
		v.Outcome, v.To = control.Upgraded, &r.successor.process
		s.sayDown(handover.KindPromote, handover.Promote{Verdict: &v, Signalled: r.early, Reload: r.reload.heldSignal()})
		r.announced, r.early = false, false // READY=1 was part of the message
	case machine.TellUndo:
		s.sayDown(handover.KindUndo, handover.Reason{Reason: r.reason})
		s.dismiss(s.opts.DrainTimeout + undoGrace)
	case machine.TellStop:
		if r.successor != nil {
			s.sayDown(handover.KindStop, handover.Reason{Reason: "the service stops"})
		}
	case machine.Accept:
		s.inv.accept()
		if s.state == machine.Trial {
			s.beginBeats()
		}
	case machine.Pause:
		s.inv.pause()
	case machine.NameSelf:
		s.namePID(s.self())
	case machine.NameSuccessor:
		s.namePID(r.successor.process)
	case machine.MoveMain:
		s.moveMain()
	case machine.Announce:
		s.tell(notify.Ready(), notify.Status(s.statusText()))
	case machine.AnnounceAdopted:
		s.announceAdopted()
	case machine.AnnounceStop:
		s.tell(notify.Stopping(), notify.Status(oneLine("stopping: "+r.reason)))
	case machine.TakeLease:
		if r.orphaned && s.notifier.Enabled() {
			s.mu.Lock()
			s.adopting = true // until announceAdopted says otherwise
			s.mu.Unlock()
		}
		s.lease.Store(true)
		s.store.take(true, r.orphaned)
		s.states.takeLease(r.orphaned, func(err error) {
			s.send(event{kind: machine.Failed, err: fmt.Errorf("take over from the predecessor: %w", err), reason: err.Error()})
		})
	case machine.DropLease:
		s.lease.Store(false)
		s.states.lease.set(leaseNone)
		s.store.take(false, false)
	case machine.Commit:
		ctx, cancel := context.WithTimeout(context.Background(), stateTimeout)
		s.states.commitAll(ctx)
		cancel()
	case machine.Empty:
		s.empty()
	case machine.Execute:
		s.execute()
	case machine.Revert:
		s.revert()
	case machine.Conclude:
		s.conclude()
	case machine.BecomeMain:
		s.becomeMain()
	case machine.Retire:
		s.retire()
	case machine.Drain:
		s.drain.mover = s.mover()
		s.countOn()
		s.drain.begin(s.pathsOwner(), s.drained)
	case machine.DrainNow:
		s.countOn()
		s.drain.begin(s.pathsOwner(), s.drained)
		s.drain.now()
	case machine.Abandon:
		s.log.Warn("connections are cut", "open", s.inv.openConnections(), "after", s.opts.DrainTimeout)
		s.drain.abandon()
		s.addLast()
		s.drain.reported.Do(s.reportDrain)
	case machine.ReplyUpgraded:
		s.reply(control.Upgraded)
	case machine.ReplyRefused:
		s.reply(control.Refused)
	case machine.ReplyRolledBack:
		s.reply(control.RolledBack)
	case machine.ReplyStopped:
		s.reply(control.Stopped)
	case machine.Hold:
		// Kept by admit, which knows who asks.
		s.log.Info("request for an upgrade is held", "state", stateWord(s.state))
	case machine.Exit:
		// Run returns what has gone wrong on the way, if anything.
	case machine.ExitFailed:
		if r.err == nil {
			r.err = errors.New(s.leavingReason())
		}
	}
}

// mover moves idle connections to whoever is main instead of us; nil if nobody
// takes them.
func (s *Service) mover() *mover {
	switch {
	case s.run.handedOver:
		return s.run.successor.mover(s.log)
	case s.predecessor != nil && !s.wasMain():
		return s.predecessor.mover(s.log)
	}
	return nil
}

// pathsOwner says who uses the paths of our sockets after us. A successor may
// do so until it has read that the service stops.
func (s *Service) pathsOwner() ownership {
	switch {
	case s.run.successor != nil:
		return successors
	case s.predecessor != nil && !s.wasMain():
		return predecessors
	}
	return ours
}

func (s *Service) wasMain() bool { return s.run.watchdog != nil }

func (s *Service) leavingReason() string {
	if s.run.err != nil {
		return s.run.err.Error()
	}
	if s.run.reason != "" {
		return s.run.reason
	}
	return "the successor leaves"
}

// start runs the checked binary and begins the handover.
func (s *Service) start() {
	r := &s.run
	tell, attempt := s.attemptReport(r.attempt), r.attempt
	b, answer := r.checked.binary, r.checked.answer
	r.checked = nil
	next := answer.process(s.generation + 1)
	c, err := s.startSuccessor(b, next)
	if r.tried = b.file; s.lastGood == nil {
		_ = b.close()
		r.tried = nil
	}
	r.verdict.To = &next
	if err == nil {
		r.successor = c
		r.verdict.To = &c.process
		s.setChild(&c.process)
		s.log.Info("successor started", "pid", c.process.PID, "version", c.process.Version)
		s.follower.Store(c) // before it is looked what there is, so that nothing is missed
		var list []passing
		if list, err = s.passing(true); err == nil {
			hello := s.hello()
			hello.Instance, hello.Generation, hello.Last = s.instance, s.generation+1, s.lastVerdict()
			hello.Beat, hello.StartTimeout = s.opts.Beat, s.opts.StartTimeout
			s.states.follow(c)
			s.states.expect(c, c.ended)
			go s.handOver(c, hello, list, tell)
			return
		}
	}
	if c != nil {
		c.catchUp(false)
		c.kill()
		_ = c.conn.Close()
	}
	// The loop must not wait for itself.
	go s.send(event{kind: machine.Died, attempt: attempt, reason: err.Error(), innocent: true})
}

// handOver saves the states, and then hands all over and hears the successor.
func (s *Service) handOver(c *successor, hello handover.Hello, list []passing, tell report) {
	ctx, cancel := context.WithTimeout(context.Background(), s.opts.StartTimeout)
	frames, err := s.states.handOver(ctx, c.owe)
	cancel()
	if err != nil {
		closePassing(list)
		close(c.ended)
		c.catchUp(false)
		tell(machine.Ill, err.Error())
		<-c.gone
		_ = c.conn.Close()
		return
	}
	c.owe("")
	c.follow(hello, append(list, frames...), tell, s.adopt, s.update)
}

// passing collects all descriptors for the successor.
//
// We are an elder of whoever follows, unless that is in this process.
func (s *Service) passing(leaving bool) ([]passing, error) {
	list, err := s.inv.pass()
	if err != nil {
		return nil, err
	}
	add := func(d handover.Descriptor, conn any) error {
		fd, err := duplicate(conn)
		if err == nil {
			list = append(list, passing{d, fd})
		}
		return err
	}
	if s.controlListener != nil {
		err = add(handover.Descriptor{Role: roleControl, Name: control.SocketName}, s.controlListener)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.statusLocked() // drops the elders that are gone
	all := s.elders
	if leaving {
		all = append([]*elder{newElder(s.self())}, all...)
	}
	for _, e := range all {
		if e.handle.file != nil && err == nil {
			err = add(handover.Descriptor{Role: roleElder, Elder: &e.Process, KillIn: e.killIn()}, e.handle.file)
		}
		if e.PID == s.self().PID {
			e.handle.close()
		}
	}
	if err != nil {
		closePassing(list)
		return nil, fmt.Errorf("hand over: %w", err)
	}
	return list, nil
}

func newElder(p control.Process) *elder {
	return &elder{Process: p, handle: newProcess(p.PID, -1)}
}

func (s *Service) setChild(p *control.Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.child = p
}

func (s *Service) lastVerdict() *control.Verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// dismiss ends our dealings with the successor. One that may drain is killed
// when the time is over, by us or by whoever is main then.
func (s *Service) dismiss(after time.Duration) {
	r := &s.run
	c := r.successor
	r.dismissed = slices.DeleteFunc(append(r.dismissed, c), func(c *successor) bool { return !c.alive() })
	if after == 0 {
		return
	}
	e := &elder{c.process, c.pidfd.copy(), time.Now().Add(after)}
	s.mu.Lock()
	s.elders = append(s.elders, e)
	s.mu.Unlock()
	s.killWhenDue(e)
}

// killIn is what is left of the elder's time; 0 if it is not to be killed.
func (e *elder) killIn() time.Duration {
	if e.killAt.IsZero() {
		return 0
	}
	return max(1, time.Until(e.killAt))
}

// killWhenDue ends an undone generation that does not go by itself.
func (s *Service) killWhenDue(e *elder) {
	go func() {
		select {
		case <-s.done:
		case <-time.After(time.Until(e.killAt)):
			if e.handle.alive() && e.handle.signal(unix.SIGKILL) == nil {
				s.log.Warn("an undone version was killed: it did not end by itself", "pid", e.PID, "generation", e.Generation)
			}
		}
	}()
}

// sayDown tells the successor something. If that cannot be sent it is as good
// as gone.
func (s *Service) sayDown(k handover.Kind, payload any) {
	r := &s.run
	if r.successor == nil {
		return
	}
	if err := r.successor.conn.Send(k, payload); err != nil && r.successor.alive() {
		s.log.Warn("successor does not listen", "pid", r.successor.process.PID, "error", err)
		r.successor.kill()
	}
}

// sayUp tells the predecessor something. If it is gone, its end of the socket
// says so in a moment.
func (s *Service) sayUp(k handover.Kind, payload any) {
	if err := s.predecessor.conn.Send(k, payload); err != nil {
		s.log.Debug("predecessor does not listen", "error", err)
	}
}

func (s *Service) namePID(p control.Process) {
	if err := writePIDFile(s.opts.RuntimeDirectory, p.PID); err != nil {
		s.log.Error("PID file", "error", err)
	}
}

// beginBeats tells the predecessor how we feel until we are main. A health
// check that hangs keeps the beat back, and that is the point.
func (s *Service) beginBeats() {
	ctx, cancel := context.WithCancel(context.Background())
	s.run.trial = cancel
	interval := s.predecessor.hello.Beat
	if interval <= 0 {
		interval = s.opts.Beat
	}
	go func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for ctx.Err() == nil {
			var b handover.Beat
			if s.opts.Health != nil {
				if err := s.opts.Health(ctx); err != nil && ctx.Err() == nil {
					b.Ill = err.Error()
				}
			}
			if ctx.Err() == nil {
				s.sayUp(handover.KindBeat, b)
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
			}
		}
	}()
}

// moveMain makes the successor main. MAINPID= comes first in the message's
// effect, so both fields arrive as one (sd_notify(3)); the barrier returns
// when systemd has read it. systemd refuses a dead process without a word, so
// the successor must still live after that.
func (s *Service) moveMain() {
	c, attempt := s.run.successor, s.run.attempt
	if s.run.owed {
		s.run.owed = false
		s.announceReloading()
	}
	status := oneLine(fmt.Sprintf("running: %s (generation %d)", c.process.Version, c.process.Generation))
	go func() {
		tell := s.attemptReport(attempt)
		if err := s.notifier.Notify(notify.MainPID(c.process.PID), notify.Ready(), notify.Status(status)); err != nil {
			tell(machine.Unmoved, fmt.Sprintf("systemd could not be told of successor (PID %d): %v", c.process.PID, err))
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), barrierTimeout)
		defer cancel()
		if err := s.notifier.Barrier(ctx); err != nil {
			s.log.Warn("systemd did not confirm MAINPID=", "pid", c.process.PID, "error", err)
		}
		if !c.alive() {
			tell(machine.Died, c.diedBecause())
			return
		}
		// Before the verdict: should we die after it, all that was counted until
		// now has arrived.
		ctx, cancel = context.WithTimeout(context.Background(), stateTimeout)
		defer cancel()
		s.states.sendAdded(ctx, c)
		tell(machine.Moved, "")
	}()
}

// announceAdopted speaks to systemd once it has taken us for main in place of
// the dead predecessor; before that it would refuse the message. Without a
// manager there is nobody to wait for.
func (s *Service) announceAdopted() {
	if !s.notifier.Enabled() {
		return
	}
	s.mu.Lock()
	s.adopting = true
	s.mu.Unlock()
	go func() {
		s.predecessor.waitReaped(adoptTimeout)
		s.mu.Lock()
		s.adopting = false
		s.mu.Unlock()
		s.tell(notify.Ready(), notify.Status(s.statusText()))
	}()
}

func (s *Service) becomeMain() {
	r := &s.run
	if r.trial != nil {
		r.trial()
	}
	if s.predecessor != nil {
		s.states.expect(s.predecessor, s.predecessor.ended)
		s.mu.Lock()
		s.last = s.predecessor.hello.Last
		s.mu.Unlock()
		s.noteTakeover()
		restoreOOMScore()
		_ = debug.SetCrashOutput(nil, debug.CrashOptions{})
	}
	if dropped := s.inv.dropUnclaimed(); len(dropped) > 0 {
		s.log.Info("listeners of an earlier version are no longer wanted", "closed", dropped)
	}
	s.mu.Lock()
	for _, e := range s.elders {
		if !e.killAt.IsZero() {
			s.killWhenDue(e)
		}
	}
	s.mu.Unlock()
	s.openMain()
	s.beginProving()
	if r.early || s.predecessor != nil && s.predecessor.signalled {
		r.early = false
		// The loop must not wait for itself, and systemd has to see the end of the
		// reload command first.
		go func() {
			select {
			case <-time.After(reloadEnds):
				s.send(event{kind: machine.Upgrade, reason: "SIGUSR2", request: &request{bySignal: true}})
			case <-s.done:
			}
		}()
	}
	if s.predecessor != nil && s.predecessor.reload && len(s.reloaders) > 0 && !r.reload.heldSignal() {
		r.reload.next = append(r.reload.next, reloadRequest{}) // begins with the state
	}
	s.tickets.keep()
	go makeRoom()
	r.control = s.serveControl()
	ctx, cancel := context.WithCancel(context.Background())
	r.watchdog = cancel
	interval, on, err := notify.WatchdogFromEnv()
	if err != nil {
		s.log.Warn("watchdog", "error", err)
	}
	if on {
		w := &notify.Watchdog{Notifier: s.notifier, Interval: interval, Check: s.opts.Health, OnError: func(err error) {
			s.log.Warn("watchdog", "error", err)
		}}
		go func() {
			s.waitAdopted(ctx)
			if err := w.Run(ctx); err != nil {
				s.log.Error("watchdog", "error", err)
			}
		}()
	}
}

// openMain closes Main once what the predecessor has left is loaded. Whoever
// waits for it is about to write, and the load would replace that.
func (s *Service) openMain() {
	open := func() {
		close(s.main)
		go s.storeBound()
	}
	if !s.states.lease.elsewhere() {
		open()
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		// It stays closed to them if the load fails, or a stop comes first.
		if s.states.lease.settled(ctx) == nil && !s.states.lease.elsewhere() {
			open()
		}
	}()
	go func() {
		select {
		case <-s.done:
			cancel()
		case <-ctx.Done():
		}
	}()
}

// waitAdopted returns when systemd hears us.
func (s *Service) waitAdopted(ctx context.Context) {
	for ctx.Err() == nil {
		s.mu.Lock()
		adopting := s.adopting
		s.mu.Unlock()
		if !adopting {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// retire gives up what only main has. The control server goes on answering
// those who had connected.
func (s *Service) retire() {
	r := &s.run
	r.watchdog()
	// Before the verdict: who asks after it must not reach us.
	r.control.close()
}

// countOn makes the rest of what is counted here reach the generation that counts
// on, if there is one.
func (s *Service) countOn() {
	switch r := &s.run; {
	case r.addTo != nil:
	case r.handedOver:
		r.addTo = r.successor
	case s.predecessor != nil && !s.wasMain():
		r.addTo = s.predecessor
	default:
		return
	}
	s.countBeat()
}

// countBeat sends what was counted since the last beat.
func (s *Service) countBeat() {
	to := s.run.addTo
	if to == nil || !s.states.merges() {
		return
	}
	select {
	case s.run.adding <- struct{}{}:
	default:
		return // the last one is not over
	}
	go func() {
		defer func() { <-s.run.adding }()
		ctx, cancel := context.WithTimeout(context.Background(), stateTimeout)
		defer cancel()
		s.states.sendAdded(ctx, to)
	}()
}

// addLast sends what was counted at the end of the drain.
func (s *Service) addLast() {
	if !s.states.merges() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stateTimeout)
	defer cancel()
	s.states.sendAdded(ctx, s.run.addTo)
}

func (s *Service) drained(err error) {
	s.addLast()
	s.drain.reported.Do(s.reportDrain) // unless it was cut
	s.send(event{kind: machine.Drained, err: err})
}

// reportDrain says what the drain has waited for, in the log and to the next
// main, whose status shows it.
func (s *Service) reportDrain() {
	d := s.drain.report(s.self())
	var heldUp []string
	for _, h := range d.Holders {
		heldUp = append(heldUp, h.String())
	}
	s.log.Info("drained", "seconds", d.Seconds, "waited for", heldUp)
	if s.run.handedOver {
		// It need not be heard: the next main may be gone, or draining itself.
		_ = s.run.successor.conn.Send(handover.KindDrained, handover.Drained{Drain: d})
	}
}

// reply ends the upgrade under way: one verdict for those who asked for it,
// busy for those who came later.
func (s *Service) reply(o control.Outcome) {
	r := &s.run
	v := r.verdict
	v.Outcome = o
	if o != control.Upgraded {
		v.Reason = r.reason
		if o == control.Stopped {
			v.Reason = "the service was told to stop: " + r.reason
		}
		if r.checked != nil {
			to := r.checked.answer.process(s.generation + 1)
			v.To = &to
			if r.checked.binary != nil {
				r.tried = r.checked.binary.file
			}
			r.checked = nil
		}
		s.lastGood.undoRollback(r.back)
	}
	s.blame(v)
	if o != control.Upgraded && r.before != "" {
		v.Reason += "; the same file had failed before: " + r.before
	}
	s.logVerdict(v)
	s.mu.Lock()
	s.last, s.child = &v, nil
	s.mu.Unlock()
	s.follower.Store(nil)
	if o != control.Upgraded {
		s.noteVerdict(v)
		s.states.follow(nil)
		r.successorOver(o)
		if s.state == machine.Serving {
			s.announceEnd()
		}
	}
	s.answerAll(v)
}

func (s *Service) logVerdict(v control.Verdict) {
	level := s.log.Warn
	if v.Outcome == control.Upgraded {
		level = s.log.Info
	}
	args := []any{"outcome", string(v.Outcome), "seconds", time.Since(v.Started).Seconds()}
	if v.Rollback {
		args = append(args, "rollback", true)
	}
	if v.Reason != "" {
		args = append(args, "reason", v.Reason)
	}
	level("verdict", args...)
}

// successorOver forgets the successor of an attempt that failed. When the
// service stops it is still ours to end.
func (r *runner) successorOver(o control.Outcome) {
	if o != control.Stopped {
		r.successor = nil
	}
}

func (s *Service) answerAll(v control.Verdict) {
	r := &s.run
	for _, req := range r.requests {
		if req.back != nil && !v.Rollback && v.Outcome == control.RolledBack {
			// What is bad news for who wanted the upgrade is what this one wanted.
			self := s.self()
			s.answer(req, control.Verdict{Outcome: control.Upgraded, Rollback: true, From: *v.To, To: &self, Started: v.Started, Phases: v.Phases})
			continue
		}
		s.answer(req, v)
	}
	for _, req := range r.held {
		busy := control.Verdict{Outcome: control.Busy, From: s.self(), Started: v.Started, Reason: fmt.Sprintf("another upgrade was under way; it ended: %s", v.Outcome)}
		s.answer(req, busy)
	}
	r.requests, r.held = nil, nil
}
