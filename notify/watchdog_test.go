// SPDX-License-Identifier: Apache-2.0

package notify_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/notify"
)

func TestWatchdogFromEnv(t *testing.T) {
	self, other := strconv.Itoa(os.Getpid()), strconv.Itoa(os.Getpid()+1)
	tests := []struct {
		name      string
		usec, pid string // "-": not set
		interval  time.Duration
		err       string
	}{
		{name: "absent", usec: "-", pid: "-"},
		{name: "absent, with a PID", usec: "-", pid: self},
		{name: "for any process", usec: "30000000", pid: "-", interval: 30 * time.Second},
		{name: "for this process", usec: "1", pid: self, interval: time.Microsecond},
		{name: "for another process", usec: "30000000", pid: other},
		{name: "longest", usec: "9223372036854775", pid: "-", interval: 9223372036854775 * time.Microsecond},
		{name: "empty", usec: "", pid: "-", err: `WATCHDOG_USEC="": must be a positive number of microseconds`},
		{name: "zero", usec: "0", pid: "-", err: `WATCHDOG_USEC="0": must be a positive number of microseconds`},
		{name: "negative", usec: "-1", pid: "-", err: `WATCHDOG_USEC="-1": must be a positive number of microseconds`},
		{name: "infinity", usec: "18446744073709551615", pid: "-", err: `WATCHDOG_USEC="18446744073709551615": must be a positive number of microseconds`},
		{name: "too long", usec: "9223372036854776", pid: "-", err: `WATCHDOG_USEC="9223372036854776": must be a positive number of microseconds`},
		{name: "unit", usec: "30s", pid: other, err: `WATCHDOG_USEC="30s": must be a positive number of microseconds`},
		{name: "bad PID", usec: "1", pid: "self", err: `WATCHDOG_PID="self": must be a process ID`},
		{name: "empty PID", usec: "1", pid: "", err: `WATCHDOG_PID="": must be a process ID`},
		{name: "PID 0", usec: "1", pid: "0", err: `WATCHDOG_PID="0": must be a process ID`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for name, value := range map[string]string{"WATCHDOG_USEC": test.usec, "WATCHDOG_PID": test.pid} {
				t.Setenv(name, value)
				if value == "-" {
					os.Unsetenv(name)
				}
			}
			interval, enabled, err := notify.WatchdogFromEnv()
			if test.err != "" {
				var envErr *notify.EnvError
				if !errors.As(err, &envErr) || err.Error() != test.err || enabled || interval != 0 {
					t.Errorf("got %v, %v, %v, want %s", interval, enabled, err, test.err)
				}
				return
			}
			if err != nil || interval != test.interval || enabled != (test.interval > 0) {
				t.Errorf("got %v, %v, %v, want %v", interval, enabled, err, test.interval)
			}
		})
	}
}

// fakeService runs a Watchdog on fake time. Its pings go through a real socket
// that is read without waiting, which would hold up fake time.
type fakeService struct {
	*notify.Watchdog
	pings func() int // since the last call

	mu     sync.Mutex
	errors []string
	health func(context.Context) error
}

const interval = 30 * time.Second

func newFakeService(t *testing.T) *fakeService {
	address, drain := rawSocket(t)
	s := &fakeService{health: func(context.Context) error { return nil }}
	s.pings = func() int {
		synctest.Wait()
		return drain()
	}
	s.Watchdog = &notify.Watchdog{
		Notifier: open(t, address),
		Interval: interval,
		Check: func(ctx context.Context) error {
			s.mu.Lock()
			health := s.health
			s.mu.Unlock()
			return health(ctx)
		},
		OnError: func(err error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.errors = append(s.errors, err.Error())
		},
	}
	return s
}

func (s *fakeService) setHealth(health func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.health = health
}

// reported returns what OnError got since the last call.
func (s *fakeService) reported() []string {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.errors
	s.errors = nil
	return list
}

