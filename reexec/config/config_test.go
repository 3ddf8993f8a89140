// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// settings is a configuration of two parts. Every load makes both from one number.
type settings struct {
	Generation, Left, Right int
}

// pool is a part, and counts what becomes of it.
type pool struct {
	key     int
	file    *os.File
	drained atomic.Int32
}

// yard builds pools, and knows all of them.
type yard struct {
	mu    sync.Mutex
	pools []*pool
	fail  error // of the next build
}

func (y *yard) build(_ context.Context, key int) (*pool, error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if err := y.fail; err != nil {
		return nil, err
	}
	f, err := os.Open(os.DevNull)
	p := &pool{key: key, file: f}
	y.pools = append(y.pools, p)
	return p, err
}

func (y *yard) drain(_ context.Context, p *pool) error {
	if p.drained.Add(1) > 1 {
		return errors.New("drained twice")
	}
	return p.file.Close()
}

// open are those that are built and not drained.
func (y *yard) open() (n int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, p := range y.pools {
		if p.drained.Load() == 0 {
			n++
		}
	}
	return n
}

func (y *yard) mustDrainOnce(t *testing.T) {
	t.Helper()
	y.mu.Lock()
	defer y.mu.Unlock()
	for i, p := range y.pools {
		if n := p.drained.Load(); n != 1 {
			t.Errorf("pool %d of %d was drained %d times", i, len(y.pools), n)
		}
	}
}

// fixture is a configuration with two parts.
type fixture struct {
	*Config[settings]
	next        atomic.Pointer[settings]
	bad         atomic.Pointer[error]
	left, right *Part[settings, int, *pool]
	lefts       yard
	rights      yard
	log         strings.Builder
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{}
	f.next.Store(&settings{1, 1, 1})
	f.Config = New(func(context.Context) (settings, error) {
		if err := f.bad.Load(); err != nil {
			return settings{}, *err
		}
		return *f.next.Load(), nil
	}, func(s *settings) error {
		if s.Left < 0 {
			return fmt.Errorf("left=%d: must not be negative", s.Left)
		}
		return nil
	})
	f.left = NewPart(f.Config, "left", func(s *settings) int { return s.Left }, f.lefts.build, f.lefts.drain)
	f.right = NewPart(f.Config, "right", func(s *settings) int { return s.Right }, f.rights.build, f.rights.drain)
	f.Logger = slog.New(slog.NewTextHandler(&f.log, nil))
	f.must(t)
	return f
}

func (f *fixture) must(t *testing.T) {
	t.Helper()
	if err := f.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) mustFail(t *testing.T, want string) {
	t.Helper()
	before := *f.Load()
	generation := f.Generation()
	if err := f.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
		t.Fatalf("error %v, want %q", err, want)
	}
	if now := *f.Load(); now != before || f.Generation() != generation {
		t.Errorf("a bad configuration has changed %+v to %+v", before, now)
	}
}

func (f *fixture) close(t *testing.T) {
	t.Helper()
	if err := f.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.lefts.mustDrainOnce(t)
	f.rights.mustDrainOnce(t)
	if f.log.Len() > 0 {
		t.Errorf("log: %s", f.log.String())
	}
}

// eventually waits for what happens in the background.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not come", what)
		}
	}
}

// Only what has changed is built again, and the old one is drained.
func TestParts(t *testing.T) {
	f := newFixture(t)
	f.next.Store(&settings{2, 2, 1})
	f.must(t)
	eventually(t, "the drain of the old part", func() bool { return f.lefts.open() == 1 })
	if l, r := len(f.lefts.pools), len(f.rights.pools); l != 2 || r != 1 || f.rights.open() != 1 {
		t.Errorf("%d and %d were built, want 2 and 1", l, r)
	}
	if f.Generation() != 2 || f.Load().Generation != 2 {
		t.Errorf("generation %d, %+v", f.Generation(), f.Load())
	}
	f.close(t)
	if err := f.Close(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("a second Close: %v", err)
	}
	if err := f.Reload(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("a Reload after Close: %v", err)
	}
	if f.Load().Generation != 2 {
		t.Error("the last configuration is gone")
	}
}

