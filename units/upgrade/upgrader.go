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
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/units/bus"
)

// DefaultDirectory is where the journal is, unless systemd has given the helper a
// StateDirectory=.
const DefaultDirectory = "/var/lib/holdfast"

// Options are the options of [New].
type Options struct {
	// User: units of the user's own service manager.
	User bool
	// Directory has the journal. Default: $STATE_DIRECTORY, else
	// [DefaultDirectory], or with User $XDG_STATE_HOME/holdfast. It is made if
	// something is to be written.
	Directory string
	// Logger gets what nobody is told otherwise. Default: none.
	Logger *slog.Logger
	// Bus is used instead of a connection of its own, and is not closed.
	Bus *bus.Conn
}

// Upgrader upgrades units. It may be used by several goroutines, and beside others
// in other processes.
type Upgrader struct {
	options Options
	journal journal
	manager manager
	// dial returns the control socket of a service; a test has another.
	dial  func(socket string, uid uint32) controller
	close func() error
}

// manager is what is asked of systemd.
type manager interface {
	Unit(ctx context.Context, name string) (bus.Unit, error)
	Units(ctx context.Context, patterns ...string) ([]bus.Listed, error)
	Sockets(ctx context.Context, u bus.Unit) ([]bus.Socket, error)
	Reload(ctx context.Context, unit string) (job, error)
}

type job interface {
	Wait(ctx context.Context) (bus.Result, error)
	Forget()
}

// controller is what is asked of a service.
type controller interface {
	status(ctx context.Context) (control.Status, error)
	get(ctx context.Context, path string) (code int, body []byte, err error)
	rollback(ctx context.Context, reason string, onState func(control.Status)) (control.Result, error)
}

// connection is a bus.Conn as a manager.
type connection struct{ *bus.Conn }

func (c connection) Reload(ctx context.Context, unit string) (job, error) {
	j, err := c.Conn.Reload(ctx, unit)
	if err != nil {
		return nil, err
	}
	return j, nil
}

// New connects to systemd. The caller calls Close.
func New(options Options) (*Upgrader, error) {
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.Directory == "" {
		dir, err := defaultDirectory(options.User)
		if err != nil {
			return nil, err
		}
		options.Directory = dir
	}
	if !filepath.IsAbs(options.Directory) {
		return nil, fmt.Errorf("upgrade: Directory=%q: must be an absolute path", options.Directory)
	}
	u := &Upgrader{
		options: options, journal: journal{options.Directory},
		close: func() error { return nil },
	}
	u.dial = func(socket string, uid uint32) controller { return u.newService(socket, uid) }
	conn := options.Bus
	if conn == nil {
		var err error
		if conn, err = bus.Connect(context.Background(), bus.Options{User: options.User, Logger: options.Logger}); err != nil {
			return nil, err
		}
		u.close = conn.Close
	}
	u.manager = connection{conn}
	return u, nil
}

func defaultDirectory(user bool) (string, error) {
	// Several are separated by colons (systemd.exec(5)).
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); dir != "" {
		return dir, nil
	}
	if !user {
		return DefaultDirectory, nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "holdfast"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("upgrade: no directory for the journal: %w", err)
	}
	return filepath.Join(home, ".local", "state", "holdfast"), nil
}

// Close ends the connection to systemd. What is under way is not waited for: end
// its context first.
func (u *Upgrader) Close() error { return u.close() }

// Rollout upgrades units and returns what has become of them. onEvent, unless nil,
// is told of progress, one event at a time; it must not block for long.
//
// If ctx ends, what has begun is left as it is, and the report's Outcome is
// [Interrupted]. [Upgrader.Resume], or the same request again, goes on from there. A
// request whose ID is under way is waited for.
func (u *Upgrader) Rollout(ctx context.Context, request Request, onEvent func(Event)) (Report, error) {
	return u.run(ctx, "rollout", request, onEvent)
}

// Rollback has units go back to the version before, which the service has kept. It
// goes in waves only if request.Waves says so, has no soak, and is done also for units
// that are frozen.
func (u *Upgrader) Rollback(ctx context.Context, request Request, onEvent func(Event)) (Report, error) {
	if request.Waves == (Waves{}) {
		request.Waves = Waves{Canary: -1, Size: maxUnits}
	}
	return u.run(ctx, "rollback", request, onEvent)
}

