// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/holdfast-go/holdfast/reexec/control/command"
	"github.com/holdfast-go/holdfast/units/upgrade"
	"github.com/holdfast-go/holdfast/units/upgrade1"
)

// where says which service manager is meant, and who works on it.
type where struct {
	user        bool // the manager of the user, and not that of the system
	direct, via bool // what was asked for; neither: whatever suits
}

// flags are those of every command that needs a helper.
func (w *where) flags(c *command.Flags) {
	c.BoolVar(&w.user, "user", false, "")
	c.BoolVar(&w.direct, "direct", false, "")
	c.BoolVar(&w.via, "via-service", false, "")
}

// whereHelp is the help of these flags.
const whereHelp = `      --user                 units of your own service manager
      --direct               work on systemd itself (as root, and with --user)
      --via-service          have org.holdfast.Upgrade1 do it, which asks polkit (as
                             anybody else, where it is installed)
`

// wrong says what does not go together.
func (w *where) wrong(c *command.Flags) (code int, wrong bool) {
	switch {
	case w.direct && w.via:
		return c.Wrong("--direct and --via-service: use one of them"), true
	case w.user && w.via:
		return c.Wrong("--user and --via-service: there is such a service for the system only"), true
	default:
		return 0, false
	}
}

// connectHelper chooses: root needs nobody, and others are served where the
// service is installed.
func connectHelper(w where) (helper, error) {
	if w.via {
		return connectRemote()
	}
	if !w.direct && !w.user && os.Geteuid() != 0 {
		if r, err := connectRemote(); err == nil {
			return r, nil
		}
	}
	return direct(w)
}

// remote is the helper behind org.holdfast.Upgrade1.
type remote struct {
	conn   *dbus.Conn
	object dbus.BusObject
}

// errNoService says that nothing has the name, and nothing can be started to have it.
var errNoService = errors.New(upgrade1.Name + " is not installed: install holdfast-upgrade.service, or use --direct as root")

func connectRemote() (*remote, error) {
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		return nil, fmt.Errorf("connect to the system bus: %w", err)
	}
	r := &remote{conn, conn.Object(upgrade1.Name, upgrade1.Path)}
	for _, method := range []string{"ListNames", "ListActivatableNames"} {
		var names []string
		if err := conn.BusObject().Call("org.freedesktop.DBus."+method, 0).Store(&names); err != nil {
			return nil, errors.Join(fmt.Errorf("ask the system bus: %w", err), conn.Close())
		}
		if slices.Contains(names, upgrade1.Name) {
			return r, nil
		}
	}
	return nil, errors.Join(errNoService, conn.Close())
}

func (r *remote) Close() error { return r.conn.Close() }

// A serviceError is an answer of the service that is an error.
type serviceError struct{ name, text string }

func (e *serviceError) Error() string { return e.text }

// exitCode is that of the error's name.
func (e *serviceError) exitCode() int {
	switch e.name {
	case upgrade1.ErrorInvalidArgument:
		return command.ExitUsage
	case upgrade1.ErrorNotFound:
		return command.ExitNoSuchUnit
	case upgrade1.ErrorPermissionDenied, upgrade1.ErrorInteractiveAuthorization, "org.freedesktop.DBus.Error.AccessDenied":
		return command.ExitNoPermission
	case upgrade1.ErrorFailedPrecondition:
		return command.ExitNotSuitable
	case errorInactive:
		return command.ExitNotRunning
	default:
		return command.ExitFailed
	}
}

// call calls a method. Nobody is asked for a password: godbus has no way to allow for
// that, and a deploy job could not answer.
func (r *remote) call(ctx context.Context, result any, method string, args ...any) error {
	call := r.object.CallWithContext(ctx, upgrade1.Interface+"."+method, 0, args...)
	err := call.Err
	if err == nil && result != nil {
		err = call.Store(result)
	}
	var said dbus.Error
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &said):
		return &serviceError{said.Name, said.Error()}
	default:
		return fmt.Errorf("call %s of %s: %w", method, upgrade1.Name, err)
	}
}

// callJSON is call for an answer that is JSON.
func (r *remote) callJSON(ctx context.Context, result any, method string, args ...any) error {
	var text string
	if err := r.call(ctx, &text, method, args...); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), result); err != nil {
		return fmt.Errorf("answer to %s of %s: %w", method, upgrade1.Name, err)
	}
	return nil
}

func (r *remote) Rollout(ctx context.Context, request upgrade.Request, onEvent func(upgrade.Event)) (upgrade.Report, error) {
	return r.follow(ctx, &request, onEvent, func(id *string) error {
		return r.call(ctx, id, "Rollout", strings.Join(request.Units, " "), request.Version, request.Waves.Ratio, options(request))
	})
}