// Whatever fails, nothing changes, and what was built for nothing is drained.
func TestBadConfiguration(t *testing.T) {
	f := newFixture(t)
	broken := errors.New("no such file")
	f.bad.Store(&broken)
	f.mustFail(t, "load: no such file")
	f.bad.Store(nil)

	f.next.Store(&settings{2, -2, 2})
	f.mustFail(t, "validate: left=-2: must not be negative")

	f.next.Store(&settings{2, 2, 2})
	f.rights.fail = errors.New("connection refused")
	f.mustFail(t, "build right: connection refused")
	if n := f.lefts.pools[1].drained.Load(); n != 1 {
		t.Errorf("what was built before the error was drained %d times", n)
	}
	f.rights.fail = nil

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Reload(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end of the context: %v", err)
	}
	if f.lefts.open() != 1 || f.rights.open() != 1 {
		t.Errorf("%d and %d are open, want one each", f.lefts.open(), f.rights.open())
	}
	f.must(t)
	f.close(t)
}

// A panic of the service's leaves nothing behind.
func TestPanicInBuild(t *testing.T) {
	f := newFixture(t)
	boom := NewPart[settings, int, int]
	func() {
		defer func() {
			if recover() == nil {
				t.Error("NewPart after the first Reload does not panic")
			}
		}()
		boom(f.Config, "late", nil, nil, nil)
	}()
	panics := true
	c := New(func(context.Context) (settings, error) { return settings{1, 1, 1}, nil })
	var y yard
	NewPart(c, "first", func(s *settings) int { return s.Left }, y.build, y.drain)
	NewPart(c, "second", func(s *settings) int { return s.Right }, func(context.Context, int) (int, error) {
		if panics {
			panic("index out of range")
		}
		return 0, nil
	}, nil)
	func() {
		defer func() {
			if p := recover(); p != "index out of range" {
				t.Errorf("recovered %v", p)
			}
		}()
		_ = c.Prepare(t.Context())
	}()
	if y.open() != 0 {
		t.Error("what was built before the panic is not drained")
	}
	panics = false
	if err := c.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	y.mustDrainOnce(t)
	f.close(t)
}

// One at a time: the second of two is told.
func TestTwoReloads(t *testing.T) {
	f := newFixture(t)
	if err := f.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := f.Prepare(t.Context()); !errors.Is(err, ErrReloading) {
		t.Errorf("a second Prepare: %v", err)
	}
	f.Discard()
	f.Discard() // does nothing
	f.must(t)
	f.close(t)
	// What is committed after Close is drained at once.
	g := newFixture(t)
	g.next.Store(&settings{2, 2, 2})
	if err := g.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.Commit()
	g.lefts.mustDrainOnce(t)
	g.rights.mustDrainOnce(t)
	if g.Load().Generation != 1 {
		t.Error("it is in use after Close")
	}
}

// What is pinned stays as it is, and its parts open, until it is released.
func TestPinned(t *testing.T) {
	f := newFixture(t)
	ctx, release := f.NewContext(t.Context())
	inner, releaseInner := f.NewContext(ctx)
	for i := 2; i < 6; i++ {
		f.next.Store(&settings{i, i, i / 2})
		f.must(t)
	}
	s := f.FromContext(ctx)
	if s.Generation() != 1 || *s.Value() != (settings{1, 1, 1}) || f.left.In(s).key != 1 || f.right.In(s).key != 1 {
		t.Errorf("generation %d: %+v", s.Generation(), s.Value())
	}
	if f.FromContext(inner) != s {
		t.Error("a context within has another one")
	}
	eventually(t, "the drain of those that nobody has", func() bool { return f.lefts.open() == 2 && f.rights.open() == 2 })
	release()
	release() // once counts
	if f.lefts.pools[0].drained.Load() != 0 {
		t.Error("it is drained, although it is pinned once more")
	}
	releaseInner()
	eventually(t, "the drain of what was pinned", func() bool { return f.lefts.open() == 1 && f.rights.open() == 1 })
	// One that comes too late gets a new one.
	late, releaseLate := f.NewContext(ctx)
	if got := f.FromContext(late); got.Generation() != 5 {
		t.Errorf("after the release it is generation %d", got.Generation())
	}
	releaseLate()
	f.close(t)
	after, done := f.NewContext(t.Context())
	if f.FromContext(after).Generation() != 5 {
		t.Error("after Close the last configuration is gone")
	}
	done()
	f.lefts.mustDrainOnce(t)
}

