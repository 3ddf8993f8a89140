// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"fmt"
)

// Part is something that is built from a part of the configuration, and again when
// that changes: a pool of connections, a template, a limiter.
type Part[T any, K comparable, P any] struct {
	name  string
	index int
	key   func(*T) K
	build func(ctx context.Context, key K) (P, error)
	drain func(ctx context.Context, p P) error
}

// NewPart registers a part of c. Key is what it depends on: it is built again when
// that is not what it was. Build runs before anything is replaced; its error refuses
// the whole configuration. Its ctx ends with the reload, so what is built must not
// keep it. Drain runs once for each that was built, when nobody uses it any more; it
// may be nil.
//
// Name is for errors. Parts are built in the order of registration. Call NewPart
// before the first Reload.
func NewPart[T any, K comparable, P any](c *Config[T], name string, key func(*T) K, build func(ctx context.Context, key K) (P, error), drain func(ctx context.Context, p P) error) *Part[T, K, P] {
	if c.current.Load() != nil {
		panic("config: NewPart after the first Reload")
	}
	p := &Part[T, K, P]{name, len(c.parts), key, build, drain}
	c.parts = append(c.parts, p)
	return p
}

// In returns the part of one configuration: the one that FromContext returns.
func (p *Part[T, K, P]) In(s *Snapshot[T]) P {
	built := s.instances[p.index].value
	if built == nil { // build may return a nil interface
		var none P
		return none
	}
	return built.(P)
}

func (p *Part[T, K, P]) next(ctx context.Context, value *T, old *instance) (*instance, error) {
	key := p.key(value)
	if old != nil && old.key == any(key) {
		return old, nil
	}
	built, err := p.build(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", p.name, err)
	}
	return &instance{name: p.name, key: key, value: built, close: func(ctx context.Context) error {
		if p.drain == nil {
			return nil
		}
		return p.drain(ctx, built)
	}}, nil
}
