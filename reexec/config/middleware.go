// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
)

// Middlewares are layers around handlers of type H, such as http.Handler, that have
// names and can be replaced while they are in use. The zero value has none.
//
//	var layers config.Middlewares[http.Handler]
//	layers.Register("auth", auth.Basic) // the outermost
//	layers.Register("log", accesslog.New)
//	handler := config.HTTP(&layers, mux)
//
//	err := layers.Replace("auth", auth.Deny) // as of the next request
//	err = layers.Reset("auth")
//
// A request goes through the layers that are there when it begins, to its end. If a
// layer panics while it serves, that is the request's end and nothing else: nobody
// can tell whose panic it was, and to take a layer out by itself may let in what it
// kept out. A layer that panics or returns nil when it is put in is refused.
//
// Every change calls the functions of all layers again, to put them around each
// other: what they count or remember has to be outside of what they return.
type Middlewares[H any] struct {
	mu     sync.Mutex
	layers []layer[H]
	chains []*Chain[H]
}

type layer[H any] struct {
	name    string
	byName  func(H) H // the default
	instead func(H) H // nil if that is in use
}

func (l layer[H]) wrap() func(H) H {
	if l.instead != nil {
		return l.instead
	}
	return l.byName
}

// Register adds a layer inside those that are there already, with what it is by
// default. It panics if there is one of that name.
func (m *Middlewares[H]) Register(name string, byDefault func(H) H) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.index(name) >= 0 {
		panic(fmt.Sprintf("config: middleware %q is registered twice", name))
	}
	if err := m.change(append(slices.Clone(m.layers), layer[H]{name: name, byName: byDefault})); err != nil {
		panic(fmt.Sprintf("config: middleware %q: %v", name, err))
	}
}

// Replace puts another function in place of what is there by that name.
func (m *Middlewares[H]) Replace(name string, by func(H) H) error {
	if by == nil {
		return fmt.Errorf("config: replace middleware %q: nil: use Reset for the default", name)
	}
	return m.set(name, by)
}

// Reset puts the default back in place.
func (m *Middlewares[H]) Reset(name string) error { return m.set(name, nil) }

func (m *Middlewares[H]) set(name string, by func(H) H) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.index(name)
	if i < 0 {
		return fmt.Errorf("config: middleware %q is not registered", name)
	}
	next := slices.Clone(m.layers)
	next[i].instead = by
	if err := m.change(next); err != nil {
		return fmt.Errorf("config: middleware %q: %w", name, err)
	}
	return nil
}

// Replaced are the names of those that are not what they are by default.
func (m *Middlewares[H]) Replaced() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for _, l := range m.layers {
		if l.instead != nil {
			names = append(names, l.name)
		}
	}
	return names
}

func (m *Middlewares[H]) index(name string) int {
	return slices.IndexFunc(m.layers, func(l layer[H]) bool { return l.name == name })
}

// change makes every chain anew, and then puts all of them in place, or none.
func (m *Middlewares[H]) change(layers []layer[H]) error {
	made := make([]H, len(m.chains))
	for i, c := range m.chains {
		h, err := wrapAll(layers, c.base)
		if err != nil {
			return err
		}
		made[i] = h
	}
	m.layers = layers
	for i, c := range m.chains {
		c.now.Store(&made[i])
	}
	return nil
}

// wrapAll calls the functions of the service.
func wrapAll[H any](layers []layer[H], base H) (h H, err error) {
	at := ""
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("layer %q: panic: %v", at, p)
		}
	}()
	h = base
	for _, l := range slices.Backward(layers) {
		at = l.name
		if h = l.wrap()(h); any(h) == nil {
			return h, fmt.Errorf("layer %q: it returns no handler", at)
		}
	}
	return h, nil
}

// Chain is a handler with all layers around it.
type Chain[H any] struct {
	base H
	now  atomic.Pointer[H]
}

// Wrap puts the layers around base, those of now and of later. It panics if they
// cannot be made.
func (m *Middlewares[H]) Wrap(base H) *Chain[H] {
	m.mu.Lock()
	defer m.mu.Unlock()
	h, err := wrapAll(m.layers, base)
	if err != nil {
		panic("config: " + err.Error())
	}
	c := &Chain[H]{base: base}
	c.now.Store(&h)
	m.chains = append(m.chains, c)
	return c
}

// Load returns the handler with the layers that are there now. Who serves a request
// calls it once.
func (c *Chain[H]) Load() H { return *c.now.Load() }

// HTTP puts the layers around a handler of HTTP.
func HTTP(m *Middlewares[http.Handler], base http.Handler) http.Handler {
	c := m.Wrap(base)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.Load().ServeHTTP(w, r) })
}
