// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/load"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/mixed"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/prepare"
)

// settings are what the flags say.
type settings struct {
	on        string // where the service runs
	systemd   int
	length    time.Duration
	changes   int // after which it ends sooner; 0 for none
	every     time.Duration
	seed      uint64
	probation time.Duration
	drain     time.Duration
}

// A soak is one run.
type soak struct {
	settings

	dir     string // what is made, and removed at the end
	ca      []byte
	binary  []byte // of the service, without a mark
	target  target
	control *control.Client
	http    *http.Client // to whoever is main
	loads   []*load.Process
}

// newSoak builds what is needed and starts the service. The caller closes it.
func newSoak(ctx context.Context, settings settings) (_ *soak, err error) {
	s := &soak{settings: settings}
	if s.dir, err = os.MkdirTemp("", "holdfast-soak-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := s.build(ctx); err != nil {
		return nil, err
	}
	if s.target, err = s.startTarget(ctx); err != nil {
		return nil, err
	}
	s.control = control.NewClient(s.target.path("/run/" + mixed.Name + "/" + control.SocketName))
	s.http = &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true, // an old connection may be another generation's
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", s.target.path(mixed.UnixHTTP.Address))
		},
	}}
	return s, nil
}

func (s *soak) build(ctx context.Context) error {
	// For the users that services run as.
	if err := os.Chmod(s.dir, 0o755); err != nil {
		return err
	}
	err := prepare.Compile(ctx, s.dir, "./cmd/mixed", "./cmd/load", "github.com/holdfast-go/holdfast/units/cmd/holdfast")
	if err != nil {
		return err
	}
	if s.binary, err = os.ReadFile(s.file("mixed")); err != nil {
		return err
	}
	cert, key, err := prepare.Certificate()
	if err != nil {
		return err
	}
	s.ca = cert
	// The key must be read by the user that the service runs as, and is worth nothing.
	return errors.Join(os.WriteFile(s.file("cert.pem"), cert, 0o644), os.WriteFile(s.file("key.pem"), key, 0o644))
}

