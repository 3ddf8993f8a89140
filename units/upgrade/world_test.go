// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/units/bus"
)

// world is systemd and its services, as a helper sees them.
type world struct {
	t   *testing.T
	dir string // of the journal

	mu       sync.Mutex
	services map[string]*fake
	calls    int
	life     int // of the helper; calls of an earlier one have no effect
	cut      cut
	kill     context.CancelFunc // ends the helper
	away     bool               // systemd cannot be asked
	loseJobs bool
}

// cut ends the helper at one of its calls, before or after the call has its effect.
type cut struct {
	call  int
	after bool
}

// fake is a service. bad says of versions how they are bad.
type fake struct {
	file, version, before string
	bad                   map[string]string
	generation, pid       int
	instance              string
	state, active         string
	restarts              int
	last                  *control.Verdict
	mode                  string
	requests, failed      float64
	served                time.Time // since when the version does

	reloads, rollbacks int
	reason             string // of the last rollback
	pending            func() // the end of what is under way
	until              time.Time
	job                uint32
}

var errKilled = errors.New("the helper was killed")

func newWorld(t *testing.T, units ...string) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), services: make(map[string]*fake)}
	for i, name := range units {
		w.services[name] = &fake{
			file: "1", version: "1", bad: map[string]string{}, generation: 1, pid: 100 * (i + 1), instance: "i1",
			state: "running", active: "active", served: time.Now(),
		}
	}
	return w
}

// helper starts a helper, which ends with the context.
func (w *world) helper(ctx context.Context) (context.Context, *Upgrader) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ctx, w.kill = context.WithCancel(ctx)
	h := handle{w, w.life}
	return ctx, &Upgrader{
		options: Options{Directory: w.dir, Logger: slog.New(slog.DiscardHandler)}, journal: journal{w.dir}, manager: h,
		dial: func(socket string, _ uint32) controller {
			return line{h, filepath.Base(filepath.Dir(socket)) + ".service"}
		},
		close: func() error { return nil },
	}
}

// call runs a call of a helper on the world.
func (w *world) call(ctx context.Context, life int, do func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if life != w.life || ctx.Err() != nil {
		return errors.Join(errKilled, ctx.Err())
	}
	for _, f := range w.services {
		f.advance()
	}
	w.calls++
	if w.calls != w.cut.call {
		return do()
	}
	if w.cut.after {
		_ = do() // its caller does not hear of it
	}
	w.die()
	return errKilled
}

// die ends the helper as SIGKILL does: what it writes from now on goes elsewhere.
func (w *world) die() {
	dir := w.t.TempDir()
	// The helper may be writing beside this: a file that it has not renamed yet is
	// what a kill leaves, and nobody reads it.
	err := fs.WalkDir(os.DirFS(w.dir), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return os.MkdirAll(filepath.Join(dir, name), 0o700)
		case strings.HasPrefix(d.Name(), ".new-"):
			return nil
		}
		data, err := os.ReadFile(filepath.Join(w.dir, name))
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, name), data, 0o600)
	})
	if err != nil {
		w.t.Error(err)
	}
	w.dir = dir
	w.life++
	w.kill()
}

func (f *fake) advance() {
	if f.pending != nil && !time.Now().Before(f.until) {
		f.pending()
		f.pending = nil
		f.job = 0
	}
	// A version that dies does so a second after its verdict.
	if f.bad[f.version] == "dies" && f.state == "running" && time.Since(f.served) > time.Second && f.generation > 1 {
		f.restarts++
		f.instance = fmt.Sprintf("i%d", f.restarts+1)
		f.generation, f.pid, f.served = 1, f.pid+1, time.Now()
	}
}

// begin starts what takes a second.
func (f *fake) begin(state string, version string, fail string) {
	started := time.Now()
	f.state, f.until = state, started.Add(time.Second)
	f.pending = func() {
		f.state = "running"
		from := control.Process{PID: f.pid, Generation: f.generation, Version: f.version}
		if fail != "" {
			f.last = &control.Verdict{Outcome: control.Refused, Reason: fail, From: from, Started: started}
			return
		}
		f.before, f.version = f.version, version
		f.generation++
		f.pid++
		f.served = time.Now()
		f.last = &control.Verdict{Outcome: control.Upgraded, From: from, To: &control.Process{PID: f.pid, Generation: f.generation, Version: version}, Started: started}
	}
}

func (f *fake) status() control.Status {
	return control.Status{
		Protocol: control.Version, Instance: f.instance, State: f.state, Generation: f.generation, Version: f.version,
		PID: f.pid, Last: f.last, Mode: f.mode, Previous: f.previous(),
	}
}

func (f *fake) previous() *control.Program {
	if f.before == "" {
		return nil
	}
	return &control.Program{Version: f.before}
}

// handle is the world for one life of a helper.
type handle struct {
	*world
	life int
}

