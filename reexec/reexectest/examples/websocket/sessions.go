// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"sync"

	"github.com/holdfast-go/holdfast/reexec"
)

// sessions are those that are open in this version.
type sessions struct {
	service *reexec.Service

	mu       sync.Mutex
	less     sync.Cond // when one has gone
	open     map[*session]struct{}
	draining bool
	end      error // why those that are left must end now
}

func newSessions(service *reexec.Service) *sessions {
	s := &sessions{service: service, open: make(map[*session]struct{})}
	s.less.L = &s.mu
	return s
}

// add may come after the drain began: a connection that was accepted before, or a
// session that arrives while another version is main already.
func (s *sessions) add(c *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[c] = struct{}{}
	if s.draining {
		c.wire.wake()
	}
}

func (s *sessions) remove(c *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
	s.less.Broadcast()
}

// drain has all sessions leave, and those that are left when ctx ends say goodbye.
func (s *sessions) drain(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.wakeAll(context.Cause(ctx)) })
	defer stop()
	s.wakeAll(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.open) > 0 {
		s.less.Wait()
	}
	return nil
}

func (s *sessions) wakeAll(end error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	if s.end == nil {
		s.end = end
	}
	for c := range s.open {
		c.wire.wake()
	}
}

// ended is nil while sessions may stay.
func (s *sessions) ended() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end
}
