// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/internal/lastgood"
	"github.com/holdfast-go/holdfast/reexec/internal/machine"
)

// lastGood keeps the record by which "holdfast launch" chooses what starts. It
// is nil in a service that was not launched so; all methods then do nothing.
type lastGood struct {
	dir     lastgood.Directory
	version string // of this process
	log     *slog.Logger
	// fallback: this process is the copy, in place of the service's file.
	fallback bool

	writing sync.Mutex    // one at a time in this process
	keeping chan struct{} // full while copies are made or removed

	mu      sync.Mutex
	record  lastgood.Record
	own     lastgood.Identity // of this program, once known
	isGood  bool              // proven has succeeded: there is no attempt to take back
	leaving bool              // another version is to be the good one, by a rollback or an upgrade
	skipped bool              // proven has done nothing because of it
}

// openLastGood reads what the launcher says, which is for this process alone. A
// record that cannot be read is no reason not to serve.
func openLastGood(version, argv0 string, log *slog.Logger) *lastGood {
	value, ok := os.LookupEnv(lastgood.Variable)
	if !ok {
		return nil
	}
	_ = os.Unsetenv(lastgood.Variable)
	launched, err := lastgood.ParseLaunched(value)
	if err != nil {
		log.Warn("the last good version is not kept", "error", err)
		return nil
	}
	dir, err := lastgood.Open(launched.Directory)
	if err != nil {
		log.Warn("the last good version is not kept", "error", err)
		return nil
	}
	g := &lastGood{dir: dir, version: version, log: log, fallback: launched.Good, keeping: make(chan struct{}, 1)}
	g.reread()
	g.recognize()
	if g.fallback {
		nameProcess(argv0) // the kernel calls it by the name of the copy
		if f := g.record.Fallback; f != nil {
			log.Warn("the last good version runs in place of the service's file", "reason", f.Reason)
		}
	}
	return g
}

// reread is for what others have changed in the record.
func (g *lastGood) reread() {
	if g == nil {
		return
	}
	if r, err := g.dir.Read(); err == nil {
		g.mu.Lock()
		g.record = r
		g.mu.Unlock()
	}
}

func (g *lastGood) update(change func(*lastgood.Record) error) error {
	g.writing.Lock()
	defer g.writing.Unlock()
	r, err := g.dir.Update(func(err error) { g.log.Warn("record of the last good version", "error", err) }, change)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.record = r
	return nil
}

// identify reads the file only if its stamp is not known.
func (g *lastGood) identify(f *os.File) (lastgood.Identity, error) {
	stamp, err := lastgood.StampOf(f)
	if err != nil {
		return lastgood.Identity{}, err
	}
	g.mu.Lock()
	id, ok := g.record.Knows(stamp)
	g.mu.Unlock()
	if ok {
		return id, nil
	}
	return lastgood.Identify(f)
}

// recognize finds out what this program is, if that costs nothing.
func (g *lastGood) recognize() {
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		return
	}
	defer program.Close()
	if stamp, err := lastgood.StampOf(program); err == nil {
		g.mu.Lock()
		g.own, _ = g.record.Knows(stamp)
		g.mu.Unlock()
	}
}

// self is what this program is.
func (g *lastGood) self() (lastgood.Identity, error) {
	g.mu.Lock()
	own := g.own
	g.mu.Unlock()
	if own.Known() {
		return own, nil
	}
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		return own, err
	}
	defer program.Close()
	if own, err = g.identify(program); err != nil {
		return own, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.own = own
	return own, nil
}

