// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/units/bus"
)

// maxQuote is how much of a page is quoted.
const maxQuote = 200

// failure is a gate that has failed.
type failure struct {
	gate, reason string
	// final: another look would not help.
	final bool
	// foreign: somebody else has changed the service, and it is theirs to undo.
	foreign bool
}

// soak watches a new version until its time is over, or a gate has failed.
func (r *rollout) soak(s *step) {
	client, gates := r.dial(s.Socket, s.UID), r.rec.Request.Gates
	if gates.Requests != "" && s.Baseline == nil {
		// If it cannot be read, the gate says so, and the next look tries again.
		if now, err := r.counts(s, client); err == nil {
			r.save(func() { s.Baseline = &now })
		}
	}
	for bad := 0; ; {
		failed := r.look(s, client)
		if r.ctx.Err() != nil {
			return
		}
		left := time.Until(s.Until)
		event := Event{Kind: "gate", Unit: s.Report.Unit, Wave: s.Report.Wave, Phase: phaseSoak, Left: max(0, left.Seconds()), Text: "ok"}
		if failed == nil {
			bad = 0
		} else {
			bad++
			event.Text = failed.gate + ": " + failed.reason
		}
		r.emit(event)
		switch {
		case failed != nil && failed.foreign:
			r.end(s, Broken, failed.reason)
			return
		case failed != nil && (failed.final || bad > gates.MaxFailures):
			r.save(func() {
				s.Report.Gate, s.Report.Reason = failed.gate, failed.reason
				s.enter(phaseRollback)
			})
			return
		case failed == nil && left <= 0:
			r.save(func() {
				s.Report.Outcome, s.Report.Reason = Done, ""
				s.Report.Seconds = time.Since(s.Report.Started).Seconds()
				s.enter(phaseHeld)
			})
			return
		}
		pause := gates.Interval
		if left > 0 {
			pause = min(pause, left)
		}
		if !r.sleep(r.ctx, pause) {
			return
		}
	}
}

// look looks once at all gates.
func (r *rollout) look(s *step, client controller) *failure {
	if f := r.lookProcess(s, client); f != nil {
		return f
	}
	f := r.lookPages(s, client)
	if f == nil {
		f = r.lookErrors(s, client)
	}
	if f != nil {
		// The process that was to answer may have died: then that is what has failed.
		if died := r.lookProcess(s, client); died != nil {
			return died
		}
	}
	return f
}

// lookPages: the service says that it is well.
func (r *rollout) lookPages(s *step, client controller) *failure {
	if url := r.rec.Request.Gates.HealthURL; url != "" {
		t, err := parseTarget(url, instanceOf(s.Report.Unit))
		if err != nil {
			return &failure{gate: "health", reason: err.Error(), final: true}
		}
		code, body, err := fetch(r.ctx, t)
		return lookPage("health", t.String(), code, body, err)
	}
	for _, page := range []struct{ gate, path string }{{"health", control.HealthzPath}, {"ready", control.ReadyzPath}} {
		code, body, err := client.get(r.ctx, page.path)
		if err == nil && code == http.StatusNotFound {
			continue // this release of the service has none; its state was looked at
		}
		if f := lookPage(page.gate, page.path, code, body, err); f != nil {
			return f
		}
	}
	return nil
}