// Users that do not end are not waited for longer than DrainTimeout, nor is a drain.
func TestDrainTimeout(t *testing.T) {
	var log strings.Builder
	var n atomic.Int64
	var drained atomic.Int64
	hang := make(chan struct{})
	c := New(func(context.Context) (int64, error) { return n.Add(1), nil })
	p := NewPart(c, "pool", func(v *int64) int64 { return *v }, func(_ context.Context, k int64) (int64, error) { return k, nil }, func(ctx context.Context, k int64) error {
		drained.Add(1)
		switch k {
		case 1:
			return errors.New("still in use")
		case 2:
			panic("of the drain")
		default:
			<-hang // as one does that knows no context
			return nil
		}
	})
	c.DrainTimeout = 20 * time.Millisecond
	c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	reload := func() {
		if err := c.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	reload()
	ctx, release := c.NewContext(t.Context())
	reload()
	eventually(t, "the drain of what is in use", func() bool { return drained.Load() == 1 })
	if p.In(c.FromContext(ctx)) != 1 {
		t.Error("the pinned part is another")
	}
	release()
	reload()
	eventually(t, "the drain that panics", func() bool { return drained.Load() == 2 })
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	close(hang)
	if drained.Load() != 3 {
		t.Errorf("%d drains, want 3", drained.Load())
	}
	for _, want := range []string{"it is in use", "still in use", "panic: of the drain", "context deadline exceeded"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, log.String())
		}
	}
}

func TestCloseIsBounded(t *testing.T) {
	f := newFixture(t)
	_, release := f.NewContext(t.Context())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Close(ctx); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), `drain ["left" "right"]`) {
		t.Errorf("error %v", err)
	}
	release()
	<-f.drained
	f.lefts.mustDrainOnce(t)
}

func TestMisuse(t *testing.T) {
	mustPanic := func(want string, f func()) {
		t.Helper()
		defer func() {
			if p := recover(); p == nil || !strings.Contains(fmt.Sprint(p), want) {
				t.Errorf("recovered %v, want %q", p, want)
			}
		}()
		f()
	}
	c := New(func(context.Context) (int, error) { return 1, nil })
	mustPanic("before its first Reload", func() { c.Load() })
	mustPanic("Commit without Prepare", c.Commit)
	mustPanic("wrap the handler with Handler", func() { c.FromContext(t.Context()) })
	if c.Generation() != 0 {
		t.Error("there is a generation before the first Reload")
	}
}

