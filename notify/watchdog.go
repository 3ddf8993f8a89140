// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"strconv"
	"sync"
	"time"
)

// WatchdogFromEnv returns the interval within which the manager wants a
// [WatchdogPing], from $WATCHDOG_USEC, and whether it wants one from this
// process at all: $WATCHDOG_PID, if set, must be its PID. See
// sd_watchdog_enabled(3). The error is an [EnvError].
//
// A process that a service starts inherits both variables. To be watched in
// the service's place it must find its own PID in $WATCHDOG_PID, or none.
func WatchdogFromEnv() (interval time.Duration, enabled bool, err error) {
	text, ok := os.LookupEnv("WATCHDOG_USEC")
	if !ok {
		return 0, false, nil
	}
	usec, err := strconv.ParseUint(text, 10, 64)
	if err != nil || usec == 0 || usec > math.MaxInt64/uint64(time.Microsecond) {
		return 0, false, &EnvError{Variable: "WATCHDOG_USEC", Value: text, Reason: "must be a positive number of microseconds"}
	}
	if text, ok := os.LookupEnv("WATCHDOG_PID"); ok {
		pid, err := strconv.ParseInt(text, 10, 32)
		if err != nil || pid <= 0 {
			return 0, false, &EnvError{Variable: "WATCHDOG_PID", Value: text, Reason: "must be a process ID"}
		}
		if int(pid) != os.Getpid() {
			return 0, false, nil
		}
	}
	return time.Duration(usec) * time.Microsecond, true, nil
}

// ErrCheckHangs is passed to [Watchdog.OnError] when a health check has not
// returned by the time the next ping is due.
var ErrCheckHangs = errors.New("health check has not returned")

// Watchdog sends keep-alive pings for as long as a health check passes. A
// check that fails or hangs stops the pings, and the manager then does what
// the unit says: by default it ends the service with SIGABRT and starts it
// again.
//
// Fill in the exported fields, then call Run. Pause and Resume may be called
// at any time, also before Run.
type Watchdog struct {
	// Notifier sends the pings. Required.
	Notifier *Notifier
	// Interval is what [WatchdogFromEnv] returned. 0 means that the watchdog
	// is off.
	Interval time.Duration
	// Every is the time between two pings; half of Interval if 0, as
	// sd_watchdog_enabled(3) advises. It must be shorter than Interval.
	Every time.Duration
	// Check is the health check; it runs before each ping. Its context ends
	// when its answer would come too late for the manager, that is after
	// Interval less Every. If it hangs on, no second one is started, and the
	// pings resume if it passes after all. With a nil Check the pings say no
	// more than that the process runs.
	Check func(context.Context) error
	// OnError gets each failure of a check or a ping, and [ErrCheckHangs]. It
	// is called by Run, so it must not block. If it is nil, failures go to
	// slog.Default as errors.
	OnError func(error)

	// mu is held while a ping is sent, so that none follows after Pause.
	mu      sync.Mutex
	paused  bool
	running bool
	wake    chan struct{}
}

// Run checks and pings at once and then at every interval until ctx is done;
// then it returns nil. It returns nil at once if the watchdog is off or the
// Notifier is disabled. No ping is sent after Run returned; a check that
// hangs is left behind, with its context cancelled.
func (w *Watchdog) Run(ctx context.Context) error {
	if w.Interval == 0 || !w.Notifier.Enabled() {
		return nil
	}
	every := w.Every
	if every == 0 {
		every = w.Interval / 2
	}
	if w.Interval < 0 || every <= 0 || every >= w.Interval {
		return fmt.Errorf("watchdog: pings every %v: must be positive and shorter than the interval of %v", every, w.Interval)
	}
	wake, err := w.start()
	if err != nil {
		return err
	}
	defer w.finish()

	ticker := time.NewTicker(every)
	defer ticker.Stop()
	var check runningCheck
	defer func() { check.end() }()
	begin := func() {
		switch {
		case w.isPaused():
		case check.result != nil:
			if !check.reported {
				check.reported = true
				w.report(fmt.Errorf("watchdog: %w for %v, pings stopped", ErrCheckHangs, every))
			}
		case w.Check == nil:
			w.ping(ctx)
		default:
			check = startCheck(ctx, w.Check, w.Interval-every)
		}
	}
	begin()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-check.result:
			check.end()
			check = runningCheck{}
			if err != nil {
				w.report(fmt.Errorf("watchdog: health check: %w", err))
			} else {
				w.ping(ctx)
			}
		case <-ticker.C:
			begin()
		case <-wake:
			ticker.Reset(every)
			begin()
		}
	}
}

// Pause stops the pings, for example while the successor of a draining
// process is the one to be watched. When it returns, no ping is under way and
// none follows until Resume; it waits for one at most for the send timeout.
func (w *Watchdog) Pause() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.paused = true
}

// Resume ends a pause. Run checks and pings at once, since the manager counts
// from the last ping that it saw.
func (w *Watchdog) Resume() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.paused {
		return
	}
	w.paused = false
	if w.running {
		select {
		case w.wake <- struct{}{}:
		default: // Run has not seen the last one yet
		}
	}
}

func (w *Watchdog) isPaused() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.paused
}

// start claims the Watchdog for one Run.
func (w *Watchdog) start() (wake <-chan struct{}, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running {
		return nil, errors.New("watchdog: is running already")
	}
	w.running = true
	w.wake = make(chan struct{}, 1)
	return w.wake, nil
}

func (w *Watchdog) finish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running = false
}

// keepAlive is made once, so that a ping does not allocate.
var keepAlive = []Field{WatchdogPing()}

// ping sends one ping unless the Watchdog was paused or stopped meanwhile.
func (w *Watchdog) ping(ctx context.Context) {
	w.mu.Lock()
	var err error
	if !w.paused && ctx.Err() == nil {
		err = w.Notifier.notify(ctx, keepAlive)
	}
	w.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		w.report(fmt.Errorf("watchdog: %w", err))
	}
}

func (w *Watchdog) report(err error) {
	if w.OnError != nil {
		w.OnError(err)
		return
	}
	slog.Default().Error(err.Error())
}

// runningCheck is a health check under way; the zero one is none.
type runningCheck struct {
	result   <-chan error
	cancel   context.CancelFunc
	reported bool // that it hangs
}

// startCheck runs check in a goroutine of its own, so that one that ignores
// its context holds up nothing but the pings.
func startCheck(ctx context.Context, check func(context.Context) error, timeout time.Duration) runningCheck {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	result := make(chan error, 1)
	go func() { result <- check(ctx) }()
	return runningCheck{result: result, cancel: cancel}
}

func (c *runningCheck) end() {
	if c.cancel != nil {
		c.cancel()
	}
}