func (s *soak) close() error {
	var errs []error
	for _, l := range s.loads {
		errs = append(errs, l.End())
	}
	s.loads = nil
	if s.target != nil {
		errs = append(errs, s.target.close())
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// answerLimit bounds how long the service may take to answer for the first time, on a busy machine.
const answerLimit = 30 * time.Second

// startLoads starts a load generator for each kind.
func (s *soak) startLoads(ctx context.Context) error {
	for _, k := range kinds {
		l, err := s.target.startLoad(ctx)
		if err != nil {
			return err
		}
		s.loads = append(s.loads, l)
		if _, err := l.Start(k.options(s.target.address(k.socket), s.ca), answerLimit); err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
	}
	return nil
}

// state asks whoever is main.
func (s *soak) state(ctx context.Context) (mixed.State, error) {
	var state mixed.State
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+mixed.StatePath, nil)
	if err != nil {
		return state, err
	}
	response, err := s.http.Do(request)
	if err != nil {
		return state, fmt.Errorf("ask for the state: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return state, fmt.Errorf("ask for the state: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return state, fmt.Errorf("ask for the state: status %s: %s", response.Status, text)
	}
	return state, json.Unmarshal(text, &state)
}

// run makes the load and the changes until the time is over or ctx ends. What goes wrong is in the report,
// too: what was seen until then is worth knowing.
func (s *soak) run(ctx context.Context, r *result, progress func(string)) {
	begin := time.Now()
	err := s.startLoads(ctx)
	if err == nil {
		err = s.change(ctx, r, begin, progress)
	}
	r.Length = time.Since(begin).Round(time.Second)
	if ctx.Err() != nil {
		r.trouble(fmt.Errorf("ended before its time: %w", context.Cause(ctx)))
		err = nil // its doing
	}
	ctx = context.WithoutCancel(ctx)
	if err == nil {
		progress("wait for the end of older generations")
		err = s.settle(ctx, r)
	}
	r.trouble(err)
	progress("end the load")
	r.trouble(s.stopLoads(r))
	r.trouble(s.lookAround(ctx, r))
}

// change makes one change after the other until the time is over.
func (s *soak) change(ctx context.Context, r *result, begin time.Time, progress func(string)) error {
	plan := newPlan(s.seed)
	next, after := plan.next()
	end := begin.Add(s.length)
	last, looked := begin, begin
	sum := load.Sum{}
	for number, version, sampled := 1, 1, 0; s.changes == 0 || number <= s.changes; number++ {
		// What is main now is looked at when connections have moved to it.
		wait := max(time.Duration(after*float64(s.every))-time.Since(last), rest)
		if !pause(ctx, min(wait, time.Until(end))) || !time.Now().Before(end) {
			return nil
		}
		last = time.Now()
		if sampled != version {
			if err := s.sample(ctx, r); err != nil {
				return err
			}
			sampled = version
		}
		c, err := s.try(ctx, number, version+1, next)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("change %d (%s): %w", number, next.name, err)
		}
		r.add(c)
		if c.outcome == control.Busy {
			number--
			after = 1 // and the same again, so that the seed alone decides the sequence
			continue
		}
		if c.outcome == control.Upgraded {
			version++
		}
		next, after = plan.next()
		if time.Since(looked) >= lookEvery {
			looked = time.Now()
			if sum, err = s.look(); err != nil {
				return err
			}
		}
		progress(fmt.Sprintf("%v of %v: %d changes, %d requests, %d failed",
			time.Since(begin).Round(time.Second), s.length, number, sum.Requests, sum.Failed))
	}
	return nil
}

// rest is the least time between the end of a change and the next one.
const rest = 300 * time.Millisecond

// lookEvery is how often the load is asked what it has seen.
const lookEvery = 5 * time.Second

// pause reports whether ctx has not ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// look adds up what all loads have seen so far.
func (s *soak) look() (load.Sum, error) {
	var all load.Sum
	for i, l := range s.loads {
		seen, err := l.Look()
		if err != nil {
			return all, fmt.Errorf("%s: %w", kinds[i].name, err)
		}
		all.Requests += seen.Sum.Requests
		all.Failed += seen.Sum.Failed
	}
	return all, nil
}

// sample notes what main has in use.
func (s *soak) sample(ctx context.Context, r *result) error {
	state, err := s.state(ctx)
	if err != nil {
		return err
	}
	r.Generations = append(r.Generations, state)
	return nil
}

// settle waits until only main is left, and samples it.
func (s *soak) settle(ctx context.Context, r *result) error {
	limit := time.Now().Add(s.drain + patience)
	for {
		status, err := s.control.Status(ctx)
		if err != nil {
			return err
		}
		if len(status.Draining) == 0 {
			break
		}
		if time.Now().After(limit) {
			return fmt.Errorf("after %v there are still older generations: %+v", s.drain+patience, status.Draining)
		}
		pause(ctx, 50*time.Millisecond)
	}
	return s.sample(ctx, r)
}

// stopLoads fills in what the clients have seen.
func (s *soak) stopLoads(r *result) error {
	reports, errs := make([]load.Report, len(s.loads)), make([]error, len(s.loads))
	var stopping sync.WaitGroup
	for i, l := range s.loads {
		stopping.Go(func() { reports[i], errs[i] = l.Stop() })
	}
	stopping.Wait()
	for i, seen := range reports {
		if errs[i] != nil {
			errs[i] = fmt.Errorf("%s: %w", kinds[i].name, errs[i])
			continue
		}
		r.Kinds = append(r.Kinds, newOfKind(kinds[i], seen, r.changes))
	}
	return errors.Join(errs...)
}

// lookAround looks for what only the service manager knows.
func (s *soak) lookAround(ctx context.Context, r *result) error {
	pids, err := s.target.processes()
	if err != nil {
		return err
	}
	if len(pids) != 1 {
		r.trouble(fmt.Errorf("there are %d processes at the end, must be 1", len(pids)))
	}
	restarts, err := s.target.restarts(ctx)
	if err != nil {
		return err
	}
	if restarts != 0 {
		r.trouble(fmt.Errorf("the service was restarted %d times", restarts))
	}
	said, err := s.target.journal(ctx)
	if err != nil {
		return err
	}
	for line := range strings.Lines(said) {
		for _, bad := range []string{" ERROR ", "panic: ", "fatal error: ", "DATA RACE"} {
			if strings.Contains(line, bad) {
				r.badLine(strings.TrimSpace(line))
				break
			}
		}
	}
	return nil
}
