// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config is a configuration of type T that can be read again while it is in use.
// Make one with [New], register what depends on it with [NewPart], read it with
// [Config.Reload], and then give it to reexec.Service.OnReload.
//
// Its methods may be called from several goroutines, but for those of a reload:
// Prepare, Commit and Discard belong to whoever reloads, one at a time.
type Config[T any] struct {
	// DrainTimeout bounds how long users of what was replaced are waited for, and
	// again how long its drain may take. Default 30 s. Set it, and Logger, before
	// the first Reload.
	DrainTimeout time.Duration
	// Logger gets a line for what was replaced and could not be drained. Default:
	// slog.Default.
	Logger *slog.Logger

	load     func(context.Context) (T, error)
	validate []func(*T) error
	parts    []part[T]

	current atomic.Pointer[Snapshot[T]]

	mu       sync.Mutex
	prepared *Snapshot[T]
	closed   bool
	// draining are those that are no longer in use and not drained yet.
	draining map[*instance]bool
	drained  chan struct{} // closed when closed, and draining is empty
}

// part is a Part, whatever its types.
type part[T any] interface {
	// next returns old if value asks for nothing else, or a new instance.
	next(ctx context.Context, value *T, old *instance) (*instance, error)
}

// ErrReloading is returned by a reload that comes while another one is under way.
var ErrReloading = errors.New("config: another reload is under way")

// ErrClosed is returned by a reload after Close.
var ErrClosed = errors.New("config: the configuration is closed")

// New returns a configuration that load reads and each of validate has to agree
// to. Nothing is read yet. What load returns belongs to the configuration: from then
// on it is read by many and must not be changed.
func New[T any](load func(context.Context) (T, error), validate ...func(*T) error) *Config[T] {
	return &Config[T]{load: load, validate: validate, draining: map[*instance]bool{}, drained: make(chan struct{})}
}

// Reload reads the configuration, for the first time or again, and puts it in place.
// After an error nothing has changed.
func (c *Config[T]) Reload(ctx context.Context) error {
	if err := c.Prepare(ctx); err != nil {
		return err
	}
	c.Commit()
	return nil
}

// Load returns the configuration that is in use now. It panics before the first
// Reload. Two calls may return two configurations: what belongs to one request reads
// [Config.FromContext].
func (c *Config[T]) Load() *T { return c.snapshot().Value() }

// Generation is that of what is in use now, and 0 before the first Reload.
func (c *Config[T]) Generation() uint64 {
	if s := c.current.Load(); s != nil {
		return s.generation
	}
	return 0
}

func (c *Config[T]) snapshot() *Snapshot[T] {
	s := c.current.Load()
	if s == nil {
		panic("config: the configuration is used before its first Reload")
	}
	return s
}

// Prepare reads and validates a configuration, and builds the parts that it changes.
// After an error all that was built is drained again. It is the first half of Reload:
// Commit or Discard has to follow.
func (c *Config[T]) Prepare(ctx context.Context) (err error) {
	c.mu.Lock()
	switch {
	case c.closed:
		err = ErrClosed
	case c.prepared != nil:
		err = ErrReloading
	}
	if err != nil {
		c.mu.Unlock()
		return err
	}
	next := &Snapshot[T]{config: c, generation: c.Generation() + 1}
	c.prepared = next // nobody else prepares from here on
	c.mu.Unlock()
	done := false
	defer func() {
		// Also in a panic of a function of the service's.
		if !done {
			c.Discard()
		}
	}()
	if next.value, err = c.load(ctx); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	var wrong []error
	for _, validate := range c.validate {
		wrong = append(wrong, validate(&next.value))
	}
	if err := errors.Join(wrong...); err != nil {
		return fmt.Errorf("validate: %w", err)
	}
	before := c.current.Load()
	for i, p := range c.parts {
		var old *instance
		if before != nil {
			old = before.instances[i]
		}
		instance, err := p.next(ctx, &next.value, old)
		if err != nil {
			return err
		}
		next.instances = append(next.instances, instance)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	done = true
	return nil
}

// Commit puts in place what Prepare has prepared, for all who look from now on. What
// it replaces is drained in the background once nobody uses it any more.
func (c *Config[T]) Commit() {
	c.mu.Lock()
	next := c.prepared
	c.prepared = nil
	if next == nil {
		c.mu.Unlock()
		panic("config: Commit without Prepare")
	}
	if c.closed {
		c.prepared = next
		c.mu.Unlock()
		c.Discard() // nobody would drain it later
		return
	}
	before := c.current.Load()
	next.users.Store(1) // it is in use as long as it is the current one
	for _, i := range next.instances {
		i.snapshots++
	}
	c.current.Store(next)
	var replaced []*instance
	if before != nil {
		for n, i := range before.instances {
			if i != next.instances[n] {
				replaced = append(replaced, i)
			}
		}
	}
	c.retireLocked(replaced)
	c.mu.Unlock()
	if before != nil {
		before.release()
	}
}

// Discard drops what Prepare has prepared, and drains what was built for it.
func (c *Config[T]) Discard() {
	c.mu.Lock()
	next := c.prepared
	if next == nil {
		c.mu.Unlock()
		return
	}
	var built []*instance
	before := c.current.Load()
	for n, i := range next.instances {
		if before == nil || i != before.instances[n] {
			built = append(built, i)
		}
	}
	c.retireLocked(built)
	c.mu.Unlock()
	// Nobody has seen them. To wait keeps a service that is told to reload a bad
	// configuration again and again from building faster than it drains.
	for _, i := range slices.Backward(built) {
		c.drain(i, false)
	}
	c.mu.Lock()
	c.prepared = nil
	c.mu.Unlock()
}

// Close drains all that is in use, once nobody uses it any more, and waits until
// that and all that was replaced before is drained, or ctx ends. Load goes on
// returning the last configuration, whose parts are drained. Call it when Run has
// returned.
func (c *Config[T]) Close(ctx context.Context) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return ErrClosed
	}
	c.closed = true
	current := c.current.Load()
	if current != nil {
		c.retireLocked(current.instances)
	}
	c.settleLocked()
	c.mu.Unlock()
	if current != nil {
		current.release()
	}
	select {
	case <-c.drained:
		return nil
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var left []string
	for i := range c.draining {
		left = append(left, i.name)
	}
	slices.Sort(left)
	return fmt.Errorf("config: drain %q: %w", left, ctx.Err())
}