// Under load the configuration is read a thousand times, each second time a bad one:
// no request sees half of one, nothing is drained in use or twice, and nothing grows.
func TestReloadUnderLoad(t *testing.T) {
	const reloads, clients = 1000, 8
	f := newFixture(t)
	server := httptest.NewServer(f.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := f.FromContext(r.Context())
		left := f.left.In(s)
		runtime.Gosched() // half a configuration would show between the two
		right := f.right.In(f.FromContext(r.Context()))
		used := left.drained.Load() > 0 || right.drained.Load() > 0
		fmt.Fprintf(w, "%d %d %d %d %d %t", s.Value().Generation, s.Value().Left, s.Value().Right, left.key, right.key, used)
	})))
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	ask := func() (int, error) {
		resp, err := client.Get(server.URL)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return 0, err
		}
		var g, l, r, lk, rk int
		var used bool
		if _, err := fmt.Sscan(string(body), &g, &l, &r, &lk, &rk, &used); err != nil {
			return 0, err
		}
		if l != g || r != g/2 || lk != l || rk != r || used || g < 0 {
			return 0, fmt.Errorf("an answer from half a configuration: %s", body)
		}
		return g, nil
	}
	f.next.Store(&settings{2, 2, 1})
	f.must(t)
	// Before there is a connection: how many of them the clients make is their own matter.
	descriptors, goroutines := countDescriptors(t), runtime.NumGoroutine()
	var asking sync.WaitGroup
	stop := make(chan struct{})
	end := sync.OnceFunc(func() {
		close(stop)
		asking.Wait()
		client.CloseIdleConnections()
	})
	defer end()
	var answers atomic.Int64
	seen := make([]map[int]bool, clients)
	for i := range clients {
		seen[i] = map[int]bool{}
		asking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				g, err := ask()
				if err != nil {
					t.Error(err)
					return
				}
				seen[i][g] = true
				answers.Add(1)
			}
		})
	}
	eventually(t, "the first answers", func() bool { return answers.Load() > clients })
	good := 2
	for i := range reloads {
		before := answers.Load()
		if i%2 == 0 {
			good++
			f.next.Store(&settings{good, good, good / 2})
			f.must(t)
		} else {
			switch i % 8 {
			case 1, 5:
				f.next.Store(&settings{-1, -1, -1})
			case 3:
				f.next.Store(&settings{good, 1_000_000 + i, -7}) // left is built, and right fails
				f.rights.setFail(errors.New("connection refused"))
			default:
				err := errors.New("no such file")
				f.bad.Store(&err)
			}
			if err := f.Reload(t.Context()); err == nil {
				t.Fatal("a bad configuration is accepted")
			}
			f.rights.setFail(nil)
			f.bad.Store(nil)
		}
		if i%5 == 0 {
			eventually(t, "an answer", func() bool { return answers.Load() > before || t.Failed() })
		}
	}
	eventually(t, "the drain of all that was replaced", func() bool { return f.lefts.open() == 1 && f.rights.open() == 1 })
	end()
	// Those who drain are on their way out, as are those who served.
	eventually(t, "the end of what drains", func() bool {
		return runtime.NumGoroutine() <= goroutines && countDescriptors(t) <= descriptors
	})
	all := map[int]bool{}
	for _, m := range seen {
		maps.Copy(all, m)
	}
	if f.Load().Generation != good || len(all) < 20 {
		t.Errorf("generation %d of %d; the clients have seen %d of them", f.Load().Generation, good, len(all))
	}
	t.Logf("%d reloads, %d answers from %d configurations; %d parts built", reloads, answers.Load(), len(all), len(f.lefts.pools)+len(f.rights.pools))
	f.close(t)
}

func (y *yard) setFail(err error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.fail = err
}

func countDescriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// A part that is switched off is nil, also where it is an interface, and so may a key be.
func TestPartIsNil(t *testing.T) {
	type settings struct{ limit any }
	var next settings
	cfg := New(func(context.Context) (settings, error) { return next, nil })
	builds := 0
	part := NewPart(cfg, "limiter", func(s *settings) any { return s.limit }, func(_ context.Context, limit any) (http.Handler, error) {
		builds++
		if limit == nil {
			return nil, nil //nolint:nilnil // switched off
		}
		return http.NotFoundHandler(), nil
	}, nil)
	for i, tt := range []struct {
		limit  any
		builds int
	}{{nil, 1}, {nil, 1}, {7, 2}, {7, 2}, {nil, 3}} {
		next.limit = tt.limit
		if err := cfg.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, release := cfg.NewContext(t.Context())
		if got := part.In(cfg.FromContext(ctx)); (got == nil) != (tt.limit == nil) || builds != tt.builds {
			t.Errorf("%d: part %v after %d builds, want %d", i, got, builds, tt.builds)
		}
		release()
	}
	if err := cfg.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
