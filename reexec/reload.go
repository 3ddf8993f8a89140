// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/signal"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/internal/machine"
)

// Reloader can read its configuration again. Its methods are called one at a time,
// and every Prepare that returns nil is followed by one Commit or one Discard.
// *config.Config of package reexec/config is one.
type Reloader interface {
	// Prepare reads, checks and builds, and changes nothing that others see. An
	// error refuses the whole reload. ctx ends after Options.ReloadTimeout and when
	// the service stops.
	Prepare(ctx context.Context) error
	// Commit puts in place what was prepared. It cannot fail, and must not wait.
	Commit()
	// Discard drops it.
	Discard()
}

// OnReload registers what reads its configuration again at SIGHUP, on POST
// /v1/reload of the control socket, which "holdfast reload --config" asks, and by
// [Service.Reload]. All of it is prepared first, in the order of registration; when
// nothing has failed, all is committed. What has failed is named in STATUS=, in the
// log and in [control.Status.Reloads], and nothing changes.
//
// One reload is under way at a time; all requests that come meanwhile become one
// more. During an upgrade they wait: if the new version becomes main it reads again
// what it may have read too early. An upgrade waits for a reload. A stop ends it.
//
// Call it before Run, and as early as the configuration is read: from the first
// call on SIGHUP no longer ends the process.
func (s *Service) OnReload(name string, r Reloader) {
	if len(s.reloaders) == 0 {
		signal.Notify(s.hangups, syscall.SIGHUP)
	}
	s.reloaders = append(s.reloaders, namedReloader{name, r})
}

type namedReloader struct {
	name string
	Reloader
}

// Reload reads the configuration again, as SIGHUP does, and waits for the result.
// ctx bounds the wait only.
func (s *Service) Reload(ctx context.Context) (control.Reload, error) {
	v := backend{s}.Reload(ctx)
	return v, ctx.Err()
}

// Reload asks for a reload, and waits for its end.
func (b backend) Reload(ctx context.Context) control.Reload {
	s := b.Service
	answer := make(chan control.Reload, 1)
	select {
	case s.events <- event{kind: reload, reload: &reloadRequest{answer}}:
	case <-s.done:
		return stoppedReload
	}
	select {
	case v := <-answer:
		return v
	case <-ctx.Done():
	case <-s.done:
		select {
		case v := <-answer:
			return v
		default:
		}
	}
	return stoppedReload
}

var stoppedReload = control.Reload{Outcome: control.Stopped, Reason: "the service is stopping"}

// reload and reloaded are no events of the table: a reload of the configuration
// changes no state. The first is a request, the second the end of a reload.
const (
	reload   = machine.Events + 2
	reloaded = machine.Events + 3
)

// reloadRequest is one of the control socket, or a signal, which waits for no
// answer.
type reloadRequest struct{ answer chan<- control.Reload }

func (r reloadRequest) bySignal() bool { return r.answer == nil }

// reloads is what the runner knows of reloads.
type reloads struct {
	cancel   context.CancelFunc // of the one under way, nil if there is none
	asked    []reloadRequest    // for it
	next     []reloadRequest    // for one more
	paused   bool               // next waits for systemd to see the end of a reload command
	upgrades []event            // requests for an upgrade that wait for its end
	// hung is closed when one has ended that was given up.
	hung <-chan struct{}
}

// heldSignal says whether a signal waits for the next reload.
func (r *reloads) heldSignal() bool { return slices.ContainsFunc(r.next, reloadRequest.bySignal) }

func anyCommand(requests []reloadRequest) bool {
	return slices.ContainsFunc(requests, func(r reloadRequest) bool { return !r.bySignal() })
}

// askReload takes one request.
func (s *Service) askReload(req reloadRequest) {
	r := &s.run.reload
	switch {
	case len(s.reloaders) == 0:
		req.reply(control.Reload{
			Outcome: control.Refused, Started: time.Now(),
			Reason: "the service registers nothing to read again (Service.OnReload): restart it, or upgrade it",
		})
	case !s.state.Reloads():
		s.log.Info("configuration is not read again", "state", stateWord(s.state))
		req.reply(s.unreloaded())
	case req.bySignal() && r.heldSignal():
	default:
		r.next = append(r.next, req)
		s.beginReload()
		if len(r.next) > 0 {
			s.log.Info("reload of the configuration waits", "state", stateWord(s.state))
		}
	}
}

func (r reloadRequest) reply(v control.Reload) {
	if r.answer != nil {
		r.answer <- v // has room for one
	}
}

// beginReload begins the next reload if there is one to do, and it may.
func (s *Service) beginReload() {
	r := &s.run.reload
	if len(r.next) == 0 || r.cancel != nil || r.paused || s.state != machine.Serving {
		return
	}
	r.asked, r.next = r.next, nil
	switch command := anyCommand(r.asked); {
	case !slices.ContainsFunc(r.asked, reloadRequest.bySignal):
	case command:
		// As in admitSignal: the command may be that of ExecReload=.
		s.run.owed = true
	default:
		s.announceReloading()
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.opts.ReloadTimeout)
	r.cancel = cancel
	s.log.Info("configuration is read again")
	go func(hung <-chan struct{}) {
		v, hung := s.reloadAll(ctx, hung)
		s.send(event{kind: reloaded, reloaded: v, hung: hung})
	}(r.hung)
}