// run starts Run and returns a function that stops it and waits for it.
func (s *fakeService) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func (s *fakeService) wantPings(t *testing.T, want int, when string) {
	t.Helper()
	if got := s.pings(); got != want {
		t.Errorf("%s: %d pings, want %d", when, got, want)
	}
}

// sd_watchdog_enabled(3): "it is recommended that a daemon sends a keep-alive
// notification message to the service manager every half of the time".
func TestWatchdogPings(t *testing.T) {
	for every, perInterval := range map[time.Duration]int{0: 2, interval / 2: 2, interval / 10: 10, interval - 1: 1} {
		synctest.Test(t, func(t *testing.T) {
			s := newFakeService(t)
			s.Every = every
			stop := s.run(t)
			s.wantPings(t, 1, "at once")
			for range 3 {
				time.Sleep(interval)
				s.wantPings(t, perInterval, "after another interval")
			}
			stop()
			time.Sleep(interval)
			s.wantPings(t, 0, "after the end")
			if list := s.reported(); list != nil {
				t.Errorf("reported: %q", list)
			}
		})
	}
}

func TestWatchdogWithoutCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeService(t)
		s.Check = nil
		stop := s.run(t)
		s.wantPings(t, 1, "at once")
		time.Sleep(interval)
		s.wantPings(t, 2, "after an interval")
		stop()
	})
}

func TestWatchdogFailingCheckStopsPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeService(t)
		stop := s.run(t)
		s.wantPings(t, 1, "healthy")
		s.setHealth(func(context.Context) error { return errors.New("database is gone") })
		time.Sleep(2 * interval)
		s.wantPings(t, 0, "unhealthy")
		want := slices.Repeat([]string{"watchdog: health check: database is gone"}, 4)
		if list := s.reported(); !slices.Equal(list, want) {
			t.Errorf("reported %q, want %q", list, want)
		}
		s.setHealth(func(context.Context) error { return nil })
		time.Sleep(interval)
		s.wantPings(t, 2, "healthy again")
		stop()
	})
}

// A check that hangs must stop the pings: that is what a watchdog is for.
func TestWatchdogHangingCheckStopsPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeService(t)
		stop := s.run(t)
		s.wantPings(t, 1, "healthy")
		release := make(chan struct{})
		begun := 0
		s.setHealth(func(context.Context) error {
			begun++
			<-release // ignores its context
			return nil
		})
		time.Sleep(10 * interval)
		s.wantPings(t, 0, "hanging")
		want := []string{"watchdog: health check has not returned for 15s, pings stopped"}
		if list := s.reported(); !slices.Equal(list, want) {
			t.Errorf("reported %q, want %q", list, want)
		}
		if begun != 1 {
			t.Errorf("%d checks were started on top of each other", begun)
		}
		s.setHealth(func(context.Context) error { return nil })
		close(release)
		s.wantPings(t, 1, "passed after all")
		time.Sleep(interval)
		s.wantPings(t, 2, "healthy again")
		stop()
	})
}

// The context of a check ends when its answer would come too late: what is
// left of the interval at the time it starts.
func TestWatchdogCheckIsBounded(t *testing.T) {
	for every, left := range map[time.Duration]time.Duration{0: interval / 2, interval / 10: interval * 9 / 10} {
		synctest.Test(t, func(t *testing.T) {
			s := newFakeService(t)
			s.Every = every
			var took time.Duration
			s.setHealth(func(ctx context.Context) error {
				start := time.Now()
				<-ctx.Done()
				took = time.Since(start)
				return ctx.Err()
			})
			stop := s.run(t)
			time.Sleep(left)
			s.wantPings(t, 0, "slow")
			if took != left {
				t.Errorf("check ended after %v, want %v", took, left)
			}
			list := s.reported()
			if !slices.Contains(list, "watchdog: health check: context deadline exceeded") {
				t.Errorf("reported %q", list)
			}
			stop()
		})
	}
}

func TestWatchdogPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeService(t)
		s.Pause()
		s.Pause()
		stop := s.run(t)
		time.Sleep(interval)
		s.wantPings(t, 0, "paused before the start")
		s.Resume()
		s.wantPings(t, 1, "resumed: at once")
		s.Resume()
		s.wantPings(t, 0, "resumed twice")
		time.Sleep(interval)
		s.wantPings(t, 2, "resumed")

		// A check that began before the pause does not ping during it.
		release := make(chan struct{})
		s.setHealth(func(context.Context) error { <-release; return nil })
		time.Sleep(interval / 2)
		s.Pause()
		close(release)
		s.wantPings(t, 0, "paused during a check")
		time.Sleep(interval)
		s.wantPings(t, 0, "paused")
		s.Resume()
		s.wantPings(t, 1, "resumed again")
		stop()

		// A Watchdog may run again.
		stop = s.run(t)
		s.wantPings(t, 1, "second run")
		stop()
	})
}

func TestWatchdogEndsWhileCheckHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeService(t)
		release := make(chan struct{})
		var cancelled bool
		s.setHealth(func(ctx context.Context) error {
			<-release
			cancelled = ctx.Err() != nil
			return nil
		})
		stop := s.run(t)
		synctest.Wait()
		stop()
		close(release)
		s.wantPings(t, 0, "after the end")
		if !cancelled {
			t.Error("the check that was left behind was not told")
		}
	})
}

func TestWatchdogReportsFailedPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeService(t)
		stop := s.run(t)
		s.wantPings(t, 1, "at once")
		s.Notifier.Close()
		time.Sleep(interval)
		list := s.reported()
		if len(list) != 2 || !strings.HasPrefix(list[0], "watchdog: send WATCHDOG to NOTIFY_SOCKET=") || !strings.HasSuffix(list[0], ": file already closed") {
			t.Errorf("reported %q, want two failed pings", list)
		}
		stop()
	})
}

func TestWatchdogLogsWithoutHook(t *testing.T) {
	var log bytes.Buffer
	previous := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(previous)
	synctest.Test(t, func(t *testing.T) {
		s := newFakeService(t)
		s.OnError = nil
		s.setHealth(func(context.Context) error { return errors.New("database is gone") })
		stop := s.run(t)
		synctest.Wait()
		stop()
	})
	if !strings.Contains(log.String(), `level=ERROR msg="watchdog: health check: database is gone"`) {
		t.Errorf("log is %q", log.String())
	}
}

func TestWatchdogOff(t *testing.T) {
	check := func(context.Context) error { t.Error("health check was called"); return nil }
	address, _ := rawSocket(t)
	for name, w := range map[string]*notify.Watchdog{
		"no interval": {Notifier: open(t, address), Check: check},
		"no manager":  {Notifier: &notify.Notifier{}, Interval: interval, Check: check},
		"no notifier": {Interval: interval, Check: check},
	} {
		if err := w.Run(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWatchdogRefuses(t *testing.T) {
	address, _ := rawSocket(t)
	n := open(t, address)
	for want, w := range map[string]*notify.Watchdog{
		"watchdog: pings every 30s: must be positive and shorter than the interval of 30s":   {Interval: interval, Every: interval},
		"watchdog: pings every -1s: must be positive and shorter than the interval of 30s":   {Interval: interval, Every: -time.Second},
		"watchdog: pings every -15s: must be positive and shorter than the interval of -30s": {Interval: -interval},
		"watchdog: pings every 0s: must be positive and shorter than the interval of 1ns":    {Interval: 1},
	} {
		w.Notifier = n
		if err := w.Run(t.Context()); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		s := newFakeService(t)
		stop := s.run(t)
		synctest.Wait()
		if err := s.Run(t.Context()); err == nil || err.Error() != "watchdog: is running already" {
			t.Errorf("second Run: got %v", err)
		}
		stop()
	})
}