func (h handle) Unit(ctx context.Context, name string) (u bus.Unit, err error) {
	err = h.call(ctx, h.life, func() error {
		if h.away {
			return &bus.AwayError{Op: "ask"}
		}
		f, ok := h.services[name]
		if !ok {
			return &NoUnitError{Unit: name}
		}
		u = bus.Unit{Name: name, LoadState: "loaded", ActiveState: f.active, CanReload: true, InvocationID: "x", Job: f.job}
		u.MainPID, u.NRestarts, u.RuntimeDirectory = f.pid, f.restarts, []string{name[:len(name)-len(".service")]}
		u.TimeoutStart = time.Minute
		return nil
	})
	return u, err
}

func (h handle) Units(ctx context.Context, patterns ...string) (list []bus.Listed, err error) {
	err = h.call(ctx, h.life, func() error {
		for name, f := range h.services {
			if ok, _ := filepath.Match(patterns[0], name); ok {
				list = append(list, bus.Listed{Name: name, ActiveState: f.active})
			}
		}
		return nil
	})
	return list, err
}

func (h handle) Sockets(context.Context, bus.Unit) ([]bus.Socket, error) { return nil, nil }

func (h handle) Reload(ctx context.Context, unit string) (job, error) {
	err := h.call(ctx, h.life, func() error {
		f := h.services[unit]
		f.reloads++
		if f.pending != nil {
			return errors.New("a job is there already")
		}
		fail := ""
		if f.bad[f.file] == "refused" {
			fail = "damaged"
		}
		f.begin("probation", f.file, fail)
		f.job = 7
		return nil
	})
	if err != nil {
		return nil, err
	}
	return work{h, unit}, nil
}

type work struct {
	handle
	unit string
}

func (j work) Forget() {}

func (j work) Wait(ctx context.Context) (bus.Result, error) {
	for {
		result := bus.Result("")
		err := j.call(ctx, j.life, func() error {
			f := j.services[j.unit]
			switch {
			case j.loseJobs:
				return &bus.LostError{Unit: j.unit}
			case f.pending != nil:
			case f.last.Outcome == control.Upgraded:
				result = bus.Done
			default:
				result = "failed"
			}
			return nil
		})
		if err != nil || result != "" {
			return result, err
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// line is the control socket of one service.
type line struct {
	handle
	unit string
}

func (l line) status(ctx context.Context) (st control.Status, err error) {
	err = l.call(ctx, l.life, func() error {
		f := l.services[l.unit]
		if f.active != "active" {
			return &control.NotRunningError{Socket: l.unit}
		}
		st = f.status()
		return nil
	})
	return st, err
}

func (l line) get(ctx context.Context, path string) (code int, body []byte, err error) {
	err = l.call(ctx, l.life, func() error {
		f := l.services[l.unit]
		code = 200
		switch bad := f.bad[f.version]; {
		case path == "/healthz" && bad == "ill", path == "/readyz" && bad == "unready":
			code, body = 503, []byte(`{"ok":false,"reason":"no database"}`+"\n")
		case path == "/metrics":
			f.requests += 100
			if bad == "errors" {
				f.failed += 10
			}
			body = fmt.Appendf(nil, "http_requests_total{code=\"200\"} %v\nhttp_requests_total{code=\"500\"} %v\n", f.requests-f.failed, f.failed)
		}
		return nil
	})
	return code, body, err
}

func (l line) rollback(ctx context.Context, reason string, _ func(control.Status)) (control.Result, error) {
	err := l.call(ctx, l.life, func() error {
		f := l.services[l.unit]
		if f.before == "" {
			return errors.New("there is no version before")
		}
		f.rollbacks++
		f.reason = reason
		if f.pending == nil {
			f.begin("starting", f.before, "")
		}
		return nil
	})
	if err != nil {
		return control.Result{}, err
	}
	for {
		var result control.Result
		err := l.call(ctx, l.life, func() error {
			if f := l.services[l.unit]; f.pending == nil {
				result.Verdict = *f.last
			}
			return nil
		})
		if err != nil || result.Verdict.Outcome != "" {
			return result, err
		}
		select {
		case <-ctx.Done():
			return control.Result{}, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (w *world) versions() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	versions := make(map[string]string)
	for name, f := range w.services {
		versions[name] = f.version
	}
	return versions
}

// install puts version 2 on the disk of all services, which is bad in some way for some.
func (w *world) install(bad map[string]string) {
	for name, f := range w.services {
		f.file = "2"
		f.bad["2"] = bad[name]
	}
}

func outcomes(report Report) map[string]Outcome {
	all := make(map[string]Outcome)
	for _, unit := range report.Units {
		all[unit.Unit] = unit.Outcome
	}
	return all
}

func names(report Report) []string {
	var list []string
	for _, unit := range report.Units {
		list = append(list, unit.Unit)
	}
	return slices.Clip(list)
}