func (u *Upgrader) run(ctx context.Context, action string, request Request, onEvent func(Event)) (Report, error) {
	request, err := request.withDefaults()
	if err != nil {
		return Report{}, err
	}
	if request.DryRun {
		return u.dryRun(ctx, action, request, onEvent)
	}
	if err := u.journal.create(); err != nil {
		return Report{}, u.journalError(err)
	}
	lock, err := u.waitRequest(ctx, request.ID)
	if err != nil {
		return Report{}, u.journalError(err)
	}
	defer lock.release()
	rec, err := u.journal.load(request.ID)
	switch {
	case err != nil:
		return Report{}, err
	case rec != nil && !rec.isOf(action, request):
		return Report{}, &RequestError{"id", request.ID, "is that of another request, of " + rec.Report.Action + " of " + strings.Join(rec.Request.Units, " ") + ": take another one"}
	case rec != nil && rec.Finished:
		tell(onEvent, Event{ID: request.ID, At: time.Now(), Kind: "done", Text: "this request is finished already", Report: &rec.Report, Done: len(rec.Report.Units), Total: len(rec.Report.Units)})
		return rec.Report, nil
	case rec != nil:
		return u.resume(ctx, rec, onEvent)
	}
	// Nothing is known of a request that was not started.
	started := false
	defer func() {
		if !started {
			if err := u.journal.forget(request.ID); err != nil {
				u.options.Logger.Warn("journal", "error", err)
			}
		}
	}()
	names, err := u.resolve(ctx, request.Units)
	if err != nil {
		return Report{}, err
	}
	release, err := u.journal.lockUnits(names, request)
	if err != nil {
		return Report{}, u.journalError(err)
	}
	defer release()
	founds, err := u.preflight(ctx, action, names)
	if err != nil {
		return Report{}, err
	}
	r := u.newRollout(ctx, u.newRecord(action, request, names, founds), onEvent)
	defer r.cancel(nil)
	if err := u.journal.save(r.rec); err != nil {
		return Report{}, u.journalError(err)
	}
	started = true
	r.warn(founds)
	return r.run(), nil
}

// isOf says whether the record may be of what is asked for: the same action, and of these
// units, whatever the patterns among them stood for. Who asks for an end need not say all
// again.
func (r *record) isOf(action string, request Request) bool {
	if r.Report.Action != action || request.Version != "" && r.Request.Version != request.Version {
		return false
	}
	for _, name := range request.Units {
		if r.Steps[name] == nil && !isPattern(name) && !slices.Contains(r.Request.Units, name) {
			return false
		}
	}
	return true
}

// waitRequest locks a request once nobody else works on it.
func (u *Upgrader) waitRequest(ctx context.Context, id string) (*lock, error) {
	for {
		l, err := u.journal.lockRequest(id)
		if !errors.Is(err, errLocked) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for request %q, which is under way: %w", id, context.Cause(ctx))
		case <-time.After(lookInterval):
		}
	}
}

// journalError says of a missing right whose it is.
func (u *Upgrader) journalError(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return &PermissionError{Op: "write the journal below", Unit: u.options.Directory, Err: err}
	}
	return err
}

// resolve turns patterns and aliases into names of units, each once.
func (u *Upgrader) resolve(ctx context.Context, units []string) ([]string, error) {
	var names []string
	var errs []error
	for _, name := range units {
		if !isPattern(name) {
			unit, err := u.manager.Unit(ctx, name)
			if err != nil {
				errs = append(errs, err)
			} else if !slices.Contains(names, unit.Name) {
				names = append(names, unit.Name)
			}
			continue
		}
		list, err := u.manager.Units(ctx, name)
		if err != nil {
			return nil, err
		}
		slices.SortFunc(list, func(a, b bus.Listed) int { return natural(a.Name, b.Name) })
		found := false
		for _, l := range list {
			if l.ActiveState != "active" && l.ActiveState != "reloading" || !strings.HasSuffix(l.Name, ".service") {
				continue
			}
			found = true
			if !slices.Contains(names, l.Name) {
				names = append(names, l.Name)
			}
		}
		if !found {
			errs = append(errs, &NoUnitError{Unit: name})
		}
	}
	if len(names) > maxUnits {
		errs = append(errs, &RequestError{"units", len(names), fmt.Sprintf("are more than %d", maxUnits)})
	}
	return names, errors.Join(errs...)
}

// dryRun checks and plans.
func (u *Upgrader) dryRun(ctx context.Context, action string, request Request, onEvent func(Event)) (Report, error) {
	names, err := u.resolve(ctx, request.Units)
	if err != nil {
		return Report{}, err
	}
	var errs []error
	for _, name := range names {
		if h, err := u.journal.busy(name); err == nil && h != nil {
			errs = append(errs, &BusyError{Unit: name, Holder: *h})
		}
	}
	founds, err := u.preflight(ctx, action, names)
	if err := errors.Join(append(errs, err)...); err != nil {
		return Report{}, err
	}
	rec := u.newRecord(action, request, names, founds)
	r := u.newRollout(ctx, rec, onEvent)
	defer r.cancel(nil)
	r.warn(founds)
	for i, unit := range rec.order() {
		s := rec.Steps[unit]
		now := versionOf(founds[unit].status)
		s.Report.From, s.Report.To = now, now
		s.Report.Outcome, s.Report.Reason = Skipped, "dry run: it would be upgraded now"
		if action == "rollback" {
			s.Report.Reason = "dry run: it would be rolled back now"
		}
		if action == "rollout" && request.Version != "" && request.Version == now.Version {
			s.Report.Outcome, s.Report.Reason = Unchanged, ""
		}
		r.emit(Event{Kind: "unit", Unit: unit, Wave: s.Report.Wave, Phase: phasePlanned, Text: s.Report.Reason, Done: i + 1})
	}
	rec.Report.Outcome, rec.Report.Units = Unchanged, rec.units()
	rec.Report.Seconds = time.Since(rec.Report.Started).Seconds()
	r.emit(Event{Kind: "done", Report: &rec.Report})
	return rec.Report, nil
}