// reloadAll prepares all, and commits all unless ctx ends first. What does not
// return in time is left behind; hung is closed when it has returned, and then it
// is discarded.
func (s *Service) reloadAll(ctx context.Context, before <-chan struct{}) (v control.Reload, hung <-chan struct{}) {
	v = control.Reload{Outcome: control.Refused, Started: time.Now()}
	defer func() { v.Seconds = time.Since(v.Started).Seconds() }()
	select {
	case <-before:
	default:
		if before != nil {
			v.Reason = "the last reload hangs still, although its time is over"
			return v, before
		}
	}
	var decided atomic.Bool // to commit, or to give up
	result, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		err := s.prepareAll(ctx)
		commit := decided.CompareAndSwap(false, true)
		switch {
		case err == nil && commit && ctx.Err() == nil:
			for _, r := range s.reloaders {
				r.Commit()
			}
		case err == nil:
			s.discard(s.reloaders)
			err = ctx.Err()
		}
		result <- err
	}()
	var err error
	select {
	case err = <-result:
	case <-ctx.Done():
		if decided.CompareAndSwap(false, true) {
			// Most end by themselves when their context does.
			select {
			case err = <-result:
			case <-time.After(reloadGrace):
				hung = ended
			}
			err = cmp.Or(err, ctx.Err())
		} else {
			err = <-result
		}
	}
	switch {
	case err == nil:
		v.Outcome = control.Reloaded
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		v.Reason = clip(fmt.Sprintf("not done within %v: %v", s.opts.ReloadTimeout, err), maxReason)
	case ctx.Err() != nil:
		v.Outcome, v.Reason = control.Stopped, "the service was told to stop"
	default:
		v.Reason = clip(err.Error(), maxReason)
	}
	return v, hung
}

// reloadGrace is how long after the end of its context a reload may take.
const reloadGrace = 200 * time.Millisecond

// prepareAll leaves nothing prepared if it fails.
func (s *Service) prepareAll(ctx context.Context) error {
	for i, r := range s.reloaders {
		if err := s.prepare(ctx, r); err != nil {
			s.discard(s.reloaders[:i])
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	return nil
}

// prepare takes a panic for an error: it is what a configuration does to a parser.
func (s *Service) prepare(ctx context.Context, r namedReloader) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("reading the configuration has panicked", "name", r.name, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return r.Prepare(ctx)
}

func (s *Service) discard(prepared []namedReloader) {
	for _, r := range slices.Backward(prepared) {
		r.Discard()
	}
}

// endReload tells everybody how a reload has ended, and begins what has waited.
func (s *Service) endReload(v control.Reload, hung <-chan struct{}) {
	r := &s.run.reload
	r.cancel()
	r.cancel, r.hung = nil, hung
	s.mu.Lock()
	s.reloaded.Last = &v
	switch v.Outcome {
	case control.Reloaded:
		s.reloaded.Done++
	case control.Refused:
		s.reloaded.Refused++
	}
	s.mu.Unlock()
	if v.Outcome == control.Reloaded {
		s.log.Info("configuration was read again", "seconds", v.Seconds)
	} else {
		s.log.Warn("configuration was not changed", "outcome", string(v.Outcome), "reason", v.Reason)
	}
	asked, upgrades := r.asked, r.upgrades
	r.asked, r.upgrades = nil, nil
	if s.state == machine.Serving {
		s.announceEnd()
		s.announceState()
	}
	for _, req := range asked {
		req.reply(v)
	}
	if anyCommand(asked) && r.heldSignal() {
		s.pauseReloads()
	}
	for _, e := range upgrades {
		s.handle(e)
	}
	s.beginReload()
}

// stateReloads goes with a change of state.
func (s *Service) stateReloads(from machine.State) {
	r := &s.run.reload
	if from == machine.Serving && r.cancel != nil {
		r.cancel() // a stop, since an upgrade waits
	}
	switch {
	case !s.state.Reloads():
		for _, req := range r.next {
			req.reply(s.unreloaded())
		}
		r.next = nil
	case s.state == machine.Serving && from != machine.Booting && r.heldSignal():
		s.pauseReloads()
	default:
		s.beginReload()
	}
}

// pauseReloads puts the next reload off until systemd has seen the end of a reload
// command: until then RELOADING=1 would leave the unit in reload if we died.
func (s *Service) pauseReloads() {
	r := &s.run.reload
	if r.paused {
		return
	}
	r.paused = true
	time.AfterFunc(reloadEnds, func() { s.send(event{kind: reload}) })
}

// unreloaded answers those who come when this generation reads no more.
func (s *Service) unreloaded() control.Reload {
	if s.state == machine.Draining {
		return control.Reload{Outcome: control.Busy, Started: time.Now(), Reason: "another version has become main: ask that"}
	}
	return stoppedReload
}

// abandonReloads answers those who wait when Run ends.
func (s *Service) abandonReloads() {
	r := &s.run.reload
	if r.cancel != nil {
		r.cancel()
	}
	for _, req := range append(r.asked, r.next...) {
		req.reply(stoppedReload)
	}
	for _, e := range r.upgrades {
		s.answer(*e.request, s.stoppedVerdict())
	}
	r.asked, r.next, r.upgrades = nil, nil, nil
}

// reloadsLocked is for the status; nil if there is nothing to reload.
func (s *Service) reloadsLocked() *control.Reloads {
	if len(s.reloaders) == 0 {
		return nil
	}
	now := s.reloaded
	return &now
}

// reloadText is what STATUS= says of a configuration that was refused.
func reloadText(last *control.Reload) string {
	if last == nil || last.Outcome != control.Refused {
		return ""
	}
	return fmt.Sprintf("; the configuration was refused at %s: %s", last.Started.Format(time.TimeOnly), last.Reason)
}
