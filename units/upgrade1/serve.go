// SPDX-License-Identifier: Apache-2.0

package upgrade1

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/holdfast-go/holdfast/notify"
)

// What the service is called on the bus.
const (
	Name      = "org.holdfast.Upgrade1"
	Path      = "/org/holdfast/Upgrade1"
	Interface = Name + ".Manager"
)

// Options are the options of [Serve].
type Options struct {
	// Upgrader does the work. Required; it is not closed.
	Upgrader Upgrader
	// Address is that of the bus. Default: the system bus.
	Address string
	// Version is the property of this name.
	Version string
	// Idle ends the service when it has had nothing to do for so long. Default: never.
	Idle time.Duration
	// Patience is how long the bus may be away before the service ends, unless something is
	// under way. Default: 30 s.
	Patience time.Duration
	// Notifier tells systemd. Default: nobody is told.
	Notifier *notify.Notifier
	// Logger gets what happens. Default: nothing.
	Logger *slog.Logger

	// acceptTimeout bounds the wait of a call for the checks.
	acceptTimeout time.Duration
	// userOf says who a sender is instead of the bus: tests are one user.
	userOf func(sender string) (uint32, error)
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Notifier == nil {
		o.Notifier = new(notify.Notifier)
	}
	if o.acceptTimeout <= 0 {
		o.acceptTimeout = acceptTimeout
	}
	if o.Patience <= 0 {
		o.Patience = defaultPatience
	}
	return o
}

const (
	defaultPatience = 30 * time.Second
	reconnectPause  = 50 * time.Millisecond
	maxReconnect    = time.Second
	// acceptTimeout: a caller has the id before it loses its patience, which is 25 s with sd-bus.
	acceptTimeout = 15 * time.Second
	// endTimeout bounds the wait for what was interrupted, lastAnswers that for the answers to
	// who waits for it.
	endTimeout  = 20 * time.Second
	lastAnswers = 2 * time.Second
)

// ErrLate says that somebody asked for something while the service was ending by itself. It is
// under way, so the service must be started again, and resumes it.
var ErrLate = errors.New("upgrade1: a call came while the service was ending: start it again to resume what was asked for")

// Serve resumes what another process has left, and serves the bus until ctx ends, or Options.Idle
// is over: then it returns nil. Any other end is an error: the bus cannot be reached, another process has
// the name, or [ErrLate]. What is under way when ctx ends is left for the next time.
func Serve(ctx context.Context, o Options) error {
	if o.Upgrader == nil {
		return errors.New("upgrade1: Options.Upgrader is required")
	}
	o = o.withDefaults()
	s := newServer(ctx, o)
	defer s.end()
	current, err := s.connect(ctx)
	if err != nil {
		return err
	}
	s.resume()
	s.notify(notify.Ready())
	for {
		reason := s.run(ctx, current)
		switch {
		case ctx.Err() != nil:
			s.notify(notify.Stopping())
			s.interrupt()
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastAnswers)
			s.idle.settle(last)
			cancel()
			current.close()
			return nil
		case errors.Is(reason, errIdle):
			err := s.leave(ctx, current)
			current.close()
			return err
		default:
			o.Logger.Warn("the bus is away: connecting again", "error", reason)
			current.close()
			if current, err = s.reconnect(ctx); err != nil {
				return err
			}
			if current == nil {
				return nil // ctx has ended
			}
			o.Logger.Info("the bus is there again")
		}
	}
}

var (
	errIdle = errors.New("idle")
	errLost = errors.New("the connection ended")
)

// run returns why it no longer serves: errIdle, the connection is lost, or ctx has ended.
func (s *server) run(ctx context.Context, current *session) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		left, changed := s.idle.left()
		timer.Stop()
		if left >= 0 {
			timer.Reset(left)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-current.conn.Context().Done():
			return errLost
		case <-current.lost:
			return fmt.Errorf("the name %s was taken away", Name)
		case <-changed:
		case <-timer.C:
			if left, _ := s.idle.left(); left == 0 {
				return errIdle
			}
		}
	}
}

// leave gives the name back when there is nothing to do.
//
// systemd hears first that the service stops: a call that D-Bus cannot deliver from now on has it
// started again once it has ended. What D-Bus has delivered before is answered.
func (s *server) leave(ctx context.Context, current *session) error {
	s.notify(notify.Stopping())
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	if err := s.Notifier.Barrier(ctx); err != nil {
		s.Logger.Warn("systemd does not answer", "error", err)
	}
	if err := current.release(ctx); err != nil {
		s.Logger.Warn("give the name back", "error", err)
	}
	s.idle.settle(ctx)
	if s.rollouts.any() {
		return ErrLate
	}
	return nil
}

// reconnect returns nil when ctx has ended.
func (s *server) reconnect(ctx context.Context) (*session, error) {
	end := time.Now().Add(s.Patience)
	pause := reconnectPause
	for {
		current, err := s.connect(ctx)
		switch {
		case ctx.Err() != nil:
			if current != nil {
				current.close()
			}
			s.notify(notify.Stopping())
			s.interrupt()
			return nil, nil //nolint:nilnil // nothing is to be served any more
		case err == nil:
			return current, nil
		case time.Now().After(end) && !s.rollouts.any():
			return nil, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, maxReconnect)
	}
}

func (s *server) notify(fields ...notify.Field) {
	if err := s.Notifier.Notify(fields...); err != nil {
		s.Logger.Warn("tell systemd", "error", err)
	}
}
