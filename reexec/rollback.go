// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/internal/lastgood"
)

// rollback is an attempt whose file is the version before. For all else it is an
// upgrade. Its methods may be called on nil, which is an upgrade.
type rollback struct {
	reason string // in the operator's words

	// The rest is for the record, and is set by the pre-check. It is not known
	// without a launcher, or where no copy could be made.
	known bool
	to    lastgood.Good
	from  lastgood.Failure
	file  lastgood.Candidate // the service's file

	undo  func(*lastgood.Record) // nil while nothing is written
	final bool                   // nothing is undone
}

// text is for the log and the record.
func (b *rollback) text() string {
	switch {
	case b == nil:
		return ""
	case b.reason == "":
		return "rolled back by the operator"
	}
	return "rolled back by the operator: " + b.reason
}

// fallback says whether the version before will run in place of the service's file.
func (b *rollback) fallback() bool { return b != nil && b.known && b.file.Identity != b.to.Identity }

// launchedAs tells the next program whether it runs in place of the service's file.
func launchedAs(fallback bool, environ []string) []string {
	for i, kv := range environ {
		value, ok := strings.CutPrefix(kv, lastgood.Variable+"=")
		if l, err := lastgood.ParseLaunched(value); ok && err == nil {
			l.Good = fallback
			environ[i] = lastgood.Variable + "=" + l.String()
		}
	}
	return environ
}

// previousProgram is a place where the version before may be.
type previousProgram struct {
	control.Program
	good  *lastgood.Good // in the launcher's directory
	elder *process       // that runs it
}

func (p previousProgram) open(g *lastGood) (*binary, error) {
	if p.good != nil {
		if err := g.dir.CheckCopy(p.good); err != nil {
			return nil, err
		}
	}
	b, err := openFile(p.Path)
	if err != nil {
		return nil, err
	}
	b.running = p.elder != nil
	if b.running && !p.elder.alive() { // its PID may be another's
		return nil, errors.Join(fmt.Errorf("%s: the process has ended", p.Path), b.close())
	}
	return b, nil
}

// previousPrograms are all places where the version before is, the best first.
func (s *Service) previousPrograms() []previousProgram {
	var all []previousProgram
	if good := s.lastGood.before(); good != nil {
		path := s.lastGood.dir.CopyOf(good.Identity)
		if _, err := os.Lstat(path); err == nil {
			all = append(all, previousProgram{
				Program: control.Program{Version: good.Version, Path: path, Since: good.Since}, good: good,
			})
		}
	}
	own, err := os.Stat("/proc/self/exe")
	other := func(path string) bool {
		info, statErr := os.Stat(path)
		return err == nil && statErr == nil && !os.SameFile(own, info)
	}
	s.mu.Lock()
	elders, last := slices.Clone(s.elders), s.last
	s.mu.Unlock()
	if previous, ok := inLayout(s.opts.Executable); ok {
		switch {
		case other(previous.Path):
			all = append(all, previousProgram{Program: previous})
		case last != nil && last.Rollback && last.Outcome == control.Upgraded && other(s.opts.Executable):
			// previous is what runs, since a rollback does not switch the links. Else
			// they were switched, and what they lead to has not run yet.
			all = append(all, previousProgram{Program: control.Program{Version: last.From.Version, Path: s.opts.Executable}})
		}
	}
	slices.SortFunc(elders, func(a, b *elder) int { return b.Generation - a.Generation })
	for _, e := range elders {
		path := fmt.Sprintf("/proc/%d/exe", e.PID)
		if e.killAt.IsZero() && e.Generation < s.generation && e.handle.alive() && other(path) {
			all = append(all, previousProgram{Program: control.Program{Version: e.Version, Path: path}, elder: e.handle})
		}
	}
	return all
}

// findPrevious is what a rollback would start.
func (s *Service) findPrevious() *control.Program {
	if all := s.previousPrograms(); len(all) > 0 {
		return &all[0].Program
	}
	return nil
}

// inLayout finds the version before where versions are side by side, as package
// units/versions has them: the path leads through a link "current", and beside that
// is a link "previous".
func inLayout(executable string) (control.Program, bool) {
	for dir, rest := executable, ""; dir != "/" && dir != "."; dir = filepath.Dir(dir) {
		if filepath.Base(dir) == "current" && rest != "" {
			link := filepath.Join(filepath.Dir(dir), "previous")
			if _, err := os.Readlink(dir); err != nil {
				continue
			}
			if target, err := os.Readlink(link); err == nil {
				return control.Program{Version: filepath.Base(target), Path: filepath.Join(link, rest)}, true
			}
		}
		rest = filepath.Join(filepath.Base(dir), rest)
	}
	return control.Program{}, false
}