func (r *remote) Rollback(ctx context.Context, request upgrade.Request, onEvent func(upgrade.Event)) (upgrade.Report, error) {
	// A rollback has no gates and no waves, so that none are among its options.
	request = upgrade.Request{ID: request.ID, Units: request.Units, DryRun: request.DryRun, Timeout: request.Timeout}
	return r.follow(ctx, &request, onEvent, func(id *string) error {
		return r.call(ctx, id, "Rollback", strings.Join(request.Units, " "), options(request))
	})
}

// options are those of the service for what is not the default.
func options(r upgrade.Request) map[string]dbus.Variant {
	o := make(map[string]dbus.Variant)
	set := func(name string, given bool, value any) {
		if given {
			o[name] = dbus.MakeVariant(value)
		}
	}
	usec := func(d time.Duration) uint64 { return uint64(max(d, 0) / time.Microsecond) }
	g, w := r.Gates, r.Waves
	set("request-id", r.ID != "", r.ID)
	set("dry-run", r.DryRun, true)
	set("reason", r.Reason != "", r.Reason)
	set("timeout-usec", r.Timeout != 0, usec(r.Timeout))
	set("soak-usec", g.Soak != 0, usec(g.Soak))
	set("interval-usec", g.Interval != 0, usec(g.Interval))
	set("max-failures", g.MaxFailures != 0, uint32(g.MaxFailures))
	set("requests", g.Requests != "", g.Requests)
	set("errors", g.Errors != "", g.Errors)
	set("max-error-rate", g.MaxErrorRate != 0, g.MaxErrorRate)
	set("health-url", g.HealthURL != "", g.HealthURL)
	set("metrics-url", g.MetricsURL != "", g.MetricsURL)
	set("canary", w.Canary != 0, uint32(max(w.Canary, 0)))
	set("wave", w.Size != 0, uint32(w.Size))
	set("pause-usec", w.Pause != 0, usec(w.Pause))
	set("max-failed", w.MaxFailed != 0, uint32(w.MaxFailed))
	return o
}

// follow begins a request, tells of its progress and returns its report. The end of
// ctx ends the following, not the request.
func (r *remote) follow(ctx context.Context, request *upgrade.Request, onEvent func(upgrade.Event), begin func(id *string) error) (upgrade.Report, error) {
	if request.ID == "" {
		request.ID = upgrade.NewID() // known before the first signal comes
	}
	began := false
	if onEvent != nil {
		stop, err := r.listen(ctx, *request, onEvent)
		if err != nil {
			return upgrade.Report{}, err
		}
		defer func() { stop(began) }()
	}
	var id string
	// To begin it twice is to begin it once: it has a name.
	switch err := r.persist(ctx, func() error { return begin(&id) }); {
	case err == nil:
	case ctx.Err() != nil:
		return upgrade.Report{}, fmt.Errorf("request %s may have begun, and goes on then: %w", request.ID, err)
	case isLost(err):
		return upgrade.Report{}, &lostError{request.ID, request.Units, err}
	default:
		return upgrade.Report{}, r.inactive(ctx, *request, err)
	}
	began = true
	for {
		var report upgrade.Report
		err := r.persist(ctx, func() error { return r.callJSON(ctx, &report, "Wait", id) })
		var said *serviceError
		switch {
		case err == nil:
			return report, nil
		case ctx.Err() != nil:
			return upgrade.Report{}, fmt.Errorf("request %s goes on: %w", id, err)
		case errors.As(err, &said) && (said.name == upgrade1.ErrorInterrupted || said.name == "org.freedesktop.DBus.Error.NoReply"):
			// The service has ended; another one resumes the request, and is asked next.
		case isLost(err):
			return upgrade.Report{}, &lostError{id, request.Units, err}
		default:
			return upgrade.Report{}, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(redraw):
		}
	}
}

// A lostError says that the bus did not come back: the request may go on.
type lostError struct {
	id    string
	units []string
	err   error
}

func (e *lostError) Error() string {
	return fmt.Sprintf("request %s may go on, and what becomes of it cannot be heard: %v", e.id, e.err)
}

func (e *lostError) Unwrap() error { return e.err }

// busPatience is how long the bus, or the service on it, may be away.
var busPatience = 30 * time.Second

// persist repeats a call while the bus is away, as when it is restarted.
func (r *remote) persist(ctx context.Context, call func() error) error {
	end := time.Now().Add(busPatience)
	for {
		err := call()
		if !isLost(err) || ctx.Err() != nil || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(redraw):
		}
		if r.conn.Connected() {
			continue
		}
		if conn, err := dbus.ConnectSystemBus(); err == nil {
			_ = r.conn.Close() // which it is
			r.conn, r.object = conn, conn.Object(upgrade1.Name, upgrade1.Path)
		}
	}
}

// isLost tells that the bus or the service is away from an answer.
func isLost(err error) bool {
	var said *serviceError
	if errors.As(err, &said) {
		return said.name == "org.freedesktop.DBus.Error.ServiceUnknown" || said.name == "org.freedesktop.DBus.Error.NameHasNoOwner" ||
			said.name == "org.freedesktop.DBus.Error.Disconnected"
	}
	var op *net.OpError
	return errors.Is(err, dbus.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &op)
}

