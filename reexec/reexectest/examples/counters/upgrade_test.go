// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/reexectest"
)

func TestMain(m *testing.M) { reexectest.Main(m, main) }

func TestUpgrade(t *testing.T) {
	reexectest.TestUpgrade(t, reexectest.Service{
		Options: reexectest.Options{Units: "systemd", Files: dropIn("-probation=1us")},
		OnTrial: dropIn("-probation=1s"),
		Clients: reexectest.HTTP{Socket: "http"},
	})
}

func dropIn(args string) map[string]string {
	return map[string]string{
		"counting.service.d/test.conf": "[Service]\nExecStart=\nExecStart=/usr/bin/counting " + args + "\nRestartSec=50ms\n",
	}
}

// patience bounds what has no other end.
const patience = 30 * time.Second

func start(t *testing.T, args string) *reexectest.Unit {
	t.Helper()
	return reexectest.Start(t, reexectest.Options{Units: "systemd", Files: dropIn(args)})
}

// scraper is a client that sees whether anything falls.
type scraper struct {
	name   string
	url    string
	client http.Client
	seen   map[string]float64
}

func newScraper(u *reexectest.Unit, keep bool) *scraper {
	s := &scraper{name: "newcomer", url: "http://" + u.Addr("http") + "/metrics", seen: map[string]float64{}}
	if keep {
		s.name = "keep-alive"
	}
	s.client.Transport = &http.Transport{DisableKeepAlives: !keep}
	return s
}

var errFell = errors.New("a counter fell")

// scrape returns the count of requests.
func (s *scraper) scrape(ctx context.Context) (float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return 0, err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return 0, errors.New(response.Status)
	}
	now := map[string]float64{}
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		series, value, ok := strings.Cut(lines.Text(), " ")
		if !ok || strings.HasPrefix(series, "#") {
			continue
		}
		// The rest is of one process.
		if strings.HasPrefix(series, "requests_") || strings.HasPrefix(series, "latency_") {
			if now[series], err = strconv.ParseFloat(value, 64); err != nil {
				return 0, err
			}
		}
	}
	for series, before := range s.seen {
		if after, ok := now[series]; !ok || after < before {
			return 0, fmt.Errorf("%s: %s: %w: was %v, is %v", s.name, series, errFell, before, after)
		}
	}
	s.seen = now
	return now["requests_total"], nil
}

// A service that counts under load: across upgrades, rollbacks and a stop every
// request is in the sum, and no scraper sees anything fall.
func TestCountersContinue(t *testing.T) {
	t.Parallel()
	u := start(t, "-probation=2s")
	load := startLoad(t, u)
	scrapers := startScrapers(t, u)
	for version := 2; version <= 6; version++ {
		if err := u.Install("/usr/bin/counting", reexectest.Version(strconv.Itoa(version))); err != nil {
			t.Fatal(err)
		}
		// Every second one is undone.
		verdict := make(chan error, 1)
		go func() { verdict <- u.Reload(context.WithoutCancel(t.Context())) }()
		if version%2 == 0 {
			if err := u.Signal(onTrial(t, u), unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-verdict; (err != nil) != (version%2 == 0) {
			t.Fatalf("version %d: reload: %v", version, err)
		}
	}
	scrapers()
	answered := load()
	if answered == 0 {
		t.Fatal("nothing was answered")
	}
	waitCount(t, u, answered)
	if err := u.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitCount(t, u, answered)
	t.Logf("%d requests", answered)
}

// After kill -9 nothing is less than what was seen.
func TestCountersOutliveCrashes(t *testing.T) {
	t.Parallel()
	u := start(t, "-probation=1us")
	load := startLoad(t, u)
	s := newScraper(u, false)
	for range 5 {
		// Some requests after what was seen last, so that they may be lost.
		var last float64
		for range 3 {
			var err error
			if last, err = s.scrape(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		pid := u.MainPID()
		if err := u.Signal(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		count := untilAnswered(t, s)
		if count < last || last == 0 {
			t.Errorf("%v requests after the crash, %v before", count, last)
		}
		if err := u.WaitFor(t.Context(), reexectest.Condition{Text: "another main process", Holds: func(p reexectest.Properties) bool {
			return p.MainPID != 0 && p.MainPID != pid
		}}); err != nil {
			t.Fatal(err)
		}
	}
	load()
}

// untilAnswered scrapes until another process answers.
func untilAnswered(t *testing.T, s *scraper) float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		count, err := s.scrape(ctx)
		switch {
		case err == nil:
			return count
		case ctx.Err() != nil, errors.Is(err, errFell):
			t.Fatal(err)
		}
	}
}

// startLoad sends requests until the function that it returns is called, which
// says how many were answered. The connections of a killed process do not count.
func startLoad(t *testing.T, u *reexectest.Unit) (stop func() int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var answered atomic.Int64
	var clients sync.WaitGroup
	for i := range 4 {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: i%2 == 0}}
		clients.Go(func() {
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				// Not bound to ctx: one that was sent is counted, so its answer is waited for.
				response, err := client.Post("http://"+u.Addr("http")+"/", "text/plain", strings.NewReader("x"))
				if err != nil {
					continue
				}
				_, err = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
				if err == nil && response.StatusCode == http.StatusOK {
					answered.Add(1)
				}
			}
		})
	}
	stop = func() int64 {
		cancel()
		clients.Wait()
		return answered.Load()
	}
	t.Cleanup(func() { stop() })
	return stop
}

// startScrapers scrapes all the time in two ways, until the function is called.
func startScrapers(t *testing.T, u *reexectest.Unit) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, keep := range []bool{false, true} {
		s := newScraper(u, keep)
		all.Go(func() {
			defer s.client.CloseIdleConnections()
			for ctx.Err() == nil {
				if _, err := s.scrape(context.Background()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	stop = sync.OnceFunc(func() {
		cancel()
		all.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// waitCount waits until every request is in the sum: the last words of a draining
// generation may be on their way.
func waitCount(t *testing.T, u *reexectest.Unit, want int64) {
	t.Helper()
	s := newScraper(u, false)
	var count float64
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if count, err = s.scrape(t.Context()); err == nil && count >= float64(want) {
			break
		}
	}
	if err != nil || count != float64(want) {
		t.Fatalf("%v requests, want %d; %v", count, want, err)
	}
}

// onTrial waits until the next version accepts, and returns its PID.
func onTrial(t *testing.T, u *reexectest.Unit) (pid int) {
	t.Helper()
	err := u.WaitFor(t.Context(), reexectest.Condition{Text: "a version on trial", Holds: func(p reexectest.Properties) bool {
		_, text, _ := strings.Cut(p.StatusText, "(PID ")
		n, _ := fmt.Sscanf(text, "%d) is next", &pid)
		return n == 1 && strings.HasPrefix(p.StatusText, "probation")
	}})
	if err != nil {
		t.Fatal(err)
	}
	return pid
}