// retireLocked notes that instances are replaced, and bounds the time of their users.
func (c *Config[T]) retireLocked(instances []*instance) {
	for _, i := range instances {
		c.draining[i] = true
		i.deadline = time.AfterFunc(c.drainTimeout(), func() { c.drain(i, true) })
	}
}

func (c *Config[T]) settleLocked() {
	if c.closed && len(c.draining) == 0 {
		select {
		case <-c.drained:
		default:
			close(c.drained)
		}
	}
}

// drain ends an instance that is not in use any more, or whose users' time is over.
// Only the first call does something.
func (c *Config[T]) drain(i *instance, cut bool) {
	c.mu.Lock()
	begun := i.begun
	i.begun = true
	i.deadline.Stop()
	c.mu.Unlock()
	if begun {
		return
	}
	if cut {
		c.logger().Warn("what the configuration has replaced is drained although it is in use", "part", i.name, "after", c.drainTimeout())
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.drainTimeout())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- i.end(ctx) }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		select {
		case err = <-ended:
		case <-time.After(drainGrace):
			err = ctx.Err()
		}
	}
	if err != nil {
		c.logger().Warn("what the configuration has replaced is not drained", "part", i.name, "error", err)
	}
	c.mu.Lock()
	delete(c.draining, i)
	c.settleLocked()
	c.mu.Unlock()
}

// drainGrace is how long after the end of its context a drain may take.
const drainGrace = 100 * time.Millisecond

func (c *Config[T]) drainTimeout() time.Duration {
	if c.DrainTimeout > 0 {
		return c.DrainTimeout
	}
	return 30 * time.Second
}

func (c *Config[T]) logger() *slog.Logger {
	if c.Logger != nil {
		return c.Logger
	}
	return slog.Default()
}

// Snapshot is one configuration with its parts. It stays as it is while it is pinned,
// whatever is loaded meanwhile.
type Snapshot[T any] struct {
	config     *Config[T]
	value      T
	generation uint64
	instances  []*instance // one for each part
	users      atomic.Int64
}

// Value is the configuration. It must not be changed.
func (s *Snapshot[T]) Value() *T { return &s.value }

// Generation counts from 1 with each Commit.
func (s *Snapshot[T]) Generation() uint64 { return s.generation }

// pin returns the current snapshot, which is not drained until it is released.
func (c *Config[T]) pin() (s *Snapshot[T], release func()) {
	for {
		s := c.snapshot()
		if s.pin() {
			return s, sync.OnceFunc(s.release)
		}
		// It was replaced just now, unless that is the end.
		c.mu.Lock()
		last := c.closed && c.current.Load() == s
		c.mu.Unlock()
		if last {
			return s, func() {}
		}
	}
}

// pin keeps s, unless nobody uses it any more.
func (s *Snapshot[T]) pin() bool {
	for {
		n := s.users.Load()
		if n == 0 || s.users.CompareAndSwap(n, n+1) {
			return n > 0
		}
	}
}

func (s *Snapshot[T]) release() {
	if s.users.Add(-1) > 0 {
		return
	}
	c := s.config
	var unused []*instance
	c.mu.Lock()
	for _, i := range s.instances {
		if i.snapshots--; i.snapshots == 0 {
			unused = append(unused, i)
		}
	}
	c.mu.Unlock()
	for _, i := range unused {
		go c.drain(i, false)
	}
}

// contextKey is one for each Config.
type contextKey[T any] struct{ config *Config[T] }

// NewContext pins what is in use now, for [Config.FromContext]. The caller calls
// release when nothing uses the context any more: what is pinned is drained after
// that only, or after DrainTimeout. If one is pinned in ctx already, that one is
// pinned once more, so that a goroutine may have it for longer than the request. A
// connection that lives for long takes a new one for each message, from a context
// without any.
func (c *Config[T]) NewContext(ctx context.Context) (_ context.Context, release func()) {
	if s, ok := ctx.Value(contextKey[T]{c}).(*Snapshot[T]); ok && s.pin() {
		return ctx, sync.OnceFunc(s.release)
	}
	s, release := c.pin()
	return context.WithValue(ctx, contextKey[T]{c}, s), release
}

// FromContext returns what NewContext or Handler has pinned. It panics if that is
// nothing: wrap the handler with [Config.Handler].
func (c *Config[T]) FromContext(ctx context.Context) *Snapshot[T] {
	s, ok := ctx.Value(contextKey[T]{c}).(*Snapshot[T])
	if !ok {
		panic("config: the context has no configuration: wrap the handler with Handler, or call NewContext")
	}
	return s
}

// Handler pins one configuration for each request, so that all that a request does
// sees the same.
func (c *Config[T]) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, release := c.NewContext(r.Context())
		defer release()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// instance is what a part has built for one key.
type instance struct {
	name  string
	key   any
	value any
	close func(context.Context) error

	// The mutex of the Config guards the rest.
	snapshots int // that have it
	deadline  *time.Timer
	begun     bool // its drain
}

// end calls the service's function. A panic there must not end the process: what it
// belongs to is in use no more.
func (i *instance) end(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return i.close(ctx)
}