// lookProcess: the process is the same, and the unit active.
func (r *rollout) lookProcess(s *step, client controller) *failure {
	fail := func(final bool, format string, args ...any) *failure {
		return &failure{gate: "process", reason: fmt.Sprintf(format, args...), final: final}
	}
	unit, err := r.manager.Unit(r.ctx, s.Report.Unit)
	var away *bus.AwayError
	switch {
	case errors.As(err, &away):
		// That says nothing about the service, which is asked itself.
	case err != nil:
		return fail(false, "%v", err)
	case unit.ActiveState != "active" && unit.ActiveState != "reloading" && unit.ActiveState != "refreshing":
		return fail(true, "the unit is %s (Result=%s)", unit.ActiveState, unit.Result)
	case unit.InvocationID != s.After.InvocationID, unit.NRestarts != s.After.Restarts:
		return fail(true, "systemd has started the service anew (Result=%s)", unit.Result)
	}
	st, err := client.status(r.ctx)
	var notRunning *control.NotRunningError
	if err != nil {
		return fail(errors.As(err, &notRunning), "%v", err)
	}
	switch {
	case st.Instance != s.After.Instance:
		return fail(true, "the service was started anew: version %s serves", st.Version)
	case st.Generation != s.After.Generation:
		r.serves(s, st)
		return &failure{gate: "process", reason: fmt.Sprintf("somebody else has upgraded the service meanwhile: version %s serves", st.Version), foreign: true}
	case st.PID != s.After.PID:
		return fail(true, "the process is another one: %d, not %d", st.PID, s.After.PID)
	case st.State != "running" && !underWay(st):
		return &failure{gate: "ready", reason: fmt.Sprintf("the service is %s", st.State)}
	}
	// Both are told apart once the bus has caught up with the service.
	if away == nil && unit.MainPID != 0 && unit.MainPID != st.PID && s.After.MainPID != 0 && unit.MainPID != s.After.MainPID {
		return fail(true, "MainPID is %d, not %d", unit.MainPID, s.After.MainPID)
	}
	return nil
}

func lookPage(gate, name string, code int, body []byte, err error) *failure {
	switch {
	case err != nil:
		return &failure{gate: gate, reason: err.Error()}
	case code < 200 || code > 299:
		reason := fmt.Sprintf("%s answers %d", name, code)
		line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
		var health control.Health
		if json.Unmarshal(body, &health) == nil && health.Reason != "" {
			line = health.Reason
		}
		if line != "" {
			reason += fmt.Sprintf(": %.*q", maxQuote, line)
		}
		return &failure{gate: gate, reason: reason}
	default:
		return nil
	}
}

// lookErrors: there are not more errors than may be.
func (r *rollout) lookErrors(s *step, client controller) *failure {
	gates := r.rec.Request.Gates
	if gates.Requests == "" {
		return nil
	}
	now, err := r.counts(s, client)
	if err != nil {
		return &failure{gate: "errors", reason: err.Error()}
	}
	if s.Baseline == nil {
		r.save(func() { s.Baseline = &now })
		return nil
	}
	rate, err := s.Baseline.rate(now)
	if err != nil {
		return &failure{gate: "errors", reason: err.Error()}
	}
	if rate > gates.MaxErrorRate {
		return &failure{gate: "errors", reason: fmt.Sprintf("%.0f of %.0f requests were errors (%.2f %%): at most %.2f %% may be",
			now.Errors-s.Baseline.Errors, now.Requests-s.Baseline.Requests, 100*rate, 100*gates.MaxErrorRate)}
	}
	return nil
}

// counts reads the counters of the gate "errors".
func (r *rollout) counts(s *step, client controller) (counts, error) {
	gates := r.rec.Request.Gates
	var (
		code int
		body []byte
		err  error
	)
	if gates.MetricsURL != "" {
		t, parseErr := parseTarget(gates.MetricsURL, instanceOf(s.Report.Unit))
		if parseErr != nil {
			return counts{}, parseErr
		}
		code, body, err = fetch(r.ctx, t)
	} else {
		code, body, err = client.get(r.ctx, "/metrics")
	}
	if err != nil {
		return counts{}, err
	}
	if code != http.StatusOK {
		return counts{}, fmt.Errorf("metrics: the answer is %d: name them with metrics_url", code)
	}
	requests, err := parseSelector(gates.Requests)
	if err != nil {
		return counts{}, err
	}
	failed, err := parseSelector(gates.Errors)
	if err != nil {
		return counts{}, err
	}
	var c counts
	if c.Requests, err = requests.sum(body); err != nil {
		return counts{}, err
	}
	c.Errors, err = failed.sum(body)
	return c, err
}
