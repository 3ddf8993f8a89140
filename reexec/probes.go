// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/internal/machine"
)

// Handler serves what others may see of this generation, for a port of the service's
// own: monitoring, load balancers, Prometheus. The control socket serves the same,
// to root and the service's user. Nothing can be changed through it, and nothing of it
// waits for an upgrade.
//
//	/healthz  200 if the process is alive: it answers, and the loop of Run turns.
//	          Options.Health does not matter, since ill health is no reason to kill
//	          what systemd's watchdog or a rollback takes care of.
//	/readyz   200 if the service is able to serve now: who connects is accepted, by
//	          this generation if Options.Health says within two seconds that it can
//	          serve, or by the one that has taken over from it.
//	/updatez  200 and a [control.Update]: the state, the versions, the attempts
//	/metrics  the handler of SetMetrics; 404 if there is none
//
// All but metrics is JSON. GET and HEAD are allowed. The body of an answer 503 has
// the reason, which may be the text of an error of Options.Health.
//
// # Who answers, and what
//
// On a port of the service, whoever has accepted the connection: main, and from the
// start of the probation on the new version. On the control socket it is main: the old
// version up to the verdict, then the new one; in between, and while the service is
// executed in place, who asks waits until main answers. By the state of who answers,
// /readyz is
//
//	starting up   503, before READY=1: booting, joining, offered, renewed
//	on trial      by Options.Health: it accepts in the place of its predecessor
//	running       by Options.Health
//	pre-check     by Options.Health
//	starting      by Options.Health: the new version accepts nothing yet
//	probation     200: the new version accepts, and each of its beats says that it can
//	promoting     200: as before
//	emptying      503: nothing is accepted before the new version is executed
//	executing     503
//	draining      200: another generation is main
//	resigning     200: it was undone, and another generation accepts again
//	stopping      503
//	gone          503
//
// A generation that does not accept itself says so (Health.Accepts is false), and ends
// the connection with the answer, so that who asks again asks the one that does. It
// does not say 503 where another one serves: it may have accepted the very question a
// moment before it paused, and a load balancer would take the service for dead in
// the middle of every upgrade.
func (s *Service) Handler() http.Handler { return control.NewProbeHandler(probed{s}) }

// SetMetrics makes h, unless it is nil, what Handler and the control socket serve on
// /metrics. Package metrics calls it.
func (s *Service) SetMetrics(h http.Handler) {
	if h == nil {
		s.metrics.Store(nil)
		return
	}
	s.metrics.Store(&h)
}

// notServing says why nobody who connects is served in a state. It is empty where this
// generation accepts, or another one that has taken over.
var notServing = [machine.States]string{
	machine.Booting:   "it is starting up",
	machine.Joining:   "it is starting up",
	machine.Offered:   "it is ready, and its predecessor has not told it to serve",
	machine.Emptying:  "it answers what it has before the new version is executed in its place",
	machine.Executing: "the new version is being executed in its place",
	machine.Reverting: "the new version could not be executed, and it begins anew",
	machine.Renewed:   "it is starting up",
	machine.Stopping:  "the service stops",
	machine.Gone:      "the service has ended",
}

// turnLimit is how long the loop may take for one event. It waits for nothing that
// takes longer: each of its steps is bounded by seconds.
var turnLimit = 20 * time.Second

// readyLimit bounds Options.Health for /readyz.
const readyLimit = 2 * time.Second

// probed is the service as its probes show it.
type probed struct{ *Service }

func (p probed) Healthz() control.Health {
	h := p.now()
	h.Reason = ""
	since := time.Since(p.began) - time.Duration(p.turned.Load())
	p.mu.Lock()
	running := p.running
	p.mu.Unlock()
	select {
	case <-p.done:
		h.Reason = "Run has returned"
		return h
	default:
	}
	if limit := turnLimit + 4*p.opts.Beat; running && since > limit {
		h.Reason = fmt.Sprintf("the loop of Run stands still since %v", since.Round(time.Second))
		return h
	}
	h.OK = true
	return h
}

func (p probed) Readyz(ctx context.Context) control.Health {
	h := p.now()
	var err error
	if h.Accepts {
		err = p.asking.ask(ctx, p.opts.Health)
		h = p.now() // it may have changed meanwhile
	}
	if err != nil && h.Accepts {
		h.Reason = err.Error()
	}
	h.OK = h.Reason == ""
	return h
}

// now has the state, and why that cannot serve.
func (p probed) now() control.Health {
	p.mu.Lock()
	defer p.mu.Unlock()
	return control.Health{State: stateWord(p.state), Accepts: p.state.Accepts(), Process: p.self(), Reason: notServing[p.state]}
}

func (p probed) Updatez() control.Update {
	u := p.Status().Update()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.state {
	case machine.Joining, machine.Offered, machine.Trial:
		from, to := p.predecessor.process, p.self()
		u.From, u.To = &from, &to
	case machine.Renewed:
		from, to := p.renewed.Verdict.From, p.self()
		u.From, u.To = &from, &to
	}
	return u
}

func (p probed) Metrics() http.Handler {
	if h := p.metrics.Load(); h != nil {
		return *h
	}
	return nil
}

// askedHealth is a health check for all who ask at the same time: one that hangs is
// left behind once, however often somebody asks.
type askedHealth struct {
	mu  sync.Mutex
	now *healthRun
}

type healthRun struct {
	over chan struct{}
	err  error // once over is closed
}

func (a *askedHealth) ask(ctx context.Context, check func(context.Context) error) error {
	if check == nil {
		return nil
	}
	a.mu.Lock()
	run := a.now
	if run == nil {
		run = &healthRun{over: make(chan struct{})}
		a.now = run
		go a.run(run, check)
	}
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	select {
	case <-run.over:
		return run.err
	case <-ctx.Done():
		return fmt.Errorf("health check: it has not returned within %v", readyLimit)
	}
}

func (a *askedHealth) run(run *healthRun, check func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), readyLimit)
	defer cancel()
	run.err = check(ctx)
	a.mu.Lock()
	a.now = nil
	a.mu.Unlock()
	close(run.over)
}
