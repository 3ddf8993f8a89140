// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"errors"
	"syscall"

	"github.com/holdfast-go/holdfast/notify"
	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// storeBound stores what this generation has bound and what is not in the fd
// store yet, and removes what nobody wants. It runs beside the service: READY=1
// does not wait for it, and an upgrade that begins meanwhile is told what
// changes.
func (s *Service) storeBound() {
	if s.store == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-s.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	all, wanted := s.inv.unstored()
	for _, key := range s.store.keys(storeBound) {
		if !wanted[key] {
			s.store.doom(s.store.under(key)...)
		}
	}
	before := s.store.warning()
	_, err := s.store.putAll(ctx, all)
	if len(all) == 0 {
		err = s.store.flush(ctx)
	}
	switch warning := s.store.warning(); {
	case s.drain.began(), ctx.Err() != nil, errors.Is(err, ErrNotMain):
		return // its sockets are closed, or another's
	case err != nil && warning != "":
		s.log.Warn(warning)
	case err != nil:
		s.log.Warn("fd store", "error", err)
	case len(all) > 0:
		s.log.Info("sockets are in the fd store", "stored", len(all))
	}
	if s.store.warning() != before {
		s.send(event{kind: news})
	}
}

// storeLate stores what is bound when the service is main already.
func (s *Service) storeLate(err error) {
	select {
	case <-s.main:
		if err == nil {
			go s.storeBound()
		}
	default:
	}
}

// unstored are the bound sockets that are not in the fd store; wanted are the
// keys of all of them.
func (inv *inventory) unstored() (all []storing, wanted map[string]bool) {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	wanted = map[string]bool{}
	add := func(key string, conn any, options ...notify.Field) {
		wanted[key] = true
		if c, ok := conn.(syscall.Conn); ok && inv.store.newest(key) == "" {
			all = append(all, storing{key, c, options})
		}
	}
	for _, l := range inv.listeners {
		for _, lane := range l.lanes {
			if lane.bound {
				add(lane.key, lane.Listener)
			}
		}
	}
	for _, c := range inv.packets {
		if c.bound {
			// An ICMP error, which is the reader's to see, would end its stay.
			add(c.key, c.sock, notify.NoPoll())
		}
	}
	return all, wanted
}

// untilAdopted returns when systemd hears this process.
func (s *Service) untilAdopted(ctx context.Context) error {
	s.waitAdopted(ctx)
	return context.Cause(ctx)
}

// storeChanged tells the successor of an upgrade under way.
func (s *Service) storeChanged(stored string, removed bool) {
	s.handOn(handover.Update{Descriptor: handover.Descriptor{Role: roleStored, Stored: stored}, Removed: removed}, nil)
}