// openPrevious opens the version before.
func (s *Service) openPrevious(ctx context.Context, back *rollback) (*binary, error) {
	if s.opts.Mode == Restart && s.lastGood == nil {
		return nil, errors.New("roll back: a restart starts the service's file, whatever is asked for here: start the service by \"holdfast launch\", as \"holdfast render\" writes it, or put the version before in place")
	}
	s.log.Info("roll back", "reason", back.reason)
	if err := s.lastGood.beginRollback(ctx); err != nil {
		return nil, fmt.Errorf("roll back: %w", err)
	}
	var errs []error
	for _, p := range s.previousPrograms() {
		b, err := p.open(s.lastGood)
		if err == nil {
			if p.good != nil {
				back.to = *p.good
			}
			return b, nil
		}
		errs = append(errs, err)
	}
	switch {
	case len(errs) > 0:
		return nil, fmt.Errorf("roll back: %w", errors.Join(errs...))
	case s.lastGood != nil:
		return nil, fmt.Errorf("roll back: no version before %s has proven itself: put the one that you want in place, and upgrade to it", s.opts.Version)
	}
	return nil, errors.New("roll back: the version before is gone: start the service by \"holdfast launch\", as \"holdfast render\" writes it, which keeps a copy, or install versions side by side, see \"holdfast versions\"")
}

// before is the program to which this one is rolled back; nil if there is none.
func (g *lastGood) before() *lastgood.Good {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	own := g.own
	if g.fallback && !own.Known() && g.record.Good != nil {
		own = g.record.Good.Identity
	}
	return g.record.Before(own)
}

func (g *lastGood) isLeaving() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.skipped = g.skipped || g.leaving
	return g.leaving
}

// beginRollback keeps this version from becoming the good one meanwhile, and waits
// until its copy is there if it is being made.
func (g *lastGood) beginRollback(ctx context.Context) error {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	g.leaving = true
	g.mu.Unlock()
	if _, err := g.self(); err != nil {
		return err
	}
	select {
	case g.keeping <- struct{}{}:
		<-g.keeping
	case <-ctx.Done():
		return ctx.Err()
	}
	g.reread()
	return nil
}

// prepare finds out what rollBack is going to write. If it cannot, the rollback goes
// on without: what runs matters more than what starts next.
func (g *lastGood) prepare(ctx context.Context, back *rollback, file string, c checked) {
	if g == nil {
		return
	}
	if err := g.prepareRecord(ctx, back, file, c); err != nil {
		g.log.Warn("a start now takes the service's file: the record of the rollback cannot be written", "error", err)
		return
	}
	back.known = true
}

func (g *lastGood) prepareRecord(ctx context.Context, back *rollback, file string, c checked) (err error) {
	if !back.to.Known() {
		// It is not in our directory yet.
		select {
		case g.keeping <- struct{}{}:
			defer func() { <-g.keeping }()
		case <-ctx.Done():
			return ctx.Err()
		}
		back.to = lastgood.Good{Version: c.answer.Version, Since: now()}
		if back.to.Identity, err = g.identify(c.binary.file); err != nil {
			return err
		}
		if back.to.Copy, err = g.dir.KeepCopy(c.binary.file, back.to.Identity); err != nil {
			return err
		}
	}
	back.from = lastgood.Failure{Version: g.version, Reason: back.text(), At: now()}
	if back.from.Identity, err = g.self(); err != nil {
		return err
	}
	back.file = lastgood.Candidate{Path: file}
	f, err := openFile(file)
	if err != nil {
		back.file.Unusable = err // whatever starts next finds that, too
		return nil
	}
	defer f.close()
	back.file.Identity, err = g.identify(f.file)
	return err
}

// rollBack writes down that the version before starts next.
func (g *lastGood) rollBack(back *rollback) {
	if g == nil || back == nil || !back.known {
		return
	}
	if err := patiently(func() error { return g.writeRollback(back) }); err != nil {
		g.log.Warn("record of the rollback", "error", err)
	}
}

// startsNext is rollBack where that is all there is to do.
func (g *lastGood) startsNext(back *rollback) error {
	if !back.known {
		return errors.New("roll back: the record of what starts next cannot be written: see the log")
	}
	if err := g.writeRollback(back); err != nil {
		return fmt.Errorf("roll back: %w", err)
	}
	back.final = true
	return nil
}

func (g *lastGood) writeRollback(back *rollback) error {
	return g.update(func(r *lastgood.Record) error {
		back.undo = r.RollBack(back.to, back.from, back.file)
		return nil
	})
}

// undoRollback takes back what rollBack has written: this version serves on.
func (g *lastGood) undoRollback(back *rollback) {
	if g == nil || back == nil || back.final {
		return
	}
	g.mu.Lock()
	again := g.skipped
	g.leaving, g.skipped = false, false
	g.mu.Unlock()
	if err := patiently(func() error {
		return g.update(func(r *lastgood.Record) error {
			if back.undo != nil {
				back.undo(r)
				back.undo = nil
			}
			return nil
		})
	}); err != nil {
		g.log.Warn("record of the rollback", "error", err)
	}
	if again {
		go g.proven()
	}
}