// failedBefore says how the content of f has failed in the past.
func (g *lastGood) failedBefore(f *os.File) (string, bool) {
	if g == nil {
		return "", false
	}
	info, err := f.Stat()
	if err != nil {
		return "", false
	}
	g.mu.Lock()
	may := g.record.MayHaveFailed(info.Size())
	g.mu.Unlock()
	if !may {
		return "", false
	}
	id, err := g.identify(f)
	if err != nil {
		return "", false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	failure, marked := g.record.FailedBefore(id)
	return failure.String(), marked
}

// markPatience bounds how long a verdict waits for the mark. A disk that is
// slower must not stop the service.
const markPatience = 2 * time.Second

// failed marks the content of f: whatever starts the service next starts the
// good one. It is on the disk when failed returns, or the disk hangs. It takes f
// over.
func (g *lastGood) failed(f *os.File, version, reason string) {
	if err := patiently(func() error {
		id, err := g.identify(f)
		closed := f.Close()
		if err == nil {
			err = g.update(func(r *lastgood.Record) error {
				r.Mark(lastgood.Failure{Identity: id, Version: version, Reason: reason, At: now()})
				return nil
			})
		}
		return errors.Join(err, closed)
	}); err != nil {
		g.log.Warn("mark a version as failed", "version", version, "error", err)
	}
}

// patiently runs a write of the record, and stops waiting for it if the disk hangs.
func patiently(write func() error) error {
	done := make(chan error, 1)
	go func() { done <- write() }()
	select {
	case err := <-done:
		return err
	case <-time.After(markPatience):
		return fmt.Errorf("not written within %v: a start now may still take the failed file", markPatience)
	}
}

// tryAgain takes the mark from the content of f, which has passed a check that an
// operator has asked for: the launcher may start it.
func (g *lastGood) tryAgain(f *os.File) {
	if _, failed := g.failedBefore(f); !failed {
		return
	}
	id, err := g.identify(f)
	if err == nil {
		err = g.update(func(r *lastgood.Record) error {
			r.Unmark(id)
			return nil
		})
	}
	if err != nil {
		g.log.Warn("take the mark from a file that failed", "error", err)
	}
}

// attempting counts a start of the content of f that has no predecessor beside
// it: enough of them without proven, and the launcher starts the good version.
func (g *lastGood) attempting(f *os.File) error {
	if g == nil {
		return nil
	}
	id, err := g.identify(f)
	if err == nil {
		err = g.update(func(r *lastgood.Record) error {
			r.Attempting(id)
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("count an attempt: %w", err)
	}
	return nil
}

// proven makes the program of this process the good one.
func (g *lastGood) proven() {
	if g == nil {
		return
	}
	switch err := g.keep(); {
	case errors.Is(err, errLeaving):
		return
	case err != nil:
		g.log.Warn("the last good version stays what it was", "error", err)
		return
	}
	g.mu.Lock()
	g.isGood = true
	g.mu.Unlock()
}

// errLeaving is why a version that has had its time is not made good.
var errLeaving = errors.New("another version is to be the good one")

// handOver leaves the record and the copies to the next main, which is about to
// write them.
func (g *lastGood) handOver() {
	if g == nil {
		return
	}
	g.mu.Lock()
	g.leaving = true
	g.mu.Unlock()
	select {
	case g.keeping <- struct{}{}:
		<-g.keeping
	case <-time.After(markPatience):
	}
}

func (g *lastGood) keep() error {
	g.keeping <- struct{}{}
	defer func() { <-g.keeping }()
	if g.isLeaving() {
		return errLeaving
	}
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer program.Close()
	stamp, err := lastgood.StampOf(program)
	if err != nil {
		return err
	}
	g.reread()
	id, err := g.self()
	if err != nil {
		return err
	}
	good := lastgood.Good{Identity: id, Version: g.version, Since: now()}
	if good.Copy, err = g.dir.KeepCopy(program, id); noRoom(err) && g.makeRoom(id) {
		good.Copy, err = g.dir.KeepCopy(program, id)
	}
	if err != nil {
		// It has proven itself all the same: its next crashes count for nothing.
		return errors.Join(err, g.update(func(r *lastgood.Record) error {
			r.ProvenWithoutCopy(id)
			return nil
		}))
	}
	if err := g.update(func(r *lastgood.Record) error {
		if g.isLeaving() {
			return errLeaving
		}
		if r.Good != nil && r.Good.Identity == id {
			good.Since = r.Good.Since // and there is nothing to write, as a rule
		}
		if !g.fallback {
			r.Seen = &lastgood.Seen{Stamp: stamp, Identity: id}
		}
		r.Proven(good, g.fallback)
		return nil
	}); err != nil {
		return err
	}
	err = g.dir.RemoveOthers()
	g.log.Info("this version is the last good one", "version", g.version, "copy", g.dir.CopyOf(id))
	return err
}

func noRoom(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// makeRoom gives up the copy of the version before the good one, if the program
// that needs the room is to be the good one: a rollback then goes to the one that
// is it now.
func (g *lastGood) makeRoom(id lastgood.Identity) bool {
	made := false
	err := g.update(func(r *lastgood.Record) error {
		if r.Previous != nil && r.Good.Identity != id {
			r.Previous, made = nil, true
		}
		return nil
	})
	return made && err == nil && g.dir.RemoveOthers() == nil
}

// stoppedEarly is for a main that is stopped before its probation was over.
func (g *lastGood) stoppedEarly() {
	g.mu.Lock()
	isGood := g.isGood
	g.mu.Unlock()
	if isGood {
		return
	}
	if err := g.update(func(r *lastgood.Record) error {
		r.StoppedEarly()
		return nil
	}); err != nil {
		g.log.Warn("record of the last good version", "error", err)
	}
}

// why is the reason for which the copy runs; empty in all other processes.
func (g *lastGood) why() string {
	if g == nil || !g.fallback {
		return ""
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.record.Fallback == nil {
		return "the service's file was not to start" // until somebody has cleared the record
	}
	return g.record.Fallback.Reason
}

// status is nil while nothing is known.
func (g *lastGood) status() *control.LastGood {
	if g == nil {
		return nil
	}
	fallback := g.why()
	g.mu.Lock()
	defer g.mu.Unlock()
	st := &control.LastGood{Fallback: fallback}
	if good := g.record.Good; good != nil {
		st.Version, st.Path, st.Since = good.Version, g.dir.CopyOf(good.Identity), good.Since
	}
	for _, f := range g.record.Failed {
		st.Failed = append(st.Failed, control.FailedFile{Version: f.Version, Reason: f.Reason, At: f.At})
	}
	if st.Path == "" && st.Fallback == "" && len(st.Failed) == 0 {
		return nil
	}
	return st
}

// now is without what a record and a log do not show.
func now() time.Time { return time.Now().Truncate(time.Second) }

// beginProving has this main become the good version: at once if it has been on
// trial, else after as long in good health.
func (s *Service) beginProving() {
	if s.lastGood == nil {
		return
	}
	r := &s.run
	onTrial := r.on == machine.Promote
	over := make(chan struct{})
	r.proving = over
	go func() {
		defer close(over)
		_, _ = s.lastGood.self() // for the status; keep says what is wrong
		if onTrial || s.healthyFor(s.opts.Probation) {
			s.lastGood.proven()
		}
	}()
}

// healthyFor returns true once the service was in good health that long, and
// false if it drains first.
func (s *Service) healthyFor(d time.Duration) bool {
	ticker := time.NewTicker(s.opts.Beat)
	defer ticker.Stop()
	for since := time.Now(); ; {
		select {
		case <-s.drain.draining:
			return false
		case <-s.done:
			return false
		case <-ticker.C:
		}
		if err := s.health(context.Background(), maxMissed*s.opts.Beat); err != nil {
			since = time.Now()
		} else if time.Since(since) >= d {
			return true
		}
	}
}

// endProving takes the attempt back if a main in good health was stopped before
// it could prove itself, and gives a copy that is being made a moment.
func (s *Service) endProving() {
	r := &s.run
	if r.tried != nil {
		_ = r.tried.Close()
	}
	if r.proving == nil {
		return
	}
	select {
	case <-r.proving:
	case <-time.After(markPatience):
	}
	if r.err == nil && !r.handedOver {
		s.lastGood.stoppedEarly()
	}
}

// blame marks the file of the attempt that has just failed, if it is to blame.
func (s *Service) blame(v control.Verdict) {
	r := &s.run
	if r.tried == nil {
		return
	}
	f := r.tried
	r.tried = nil
	if s.lastGood == nil || v.Outcome != control.Refused && v.Outcome != control.RolledBack || !r.toBlame {
		_ = f.Close()
		return
	}
	version := ""
	if v.To != nil {
		version = v.To.Version
	}
	s.lastGood.failed(f, version, string(v.Outcome)+": "+r.reason)
}