// inactive tells a unit that is not active from one that is not fit: the service has
// one error for both.
func (r *remote) inactive(ctx context.Context, request upgrade.Request, err error) error {
	var said *serviceError
	if !errors.As(err, &said) || said.name != upgrade1.ErrorFailedPrecondition || len(request.Units) != 1 {
		return err
	}
	st, statusErr := r.Status(ctx, request.Units[0])
	if statusErr != nil || st.Unit.ActiveState == "active" {
		return err
	}
	return &serviceError{errorInactive, said.text}
}

// errorInactive is no name on the bus: the service has none for it.
const errorInactive = "inactive"

// lastSignals bounds the wait for what is still to be told, once the report is there.
const lastSignals = 500 * time.Millisecond

// listen tells onEvent of the signals about a request, until stop.
func (r *remote) listen(ctx context.Context, request upgrade.Request, onEvent func(upgrade.Event)) (stop func(began bool), err error) {
	match := []dbus.MatchOption{
		dbus.WithMatchSender(upgrade1.Name), dbus.WithMatchObjectPath(upgrade1.Path),
		dbus.WithMatchInterface(upgrade1.Interface),
	}
	if err := r.conn.AddMatchSignalContext(ctx, match...); err != nil {
		return nil, fmt.Errorf("listen to %s: %w", upgrade1.Name, err)
	}
	conn, signals := r.conn, make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	done, ended := make(chan struct{}), make(chan struct{})
	var id, outcome, reason string
	go func() {
		defer close(ended)
		soaking := make(map[string]time.Time)
		for {
			select {
			case <-done:
				return
			case s, ok := <-signals:
				if !ok || s.Name == upgrade1.Interface+".Done" && dbus.Store(s.Body, &id, &outcome, &reason) == nil && id == request.ID {
					return
				}
				if e, ok := progressOf(s, request, soaking, time.Now()); ok {
					onEvent(e)
				}
			}
		}
	}()
	return func(began bool) {
		// The report may be here before the last signals.
		if began && ctx.Err() == nil {
			select {
			case <-ended:
			case <-time.After(lastSignals):
			}
		}
		close(done)
		<-ended
		conn.RemoveSignal(signals)
	}, nil
}

// defaultSoak is that of a request.
const defaultSoak = 10 * time.Second

// progressOf makes an event of a signal. What is left of a soak or a pause is not in
// it, and is known from the request.
func progressOf(s *dbus.Signal, request upgrade.Request, soaking map[string]time.Time, now time.Time) (upgrade.Event, bool) {
	e := upgrade.Event{At: now}
	var (
		state       string
		done, total uint32
	)
	if s.Name != upgrade1.Interface+".Progress" || dbus.Store(s.Body, &e.ID, &e.Unit, &state, &e.Phase, &e.Text, &done, &total) != nil || e.ID != request.ID {
		return e, false
	}
	e.Done, e.Total = int(done), int(total)
	switch state {
	case "wave", "unit":
		e.Kind = state
	case "pause":
		e.Kind, e.Left = state, request.Waves.Pause.Seconds()
	case "gate":
		e.Kind = state
		soak := request.Gates.Soak
		if soak == 0 {
			soak = defaultSoak
		}
		if soaking[e.Unit].IsZero() {
			soaking[e.Unit] = now
		}
		e.Left = max(soak-now.Sub(soaking[e.Unit]), 0).Seconds()
	default:
		e.Kind, e.State = "state", state
	}
	return e, true
}

func (r *remote) Status(ctx context.Context, unit string) (upgrade.UnitStatus, error) {
	var st upgrade.UnitStatus
	if err := r.callJSON(ctx, &st, "Status", unit); err != nil {
		return st, err
	}
	if st.Service == nil {
		st.Err = &upgrade.PreconditionError{Unit: st.Unit.Name, What: st.ServiceError, Inactive: st.Unit.ActiveState != "active"}
	}
	return st, nil
}

// Match asks systemd itself: anybody may.
func (r *remote) Match(ctx context.Context, units []string) ([]string, error) {
	h, err := direct(where{})
	if err != nil {
		return nil, err
	}
	defer h.Close()
	return h.Match(ctx, units)
}

func (r *remote) History(ctx context.Context, unit string) ([]upgrade.Report, error) {
	var reports []upgrade.Report
	err := r.callJSON(ctx, &reports, "History", unit, uint32(0))
	return reports, err
}

// Freeze and Thaw leave it to the service to say who calls.
func (r *remote) Freeze(ctx context.Context, unit, _, reason string) error {
	return r.call(ctx, nil, "Freeze", unit, reason)
}

func (r *remote) Thaw(ctx context.Context, unit, _, _ string) error {
	return r.call(ctx, nil, "Thaw", unit)
}
