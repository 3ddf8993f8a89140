// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/reexectest"
	"github.com/holdfast-go/holdfast/units"
)

// scraper reads /metrics as Prometheus does, and sees whether anything falls that
// must not.
type scraper struct {
	name string
	ask  func(context.Context) ([]byte, error)
	seen map[string]float64
}

// scrapersOf ask over the service's socket, on new connections and on one that is kept,
// and on the control socket.
func scrapersOf(u *reexectest.Unit) []*scraper {
	overHTTP := func(keep bool) func(context.Context) ([]byte, error) {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: !keep}}
		return func(ctx context.Context) ([]byte, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+u.Addr("http")+control.MetricsPath, nil)
			if err != nil {
				return nil, err
			}
			resp, err := client.Do(req)
			if err != nil {
				return nil, err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return nil, errors.New(resp.Status)
			}
			return io.ReadAll(resp.Body)
		}
	}
	return []*scraper{
		{"newcomer", overHTTP(false), nil},
		{"keep-alive", overHTTP(true), nil},
		{"control socket", control.NewClient(u.Path("/run/myapp/control.sock")).Metrics, nil},
	}
}

// falls says whether a series must not fall: a counter, or a part of a histogram.
func falls(series string) bool {
	name, _, _ := strings.Cut(series, "{")
	if !strings.HasPrefix(name, "hot_update_") && !strings.HasPrefix(name, "myapp_") {
		return false // of one process
	}
	for _, suffix := range []string{"_total", "_bucket", "_count", "_sum"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

var errFell = errors.New("it fell")

func (s *scraper) scrape(ctx context.Context) (map[string]float64, error) {
	text, err := s.ask(ctx)
	if err != nil {
		return nil, err
	}
	now := map[string]float64{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		line := lines.Text()
		i := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || i < 0 {
			continue
		}
		if now[line[:i]], err = strconv.ParseFloat(line[i+1:], 64); err != nil {
			return nil, err
		}
	}
	for series, before := range s.seen {
		if after, ok := now[series]; falls(series) && (!ok || after < before) {
			return nil, fmt.Errorf("%s: %s: %w: was %v, is %v", s.name, series, errFell, before, after)
		}
	}
	s.seen = now
	return now, nil
}

// startScrapers scrapes all the time in all ways, until the function is called. While
// the service is down nothing is answered.
func startScrapers(t *testing.T, u *reexectest.Unit) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, s := range scrapersOf(u) {
		all.Go(func() {
			scrapes := 0
			for ctx.Err() == nil {
				_, err := s.scrape(context.Background())
				if errors.Is(err, errFell) {
					t.Error(err)
					return
				}
				if err == nil {
					scrapes++
				}
			}
			if scrapes < 5 {
				t.Errorf("%s: %d scrapes", s.name, scrapes)
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); all.Wait() })
	t.Cleanup(stop)
	return stop
}

// Whatever becomes of the service and its versions, no scraper sees a counter fall, and
// each attempt is counted once.
func TestMetricsContinue(t *testing.T) {
	t.Parallel()
	o := onStandIn(t, reexectest.DefaultSystemd)
	// It leaves time to stop a version on trial.
	for name, text := range dropIn("-probation=2s -beat=500ms") {
		o.Files[name] = text
	}
	u := reexectest.Start(t, o)
	stop := startScrapers(t, u)
	install := func(p reexectest.Program) {
		t.Helper()
		if err := u.Install("/usr/bin/myapp", p); err != nil {
			t.Fatal(err)
		}
	}
	version := 1
	upgrade := func() {
		t.Helper()
		version++
		install(reexectest.Version(strconv.Itoa(version)))
		if err := u.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	crash := func() {
		t.Helper()
		waitKept(t, u)
		main := u.MainPID()
		if err := u.Kill(reexectest.MainProcess, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := u.WaitFor(t.Context(), reexectest.Condition{Text: "another main process", Holds: func(p reexectest.Properties) bool {
			return p.MainPID != 0 && p.MainPID != main && strings.HasPrefix(p.StatusText, "running: ")
		}}); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		upgrade()
	}
	crash()
	upgrade()
	install(reexectest.Version("crashing").Crashing())
	if err := u.Reload(t.Context()); err == nil {
		t.Error("a version that crashes was accepted")
	}
	// One that is undone.
	version++
	install(reexectest.Version(strconv.Itoa(version)))
	verdict := make(chan error, 1)
	go func() { verdict <- u.Reload(context.WithoutCancel(t.Context())) }()
	if err := u.Signal(onTrial(t, u), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-verdict; err == nil {
		t.Error("a version that stopped in its probation was accepted")
	}
	upgrade()
	crash()

	want := map[control.Outcome]uint64{control.Upgraded: 5, control.Refused: 1, control.RolledBack: 1}
	st := status(t, u)
	if fmt.Sprint(st.Attempts) != fmt.Sprint(want) || len(st.History) != 7 || st.History[0].Outcome != control.Upgraded || st.History[1].Outcome != control.RolledBack {
		t.Errorf("attempts %v, %d in the history, %+v; want %v", st.Attempts, len(st.History), st.History, want)
	}
	stop()
	for _, s := range scrapersOf(u) {
		now := waitScrape(t, s)
		for outcome, n := range want {
			series := fmt.Sprintf("hot_update_attempts_total{result=%q,service=\"myapp\"}", outcome)
			if now[series] != float64(n) {
				t.Errorf("%s: %s is %v, want %d", s.name, series, now[series], n)
			}
		}
		for series, want := range map[string]float64{
			`hot_update_state{service="myapp",state="running"}`:                             1,
			`hot_update_state{service="myapp",state="probation"}`:                           0,
			`hot_update_probation{service="myapp"}`:                                         0,
			`hot_update_generation{service="myapp"}`:                                        1,
			`hot_update_success_rate{service="myapp",version="2"}`:                          1,
			`hot_update_success_rate{service="myapp",version="6"}`:                          0,
			`hot_update_latency_seconds_count{phase="probation",service="myapp"}`:           6,
			`hot_update_latency_seconds_count{phase="promoting",service="myapp"}`:           5,
			`hot_update_latency_seconds_bucket{phase="checking",service="myapp",le="+Inf"}`: 7,
		} {
			if got, ok := now[series]; !ok || got != want {
				t.Errorf("%s: %s is %v, %t; want %v", s.name, series, got, ok, want)
			}
		}
		for _, when := range []string{"before", "after"} {
			if series := fmt.Sprintf("hot_update_resident_memory_bytes{service=\"myapp\",when=%q}", when); now[series] < 1<<20 {
				t.Errorf("%s is %v", series, now[series])
			}
		}
	}
}

// In place the verdict is counted by the program that was executed.
func TestMetricsContinueInPlace(t *testing.T) {
	t.Parallel()
	u := reexectest.Start(t, onStandInBy(t, reexectest.DefaultSystemd, units.InPlace))
	stop := startScrapers(t, u)
	for version := 2; version <= 4; version++ {
		if err := u.Install("/usr/bin/myapp", reexectest.Version(strconv.Itoa(version))); err != nil {
			t.Fatal(err)
		}
		if err := u.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		waitKept(t, u)
	}
	stop()
	now := waitScrape(t, scrapersOf(u)[0])
	for series, want := range map[string]float64{
		`hot_update_attempts_total{result="upgraded",service="myapp"}`:        3,
		`hot_update_latency_seconds_count{phase="executing",service="myapp"}`: 3,
		`hot_update_latency_seconds_count{phase="emptying",service="myapp"}`:  3,
		`hot_update_drain_seconds_count{service="myapp"}`:                     3,
		`hot_update_success_rate{service="myapp",version="4"}`:                1,
		`hot_update_generation{service="myapp"}`:                              4,
	} {
		if now[series] != want {
			t.Errorf("%s is %v, want %v", series, now[series], want)
		}
	}
}

// waitKept waits until a crash loses nothing of the last attempt: main commits what it
// has heard in a moment, and shows it only then.
func waitKept(t *testing.T, u *reexectest.Unit) {
	t.Helper()
	onControl := scrapersOf(u)[2]
	for deadline := time.Now().Add(30 * time.Second); ; {
		st := status(t, u)
		upgraded := waitScrape(t, onControl)[`hot_update_attempts_total{result="upgraded",service="myapp"}`]
		for _, s := range st.States {
			if s.Name == "holdfast.history" && s.Committed != nil && (s.Loaded == nil || s.Committed.Seq > s.Loaded.Seq) && upgraded == float64(st.Attempts[control.Upgraded]) {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v upgrades are shown: %+v", upgraded, st.States)
		}
	}
}

// waitScrape scrapes until the service answers.
func waitScrape(t *testing.T, s *scraper) map[string]float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		now, err := s.scrape(ctx)
		switch {
		case err == nil:
			return now
		case ctx.Err() != nil:
			t.Fatal(err)
		}
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