// newRecord plans a request.
func (u *Upgrader) newRecord(action string, request Request, names []string, founds map[string]found) *record {
	waves, rest := request.Waves.plan(names)
	now := time.Now()
	rec := &record{
		Format: recordFormat, Request: request, Waves: waves, Steps: make(map[string]*step),
		Report: Report{ID: request.ID, Action: action, By: request.By, Started: now},
	}
	add := func(name string, wave int) *step {
		f := founds[name]
		s := &step{Phase: phasePlanned, Socket: f.socket, UID: f.unit.UID, Since: now, Report: UnitReport{Unit: name, Wave: wave, From: versionOf(f.status), To: versionOf(f.status)}}
		rec.Steps[name] = s
		return s
	}
	for i, wave := range waves {
		for _, name := range wave {
			add(name, i)
		}
	}
	for _, name := range rest {
		s := add(name, len(waves))
		s.Phase = phaseDone
		s.Report.Outcome, s.Report.Reason = Skipped, fmt.Sprintf("the request was for %v of the units", request.Waves.Ratio)
	}
	return rec
}

// order is that in which units are dealt with.
func (r *record) order() []string {
	var names []string
	for _, wave := range r.Waves {
		names = append(names, wave...)
	}
	var rest []string
	for name := range r.Steps {
		if !slices.Contains(names, name) {
			rest = append(rest, name)
		}
	}
	slices.SortFunc(rest, natural)
	return append(names, rest...)
}

func (r *record) units() []UnitReport {
	var list []UnitReport
	for _, name := range r.order() {
		list = append(list, r.Steps[name].Report)
	}
	return list
}

// History returns the last reports of a unit, the newest first, each with the part
// of that unit alone.
func (u *Upgrader) History(ctx context.Context, unit string) ([]Report, error) {
	name, err := u.canonical(ctx, unit)
	if err != nil {
		return nil, err
	}
	reports, err := u.journal.reports(name)
	return reports, u.journalError(err)
}

// canonical is the unit's own name. One that is gone may have a history all the same.
func (u *Upgrader) canonical(ctx context.Context, unit string) (string, error) {
	name, err := serviceName(unit)
	if err != nil {
		return "", err
	}
	if isPattern(name) {
		return "", &RequestError{"unit", unit, "is a pattern: name one unit"}
	}
	found, err := u.manager.Unit(ctx, name)
	var none *NoUnitError
	switch {
	case err == nil:
		return found.Name, nil
	case errors.As(err, &none):
		if _, statErr := os.Stat(u.journal.history(name)); statErr == nil {
			return name, nil
		}
	}
	return "", err
}

// Freeze has rollouts of a unit refused until Thaw, by whom and why. The name of a
// template, as in "myapp@.service", freezes all its instances. What is under way
// goes on.
func (u *Upgrader) Freeze(ctx context.Context, unit, by, reason string) error {
	name, err := u.freezable(ctx, unit)
	if err != nil {
		return err
	}
	for field, text := range map[string]string{"by": by, "reason": reason} {
		if len(text) > maxText {
			return &RequestError{field, text, fmt.Sprintf("must have at most %d bytes", maxText)}
		}
	}
	if err := u.journal.create(); err != nil {
		return u.journalError(err)
	}
	return u.journalError(writeFile(u.journal.frozen(name), 0o644, Freeze{By: by, Reason: reason, Since: time.Now()}))
}

// Thaw ends a Freeze. A unit that is not frozen is left as it is. By and reason go
// to the log.
func (u *Upgrader) Thaw(ctx context.Context, unit, by, reason string) error {
	name, err := u.freezable(ctx, unit)
	if err != nil {
		return err
	}
	err = os.Remove(u.journal.frozen(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		u.options.Logger.Info("thawed", "unit", name, "by", by, "reason", reason)
	}
	return u.journalError(err)
}

func (u *Upgrader) freezable(ctx context.Context, unit string) (string, error) {
	full := strings.TrimSuffix(unit, ".service") + ".service"
	if strings.HasSuffix(full, "@.service") && unitRE.MatchString(strings.TrimSuffix(full, ".service")) {
		return full, nil
	}
	return u.canonical(ctx, unit)
}

// tell calls onEvent if there is one.
func tell(onEvent func(Event), event Event) {
	if onEvent != nil {
		onEvent(event)
	}
}

// rollout is one run of a request.
type rollout struct {
	*Upgrader
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu  sync.Mutex // of rec
	rec *record

	telling sync.Mutex
	onEvent func(Event)
}

func (u *Upgrader) newRollout(ctx context.Context, rec *record, onEvent func(Event)) *rollout {
	r := &rollout{Upgrader: u, rec: rec, onEvent: onEvent}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	return r
}
